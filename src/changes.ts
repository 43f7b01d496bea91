/**
 * What the kernel must be told so that packets find the tunnel: each end's address, the server's forwarding and NAT; the client's routes
 * are in routes.ts. setup.ts prints these commands, or runs them. The address and the routes of a TUN need no undoing: they go when the
 * program that created it closes it. Only a persistent one stays as we leave it.
 */
import { readdirSync, readFileSync } from "node:fs";
import type { ClientConfig } from "./handshake.ts";
import type { ServerOptions } from "./options.ts";
import { embed, formatIPv4, type Prefix96 } from "./packet.ts";
import { execute } from "./setup.ts";

/** One command, and the one that takes it back. */
export interface Change {
  run: string;
  undo?: string | undefined;
  unless?: string; // a command that succeeds if an earlier run, killed together with its keeper, left this: then only the undoing is kept
  same?: boolean; // "File exists" means the same
}

export type Inner = Pick<ClientConfig, "address" | "prefix" | "mtu" | "subnet6">;
export const addressesOf = ({ address, prefix, subnet6 }: Inner) => innerAddresses(address, prefix, subnet6);

/** One end's inner addresses: "10.8.0.2/24", and where the tunnel carries IPv6 "fd56:504e::a08:2/96". */
export const innerAddresses = (address: number, prefix: number, subnet6: Prefix96 | undefined) => [`${formatIPv4(address)}/${prefix}`, ...(subnet6 ? [`${embed(subnet6, address)}/96`] : [])];

/** The commands that give `tun` its addresses, and its MTU in bytes. */
export function bringUp(tun: string, [ipv4, ipv6]: string[], mtu: number): Change[] {
  const former = persistent(tun);
  const addAddress = (own: string): Change => ({ run: `ip addr replace ${own} dev ${tun}`, undo: former && !former.has(own) ? removal(own, tun) : undefined });
  const setLink = (words: string): Change => ({ run: `ip link set ${tun} ${words}`, undo: former?.link });
  const changes = [addAddress(ipv4!), setLink(`mtu ${mtu} up`)];
  if (!ipv6) return changes;
  // First: else the kernel adds a link-local address, and sends router solicitations and multicast listener reports into the tunnel.
  return [setLink("addrgenmode none multicast off"), ...changes, addAddress(ipv6)];
}

/** The command that takes an address from `tun`. */
export const removal = (address: string, tun: string) => `ip addr del ${address} dev ${tun}`;

interface Persistent {
  link: string; // the command that makes its link what it was
  has(address: string): boolean; // had it that one?
}
const found = new Map<string, Persistent | undefined>();

/** A persistent TUN (tuntap.rst: TUNSETPERSIST) as we found it at first, before our own changes; undefined for one that goes with us. */
export function persistent(tun: string): Persistent | undefined {
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
export function setting(path: string): string {
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
