/**
 * Client only: the commands that route packets into the tunnel, but not the tunnel's own packets, which go to
 * the server. See changes.ts for what becomes of commands.
 */
import { formatIPv4, formatIPv6, parseIPv6 } from "../base/address.ts";
import { contains, halvesOf, hostRoute, ipFor, prefixOf } from "../base/block.ts";
import {
  addAddress,
  addressesOf,
  bringUp,
  type Change,
  type Inner,
  insideOf,
  keepInside,
  keepKernelOut,
  removal,
  wall,
} from "../host/changes.ts";
import { Failure } from "../base/failure.ts";
import { type Machine, mayTake, type Rule, selectorOf } from "../host/machine.ts";
import { type ClientOptions, IP_PROTOCOL } from "../host/options.ts";
import { guard, lift } from "./guard.ts";
import { inItsName } from "./resolver.ts";
import { MARK } from "../transport/raw-socket.ts";

/**
 * The number of our own routing table. It has the routes that would send the tunnel's own packets into the
 * tunnel, round and round. Rules in front of the main table lead to it (ip-rule(8)). So the routes that are
 * there already stay, whichever network this machine moves to. wg-quick(8) does the same.
 *
 *   8600  to SERVER ipproto tcp dport 5555  goto 8999    the tunnel's own packets (raw: fwmark 0x76706e)
 *   8601  from 192.168.1.100                goto 8999    answers to who came by another address
 *   8601  fwmark 0xca6c                     goto 8999    what a rule of the user's own names: of another VPN
 *   8698  lookup main suppress_prefixlength 0            here, more specific than 0.0.0.0/0
 *   8699  lookup 86                                      into the tunnel
 *   8999  nop                                            here they go on, to the rules that were there before
 */
const TABLE = 86;
const IN_TABLE = ` table ${TABLE}`;
const [SPARED, OWN, LOOKUPS, BEHIND] = [8600, 8601, 8602, 8999];

export type Routed = Pick<ClientOptions, "tun" | "routes" | "port"> &
  Partial<Pick<ClientOptions, "transport" | "dns" | "socks" | "configure" | "killSwitch">>;

/**
 * The client's commands: its end of the tunnel, and what is routed into it. `outers`: the addresses that the
 * server has, or had. Errors: a Failure for a route that cannot be.
 */
export function clientChanges(options: Routed, config: Inner, outers: string[], machine: Machine): Change[] {
  const { tun, dns = [], configure = false, killSwitch = false } = options;
  const [address = "", address6] = addressesOf(config);
  const inside = insideOf(config);
  const routes = [
    ...new Set([
      ...options.routes,
      ...dns.filter((one) => !inside.some((block) => contains(block, one))).map(hostRoute),
    ]),
  ].filter((route) => !inside.includes(route)); // the address brings that one already
  inItsName(dns, () => checkRoutes(routes, config, inside, outers));
  const first = routes.filter((route) => belongsInTable(route, outers, machine));
  // Once one route of a family is in TABLE, all are: the rules about answers must come before each of them.
  const tabled = routes.filter((route) => first.some((one) => ipFor(one) === ipFor(route)));
  for (const ip of ["ip", "ip -6"]) {
    const first = tabled.find((route) => ipFor(route) === ip);
    if (first) inItsName(dns, () => checkTable(first, machine));
  }
  for (const route of routes) inItsName(dns, () => checkRoute(route, machine, tabled.includes(route)));
  const placed = routes.map((route) => (tabled.includes(route) ? route + IN_TABLE : route));
  return [
    ...outers.flatMap((outer) => keepKernelOut(options, machine, outer)),
    ...(configure ? wall(tun, addressesOf(config).map(withoutPrefix), machine) : []),
    ...(configure ? inside : []).flatMap((block) => guard(block, killSwitch, machine)),
    ...(killSwitch ? placed : []).flatMap((route) => guard(route, true, machine)),
    ...addAddress(tun, address, machine),
    ...bringUp(tun, config.mtu, address6 !== undefined, machine),
    ...(address6 ? addAddress(tun, address6, machine) : []),
    ...keepInside(inside, machine, killSwitch),
    ...routes.filter((route) => !tabled.includes(route)).flatMap((route) => addRoute(route, tun, machine)),
    ...tabled.flatMap((route) => addRoute(route, tun, machine, IN_TABLE)),
    ...["ip", "ip -6"].flatMap((ip) =>
      rules(
        ip as "ip",
        tabled.filter((route) => ipFor(route) === ip),
        inside,
        outers.filter((outer) => ipFor(outer) === ip && !outer.includes("%")),
        options,
        machine,
      ),
    ),
    ...(options.socks ? socksRules(tun, addressesOf(config), machine) : []),
    ...(configure ? lift([...inside, ...placed], killSwitch, machine) : []),
  ];
}

