/**
 * The hops that the doctor examines, on the client and on the server: what is looked at, and what mends it.
 * The commands are those of changes.ts and routes.ts where it has them: what --configure would have run.
 */
import { spawnSync } from "node:child_process";
import { readFileSync, statSync } from "node:fs";
import { type Cidr, formatIPv4 } from "../../base/address.ts";
import { hostRoute } from "../../base/block.ts";
import { keepKernelOut, serverChanges } from "../../host/changes.ts";
import { FRESH } from "../../host/machine.ts";
import { IP_PROTOCOL } from "../../host/options.ts";
import { resolve } from "../../client/names.ts";
import { UNBLOCK } from "../../client/guard.ts";
import { clientChanges, tunnelTo } from "../../client/routes.ts";
import { CLONE_DEVICE } from "../../core/tun.ts";
import { type PingWalk, pingWatched } from "./drops.ts";
import { type Finding, ok, problem, unknown } from "./finding.ts";
import {
  ask,
  filter,
  findHolder,
  findLink,
  findNat,
  isBlocked,
  nftTables,
  routeTo,
  routeWithout,
  serverOf,
  sysctl,
} from "./inspect.ts";
import { type Contact, contact, DOCTOR_THERE, shakeHands, type TransportName, whyNot } from "./reach.ts";

/** What the doctor was told; addresses that are numbers are in host order. */
export interface Options {
  role: "client" | "server";
  target: string;
  tun: string;
  port: number;
  transport: TransportName;
  cipher: string;
  secrets: string[] | undefined; // files
  environment: string | undefined; // or its secret
  server: string | undefined;
  address: Cidr; // the client's inner address
  nat: string | undefined;
  subnet: Cidr;
  mtu: number; // bytes
  gateway: number; // the server's inner address
}

/** One hop of the walk. It cannot be checked where a hop that it `needs` is not ok. */
export interface Check {
  hop: string;
  needs?: string[];
  check: () => Finding | Promise<Finding>;
}

/** The client's hops, in the order of the walk. */
export function clientChecks(options: Options): Check[] {
  const { tun, target, gateway, server, address, port, transport, cipher } = options;
  const others = server ?? "SERVER";
  const [addAddress, bringUp] = clientChanges(
    { tun, port, transport, routes: [] },
    { ...address, mtu: options.mtu },
    [],
    FRESH,
  );
  let remote = server; // whom to connect to
  let tunnelMtu = options.mtu; // until the server has told its own
  let reached: Contact | undefined; // one for both hops: the server's trace notes one probe
  const start = (over = transport) => {
    const words = `npx tsx src/client.ts ${others} --configure --route ${target}/32`;
    return over === "tcp" ? words : `${words} --transport ${over}`;
  };
  let walk: PingWalk | undefined;

  return [
    ...tunChecks(options, start(), addAddress!.run, bringUp!.run),
    {
      hop: "route",
      check: () => {
        const route = routeTo(target);
        if (!route && isBlocked(target))
          return problem(`${target} is blocked by --kill-switch of a client that has ended`, UNBLOCK);
        if (!findLink(tun)) return unknown(`no ${tun}`);
        if (route?.dev === tun) return ok(`${target} is routed into ${tun}`);
        return problem(
          `${target} is routed ${route ? `out of ${route.dev}` : "nowhere"}, not into ${tun}`,
          `ip route replace ${target}/32 dev ${tun}`,
        );
      },
    },
    {
      hop: "server",
      check: async () => {
        const holder = remote === undefined ? findHolder(tun) : undefined;
        if (holder) remote = serverOf(holder);
        if (remote === undefined) return unknown("no client is connected: name the server with --server");
        if (routeTo(remote, tunnelTo({ port, transport }, true))?.dev === tun) {
          const outside = routeWithout(tun, remote);
          const via = outside?.gateway ? `via ${outside.gateway} ` : "";
          const fix = `ip route replace ${hostRoute(remote)} ${via}dev ${outside?.dev ?? "eth0"}`;
          return problem(`${remote} is routed into ${tun} itself: a routing loop`, fix);
        }
        const addresses = await resolve(remote);
        const found = await contact(addresses, options);
        if (typeof found === "number") return whyNot(found, addresses, options, start);
        reached = found;
        return ok(`${found.remote} answers over ${transport.toUpperCase()}`);
      },
    },
    {
      hop: "handshake",
      needs: ["server"],
      check: () =>
        cipher === "xor"
          ? ok("none with --cipher xor")
          : shakeHands(reached!, options.secrets?.[0], (mtu) => (tunnelMtu = mtu)),
    },
    ...(transport === "raw" ? [kernelCheck(options, () => reached!.address)] : []),
    {
      hop: "firewall",
      check: () => firewall(["OUTPUT", `-o ${tun}`], ["INPUT", `-i ${tun}`]),
    },
    {
      hop: "ping",
      needs: ["route"],
      check: () => {
        walk = pingWatched(target, findHolder(tun)?.pid);
        // one packet may be lost on any path
        walk.answered ||= !walk.drop && ping(target, "-c", "3", "-i", "0.2", "-W", "1") === "";
        if (walk.answered) return ok(`${target} answers through the tunnel`);
        if (walk.drop?.host === "client")
          return problem(
            `${target} does not answer; this host's kernel dropped the packet itself: see below`,
          );
        const inside = formatIPv4(gateway);
        const where =
          ping(inside, "-W", "1") === ""
            ? `${inside}, the server's end of the tunnel, does: look beyond it`
            : `neither does ${inside}, the server's end of the tunnel: look there first`;
        return problem(`${target} does not answer; ${where}`, DOCTOR_THERE);
      },
    },
    { hop: "kernel", needs: ["route"], check: () => judge(walk!, DOCTOR_THERE) },
    { hop: "mtu", needs: ["ping"], check: () => tryMtu(tun, target, tunnelMtu) },
  ];
}

