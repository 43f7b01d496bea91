/**
 * What the kernel must be told so that packets find the tunnel: each end's address, the server's forwarding
 * and NAT. The client's routes are in routes.ts. setup.ts prints these commands, or runs them. The address
 * and the routes of a TUN need no undoing: they go when the program that created it closes it. Only a
 * persistent TUN stays, so there everything is undone.
 */
import { readdirSync } from "node:fs";
import { embed, formatIPv4, parseCidr, type Prefix96 } from "../base/address.ts";
import { ipFor } from "../base/block.ts";
import { type Machine, mayTake } from "./machine.ts";
import type { ServerOptions } from "./options.ts";

/** One command, and the one that takes it back. */
export interface Change {
  run: string;
  input?: string; // its standard input
  undo?: string | undefined;
  sets?: string; // what it sets, where a later command can set the same anew: "mtu"
  removes?: string; // the command whose work this takes back
  // Test command. If it succeeds, the rule is there already, left by a killed run: do not add it again, but
  // remove it at the end
  unless?: string;
  otherwise?: Change[]; // to be tried if it fails
  part?: string; // of what is asked for, one that the rest can do without. If it fails, all of it is left out
}

/** The inside of the tunnel, as one end has it. */
export interface Inner {
  address: number; // its own
  prefix: number; // of the inner subnet, bits
  mtu: number; // bytes
  subnet6?: Prefix96 | undefined; // undefined: no IPv6
}

export const addressesOf = ({ address, prefix, subnet6 }: Inner) => innerAddresses(address, prefix, subnet6);

/** One end's inner addresses: "10.8.0.2/24", and where the tunnel carries IPv6 "fd56:504e::a08:2/96". */
export const innerAddresses = (address: number, prefix: number, subnet6: Prefix96 | undefined) => [
  `${formatIPv4(address)}/${prefix}`,
  ...(subnet6 ? [`${embed(subnet6, address)}/96`] : []),
];

/** The command that gives `tun` an address; none if a persistent one has it. */
export function addAddress(tun: string, own: string, machine: Machine, part?: string): Change[] {
  if (machine.tun?.addresses.includes(own)) return [];
  return [
    {
      run: `ip addr replace ${own} dev ${tun}`,
      undo: machine.tun && removal(own, tun),
      ...(part && { part }),
    },
  ];
}

/** The tunnel's inside: "10.8.0.0/24", and where it carries IPv6 "fd56:504e::/96". */
export const insideOf = ({ address, prefix, subnet6 }: Inner) => [
  `${formatIPv4(parseCidr(`${formatIPv4(address)}/${prefix}`)!.network)}/${prefix}`,
  ...(subnet6 ? [`${embed(subnet6, 0)}/96`] : []),
];

/**
 * Rules that send packets for the inside to the main table, if a rule of the user's own could take them away
 * from it: their number is INNER. `stay`: after our end, too.
 */
export function keepInside(inside: string[], { rules, blocked }: Machine, stay = false): Change[] {
  return inside
    .filter((block) => rules.some((rule) => rule.preference > INNER && mayTake(rule, block)))
    .flatMap((block) => {
      const rule = `to ${block} lookup main`;
      const undo = `${ipFor(block)} rule del ${rule} pref ${INNER}`;
      // a killed program left it
      const left = rules.some(({ preference, text }) => preference === INNER && text === `from all ${rule}`);
      if (left && (stay || blocked.includes(block))) return [];
      return [
        ...(left ? [{ run: undo, sets: `left ${rule}` }] : []),
        { run: undo.replace("del", "add"), ...(!stay && { undo }) },
      ];
    });
}
export const INNER = 8599;

/** The command that takes an address from `tun`. */
export const removal = (address: string, tun: string) => `ip addr del ${address} dev ${tun}`;

