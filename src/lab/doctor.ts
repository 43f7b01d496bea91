/**
 * `make doctor`, and on a real machine `npx tsx src/lab/doctor.ts client` or `server`: for "connected, but cannot ping".
 * Goes along the packet's walk, hop by hop, and prints for each whether it is well, and for what is not the commands that
 * mend it. Changes nothing itself: it pings, makes a TCP connection with a handshake, and watches the kernel meanwhile.
 */
import { spawnSync } from "node:child_process";
import { readFileSync, statSync } from "node:fs";
import chalk from "chalk";
import { close } from "../libc.ts";
import { CLIENT, option, parse, readSecret, SERVER } from "../options.ts";
import { formatIPv4, parseIPv4 } from "../packet.ts";
import { exit, Failure, program } from "../program.ts";
import { startSession } from "../session.ts";
import { clientChanges, serverChanges } from "../setup.ts";
import { connectTcp } from "../tcp.ts";
import { CLONE_DEVICE } from "../tun.ts";
import { type PingWalk, pingWatched } from "./drops.ts";
import { ask, connectionsOf, findHolder, findLink, findNat, forwards, routeTo, routeWithout, sysctl } from "./inspect.ts";
import { prompt } from "./lab.ts";

const { tun, port, cipher, secret, help } = CLIENT;
const OPTIONS = {
  target: option("ADDR", "8.8.8.8", "what cannot be pinged, an IPv4 address", ipv4),
  server: option("HOST", undefined, "on the client: the server (else: whom the running client is connected to)", String),
  address: { ...CLIENT.address, help: "the client's inner address" },
  nat: { ...SERVER.nat, help: "on the server: its interface to the internet (else: where the target is routed)" },
  subnet: SERVER.subnet, tun, port, cipher, secret, help,
};

/** What a check found; `fixes`: the commands to type, in this order; "server# …" on the other host. */
interface Finding {
  state: "ok" | "✗" | "?";
  text: string;
  fixes: string[];
}
const ok = (text: string): Finding => ({ state: "ok", text, fixes: [] });
const problem = (text: string, ...fixes: string[]): Finding => ({ state: "✗", text, fixes });
const unknown = (text: string, ...fixes: string[]): Finding => ({ state: "?", text, fixes });

/** One hop of the walk. It cannot be checked where a hop that it `needs` is not ok. */
interface Check {
  hop: string;
  needs?: string[];
  check: () => Finding | Promise<Finding>;
}

program(async () => {
  const options = readOptions();
  const findings = new Map<string, Finding>();
  for (const { hop, needs = [], check } of options.role === "client" ? clientChecks(options) : serverChecks(options)) {
    const missing = needs.find((need) => findings.get(need)?.state !== "ok");
    const finding = missing ? unknown(`cannot be checked before this is well: ${missing}`) : await found(check);
    findings.set(hop, finding);
    show(options.role, hop, finding);
  }
  const broken = [...findings].filter(([, { state }]) => state === "✗").map(([hop]) => hop);
  console.log(broken.length === 0 ? chalk.green(`The ${options.role} is well.`) : chalk.red.bold(`The ${options.role}'s first broken hop: ${broken[0]}`));
  exit(broken.length === 0 ? 0 : 1);
});

type Options = ReturnType<typeof readOptions>;

function readOptions() {
  const { values, positionals } = parse(process.argv.slice(2), OPTIONS, "src/lab/doctor.ts [client|server]");
  const [role = "client", ...rest] = positionals;
  if ((role !== "client" && role !== "server") || rest.length > 0) throw new Failure(`Cannot start: expected client or server, got ${positionals.join(" ")}`, "npx tsx src/lab/doctor.ts client", 2);
  const last = <T>(given: T[] | undefined) => given?.at(-1);
  const common = { role, target: last(values.target)!, tun: last(values.tun)!, port: last(values.port)!, cipher: last(values.cipher)!, secret: last(values.secret) } as const;
  return { ...common, server: last(values.server), address: last(values.address)!, nat: last(values.nat), subnet: last(values.subnet)!, gateway: last(values.subnet)!.network + 1 };
}

function ipv4(text: string): string {
  if (parseIPv4(text) === undefined) throw new Error("is no IPv4 address");
  return text;
}

