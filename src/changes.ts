/**
 * What the kernel must be told so that packets find the tunnel: addresses, routes, forwarding, NAT. setup.ts prints these commands, or
 * runs them. The address and the routes of a TUN need no undoing: they go when the program that created it closes it. Only a
 * persistent one stays as we leave it.
 */
import { readdirSync, readFileSync } from "node:fs";
import { BlockList, isIP, isIPv6 } from "node:net";
import type { ClientConfig } from "./handshake.ts";
import type { ClientOptions, ServerOptions } from "./options.ts";
import { embed, formatIPv4, parseCidr, type Prefix96 } from "./packet.ts";
import { Failure } from "./program.ts";
import { execute } from "./setup.ts";

/** One command, and the one that takes it back. */
export interface Change {
  run: string;
  undo?: string | undefined;
  unless?: string; // a command that succeeds if an earlier run, killed together with its keeper, left this: then only the undoing is kept
  same?: boolean; // "File exists" means the same
}

type Inner = Pick<ClientConfig, "address" | "prefix" | "mtu" | "subnet6">;
const addressesOf = ({ address, prefix, subnet6 }: Inner) => innerAddresses(address, prefix, subnet6);

/** One end's inner addresses: "10.8.0.2/24", and where the tunnel carries IPv6 "fd56:504e::a08:2/96". */
export const innerAddresses = (address: number, prefix: number, subnet6: Prefix96 | undefined) => [`${formatIPv4(address)}/${prefix}`, ...(subnet6 ? [`${embed(subnet6, address)}/96`] : [])];

function bringUp(tun: string, [ipv4, ipv6]: string[], mtu: number): Change[] {
  const former = persistent(tun);
  const addAddress = (own: string): Change => ({ run: `ip addr replace ${own} dev ${tun}`, undo: former && !former.has(own) ? removal(own, tun) : undefined });
  const setLink = (words: string): Change => ({ run: `ip link set ${tun} ${words}`, undo: former?.link });
  const changes = [addAddress(ipv4!), setLink(`mtu ${mtu} up`)];
  if (!ipv6) return changes;
  // First: else the kernel adds a link-local address, and sends router solicitations and multicast listener reports into the tunnel.
  return [setLink("addrgenmode none multicast off"), ...changes, addAddress(ipv6)];
}

const removal = (address: string, tun: string) => `ip addr del ${address} dev ${tun}`;

interface Persistent {
  link: string; // the command that makes its link what it was
  has(address: string): boolean; // had it that one?
}
const found = new Map<string, Persistent | undefined>();

/** A persistent TUN (tuntap.rst: TUNSETPERSIST) as we found it at first, before our own changes; undefined for one that goes with us. */
function persistent(tun: string): Persistent | undefined {
  if (!found.has(tun)) found.set(tun, readPersistent(tun));
  return found.get(tun);
}

function readPersistent(tun: string): Persistent | undefined {
  const said = execute(`ip -d -o link show dev ${tun}`).stdout ?? "";
  if (!said.includes(" persist on")) return undefined;
  const addresses = execute(`ip -o addr show dev ${tun}`).stdout;
  const [, flags = "", mtu] = /<(.*?)> mtu (\d+)/.exec(said) ?? [];
  const mode = ["eui64", "none", "stable_secret", "random"][parseInt(setting(`ipv6/conf/${tun}/addr_gen_mode`))]; // enum in6_addr_gen_mode, linux/if_link.h
  const link = `ip link set ${tun} ${/\bUP\b/.test(flags) ? "up" : "down"} mtu ${mtu} multicast ${flags.includes("MULTICAST") ? "on" : "off"}`;
  return { link: mode ? `${link} addrgenmode ${mode}` : link, has: (address) => addresses.includes(` ${address} `) };
}

/** One rule of iptables or ip6tables. */
const rule = (line: string): Change => ({ run: line, undo: line.replace(/ -[AI] /, " -D "), unless: line.replace(/ -[AI] /, " -C ") });

/**
 * May `tun`, at this MTU in bytes, have an IPv6 address? Not where the kernel has no IPv6 or was told to leave it out, nor below the
 * smallest MTU that IPv6 allows (RFC 8200, section 5): there the kernel takes IPv6 away from the interface.
 */
export const canCarryIPv6 = (tun: string, mtu: number) => mtu >= 1280 && (setting(`ipv6/conf/${tun}/disable_ipv6`) || setting("ipv6/conf/default/disable_ipv6")) === "0";

/** A value below /proc/sys/net; "" where there is no such file. */
function setting(path: string): string {
  try {
    return readFileSync(`/proc/sys/net/${path}`, "utf8").trim();
  } catch {
    return "";
  }
}

/**
 * The server's commands: its end of the tunnel, and the way on from there, out of `options.nat`. With `configure` also what a ping on
 * a fresh machine can do without, and nobody would like to type.
 */
