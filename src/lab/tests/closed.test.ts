/**
 * The client fails closed: as long as it runs, and with --kill-switch after that, what belongs into the
 * tunnel leaves by no other way, whatever the server, the wire or a name server does.
 */
import assert from "node:assert/strict";
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Lab, ours, SERVER, TARGET, TARGET6 } from "../lab.ts";
import { Running, startProgram } from "../running.ts";
import { newFolder } from "./folder.ts";
import {
  IS_TCP,
  IS_UDP,
  labTest,
  ping,
  PROTOCOL,
  retry,
  SECRET,
  snapshot,
  startServer,
  TUNNEL,
} from "./testing.ts";

const FAR = "203.0.113.1"; // the server, by an address that the client reaches through its default route only
const BEYOND = "203.0.113.8"; // the internet host
const ALL = ["--configure", "--route", "0.0.0.0/0"];

async function connect(lab: Lab, ...args: string[]): Promise<Running> {
  const client = startProgram(lab, "client", "client", args, SECRET);
  await client.until(/connected to/);
  return client;
}

/** How the client's kernel would send a packet there; with ports "ipproto tcp dport 5555". */
const way = (lab: Lab, to: string, more = "") =>
  lab.try("client", `ip route get ${to} ${more}`.trim()).stdout;

/** Whoever can end the connection can answer the next try, too: with a refusal that nothing proves. */
async function startForger(lab: Lab): Promise<Running> {
  const overTcp = `require("node:net").createServer((socket) => {
    socket.on("error", () => {}).once("data", () => socket.end(Buffer.of(1, 0, 0, 0)));
  }).listen(5555, () => console.log("ready"));`;
  // type 4, the client's index, nothing behind them
  const overUdp = `const socket = require("node:dgram").createSocket("udp4", (hello, { address, port }) => {
    const answer = Buffer.alloc(16);
    answer[0] = 4;
    hello.copy(answer, 4, 20, 24);
    socket.send(answer, port, address);
  });
  socket.bind(5555, () => console.log("ready"));`;
  const other = [...ours("lab/fuzz/hostile-server"), "refuse"]; // over raw and QUIC
  const words = IS_TCP || IS_UDP ? [process.execPath, "-e", IS_UDP ? overUdp : overTcp] : other;
  const forger = new Running(lab.spawn("server", words, SECRET));
  await forger.until(/ready|listening/);
  return forger;
}

labTest("a refusal, once a server has answered, is one more failed try: the routes stay", async (lab) => {
  const server = await startServer(lab);
  const client = await connect(lab, FAR, ...ALL);
  await server.stop("SIGKILL");
  const forger = await startForger(lab);
  await client.until(/it refused our secret; trying again in/);
  assert.match(way(lab, BEYOND), /dev tun0/);
  await forger.stop("SIGKILL");
  await startServer(lab);
  await client.until(/connected again/, 60_000);
  ping(lab, "client", TARGET);
});

labTest("only the tunnel's own packets to the server go around the tunnel", async (lab) => {
  await startServer(lab);
  await connect(lab, FAR, ...ALL);
  assert.match(way(lab, FAR, TUNNEL), /via 192\.168\.1\.1 dev eth0/);
  const wrong = PROTOCOL === "udp" ? "tcp" : "udp";
  for (const other of ["", `ipproto ${wrong} dport 5555`, `ipproto ${PROTOCOL} dport 22`])
    assert.match(way(lab, FAR, other), /dev tun0/, other);
  ping(lab, "client", FAR);
});

labTest("an inner address that eth0 gets, from a hostile DHCP server, opens no way out", async (lab) => {
  const server = await startServer(lab);
  const client = await connect(lab, FAR, ...ALL);
  lab.run("client", "ip addr add 10.8.0.2/32 dev eth0");
  await server.stop("SIGKILL");
  await client.until(/Cannot connect to/);
  assert.match(way(lab, `${BEYOND} from 10.8.0.2`), /dev tun0/);
  assert.doesNotMatch(lab.run("client", "ip rule"), /from 10\./);
});

/** A file that says where vpn.test is, in place of name servers. */
function nameServer(lab: Lab): (address: string) => void {
  const hosts = join(newFolder(), "hosts");
  const set = (address: string) => writeFileSync(hosts, `${address} vpn.test\n`);
  set(FAR);
  lab.run("lab", `mount --bind ${hosts} /etc/hosts`);
  return set;
}