/** A tool that is missing, or may not look, leaves its hop unknown; it does not end the doctor. */
async function found(check: Check["check"]): Promise<Finding> {
  try {
    return await check();
  } catch (error) {
    return unknown((error as Error).message);
  }
}

function show(role: string, hop: string, { state, text, fixes }: Finding): void {
  const colour = { ok: chalk.green, "✗": chalk.red.bold, "?": chalk.yellow }[state];
  console.log(`${colour(state.padEnd(2))} ${hop.padEnd(11)} ${text}`);
  for (const fix of fixes) console.log(`   ${chalk.bold("fix")}         ${fix.startsWith("server# ") ? prompt("server", fix.slice(8)) : prompt(role, fix)}`);
}

// ---- the hops, in the order of the walk ----

function clientChecks(options: Options): Check[] {
  const { tun, target, gateway, server, address, port, cipher } = options;
  const others = server ?? "SERVER";
  const [addAddress] = clientChanges({ tun, routes: [] }, { ...address, mtu: 0 }, others);
  const doctorThere = "server# npx tsx src/lab/doctor.ts server";
  let remote = server; // whom to connect to
  let walk: PingWalk | undefined;

  return [
    ...tunChecks(options, `npx tsx src/client.ts ${others} --configure --route ${target}/32`, addAddress!.run),
    { hop: "route", needs: ["interface"], check: () => {
      const route = routeTo(target);
      if (route?.dev === tun) return ok(`${target} is routed into ${tun}`);
      return problem(`${target} is routed ${route ? `out of ${route.dev}` : "nowhere"}, not into ${tun}`, `ip route replace ${target}/32 dev ${tun}`);
    } },
    { hop: "server", check: async () => {
      const holder = remote === undefined ? findHolder(tun) : undefined;
      if (holder) remote = connectionsOf(holder.pid)[0]?.split(":")[0];
      if (remote === undefined) return unknown("no client is connected: name the server with --server");
      if (routeTo(remote)?.dev === tun) {
        const outside = routeWithout(tun, remote);
        return problem(`${remote} is routed into ${tun} itself: a routing loop`, `ip route replace ${remote}/32 ${outside?.gateway ? `via ${outside.gateway} ` : ""}dev ${outside?.dev ?? "eth0"}`);
      }
      try {
        const socket = await connectTcp(remote, port);
        close(socket.fd);
        return ok(`${socket.remote} answers`);
      } catch (error) {
        return problem((error as Failure).message, "server# npx tsx src/server.ts --configure --nat eth1");
      }
    } },
    { hop: "handshake", needs: ["server"], check: () => (cipher === "xor" ? ok("none with --cipher xor") : shakeHands(options, remote!)) },
    { hop: "ping", needs: ["route"], check: () => {
      walk = pingWatched(target);
      if (walk.answered || ping(target, "-c", "3", "-i", "0.2", "-W", "1") === "") return ok(`${target} answers through the tunnel`);
      const inside = formatIPv4(gateway);
      const where = ping(inside, "-W", "1") === "" ? `${inside}, the server's end of the tunnel, does: look beyond it` : `neither does ${inside}, the server's end of the tunnel: look there first`;
      return problem(`${target} does not answer; ${where}`, doctorThere);
    } },
    { hop: "kernel", needs: ["route"], check: () => judge(walk!, tun, doctorThere) },
    { hop: "mtu", needs: ["ping"], check: () => tryMtu(tun, target) },
  ];
}

