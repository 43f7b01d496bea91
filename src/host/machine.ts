/**
 * What this machine has already: addresses, routes, rules, settings. It is read once, before --configure
 * changes anything. So nothing is set that has its value already, nothing of the user's is taken over, and
 * the end can bring back what was there.
 */
import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { BlockList, isIPv6 } from "node:net";
import { formatIPv6, parseIPv6 } from "../base/address.ts";
import { inPath, run } from "./command.ts";
import { Failure } from "../base/failure.ts";

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

interface IpLink {
  ifname: string;
  flags: string[];
  mtu: number;
  linkinfo?: { info_data?: { persist?: boolean } };
  addr_info: { local: string; prefixlen: number; scope: string }[];
}
interface IpRoute {
  dst: string;
  type?: string; // only if it is no usual one: "blackhole"
  dev?: string;
  nexthops?: { dev: string }[]; // of one with several ways
  gateway?: string;
  table?: string;
}

/** Reads all of it. What cannot be read (no IPv6 in this kernel, no ip command) counts as not there. */
export async function readMachine(tun: string): Promise<Machine> {
  const json = async <T>(line: string): Promise<T[]> => {
    const { code, stdout } = await run(line);
    return code === 0 && stdout.trim() !== "" ? JSON.parse(stdout) : [];
  };
  const rulesOf = async (ip: Rule["ip"]) =>
    [...(await run(`${ip} rule`)).stdout.matchAll(/^(\d+):\s*(.*?)\s*$/gm)].map(([, preference, text]) => ({
      ip,
      preference: Number(preference),
      text: text!,
    }));
  const [links, routes4, routes6, rules4, rules6] = await Promise.all([
    json<IpLink>("ip -json -details address show"),
    json<IpRoute>("ip -json -4 route show table all"),
    json<IpRoute>("ip -json -6 route show table all"),
    rulesOf("ip"),
    rulesOf("ip -6"),
  ]);
  const own = links.find(({ ifname }) => ifname === tun);
  const blocks = (routes: IpRoute[], all: string, bits: number) =>
    routes.map((route) => ({
      ...route,
      block: route.dst === "default" ? all : route.dst.includes("/") ? route.dst : `${route.dst}/${bits}`,
    }));
  const routes = [...blocks(routes4, "0.0.0.0/0", 32), ...blocks(routes6, "::/0", 128)].filter(
    ({ table }) => table !== "local",
  );
  const tables = new Map<string, Route[]>();
  for (const { table = "main", block, type, dev = "", gateway, nexthops = [{ dev }] } of routes.filter(
    ({ dev }) => dev !== tun,
  )) {
    const where = type ? `nowhere (${type})` : `out of ${nexthops.map((hop) => hop.dev).join(" and ")}`;
    tables.set(table, [...(tables.get(table) ?? []), { block, dev, where, gateway }]);
  }
  return {
    links: links.map(({ ifname }) => ifname),
    tun: own?.linkinfo?.info_data?.persist
      ? persistent(
          own,
          routes.filter(({ dev }) => dev === tun),
        )
      : undefined,
    held: links
      .filter((link) => link !== own)
      .flatMap((link) =>
        link.addr_info.map(({ local, prefixlen, scope }) => ({
          dev: link.ifname,
          address: local,
          prefix: prefixlen,
          global: scope === "global",
        })),
      ),
    routes: tables.get("main") ?? [],
    tables,
    rules: [...rules4, ...rules6].filter(
      ({ text, preference }) =>
        !/^from all lookup (local|main|default)$/.test(text) || ![0, 32766, 32767].includes(preference),
    ),
    firewall: !inPath("iptables") && inPath("nft") ? "nft" : "iptables",
    setting,
  };
}

/**
 * The same machine later: other addresses and routes. What we change ourselves is there as it was before us.
 */
export async function readAgain(tun: string, before: Machine): Promise<Machine> {
  const { links, held, routes } = await readMachine(tun);
  return { ...before, links, held, routes };
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

function persistent(
  { ifname, flags, mtu, addr_info }: IpLink,
  routes: { block: string; table?: string }[],
): Persistent {
  const mode = ["eui64", "none", "stable_secret", "random"][
    parseInt(setting(`ipv6/conf/${ifname}/addr_gen_mode`))
  ]; // enum in6_addr_gen_mode, linux/if_link.h
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
    routes: routes.map(({ block, table }) => (table ? `${block} table ${table}` : block)),
  };
}

export const prefixOf = (block: string) => Number(block.split("/")[1]); // bits

/**
 * Is `address` in the block? A link-local one (fe80::1%eth0) is in none: its interface is part of it, and no
 * route changes that.
 */
export function contains(block: string, address: string): boolean {
  const [network = "", prefix] = block.split("/");
  if (isIPv6(address) !== isIPv6(network) || address.includes("%")) return false;
  const family = isIPv6(network) ? "ipv6" : "ipv4";
  const list = new BlockList();
  list.addSubnet(network, Number(prefix), family);
  return list.check(address, family);
}

export const ipFor = (address: string) => (address.includes(":") ? "ip -6" : "ip");

/** The block that is this address alone. */
export const hostRoute = (address: string) => `${address}/${isIPv6(address) ? 128 : 32}`;