/**
 * The way of --socks, whose sockets have our inner addresses: a table that leads into the tunnel, whatever
 * the destination. A socket that is bound to tun0 needs it for IPv6, which takes no way without a route, and
 * for the answers, where the kernel asks whether it would send to their source by tun0 (rp_filter in
 * ip-sysctl.rst). The kernel's own table of this machine's addresses comes before it.
 */
function socksRules(tun: string, own: string[], machine: Machine): Change[] {
  const other = machine.tables.get(`${SOCKS_TABLE}`)?.[0];
  if (other) {
    const flush = `${ipFor(other.block)} route flush table ${SOCKS_TABLE}`;
    throw new Failure(
      `Cannot use --socks: table ${SOCKS_TABLE} has a route ${other.where} already`,
      `end the other client first; if it is no client's: ${flush}`,
    );
  }
  const left = machine.rules.filter(({ preference, text }) => preference === SOCKS && ofSocks(text));
  return [
    ...left.map(ruleDel).map((run) => ({ run, sets: `left ${run}` })), // a killed client left it
    ...own.flatMap((address) => {
      const [ip, all] = [ipFor(address), address.includes(":") ? "::/0" : "0.0.0.0/0"];
      const rule = `from ${withoutPrefix(address)} lookup ${SOCKS_TABLE} pref ${SOCKS}`;
      return [
        ...addRoute(all, tun, machine, ` table ${SOCKS_TABLE}`),
        { run: `${ip} rule add ${rule}`, undo: `${ip} rule del ${rule}` },
      ];
    }),
  ];
}
const [SOCKS_TABLE, SOCKS] = [87, 8598];

/** Is it a rule of --socks, or the command that adds it? */
export const ofSocks = (text: string) => text.includes(` lookup ${SOCKS_TABLE}`);

export const withoutPrefix = (own: string) => own.replace(/\/.*/, "");

/** `main` has a default route already. Two halves are one, too: many VPNs write it so. */
const isDefault = (route: string) => prefixOf(route) <= 1;

/**
 * Must this route be in TABLE? Also where a rule of the user's own could keep its packets from the main
 * table.
 */
function belongsInTable(route: string, outers: string[], machine: Machine): boolean {
  return (
    isDefault(route) ||
    outers.some((outer) => contains(route, outer)) ||
    machine.rules.some((rule) => rule.preference > BEHIND && mayTake(rule, route))
  );
}

/** Into a persistent TUN it may lead already: then it stays. */
function addRoute(route: string, tun: string, machine: Machine, table = ""): Change[] {
  if (machine.tun?.routes.includes(route + table)) return [];
  const where = `${route} dev ${tun}${table}`;
  return [
    { run: `ip route add ${where}`, undo: machine.tun && `${ipFor(route)} route flush exact ${where}` },
  ];
}

/**
 * The rules that lead to these routes in TABLE, all of one family: a longer prefix before a shorter one, in
 * whichever table it is.
 */
function rules(
  ip: "ip" | "ip -6",
  tabled: string[],
  inside: string[],
  outers: string[],
  options: Routed,
  machine: Machine,
): Change[] {
  if (tabled.length === 0) return [];
  const add = adder(ip, options, machine);
  const skip = (words: string, preference: number) => add(`${words} goto ${BEHIND}`, preference);
  const left = machine.rules.filter((rule) => rule.ip === ip && isOurs(rule));
  const stays = mustStay(ip, options, machine);
  // With --kill-switch no source address opens a way. A program may bind to one; and where IPv6 finds no
  // route without a source, the kernel tries again with one of ours (ip6_dst_lookup_tail()).
  const own = (stays ? [] : machine.held)
    .filter(({ address, global }) => global && ipFor(address) === ip)
    // not one of the inside: a hostile network may have given us that
    .filter(({ address }) => !inside.some((block) => contains(block, address)))
    .map(({ address }) => `from ${address}`);
  const lengths = [...new Set(tabled.map(prefixOf))].sort((one, other) => other - one);
  const at = (length: number) => LOOKUPS + 3 * ((ip === "ip" ? 32 : 128) - length);
  return [
    ...left
      .filter((rule) => !stays || wordsOf(rule).startsWith("from "))
      .map(ruleDel)
      .map((run) => ({ run, sets: `left ${run}` })), // a killed client left it
    ...add("nop", BEHIND),
    ...outers.flatMap((outer) => spare(outer, options, machine)),
    ...[...new Set(own)].flatMap((words) => skip(words, OWN)),
    ...named(ip, machine).flatMap(({ words, to }) =>
      stays && words.startsWith("from ")
        ? []
        : skip(words, to ? at(to.includes("/") ? prefixOf(to) : prefixOf(hostRoute(to))) + 2 : OWN),
    ),
    ...lengths.flatMap((length) => [
      ...add(`lookup main suppress_prefixlength ${length}`, at(length)),
      ...add(`lookup ${TABLE}${length > 0 ? ` suppress_prefixlength ${length - 1}` : ""}`, at(length) + 1),
    ]),
  ];
}

