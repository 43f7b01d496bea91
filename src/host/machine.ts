/**
 * What this machine has already: addresses, routes, rules, settings. It is read once, before --configure
 * changes anything. So nothing is set that has its value already, nothing of the user's is taken over, and
 * the end can bring back what was there.
 */
import { readFileSync } from "node:fs";
import { networkInterfaces } from "node:os";
import { contains, hostRoute, ipFor } from "../base/block.ts";
import { inPath, run } from "./command.ts";

/** An address of an interface that is not our TUN. */
export interface Held {
  dev: string;
  address: string;
  prefix: number; // bits
  global: boolean; // false: link-local, or of this machine alone
}

/** A route that does not lead into our TUN. */
export interface Route {
  block: string; // "0.0.0.0/0" for the default route
  dev: string; // "" if it leads nowhere, or out of several
  where: string; // "out of eth0", "out of eth0 and wg0", "nowhere (blackhole)"
  gateway: string | undefined;
}

/** A rule of `ip rule` that is not one of the kernel's three. */
export interface Rule {
  ip: "ip" | "ip -6";
  preference: number;
  text: string; // "from all fwmark 0xca6c lookup 51820"
}

/** A persistent TUN (tuntap.rst: TUNSETPERSIST) as it was before we came. It stays when we go. */
export interface Persistent {
  link: string; // the command that makes its link what it was
  has: (words: string) => boolean; // was its link that already? "mtu 1400 up"
  addresses: string[]; // "10.8.0.2/24"
  routes: string[]; // "10.0.0.0/8", or in another table "10.0.0.0/8 table 86"
}

export interface Machine {
  links: string[]; // names of its interfaces
  tun: Persistent | undefined; // undefined: our TUN is a new one, and goes with us
  held: Held[];
  routes: Route[]; // of the main table
  tables: Map<string, Route[]>; // of the others, by name
  rules: Rule[];
  blocked: string[]; // by --kill-switch, of a client before us, or beside: "0.0.0.0/0 table 86"
  firewall: "iptables" | "nft"; // the command that it has
  setting: (path: string) => string; // setting() below
}

/** A machine that has nothing yet: for commands that are shown, not run. */
export const FRESH: Machine = {
  links: [],
  tun: undefined,
  held: [],
  routes: [],
  tables: new Map(),
  rules: [],
  blocked: [],
  firewall: "iptables",
  setting: () => "",
};

/** A value below /proc/sys/net; "" where there is no such file. */
export function setting(path: string): string {
  try {
    return readFileSync(`/proc/sys/net/${path}`, "utf8").trim();
  } catch {
    return "";
  }
}

/**
 * May `tun`, at this MTU in bytes, have an IPv6 address? Not where the kernel has no IPv6 or was told to
 * leave it out, nor below the smallest MTU that IPv6 allows (RFC 8200, section 5): there the kernel takes
 * IPv6 away from the interface.
 */
export const canCarryIPv6 = (tun: string, mtu: number) =>
  mtu >= 1280 &&
  (setting(`ipv6/conf/${tun}/disable_ipv6`) || setting("ipv6/conf/default/disable_ipv6")) === "0";

/** An interface, as `ip -json address` has it. */
export interface IpLink {
  ifname: string;
  flags: string[];
  mtu: number;
  linkinfo?: { info_data?: { persist?: boolean } };
  addr_info: { family: string; local: string; prefixlen: number; scope: string }[];
}
interface IpRoute {
  dst: string;
  type?: string; // only if it is no usual one: "blackhole"
  dev?: string;
  nexthops?: { dev: string }[]; // of one with several ways
  gateway?: string;
  table?: string;
  protocol?: string;
  metric?: number;
}

/** Reads all of it. What cannot be read (no IPv6 in this kernel, no ip command) counts as not there. */
export async function readMachine(tun: string): Promise<Machine> {
  const [links, routes4, routes6, rules4, rules6] = await Promise.all([
    json<IpLink>("ip -json -details address show"),
    json<IpRoute>("ip -json -4 route show table all"),
    json<IpRoute>("ip -json -6 route show table all"),
    rulesOf("ip"),
    rulesOf("ip -6"),
  ]);
  const own = links.find(({ ifname }) => ifname === tun);
  const all = [...blocksOf(routes4, "0.0.0.0/0"), ...blocksOf(routes6, "::/0")];
  const routes = all.filter((route) => !isGuard(route)); // a route of the same block may stand before those
  const tables = tablesOf(routes.filter(({ dev }) => dev !== tun));
  const inOwn = routes.filter(({ dev }) => dev === tun);
  return {
    links: links.map(({ ifname }) => ifname),
    tun: own?.linkinfo?.info_data?.persist ? persistent(own, inOwn) : undefined,
    held: links.filter((link) => link !== own).flatMap(heldBy),
    routes: tables.get("main") ?? [],
    tables,
    rules: [...rules4, ...rules6].filter((rule) => !isKernels(rule)),
    blocked: all.filter((route) => isGuard(route) && route.protocol === `${KILL_SWITCH}`).map(inTable),
    firewall: !inPath("iptables") && inPath("nft") ? "nft" : "iptables",
    setting,
  };
}

