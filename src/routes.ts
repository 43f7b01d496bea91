/**
 * Client only: what is routed into the tunnel, and how the server, to which the tunnel itself leads, is spared. As commands: see changes.ts.
 */
import { BlockList, isIP, isIPv6 } from "node:net";
import { addressesOf, bringUp, type Change, type Inner, innerAddresses, persistent, removal, setting } from "./changes.ts";
import type { ClientOptions } from "./options.ts";
import { formatIPv4, parseCidr } from "./packet.ts";
import { Failure } from "./program.ts";
import { execute } from "./setup.ts";

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