/** Does --kill-switch of a client before us send this family's packets to TABLE, and nowhere from there? */
export const isBlocked = (ip: string, { blocked }: Machine) =>
  blocked.some((block) => ipFor(block) === ip && block.endsWith(IN_TABLE));

/** Do the rules at our numbers stay? With --kill-switch, they must not be gone for a moment. */
const mustStay = (ip: string, { killSwitch = false }: Routed, machine: Machine) =>
  killSwitch || isBlocked(ip, machine);

/** What makes the change that adds a rule; none if it is there, and stays. */
function adder(ip: "ip" | "ip -6", options: Routed, machine: Machine) {
  const left = mustStay(ip, options, machine) ? machine.rules.filter((rule) => rule.ip === ip) : [];
  return (words: string, preference: number, otherwise?: string): Change[] => {
    if (left.some((one) => one.preference === preference && wordsOf(one) === words)) return [];
    const change = (words: string): Change => ({
      run: `${ip} rule add ${words} pref ${preference}`,
      ...(!options.killSwitch && { undo: `${ip} rule del ${words} pref ${preference}` }),
    });
    return [{ ...change(words), ...(otherwise && { otherwise: [change(otherwise)] }) }];
  };
}

/**
 * Lets the tunnel's own packets pass by our rules: TCP (or UDP) to its port, and nothing else that goes to
 * the server, or to an address that a name server has made up. An ip command before 4.17 does not know ports.
 */
export function spare(outer: string, options: Routed, machine: Machine): Change[] {
  const to = `to ${outer.includes(":") ? formatIPv6(parseIPv6(outer)!) : outer}`; // as `ip rule` shows it
  const add = adder(ipFor(outer), options, machine);
  return add(`${to} ${tunnelTo(options)} goto ${BEHIND}`, SPARED, `${to} goto ${BEHIND}`);
}

/** The words of `ip rule` and `ip route get` for the tunnel's own packets. A raw socket's have no port. */
export const tunnelTo = ({ transport = "tcp", port }: Pick<Routed, "transport" | "port">, asks = false) =>
  transport === "raw"
    ? `${asks ? "mark" : "fwmark"} 0x${MARK.toString(16)}`
    : `ipproto ${IP_PROTOCOL[transport]} dport ${port}`;