function serverChecks(options: Options): Check[] {
  const { tun, target, subnet, gateway, port } = options;
  const client = formatIPv4(options.address.address);
  const dev = options.nat ?? routeTo(target)?.dev ?? "eth0";
  const [addAddress, , forward, masquerade] = serverChanges({ tun, mtu: 0, subnet, nat: dev }, gateway);

  return [
    ...tunChecks(options, `npx tsx src/server.ts --configure --nat ${dev}`, addAddress!.run),
    { hop: "listening", check: () => (ask(`ss -tlnH sport = :${port}`) ? ok(`TCP port ${port}`) : problem(`no program listens on TCP port ${port}`, `npx tsx src/server.ts --configure --nat ${dev}`)) },
    { hop: "way back", needs: ["interface"], check: () => {
      const route = routeTo(client);
      return route?.dev === tun ? ok(`${client}, a client, is routed into ${tun}`) : problem(`${client}, a client, is routed ${route ? `out of ${route.dev}` : "nowhere"}`, `ip route replace ${client}/32 dev ${tun}`);
    } },
    { hop: "rp_filter", needs: ["interface"], check: () => {
      const paths = [[tun, client], [dev, target]] as const;
      const strict = paths.find(([device, peer]) => strictAbout(device) && routeTo(peer)?.dev !== device);
      return strict ? problem(`strict on ${strict[0]}, and the way to ${strict[1]} is another: what comes in from there is dropped`, `sysctl -w net.ipv4.conf.${strict[0]}.rp_filter=2`) : ok("drops nothing on these paths");
    } },
    { hop: "forwarding", check: () => {
      if (sysctl("ipv4/ip_forward") === 0) return problem("net.ipv4.ip_forward is 0", forward!.run);
      const closed = [tun, dev].find((device) => findLink(device) && sysctl(`ipv4/conf/${device}/forwarding`) === 0);
      return closed ? problem(`net.ipv4.conf.${closed}.forwarding is 0`, `sysctl -w net.ipv4.conf.${closed}.forwarding=1`) : ok("net.ipv4.ip_forward is 1");
    } },
    { hop: "firewall", check: () => {
      const chain = ask("iptables -S FORWARD");
      for (const [from, to, fix] of [[tun, dev, `-i ${tun}`], [dev, tun, `-o ${tun}`]] as const) {
        const { drops, maybe } = forwards(chain, from, to);
        const fixes = ["-i", "-o"].map((flag) => `iptables -I FORWARD ${flag} ${tun} -j ACCEPT`).filter((line) => maybe.length > 0 || line.includes(fix) || forwards(chain, dev, tun).drops);
        if (drops) return (maybe.length > 0 ? unknown : problem)(`FORWARD drops ${from} → ${to}: ${drops}${maybe[0] ? `, unless an earlier rule lets it pass: ${maybe[0]}` : ""}`, ...fixes);
      }
      return ok(`FORWARD lets ${tun} ↔ ${dev} pass`);
    } },
    { hop: "nat", check: () => {
      const rule = findNat(ask("iptables -t nat -S POSTROUTING"), subnet, dev);
      return rule ? ok(rule) : problem(`no iptables rule rewrites the source of what leaves by ${dev}: no answer finds its way back`, masquerade!.run);
    } },
    { hop: "target", check: () => {
      const said = ping(target, "-W", "2");
      return said === "" ? ok(`${target} answers the server itself`) : problem(`${target} does not answer the server either (${said}): it is down, or the way to it is`, `ip route get ${target}`);
    } },
  ];
}

/** The hops that both ends have: the TUN, and the program behind it. */
function tunChecks({ role, tun }: Options, start: string, addAddress: string): Check[] {
  return [
    { hop: "device", check: () => {
      const node = statSync(CLONE_DEVICE, { throwIfNoEntry: false });
      if (node?.isCharacterDevice()) return ok(`${CLONE_DEVICE} is there`);
      const driver = / tun$/m.test(readFileSync("/proc/misc", "utf8"));
      return problem(node ? `${CLONE_DEVICE} is no character device` : `no ${CLONE_DEVICE}`, ...(driver ? ["mkdir -p /dev/net", `mknod -m 666 ${CLONE_DEVICE} c 10 200`] : ["modprobe tun"]));
    } },
    { hop: "privilege", check: () => {
      const effective = BigInt(`0x${/CapEff:\s*(\w+)/.exec(readFileSync("/proc/self/status", "utf8"))?.[1] ?? "0"}`);
      return (effective >> CAP_NET_ADMIN) & 1n ? ok("CAP_NET_ADMIN") : problem("no CAP_NET_ADMIN: neither the VPN nor all of this doctor can work so", `sudo npx tsx src/lab/doctor.ts ${role}`);
    } },
    { hop: "interface", check: () => {
      const link = findLink(tun);
      if (!link) return problem(`no ${tun}: the ${role} does not run`, start);
      return link.flags.includes("UP") ? ok(`${tun} is up, MTU ${link.mtu}`) : problem(`${tun} is down`, `ip link set ${tun} up`);
    } },
    { hop: "address", check: () => {
      const own = findLink(tun)?.addr_info.find(({ family }) => family === "inet");
      if (own) return ok(`${own.local}/${own.prefixlen}`);
      return findLink(tun) ? problem(`${tun} has no IPv4 address`, addAddress) : unknown(`no ${tun}`);
    } },
    { hop: "program", check: () => {
      const holder = findHolder(tun);
      if (holder?.stopped) return problem(`${holder.command}, pid ${holder.pid}, is stopped (Ctrl-Z)`, `kill -CONT ${holder.pid}`);
      if (holder) return ok(`${holder.command}, pid ${holder.pid}, has ${tun} open`);
      if (process.getuid?.() !== 0) return unknown("needs root to see who has the TUN open");
      return problem(`no program has ${tun} open`, start);
    } },
  ];
}