labTest("a forged name at a reconnect lets nothing out but what goes to the tunnel's port", async (lab) => {
  const move = nameServer(lab);
  const server = await startServer(lab);
  const client = await connect(lab, "vpn.test", ...ALL);
  move(TARGET);
  await server.stop("SIGKILL");
  await client.until(/the server may be at 8\.8\.8\.8 now/);
  assert.match(way(lab, TARGET), /dev tun0/);
  assert.match(way(lab, TARGET, TUNNEL), /dev eth0/);
});

// ---- --kill-switch ----

/** Counts what comes over the wire from the client for the internet host: all that the server's eth0 sees. */
function watchWire(lab: Lab): () => number {
  const tools = [
    ["iptables", TARGET],
    ["ip6tables", TARGET6],
  ] as const;
  for (const [tool, target] of tools) lab.run("server", `${tool} -t raw -A PREROUTING -i eth0 -d ${target}`);
  const packets = (tool: string) =>
    Number(/^\s*(\d+)\s+\d+\s.*eth0/m.exec(lab.run("server", `${tool} -t raw -nvxL PREROUTING`))![1]);
  return () => tools.reduce((sum, [tool]) => sum + packets(tool), 0);
}

/** Pings without end, many a second, whether or not there is a way. */
function pingOn(lab: Lab, target: string): void {
  const script = `while :; do ping -q -c 1 -W 1 ${target} > /dev/null 2>&1 || sleep 0.01; done`;
  lab.spawn("client", ["sh", "-c", script], { stdio: "ignore" });
}

const isUnreachable = (lab: Lab, target: string) =>
  /No route to host|unreachable/.test(lab.try("client", `ip route get ${target}`).stderr);

async function killAll(lab: Lab, { child }: Running): Promise<void> {
  const keeper = Number(lab.run("lab", `pgrep -x -P ${child.pid} sh`));
  process.kill(keeper, "SIGKILL");
  const exit = once(child, "exit");
  child.kill("SIGKILL");
  await exit;
}

const unblock = (lab: Lab) => lab.run("client", ours("client/unblock"));
const KILL_SWITCH = ["--configure", "--kill-switch"];
const MANY = ["--route", "0.0.0.0/0", "--route", "::/0"]; // table 86, and rules
const FEW = ["--route", `${TARGET}/32`, "--route", `${TARGET6}/128`]; // the main table

for (const [what, routes] of [
  ["all", MANY],
  ["two hosts", FEW],
] as const)
  labTest(`--kill-switch: nothing leaves after any end, nor at the next start (${what})`, async (lab) => {
    lab.addIPv6();
    const blocked = () =>
      ["ip rule", "ip -6 rule", "ip route show table all"].map((line) => lab.run("client", line)).join("");
    const before = blocked();
    const seen = watchWire(lab);
    await startServer(lab);
    const endings = {
      SIGTERM: (client: Running) => client.stop(),
      SIGKILL: (client: Running) => client.stop("SIGKILL"),
      "SIGKILL of the keeper, too": (client: Running) => killAll(lab, client),
    };
    let first = true;
    for (const [ending, end] of Object.entries(endings)) {
      const client = await connect(lab, FAR, ...KILL_SWITCH, ...routes);
      if (first) for (const target of [TARGET, TARGET6]) pingOn(lab, target);
      first = false;
      await retry(() => [TARGET, TARGET6].forEach((target) => ping(lab, "client", target, 1)));
      await end(client);
      for (const target of ["10.8.0.1", TARGET, TARGET6, "fd56:504e::a08:1"])
        await retry(() => assert.equal(way(lab, target), "", `${target} after ${ending}`));
      assert.equal(seen(), 0, ending);
    }
    // Without --kill-switch the next client starts, too, works, and leaves what it found.
    const left = blocked();
    const plain = await connect(lab, FAR, "--configure", ...routes);
    assert.match(
      plain.output,
      /--kill-switch of a client before blocks .*: npx tsx src\/client\/unblock\.ts/,
    );
    for (const target of [TARGET, TARGET6]) ping(lab, "client", target);
    assert.equal(await plain.stop(), 0, plain.output);
    assert.equal(blocked(), left);
    assert.equal(seen(), 0);
    unblock(lab);
    assert.equal(blocked(), before);
    await retry(() => assert.notEqual(seen(), 0, "the way is free again"));
  });