/** The commands that bring `tun` up at this MTU, in bytes, ready for what addresses it will have. */
export function bringUp(tun: string, mtu: number, forIPv6: boolean, machine: Machine): Change[] {
  const setLink = (sets: string, words: string): Change[] =>
    machine.tun?.has(words) ? [] : [{ run: `ip link set ${tun} ${words}`, sets, undo: machine.tun?.link }];
  // First: else the kernel adds a link-local address, and sends router solicitations and multicast listener
  // reports into the tunnel.
  return [
    ...(forIPv6 ? setLink("addrgenmode", "addrgenmode none multicast off") : []),
    ...setLink("mtu", `mtu ${mtu} up`),
  ];
}

type Served = Pick<ServerOptions, "tun" | "mtu" | "subnet" | "nat"> &
  Partial<Pick<ServerOptions, "transport" | "port">> & {
    subnet6?: Prefix96 | undefined;
    configure?: boolean;
  };
export const IPV6 = "IPv6 inside the tunnel"; // a part

/**
 * The server's commands: its end of the tunnel, and the way on from there, out of `options.nat`. With
 * `configure` also what a ping on a fresh machine can do without, and nobody would like to type.
 */
export function serverChanges(options: Served, gateway: number, machine: Machine): Change[] {
  const { tun, mtu, subnet, subnet6, nat, configure } = options;
  const [address = "", address6] = innerAddresses(gateway, subnet.prefix, subnet6);
  const [source = "", source6 = ""] = insideOf({ address: gateway, prefix: subnet.prefix, mtu, subnet6 });
  const onward = () => [...forward("ipv4", machine), ...leave("ip", options, source, machine)];
  const ipv4 = nat === undefined ? [] : onward();
  const ipv6 =
    nat === undefined || !subnet6
      ? []
      : [
          ...routerAdvertisements(nat, machine),
          ...forward("ipv6", machine),
          ...leave("ip6", options, source6, machine),
        ];
  if (configure && subnet6) ipv6.unshift(...wall(tun, [source6], machine));
  return [
    ...keepKernelOut(options, machine),
    ...(configure ? wall(tun, [source], machine) : []),
    ...addAddress(tun, address, machine),
    ...bringUp(tun, mtu, address6 !== undefined, machine),
    ...ipv4,
    ...quiet(options, machine),
    ...ipv6.map((change) => ({ ...change, part: change.part ? `${change.part} (${IPV6})` : IPV6 })),
    ...(address6 ? addAddress(tun, address6, machine, IPV6) : []),
    ...keepInside(source6 ? [source, source6] : [source], machine),
  ];
}

const WALL = "a wall around the inner addresses: who is on a network of this machine reaches them";

/**
 * What is addressed to the inside, and did not come through the tunnel, is dropped before anything looks at
 * it. Else a neighbour reaches inner addresses without the secret: Linux answers on each interface for all
 * its addresses. What this machine sends to itself comes by lo.
 */
export function wall(tun: string, blocks: string[], { firewall }: Machine): Change[] {
  return blocks.flatMap((block) => {
    const six = block.includes(":");
    const iptables = `${six ? "ip6tables" : "iptables"} -t raw -A PREROUTING`;
    if (firewall === "iptables")
      return [
        rule(`${iptables} -i lo -d ${block} -j RETURN`, true, WALL),
        rule(`${iptables} ! -i ${tun} -d ${block} -j DROP`, true, WALL),
      ];
    const family = six ? "ip6" : "ip";
    const table = `${family} simple-vpn-${tun}-wall`; // not that of nftables(): it must go alone if it fails
    const changes: Change[] = [
      { run: `nft add table ${table}`, undo: `nft delete table ${table}` },
      { run: `nft add chain ${table} wall { type filter hook prerouting priority -300 ; }` },
      { run: `nft add rule ${table} wall iifname != lo iifname != ${tun} ${family} daddr ${block} drop` },
    ];
    return changes.map((change) => ({ ...change, part: WALL }));
  });
}

/**
 * --transport raw: our kernel's TCP knows nothing of the segments that we make. What comes is dropped before
 * TCP answers with RST, and before a connection is tracked: by then our packet socket has its copy. What
 * leaves is not tracked, either. `there`: a client's server; a server does so for all. Two clients of one
 * machine may have the same server: each has rules of its own.
 */