/** The server's hops, likewise. */
export function serverChecks(options: Options): Check[] {
  const { tun, target, subnet, gateway, port, transport, mtu } = options;
  const client = formatIPv4(options.address.address);
  const dev = options.nat ?? routeTo(target)?.dev ?? "eth0";
  const over = transport === "tcp" ? "" : ` --transport ${transport}`;
  const start = `npx tsx src/server.ts --configure --nat ${dev}${over}`;
  const [addAddress, bringUp, forward, masquerade] = serverChanges(
    { tun, mtu, subnet, nat: dev },
    gateway,
    FRESH,
  );

  return [
    ...tunChecks(options, start, addAddress!.run, bringUp!.run),
    {
      hop: "listening",
      check: () => {
        if (transport === "raw") return sniffs(tun, start);
        const protocol = IP_PROTOCOL[transport];
        const what = `${protocol.toUpperCase()} port ${port}`;
        if (ask(`ss -${protocol[0]}lnH sport = :${port}`)) return ok(what);
        return problem(`no program listens on ${what}`, start);
      },
    },
    ...(transport === "raw" ? [kernelCheck(options)] : []),
    {
      hop: "way back",
      needs: ["interface", "address"],
      check: () => {
        const route = routeTo(client);
        if (route?.dev === tun) return ok(`${client}, a client, is routed into ${tun}`);
        return problem(
          `${client}, a client, is routed ${route ? `out of ${route.dev}` : "nowhere"}`,
          `ip route replace ${client}/32 dev ${tun}`,
        );
      },
    },
    {
      hop: "rp_filter",
      needs: ["interface"],
      check: () => {
        const paths = [
          [tun, client],
          [dev, target],
        ] as const;
        const strict = paths.find(([device, peer]) => strictAbout(device) && routeTo(peer)?.dev !== device);
        if (!strict) return ok("drops nothing on these paths");
        const [device, peer] = strict;
        return problem(
          `strict on ${device}, but the way to ${peer} is another: what comes from there is dropped`,
          `sysctl -w net.ipv4.conf.${device}.rp_filter=2`,
        );
      },
    },
    {
      hop: "forwarding",
      check: () => {
        if (sysctl("ipv4/ip_forward") === 0) return problem("net.ipv4.ip_forward is 0", forward!.run);
        const closed = [tun, dev].find(
          (device) => findLink(device) && sysctl(`ipv4/conf/${device}/forwarding`) === 0,
        );
        if (!closed) return ok("net.ipv4.ip_forward is 1");
        return problem(
          `net.ipv4.conf.${closed}.forwarding is 0`,
          `sysctl -w net.ipv4.conf.${closed}.forwarding=1`,
        );
      },
    },
    {
      hop: "firewall",
      check: () =>
        firewall(
          ["FORWARD", `-i ${tun}`, `-o ${dev}`],
          ["FORWARD", `-o ${tun}`, `-i ${dev} --ctstate RELATED,ESTABLISHED`],
          // a packet socket has its copy before iptables sees it
          ...(transport === "raw"
            ? []
            : [["INPUT", `-p ${IP_PROTOCOL[transport]} --dport ${port}`] as const]),
        ),
    },
    {
      hop: "nat",
      check: () => {
        const rule = findNat(ask("iptables -t nat -S POSTROUTING"), subnet, dev);
        if (rule) return ok(rule);
        const unread = notRead();
        return (unread ? unknown : problem)(
          `no iptables rule rewrites the source of what leaves by ${dev}, ` +
            `and without one no answer finds its way back${unread}`,
          masquerade!.run,
        );
      },
    },
    {
      hop: "target",
      check: () => {
        const said = ping(target, "-W", "2");
        if (said === "") return ok(`${target} answers the server itself`);
        return problem(
          `${target} does not answer the server either (${said}): it is down, or the way to it is`,
          `ip route get ${target}`,
        );
      },
    },
  ];
}