const CAP_NET_ADMIN = 12n; // linux/capability.h
const strictAbout = (device: string) => Math.max(sysctl("ipv4/conf/all/rp_filter"), sysctl(`ipv4/conf/${device}/rp_filter`)) === 1;

/** A ping; "" if it was answered, else ping's own words. */
function ping(target: string, ...args: string[]): string {
  const { status, stdout, stderr } = spawnSync("ping", ["-n", "-c", "1", ...args, target], { encoding: "utf8" });
  const said = `${stderr}${stdout}`.split("\n").find((line) => /error|From|unreachable/i.test(line));
  return status === 0 ? "" : (said ?? "no answer");
}

/** A handshake that claims no address: without a first sealed frame, the server forgets it. */
async function shakeHands({ secret, port }: Options, server: string): Promise<Finding> {
  let key;
  try {
    key = readSecret(secret);
  } catch (error) {
    return unknown(`${(error as Failure).message}: ${(error as Failure).hint}`);
  }
  const socket = await connectTcp(server, port);
  try {
    const { peer } = await startSession(socket, key);
    peer.close("the doctor has seen enough");
    return ok("the server has the same secret");
  } catch (error) {
    const wrong = /refused our secret|another secret/.test((error as Error).message);
    const copy = ["secret", "scp", `${server}:simple-vpn/secret.key`, secret ?? "secret.key"].slice(1).join(" ");
    return wrong ? problem("wrong secret: the server has another one", copy) : problem((error as Error).message, "server# npx tsx src/lab/doctor.ts server");
  } finally {
    close(socket.fd);
  }
}

/** The kernel's own words on the pinged packet. */
function judge({ answered, steps, drop, missing }: PingWalk, tun: string, elsewhere: string): Finding {
  if (answered) return ok("not asked: the ping was answered");
  if (missing) return unknown(missing);
  const way = steps.join(", ") || "nowhere";
  if (!drop) return unknown(`saw it go: ${way}; and dropped nothing (tracefs sees this machine's kernel only)`);
  const text = `saw it go: ${way}; then dropped it in ${drop.where}(): ${drop.reason}`;
  if (drop.reason === "IP_RPFILTER") return problem(text, `${strictAbout(drop.device) ? "" : "server# "}sysctl -w net.ipv4.conf.${drop.device}.rp_filter=2`);
  const sent = steps.some((step) => step === `out ${tun}`);
  return problem(text, drop.reason === "NETFILTER_DROP" && !sent ? "iptables -S OUTPUT" : elsewhere);
}

/** Does a packet as large as the TUN allows come through unfragmented? Else, the largest that is known to. */
function tryMtu(tun: string, target: string): Finding {
  const { mtu } = findLink(tun)!;
  const passes = (size: number) => ping(target, "-M", "do", "-W", "1", "-s", `${size - 28}`); // 28: IPv4 and ICMP headers
  const said = passes(mtu);
  if (said === "") return ok(`${mtu} bytes pass unfragmented`);
  const limit = Number(/mtu\s*[=:]\s*(\d+)/.exec(said)?.[1] ?? [1400, 1280, 1000, 576].find((size) => size < mtu && passes(size) === ""));
  return limit ? problem(`${mtu} bytes do not pass unfragmented, ${limit} do`, `ip link set ${tun} mtu ${limit}`) : unknown(`${mtu} bytes do not pass, nor do 576: ${said}`);
}