export function keepKernelOut(
  { tun, transport, port, configure = false }: Partial<Served>,
  { firewall, setting }: Machine,
  there?: string,
): Change[] {
  if (transport !== "raw" || there?.includes("%")) return [];
  const hasIPv6 = setting("ipv6/conf/all/forwarding") !== "";
  const families = there ? [there.includes(":") ? "6" : ""] : hasIPv6 ? ["", "6"] : [""];
  const [near, far] = there ? ["sport", "dport"] : ["dport", "sport"]; // of the server's port: in, and out
  return families.flatMap((six) => {
    const part = six && !there ? { part: "IPv6 outside, by --transport raw" } : {};
    if (firewall === "iptables") {
      const iptables = `ip${six}tables -t raw -A`;
      const [from, to] = there ? [` -s ${there}`, ` -d ${there}`] : ["", ""];
      return [
        `${iptables} PREROUTING${from} -p tcp --${near} ${port} -j DROP`,
        `${iptables} OUTPUT${to} -p tcp --${far} ${port} -j CT --notrack`,
      ].map((line) => ({ ...rule(line, configure, undefined, `simple-vpn-${tun}`), ...part }));
    }
    const ip = `ip${six}`;
    const table = `${ip} simple-vpn-${tun}-raw`;
    const [from, to] = there ? [`${ip} saddr ${there} `, `${ip} daddr ${there} `] : ["", ""];
    return [
      { run: `nft add table ${table}`, undo: `nft delete table ${table}` },
      { run: `nft add chain ${table} in { type filter hook prerouting priority -300 ; }` },
      { run: `nft add chain ${table} out { type filter hook output priority -300 ; }` },
      { run: `nft add rule ${table} in ${from}tcp ${near} ${port} drop` },
      { run: `nft add rule ${table} out ${to}tcp ${far} ${port} notrack` },
    ].map((change) => ({ ...change, ...part }));
  });
}

/** What lets packets of `source` leave by `nat`, under its address, and their answers come back. */
function leave(family: "ip" | "ip6", options: Served, source: string, machine: Machine): Change[] {
  if (machine.firewall === "nft") return nftables(family, options, source);
  const { tun, nat, configure = false } = options;
  const rules = (lines: [line: string, part?: string][]) =>
    lines.map(([line, part]) =>
      rule(`${family === "ip" ? "iptables" : "ip6tables"} ${line}`, configure, part),
    );
  const masquerade = rules([[`-t nat -A POSTROUTING -s ${source} -o ${nat} -j MASQUERADE`]]);
  if (!configure) return masquerade;
  const clamp = "-p tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu";
  return [
    ...masquerade,
    ...rules([
      // Docker and many firewalls drop what is forwarded, unless a rule before theirs accepts it: clients'
      // packets, and what answers them.
      [`-I FORWARD -i ${tun} -j ACCEPT`],
      [
        `-I FORWARD -o ${tun} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT`,
        "a way for answers through a firewall that drops what is forwarded",
      ],
      // TCP's SYN names the largest segment that its sender takes (MSS). It knows its own link only; we lower
      // it to what the next one takes.
      [`-t mangle -A FORWARD -i ${tun} ${clamp}`, MSS],
      [`-t mangle -A FORWARD -o ${tun} ${clamp}`, MSS],
    ]),
  ];
}

const MSS = "a limit for TCP's segments: large ones need ICMP to find the path's MTU";
const REDIRECTS = "silence about redirects: a client that pings another one is told of a detour";

/**
 * From one client to another, a packet leaves by the interface that it came in by. To a kernel that forwards,
 * with --nat or before us, this is a detour, and it says so. (That of IPv6 does not.)
 */
function quiet({ tun, nat, configure }: Served, { firewall, setting }: Machine): Change[] {
  if (!configure || (nat === undefined && setting("ipv4/ip_forward") !== "1")) return [];
  const line = `iptables -A OUTPUT -o ${tun} -p icmp --icmp-type redirect -j DROP`;
  if (firewall === "iptables") return [rule(line, configure, REDIRECTS)];
  const table = `ip simple-vpn-${tun}-quiet`; // not that of nftables(): it must go alone if it fails
  const changes: Change[] = [
    { run: `nft add table ${table}`, undo: `nft delete table ${table}` },
    { run: `nft add chain ${table} quiet { type filter hook output priority 0 ; }` },
    { run: `nft add rule ${table} quiet oifname ${tun} icmp type redirect drop` },
  ];
  return changes.map((change) => ({ ...change, part: REDIRECTS }));
}