/** The hops that both ends have: the TUN, and the program behind it. */
function tunChecks({ role, tun }: Options, start: string, addAddress: string, bringUp: string): Check[] {
  return [
    {
      hop: "device",
      check: () => {
        const node = statSync(CLONE_DEVICE, { throwIfNoEntry: false });
        if (node?.isCharacterDevice()) return ok(`${CLONE_DEVICE} is there`);
        const driver = / tun$/m.test(readFileSync("/proc/misc", "utf8"));
        const mend = driver
          ? ["mkdir -p /dev/net", `mknod -m 666 ${CLONE_DEVICE} c 10 200`]
          : ["modprobe tun"];
        return problem(node ? `${CLONE_DEVICE} is no character device` : `no ${CLONE_DEVICE}`, ...mend);
      },
    },
    {
      hop: "privilege",
      check: () => {
        const effective = BigInt(
          `0x${/CapEff:\s*(\w+)/.exec(readFileSync("/proc/self/status", "utf8"))?.[1] ?? "0"}`,
        );
        return (effective >> CAP_NET_ADMIN) & 1n
          ? ok("CAP_NET_ADMIN")
          : problem(
              "no CAP_NET_ADMIN: neither the VPN nor all of this doctor can work so",
              `sudo npx tsx src/lab/doctor/doctor.ts ${role}`,
            );
      },
    },
    {
      hop: "interface",
      check: () => {
        const link = findLink(tun);
        if (!link) return problem(`no ${tun}: the ${role} does not run`, start);
        return link.flags.includes("UP")
          ? ok(`${tun} is up, MTU ${link.mtu}`)
          : problem(`${tun} is down`, bringUp);
      },
    },
    {
      hop: "address",
      check: () => {
        const own = findLink(tun)?.addr_info.find(({ family }) => family === "inet");
        if (own) return ok(`${own.local}/${own.prefixlen}`);
        return findLink(tun) ? problem(`${tun} has no IPv4 address`, addAddress) : unknown(`no ${tun}`);
      },
    },
    {
      hop: "program",
      needs: ["interface"],
      check: () => {
        const holder = findHolder(tun);
        if (holder?.stopped)
          return problem(
            `${holder.command}, pid ${holder.pid}, is stopped (Ctrl-Z)`,
            `kill -CONT ${holder.pid}`,
          );
        if (holder) return ok(`${holder.command}, pid ${holder.pid}, has ${tun} open`);
        if (process.getuid?.() !== 0) return unknown("needs root to see who has the TUN open");
        return problem(`no program has ${tun} open`, start);
      },
    },
  ];
}

/** --transport raw opens no port. But the program that has the TUN open must have a packet socket, too. */
function sniffs(tun: string, start: string): Finding {
  const holder = findHolder(tun);
  if (holder && ask("ss -0pnH").includes(`pid=${holder.pid},`))
    return ok(`${holder.command} has a packet socket: --transport raw`);
  if (!holder && process.getuid?.() !== 0) return unknown("needs root to see who has a packet socket");
  return problem("no packet socket: --transport raw is not enabled on this server", start);
}

/**
 * --transport raw: is our kernel kept out, as keepKernelOut() does it? `server`: on a client, its address.
 * Else the kernel answers what comes with RST, and tracks connections that it cannot follow.
 */
function kernelCheck({ tun, transport, port }: Options, server?: () => string): Check {
  return {
    hop: "rules",
    needs: server ? ["server"] : [],
    check: () => {
      const there = server?.();
      const rules = keepKernelOut({ tun, transport, port }, FRESH, there);
      const six = there?.includes(":") ? "6" : "";
      const saved = (chain: string) => ask(`ip${six}tables -t raw -S ${chain}`);
      const [near, far] = there ? ["sport", "dport"] : ["dport", "sport"];
      const from = there ? `-s ${hostRoute(there)} ` : "";
      const drops = filter(saved("PREROUTING"), `${from}-p tcp --${near} ${port}`).drops !== undefined;
      const untracked = saved("OUTPUT")
        .split("\n")
        .some((line) => line.includes(`--${far} ${port} `) && /notrack/i.test(line));
      const missing = rules.filter((_, i) => ![drops, untracked][i]);
      if (missing.length === 0) return ok("this host's TCP does not see the segments");
      const unread = notRead();
      return (unread ? unknown : problem)(
        `this host's TCP sees the segments, and answers with RST or tracks them${unread}`,
        ...missing.map(({ run }) => run),
      );
    },
  };
}