export function serverChanges(options: Pick<ServerOptions, "tun" | "mtu" | "subnet" | "nat"> & { subnet6?: Prefix96 | undefined; configure?: boolean }, gateway: number): Change[] {
  const { tun, mtu, subnet, subnet6, nat, configure } = options;
  const changes = bringUp(tun, innerAddresses(gateway, subnet.prefix, subnet6), mtu);
  if (nat === undefined) return changes;
  const rules = (iptables: string, source: string) => [
    rule(`${iptables} -t nat -A POSTROUTING -s ${source} -o ${nat} -j MASQUERADE`),
    ...(configure ? forwardingRules(tun).map((line) => rule(`${iptables} ${line}`)) : []),
  ];
  changes.push(forward("ipv4"), ...rules("iptables", `${formatIPv4(subnet.network)}/${subnet.prefix}`));
  if (!subnet6) return changes;
  // A kernel that forwards ignores router advertisements, and forgets the route that it has from one; 2: not on this interface (ip-sysctl.rst).
  const accept = `net/ipv6/conf/${nat}/accept_ra`;
  if (setting(accept.slice(4)) === "1") changes.push({ run: `sysctl -w ${accept}=2`, undo: `sysctl -w ${accept}=1` });
  return [...changes, forward("ipv6"), ...rules("ip6tables", `${embed(subnet6, 0)}/96`)];
}

/**
 * Forwarding on all interfaces. The kernel writes it into each one's own settings, and IPv4's accept_redirects with it (ip-sysctl.rst:
 * ip_forward "resets all configuration parameters to their default state"). -e: not those of an interface that is gone by then.
 */
function forward(family: "ipv4" | "ipv6"): Change {
  const path = family === "ipv4" ? "ipv4/ip_forward" : "ipv6/conf/all/forwarding";
  const name = `net.${path.replaceAll("/", ".")}`;
  const on = { run: `sysctl -w ${name}=1` };
  if (setting(path) !== "0") return on;
  const others = readdirSync(`/proc/sys/net/${family}/conf`).filter((device) => device !== "all").map((device) => [`${family}/conf/${device}/forwarding`, "0"]);
  if (family === "ipv4") others.unshift(["ipv4/conf/all/accept_redirects", "1"]);
  const former = others.flatMap(([other, written]) => (setting(other!) === written ? [] : ` net/${other}=${setting(other!)}`));
  return { ...on, undo: `sysctl -e -w ${name}=0${former.join("")}` };
}

const forwardingRules = (tun: string) => [
  // Docker and many firewalls drop what is forwarded, unless a rule before theirs accepts it: clients' packets, and what answers them.
  `-I FORWARD -i ${tun} -j ACCEPT`,
  `-I FORWARD -o ${tun} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT`,
  // TCP's SYN names the largest segment that its sender takes (MSS). It knows its own link only; we lower it to what the next one takes.
  `-t mangle -A FORWARD -i ${tun} -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu`,
  `-t mangle -A FORWARD -o ${tun} -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu`,
];

/**
 * A routing table of our own, for the routes that would send the tunnel's own packets into the tunnel, round and round. Rules in front
 * of the main table lead to it (ip-rule(8)); all but the server's address, which stays with the main table. So the routes that are
 * there stay as they are and are used as they are, whichever network this machine moves to. wg-quick(8) does it alike.
 */
const TABLE = 86;
const PREFERENCE = 8600; // of the first of these rules; the main table's is 32766

const ipRule = (family: string, line: string, preference: number): Change => ({ run: `${family} rule add ${line} pref ${preference}`, undo: `${family} rule del ${line} pref ${preference}`, same: true });

/** The rules that keep packets to `outer`, the server's outer address, out of the routes that contain it. None where no route does. */
export function wayAround(routes: string[], outer: string): Change[] {
  if (!routes.some((route) => contains(route, outer))) return [];
  const [ip, self] = [ipFor(outer), hostRoute(outer)];
  return [ipRule(ip, `to ${self} lookup main`, PREFERENCE), ipRule(ip, `to ${self} unreachable`, PREFERENCE + 1)]; // while there is no way: else the next rule finds one
}

type Routed = Pick<ClientOptions, "server" | "tun" | "routes">;

/** The client's commands: its end of the tunnel, and what is routed into it. `outer`: the server's outer address. Errors: a Failure. */
export function clientChanges(options: Routed, config: Inner, outer: string): Change[] {
  const { tun, routes } = options;
  checkRoutes(options, config, outer);
  const tabled = routes.filter((route) => belongsInTable(route, options.server, outer)).sort((a, b) => length(b) - length(a));
  return [
    ...bringUp(tun, addressesOf(config), config.mtu),
    ...routes.filter((route) => !tabled.includes(route)).flatMap((route) => addRoute(route, tun)),
    ...tabled.flatMap((route) => addRoute(route, tun, ` table ${TABLE}`)),
    ...wayAround(routes, outer), // before the rules that lead to the table
    ...tabled.flatMap((route, i) => [
      ipRule(ipFor(route), `to ${route} lookup main suppress_prefixlength ${length(route)}`, PREFERENCE + 2 + 2 * i), // what is more specific wins, as always
      ipRule(ipFor(route), `to ${route} lookup ${TABLE}`, PREFERENCE + 3 + 2 * i),
    ]),
  ];
}