/** Has this rule one of our numbers? */
export const isOurs = ({ preference }: Rule) => preference >= SPARED && preference <= BEHIND;
/** What a rule was added with; `ip rule` adds "[detached]" where an interface is gone. */
const wordsOf = ({ text }: Rule) => text.replace(/^from all /, "").replace(/ \[.*/, "");
/** Takes a rule away: in other words than the undoing of ours, which would be forgotten with it. */
export const ruleDel = (rule: Rule) => `${rule.ip} rule del pref ${rule.preference} ${wordsOf(rule)}`;

/**
 * The packets that the user's own rules behind ours name, by source, mark and so on, go on to those rules. So
 * do those to a block, behind the routes that are as specific. What such a rule leaves out by `not` are
 * special ones, too. A rule for all names none: this tunnel is asked for by name, and comes first.
 */
function named(ip: "ip" | "ip -6", machine: Machine): { words: string; to: string | undefined }[] {
  const selectors = new Set(
    machine.rules.filter((rule) => rule.ip === ip && rule.preference > BEHIND).map(selectorOf),
  );
  return [...selectors]
    .filter((words) => words !== "" && !words.includes("["))
    .map((words) => ({ words, to: /(?:^| )to (\S+)/.exec(words)?.[1] }));
}

/** Errors: a Failure for a route that cannot be, whatever this machine has. */
function checkRoutes(routes: string[], { subnet6 }: Inner, inside: string[], outers: string[]): void {
  const stray = subnet6 ? undefined : routes.find((route) => route.includes(":"));
  if (stray)
    throw new Failure(
      `Cannot route ${stray} into the tunnel: it carries no IPv6`,
      "leave that --route out; IPv6 needs a server and a kernel that have it, and an MTU of 1280 or more",
    );
  for (const outer of outers) {
    const inner = inside.find((subnet) => contains(subnet, outer));
    if (!inner && !routes.includes(hostRoute(outer))) continue;
    const where = inner ? `the inner subnet ${inner}` : `--route ${hostRoute(outer)}`;
    throw new Failure(
      `Cannot route the server itself into the tunnel to it: ${where}`,
      "leave that --route out, or choose another --subnet on the server",
    );
  }
}

const OUR_WORDS = new RegExp(`goto ${BEHIND}|nop$|lookup ${TABLE}\\b|lookup main suppress_prefixlength`);

/** Errors: a Failure if TABLE or the numbers of our rules are not free. */
function checkTable(route: string, { tables, rules }: Machine): void {
  const other = tables.get(`${TABLE}`)?.find(({ block }) => ipFor(block) === ipFor(route));
  if (other) {
    const flush = `${ipFor(route)} route flush table ${TABLE}`;
    throw new Failure(
      `Cannot route ${route} into the tunnel: table ${TABLE} has a route ${other.where} already`,
      `end the other client first, or leave that --route out; if it is no client's: ${flush}`,
    );
  }
  const foreign = rules.find(
    (rule) => rule.ip === ipFor(route) && isOurs(rule) && !OUR_WORDS.test(rule.text),
  );
  if (!foreign) return;
  const { ip, preference, text } = foreign;
  const numbers = `our rules have the numbers ${SPARED} to ${BEHIND}`;
  throw new Failure(
    `Cannot route ${route} into the tunnel: ${numbers}, and ${preference} is there already (${text})`,
    `${ip} rule del pref ${preference}, if nothing needs it; or leave that --route out`,
  );
}

/** Errors: a Failure if the block is this machine's own network, or if its table has that route already. */
function checkRoute(route: string, { routes, held }: Machine, inTable: boolean): void {
  const other = routes.find(({ block }) => block === route);
  const prefix = prefixOf(route);
  const own = held.find(({ address, prefix: length }) => length === prefix && contains(route, address));
  if (!other || (inTable && !own)) return;
  const halves = halvesOf(route);
  const where = own
    ? `it is this machine's own network, on ${own.dev}`
    : `this machine routes it ${other.where} already`;
  const single = route.includes(":") ? 128 : 32;
  const inPieces = `halves of it, --route ${halves?.join(" --route ")}, or single hosts (/${single})`;
  const away = `${ipFor(route)} route del ${route}${other.dev && ` dev ${other.dev}`}`;
  const hint =
    halves && own ? `${inPieces}; its own hosts are out of reach then` : `${away}, or leave that --route out`;
  throw new Failure(`Cannot route ${route} into the tunnel: ${where}`, hint);
}

/**
 * The commands when the server has given this end another address: the new one is added, then the former one
 * goes. The new one is a /32 at first. Else it would belong to the former one's subnet, and go together with
 * it (ip-sysctl.rst: promote_secondaries), and the routes, too.
 */
export function renewal(tun: string, config: Inner, former: Inner, machine: Machine): Change[] {
  const kept = addressesOf(config);
  const leaving = addressesOf(former).filter(
    (own) => !kept.includes(own) && !machine.tun?.addresses.includes(own),
  );
  if (leaving.length === 0) return [];
  const single = `${formatIPv4(config.address)}/32`;
  const take = (own: string): Change => ({
    run: removal(own, tun),
    removes: `ip addr replace ${own} dev ${tun}`,
  });
  const six = leaving.filter((own) => own.includes(":") && config.mtu < 1280); // below, there is no IPv6
  return [
    ...six.map(take), // or the kernel would do it
    // so that it has IPv6, if its MTU was too small for that
    ...bringUp(tun, config.mtu, config.subnet6 !== undefined, machine),
    ...addAddress(tun, single, machine),
    ...leaving.filter((own) => !six.includes(own)).map(take),
    ...kept.flatMap((own) => addAddress(tun, own, machine)),
    take(single),
  ];
}