const CAP_NET_ADMIN = 12n; // linux/capability.h
const strictAbout = (device: string) =>
  Math.max(sysctl("ipv4/conf/all/rp_filter"), sysctl(`ipv4/conf/${device}/rp_filter`)) === 1;

/** What the firewall and NAT hops have to add where nftables has rules of its own; else "". */
function notRead(): string {
  const tables = nftTables();
  return tables.length > 0 ? `; not read: nftables' ${tables.join(", ")} ('nft list ruleset')` : "";
}

/**
 * Do these packets of ours pass iptables? Each is a chain, what a rule that accepts it would name it by, and
 * what else is known of it. A rule that drops only some of them, by address say, is not seen.
 */
function firewall(...packets: (readonly [chain: string, flags: string, more?: string])[]): Finding {
  const ways = packets.map(([chain, flags, more = ""]) => ({
    flags,
    fix: `iptables -I ${chain} ${flags} -j ACCEPT`,
    ...filter(ask(`iptables -S ${chain}`), `${flags} ${more}`),
  }));
  const closed = ways.filter(({ drops }) => drops !== undefined);
  const fixes = closed.map(({ fix }) => fix);
  const maybe = closed.find((way) => way.maybe.length > 0);
  if (maybe)
    return unknown(
      `${maybe.drops} drops ${maybe.flags}, unless an earlier rule lets it pass: ${maybe.maybe[0]}`,
      ...fixes,
    );
  if (closed[0]) return problem(`iptables drops ${closed[0].flags}: ${closed[0].drops}`, ...fixes);
  const unread = notRead();
  return (unread ? unknown : ok)(`iptables lets the tunnel's packets pass${unread}`);
}

/** A ping; "" if it was answered, else ping's own words. */
function ping(target: string, ...args: string[]): string {
  const { status, stdout, stderr } = spawnSync("ping", ["-n", "-c", "1", ...args, target], {
    encoding: "utf8",
  });
  const said = `${stderr}${stdout}`.split("\n").find((line) => /error|From|unreachable/i.test(line));
  return status === 0 ? "" : (said ?? "no answer");
}

/** The kernel's own words on the pinged packet. */
function judge({ answered, steps, drop, missing }: PingWalk, elsewhere: string): Finding {
  if (answered) return ok("not asked: the ping was answered");
  if (missing) return unknown(missing);
  const way = steps.join(", ") || "nowhere";
  if (!drop)
    return unknown(`saw it go: ${way}; and dropped nothing (tracefs sees this machine's kernel only)`);
  const text = `saw it go: ${way}; then the ${drop.host} dropped it in ${drop.where}(): ${drop.reason}`;
  const here = drop.host === "client";
  if (drop.reason === "IP_RPFILTER")
    return problem(text, `${here ? "" : "server# "}sysctl -w net.ipv4.conf.${drop.device}.rp_filter=2`);
  return problem(
    text,
    here && drop.reason === "NETFILTER_DROP"
      ? `iptables -S ${steps.length > 0 ? "INPUT" : "OUTPUT"}`
      : elsewhere,
  );
}

/**
 * Is the TUN's MTU the tunnel's, or a smaller one, and does a packet of that size get to the target in one
 * piece? Its answer, which ping does not forbid to cut, tells no more than that. Else, the largest size that
 * is known to get there.
 */
function tryMtu(tun: string, target: string, tunnelMtu: number): Finding {
  const { mtu } = findLink(tun)!;
  if (mtu > tunnelMtu)
    return problem(
      `${tun}'s MTU is ${mtu}, the tunnel's is ${tunnelMtu}`,
      `ip link set ${tun} mtu ${tunnelMtu}`,
    );
  // 28: IPv4 and ICMP headers
  const passes = (size: number) => ping(target, "-M", "do", "-W", "1", "-s", `${size - 28}`);
  const said = passes(mtu);
  if (said === "") return ok(`${mtu} bytes, not to be cut, get there; the answer may be cut`);
  const limit = Number(
    /mtu\s*[=:]\s*(\d+)/.exec(said)?.[1] ??
      [1400, 1280, 1000, 576].find((size) => size < mtu && passes(size) === ""),
  );
  return limit
    ? problem(`${mtu} bytes do not get there uncut, ${limit} do`, `ip link set ${tun} mtu ${limit}`)
    : unknown(`${mtu} bytes do not get there, and neither do smaller packets: ${said}`);
}