const isDefault = (route: string) => route.endsWith("/0"); // `main` has one already

/** Must this route be in TABLE? A block may contain the server's address one day, if `server` is a name. */
function belongsInTable(route: string, server: string, outer: string): boolean {
  const isName = isIP(server.replace(/[[\]]/g, "")) === 0;
  return contains(route, outer) || isDefault(route) || (isName && route !== hostRoute(route.split("/")[0]!));
}

/** Into a persistent TUN it may lead already: then it stays. */
function addRoute(route: string, tun: string, table = ""): Change[] {
  const where = `${route} dev ${tun}${table}`;
  const isThere = persistent(tun) && execute(`${ipFor(route)} route show exact ${where}`).stdout !== "";
  return isThere ? [] : [{ run: `ip route add ${where}`, undo: persistent(tun) && `${ipFor(route)} route flush exact ${where}` }];
}

/** Errors: a Failure for a route that cannot be. */
function checkRoutes({ tun, routes }: Routed, config: Inner, outer: string): void {
  const { address, prefix, subnet6 } = config;
  const stray = subnet6 ? undefined : routes.find((route) => route.includes(":"));
  if (stray) throw new Failure(`Cannot route ${stray} into the tunnel: it carries no IPv6`, "leave that --route out; IPv6 needs a server that has it, an MTU of 1280 or more, and a kernel with IPv6 here");
  const { network } = parseCidr(`${formatIPv4(address)}/${prefix}`)!;
  const inner = innerAddresses(network, prefix, subnet6).find((subnet) => contains(subnet, outer));
  if (inner || routes.includes(hostRoute(outer))) {
    const where = inner ? `the inner subnet ${inner}` : `--route ${hostRoute(outer)}`;
    throw new Failure(`Cannot route the server itself into the tunnel to it: ${where}`, "leave that --route out, or choose another --subnet on the server");
  }
  // Two clients with the same rules would take them from each other.
  const greedy = routes.find((route) => isDefault(route) || contains(route, outer));
  const devices = greedy === undefined ? [] : [...(execute(`${ipFor(greedy)} route show table ${TABLE}`).stdout ?? "").matchAll(/ dev (\S+)/g)].map(([, device]) => device);
  const other = devices.find((device) => device !== tun);
  if (other) throw new Failure(`Cannot route ${greedy} into ${tun}: table ${TABLE} has routes of ${other}`, "end the other client first, or leave that --route out");
}

/** The commands when the server has given this end another address or MTU: what is new, and then the old address goes. The routes stay all the while. */
export function clientRenewal(options: Routed, config: Inner, former: Inner, outer: string): Change[] {
  const { tun } = options;
  const done = clientChanges(options, former, outer).map(({ run }) => run);
  const kept = addressesOf(config);
  const goes = (own: string) => !kept.includes(own) && !persistent(tun)?.has(own) && !(own.includes(":") && config.mtu < 1280); // that one the kernel has removed
  // Or the old address would take a new one of its subnet along, and the routes with it (ip-sysctl.rst).
  const promote = `net/ipv4/conf/${tun}/promote_secondaries`;
  return [
    { run: `sysctl -w ${promote}=1`, undo: persistent(tun) && `sysctl -w ${promote}=${setting(promote.slice(4))}` },
    ...(former.mtu < 1280 ? [{ run: `ip link set ${tun} mtu ${config.mtu}` }] : []), // so that it has IPv6 again
    ...clientChanges(options, config, outer).filter(({ run }) => !done.includes(run)),
    ...addressesOf(former).filter(goes).map((own) => ({ run: removal(own, tun) })),
  ];
}

const ipFor = (address: string) => (address.includes(":") ? "ip -6" : "ip");
const length = (route: string) => Number(route.split("/")[1]); // of the prefix, bits

/** A route to this address alone. */
export const hostRoute = (address: string) => `${address}/${isIPv6(address) ? 128 : 32}`;

/** Is `address` in the block? A link-local one (fe80::1%eth0) is in none: its interface is part of it, and no route changes that. */
function contains(block: string, address: string): boolean {
  const [network = "", prefix] = block.split("/");
  if (isIP(address) !== isIP(network) || address.includes("%")) return false;
  const family = isIPv6(network) ? "ipv6" : "ipv4";
  const list = new BlockList();
  list.addSubnet(network, Number(prefix), family);
  return list.check(address, family);
}