/**
 * The metric of a client's guards: routes that lead nowhere, behind the tunnel's own ones of the same block
 * (guard.ts). And the protocol of those that --kill-switch leaves: what `ip route` knows their maker by.
 */
export const [GUARD, KILL_SWITCH] = [8686, 86];
const isGuard = ({ type, metric }: IpRoute) => type === "unreachable" && metric === GUARD;
const inTable = ({ block, table }: BlockRoute) => (table ? `${block} table ${table}` : block);

async function json<T>(line: string): Promise<T[]> {
  const { code, stdout } = await run(line);
  return code === 0 && stdout.trim() !== "" ? JSON.parse(stdout) : [];
}

async function rulesOf(ip: Rule["ip"]): Promise<Rule[]> {
  const lines = (await run(`${ip} rule`)).stdout.matchAll(/^(\d+):\s*(.*?)\s*$/gm);
  return [...lines].map(([, preference, text]) => ({ ip, preference: Number(preference), text: text! }));
}

/** One of the three rules that are there on every machine. */
const isKernels = ({ text, preference }: Rule) =>
  /^from all lookup (local|main|default)$/.test(text) && [0, 32766, 32767].includes(preference);

type BlockRoute = IpRoute & { block: string };

function blocksOf(routes: IpRoute[], all: string): BlockRoute[] {
  const blockOf = (dst: string) => (dst === "default" ? all : dst.includes("/") ? dst : hostRoute(dst));
  return routes
    .filter(({ table }) => table !== "local")
    .map((route) => ({ ...route, block: blockOf(route.dst) }));
}

function tablesOf(routes: BlockRoute[]): Map<string, Route[]> {
  const tables = new Map<string, Route[]>();
  for (const { table = "main", block, type, dev = "", gateway, nexthops = [{ dev }] } of routes) {
    const where = type ? `nowhere (${type})` : `out of ${nexthops.map((hop) => hop.dev).join(" and ")}`;
    tables.set(table, [...(tables.get(table) ?? []), { block, dev, where, gateway }]);
  }
  return tables;
}

function heldBy({ ifname, addr_info }: IpLink): Held[] {
  return addr_info.map(({ local, prefixlen, scope }) => ({
    dev: ifname,
    address: local,
    prefix: prefixlen,
    global: scope === "global",
  }));
}

/**
 * The same machine later: other addresses and routes. What we change ourselves is there as it was before us.
 */
export async function readAgain(tun: string, before: Machine): Promise<Machine> {
  const { links, held, routes } = await readMachine(tun);
  return { ...before, links, held, routes };
}

/** The same without a command, for one that has given up root: the addresses are new. getifaddrs(3). */
export function addressesAgain(tun: string, before: Machine): Machine {
  const others = Object.entries(networkInterfaces()).filter(([dev]) => dev !== tun);
  const held = others.flatMap(([dev, addresses = []]) =>
    addresses.map(({ address, cidr, scopeid, internal }) => ({
      dev,
      address,
      prefix: Number(cidr?.split("/")[1]),
      global: !internal && !scopeid, // a link-local one has a scope
    })),
  );
  return { ...before, held };
}

/**
 * What a rule of the user's knows its packets by: "fwmark 0xca6c", "to 198.51.100.0/24"; "" if it is for all.
 */
export const selectorOf = ({ text }: Rule) =>
  text
    .replace(/ (lookup|goto|blackhole|unreachable|prohibit|nop|proto)\b.*/, "")
    .replace(/^not /, "")
    .replace(/^from all ?/, "");

/**
 * Could that rule keep packets to `block` from the main table? Not if it knows its packets by anything but
 * where they go to.
 */
export function mayTake(rule: Rule, block: string): boolean {
  const selector = selectorOf(rule);
  const to = /^to (\S+)$/.exec(selector)?.[1];
  const address = block.split("/")[0]!;
  if (rule.ip !== ipFor(block)) return false;
  return (
    selector === "" ||
    rule.text.startsWith("not ") ||
    (to !== undefined && contains(to.includes("/") ? to : hostRoute(to), address))
  );
}

function persistent({ ifname, flags, mtu, addr_info }: IpLink, routes: BlockRoute[]): Persistent {
  const modes = ["eui64", "none", "stable_secret", "random"]; // enum in6_addr_gen_mode, linux/if_link.h
  const mode = modes[parseInt(setting(`ipv6/conf/${ifname}/addr_gen_mode`))];
  const words = [
    flags.includes("UP") ? "up" : "down",
    `mtu ${mtu}`,
    `multicast ${flags.includes("MULTICAST") ? "on" : "off"}`,
    ...(mode ? [`addrgenmode ${mode}`] : []),
  ];
  return {
    link: `ip link set ${ifname} ${words.join(" ")}`,
    has: (asked) =>
      (asked.match(/(mtu|multicast|addrgenmode) \S+|up|down/g) ?? []).every((word) => words.includes(word)),
    addresses: addr_info.map(({ local, prefixlen }) => `${local}/${prefixlen}`),
    routes: routes.map(inTable),
  };
}