labTest(
  "--kill-switch: the last line says how to unblock; the doctor, too; unblock.ts does it",
  async (lab) => {
    const before = snapshot(lab, "client");
    await startServer(lab);
    for (const signal of ["SIGTERM", "SIGKILL"] as const) {
      const client = await connect(lab, FAR, ...KILL_SWITCH, "--route", "0.0.0.0/0");
      ping(lab, "client", TARGET);
      await client.stop(signal);
      const last = /What belongs into the tunnel stays blocked \(--kill-switch\)\. To end that: (npx .*)\n$/;
      const [, command] = last.exec(client.output)!;
      const doctor = lab.try("client", [...ours("lab/doctor/doctor"), "client", "--server", SERVER]).stdout;
      const [, fix] = /✗ {2}route +8\.8\.8\.8 is blocked by --kill-switch .*\n +fix +client# (.*)\n/.exec(
        doctor,
      )!;
      assert.equal(fix, command);
      const said = unblock(lab);
      assert.match(
        said,
        /^# ip rule del pref 8600 to 203[^]*# ip route del unreachable 0\.0\.0\.0\/0 table 86/,
      );
      assert.equal(snapshot(lab, "client"), before);
      assert.match(unblock(lab), /^Nothing is blocked by --kill-switch\.\n$/);
    }
  },
);

labTest("unblock.ts refuses while a client runs, and where it may not", async (lab) => {
  await startServer(lab);
  await connect(lab, FAR, ...KILL_SWITCH, "--route", "0.0.0.0/0");
  const program = ours("client/unblock");
  const busy = lab.try("client", program);
  assert.equal(busy.status, 1);
  assert.match(
    busy.stderr,
    /^error Cannot unblock 0\.0\.0\.0\/0: it is routed out of tun0, so a client is run/,
  );
  ping(lab, "client", TARGET);
  const alone = startProgram(lab, "client", "client", [FAR, "--kill-switch"], SECRET);
  assert.equal(await alone.ended, 2);
  assert.match(alone.output, /^error Cannot start: --kill-switch is for .* Try: add --configure/);
});

labTest("a narrower block of a client before is free while the next one routes all", async (lab) => {
  const before = snapshot(lab, "client");
  await startServer(lab);
  await (await connect(lab, FAR, ...KILL_SWITCH, "--route", `${TARGET}/32`)).stop();
  for (const more of [[], ["--kill-switch"]]) {
    const client = await connect(lab, FAR, ...ALL, ...more);
    ping(lab, "client", TARGET);
    await client.stop();
    assert.ok(isUnreachable(lab, TARGET));
  }
  assert.ok(isUnreachable(lab, BEYOND));
  unblock(lab);
  assert.equal(snapshot(lab, "client"), before);
});

labTest("--kill-switch: the server moves into a routed block, and another subnet comes", async (lab) => {
  const before = snapshot(lab, "client");
  const move = nameServer(lab);
  move(SERVER);
  const server = await startServer(lab);
  const client = await connect(lab, "vpn.test", ...KILL_SWITCH, "--route", "203.0.113.0/24");
  move(FAR);
  await server.stop();
  await startServer(lab, "--subnet", "172.16.5.0/24", "--listen", FAR);
  await client.until(/now 172\.16\.5\.2/, 60_000);
  ping(lab, "client", BEYOND);
  assert.ok(isUnreachable(lab, "10.8.0.1"), "that was inside, and is nowhere now");
  await client.stop();
  for (const target of [BEYOND, "10.8.0.1", "172.16.5.1"]) assert.ok(isUnreachable(lab, target), target);
  unblock(lab);
  assert.equal(snapshot(lab, "client"), before);
});

labTest("an MTU too small for IPv6 sends nothing of the inside around the tunnel", async (lab) => {
  lab.addIPv6();
  const server = await startServer(lab);
  const client = await connect(lab, FAR, "--configure");
  const before = lab.try("client", "ip route get fd56:504e::a08:1").stdout;
  assert.match(before, /dev tun0/);
  await server.stop();
  await startServer(lab, "--mtu", "1200");
  await client.until(/now 10\.8\.0\.2\/24, MTU 1200/);
  assert.ok(isUnreachable(lab, "fd56:504e::a08:1"));
});