/**
 * "192.168.1.0/25" and "192.168.1.128/25" of 192.168.1.0/24: more specific than the whole, so they win over
 * it. None of one address.
 */
export function halvesOf(block: string): [string, string] | undefined {
  const [network = ""] = block.split("/");
  const prefix = prefixOf(block);
  const bytes = parseIPv6(network) ?? Buffer.from(network.split(".").map(Number));
  if (prefix === 8 * bytes.length) return undefined;
  bytes[prefix >> 3]! |= 0x80 >> (prefix & 7); // the first bit that is not the block's own
  const upper = bytes.length === 4 ? bytes.join(".") : formatIPv6(bytes, 0);
  return [`${network}/${prefix + 1}`, `${upper}/${prefix + 1}`];
}

/**
 * Do these blocks lead into `tun`? A rule of the user's in front of ours, or a route that is more specific,
 * comes first. Asks the kernel for one address of each. Returns a warning, or "".
 */
export async function strays(blocks: string[], tun: string): Promise<string> {
  const addresses = blocks.map((block) => (halvesOf(block)?.[1] ?? block).split("/")[0]!);
  const { stdout } = await run(
    "ip -force -batch -",
    addresses.map((address) => `route get ${address}\n`).join(""),
  );
  const ways = new Map(
    [...stdout.matchAll(/^(\S+) .*?((?:via \S+ )?dev (\S+))/gm)].map(([, address, way, dev]) => [
      address,
      { way, dev },
    ]),
  );
  const stray = addresses.flatMap((address, i) =>
    ways.get(address)?.dev === tun
      ? []
      : [`${address} of ${blocks[i]} goes ${ways.get(address)?.way ?? "nowhere"}`],
  );
  if (stray.length === 0) return "";
  const more = stray.length > 1 ? ` (and so for ${stray.length - 1} more)` : "";
  const why = "for a rule or a route of this machine's own comes first; 'ip rule' shows the rules";
  return `not into the tunnel: ${stray[0]}${more}, ${why}`;
}

const overlap = (one: string, other: string) =>
  contains(one, other.split("/")[0]!) || contains(other, one.split("/")[0]!);

/**
 * The blocks for the inside of the tunnel must be free on this machine. Else packets for the inside would
 * leave by another interface, without a word. Returns a warning, or "". Errors: a Failure; `option`: what
 * sets another block.
 */
export function checkFree(machine: Machine, blocks: string[], option: string): string {
  let warning = "";
  for (const block of blocks) {
    const held = machine.held.find(({ address, prefix }) => overlap(`${address}/${prefix}`, block));
    const route = machine.routes.find(
      (one) => prefixOf(one.block) >= prefixOf(block) && contains(block, one.block.split("/")[0]!),
    );
    const gateway = machine.routes.find(({ gateway }) => gateway && contains(block, gateway));
    // A larger network with other hosts in it may stay: the smaller block wins, and takes only its own
    // addresses from it.
    const larger = held && prefixOf(block) > held.prefix && !gateway;
    const network = held && `${held.address}/${held.prefix}`;
    if (larger) {
      const lost = "its hosts with such addresses are out of reach meanwhile";
      warning = `this machine's network on ${held.dev}, ${network}, holds the tunnel's ${block}: ${lost}`;
    }
    const routed = route && `${route.block} is routed ${route.where} already`;
    const found = held && !larger ? `${held.dev} has ${network}` : routed;
    if (!found) continue;
    const flag = block.includes(":") ? "--subnet6" : "--subnet";
    const another = option.replace("--subnet", flag).replace("BLOCK", freeBlock(machine, block));
    const problem = `Cannot use ${block} inside the tunnel: on this machine ${found}`;
    throw new Failure(problem, `${another}: nothing here has that`);
  }
  return warning;
}

/**
 * Clients' packets leave by `device`: by neither lo nor our own `tun`. iptables would accept one that does
 * not exist, and never match. Errors: a Failure.
 */
export function checkDevice({ links }: Machine, device: string | undefined, tun: string): void {
  const outward = links.filter((link) => link !== "lo" && link !== tun);
  if (device === undefined || outward.includes(device)) return;
  const why = links.includes(device) ? "it leads nowhere else" : "there is no such interface";
  const others = outward.length > 0 ? `name another one, of ${outward.join(", ")}` : "leave --nat out";
  throw new Failure(`Cannot use --nat ${device}: ${why}`, others);
}

/** A block of the same size that is free on this machine. */
function freeBlock({ held, routes }: Machine, taken: string): string {
  const prefix = prefixOf(taken);
  if (isIPv6(taken.split("/")[0]!))
    return `fd${randomBytes(5)
      .toString("hex")
      .replace(/^(..)(....)(....)$/, "$1:$2:$3")}::/${prefix}`; // RFC 4193, section 3.2.2
  const networks = Array.from({ length: 262 }, (_, i) =>
    i < 246 ? `10.${9 + i}.0.0` : `172.${i - 230}.0.0`,
  ); // RFC 1918
  const used = [
    ...held.map(({ address, prefix }) => `${address}/${prefix}`),
    ...routes.map(({ block }) => block).filter((block) => prefixOf(block) > 0),
  ];
  return (
    networks
      .map((network) => `${network}/${Math.max(prefix, 16)}`)
      .find((block) => !used.some((one) => overlap(one, block))) ?? "another block"
  );
}