/**
 * One rule of iptables or ip6tables. A rule that we add ourselves carries a comment, which tells it from the
 * user's own. -w waits for others who are changing rules. Printed commands carry no comment mark, because the
 * user owns those rules. A kernel without the comment match gets rules without it.
 */
function rule(line: string, configure: boolean, part?: string, mark = "simple-vpn"): Change {
  const plain = (run: string): Change => ({ run, undo: run.replace(/ -[AI] /, " -D ") });
  const test = (run: string) => run.replace(/ -[AI] /, " -C ");
  if (!configure) return { ...plain(line), unless: test(line) };
  const marked = `${line} -m comment --comment ${mark} -w`;
  return { ...plain(marked), unless: test(marked), otherwise: [plain(`${line} -w`)], ...(part && { part }) };
}

/** The same where there is no iptables command: a table of our own, which one command takes away (nft(8)). */
function nftables(family: "ip" | "ip6", { tun, nat, configure }: Served, source: string): Change[] {
  const table = `${family} simple-vpn-${tun}`;
  const chain = (name: string, words: string): Change => ({
    run: `nft add chain ${table} ${name} { type ${words} ; }`,
  });
  const add = (words: string, part?: string): Change => ({
    run: `nft add rule ${table} ${words}`,
    ...(part && { part }),
  });
  const changes = [
    { run: `nft add table ${table}`, undo: `nft delete table ${table}` },
    chain("leave", "nat hook postrouting priority 100"),
    add(`leave ${family} saddr ${source} oifname ${nat} masquerade`),
  ];
  if (!configure) return changes;
  const clamp = "tcp flags syn tcp option maxseg size set rt mtu";
  changes.push(
    chain("clamp", "filter hook forward priority -150"),
    add(`clamp iifname ${tun} ${clamp}`, MSS),
    add(`clamp oifname ${tun} ${clamp}`, MSS),
  );
  return changes;
}

/**
 * A kernel that forwards ignores router advertisements, and forgets its route from one. With the value 2 it
 * goes on to accept them on this interface (ip-sysctl.rst).
 */
function routerAdvertisements(nat: string, { setting }: Machine): Change[] {
  const accept = `net/ipv6/conf/${nat}/accept_ra`;
  if (setting(accept.slice(4)) !== "1" || setting("ipv6/conf/all/forwarding") === "1") return [];
  return [{ run: `sysctl -w ${accept}=2`, undo: `sysctl -w ${accept}=1` }];
}

/**
 * Forwarding on all interfaces, if it is off. The kernel writes it into the settings of each interface, and
 * changes IPv4's accept_redirects, too (ip-sysctl.rst: ip_forward "resets all configuration parameters to
 * their default state"). With -e, the undoing skips an interface that is gone by then.
 */
function forward(family: "ipv4" | "ipv6", { setting }: Machine): Change[] {
  const path = family === "ipv4" ? "ipv4/ip_forward" : "ipv6/conf/all/forwarding";
  const name = `net.${path.replaceAll("/", ".")}`;
  const on = { run: `sysctl -w ${name}=1` };
  if (setting(path) === "1") return [];
  if (setting(path) !== "0") return [on];
  const others = readdirSync(`/proc/sys/net/${family}/conf`)
    .filter((device) => device !== "all")
    .map((device) => [`${family}/conf/${device}/forwarding`, "0"]);
  if (family === "ipv4") others.unshift(["ipv4/conf/all/accept_redirects", "1"]);
  const former = others.flatMap(([other, written]) =>
    setting(other!) === written ? [] : ` net/${other}=${setting(other!)}`,
  );
  return [{ ...on, undo: `sysctl -e -w ${name}=0${former.join("")}` }];
}
