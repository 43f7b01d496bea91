/**
 * Hostile machines (hostile.ts) and crowds: what they are refused, and that the others and the server go on
 * meanwhile.
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { until } from "./peers.ts";
import { type Lab, ours, SERVER, TARGET } from "../lab.ts";
import { Running, startProgram } from "../running.ts";
import {
  IS_QUIC,
  IS_TCP,
  IS_UDP,
  labTest,
  onlyTcp,
  ping,
  retry,
  SECRET,
  startClient,
  startServer,
} from "./testing.ts";

/** Starts an attack of hostile.ts; after "ready", go() ends it. */
function attack(lab: Lab, host: string, name: string, count = 1): Running {
  const server =
    host === "internet" ? "203.0.113.1" : host === "client" ? SERVER : `192.168.${host.slice(6)}.1`;
  return new Running(lab.spawn(host, [...ours("lab/fuzz/hostile"), name, server, String(count)], SECRET));
}

async function go(running: Running): Promise<void> {
  running.child.stdin!.end("\n");
  assert.equal(await running.ended, 0, running.output);
}

/** Resident memory of a program, MB (proc(5), VmRSS). */
const rss = ({ child }: Running) =>
  Number(/VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${child.pid}/status`, "utf8"))![1]) / 1024;

/** Sends 8 MB from the client to the internet host, through the tunnel. */
async function transfer(lab: Lab): Promise<void> {
  const script = `
    let sum = 0;
    require("node:net").createServer((socket) => {
      socket.on("data", (data) => (sum += data.length));
      socket.on("end", () => { console.log("got " + sum + "."); process.exit(0); });
    }).listen(9000, () => console.log("listening"));`;
  const receiver = new Running(lab.spawn("internet", [process.execPath, "-e", script]));
  await receiver.until(/listening/);
  lab.spawn("client", [
    process.execPath,
    "-e",
    `require("node:net").connect(9000, "${TARGET}").end(Buffer.alloc(8 << 20))`,
  ]);
  assert.equal((await receiver.until(/got (\d+)\./, 60_000))[1], String(8 << 20));
}

/** What the kernel has complained of; undefined where this user may not read its log. */
function kernelWarnings(): number | undefined {
  const { status, stdout } = spawnSync("dmesg", { encoding: "utf8", maxBuffer: 1 << 26 });
  return status === 0
    ? stdout.split("\n").filter((line) => /WARNING|BUG:|Oops|bad gso|GSO type/.test(line)).length
    : undefined;
}

labTest(
  "--max-clients refuses one client too many in plain words, and serves it when another has left",
  async (lab) => {
    const server = await startServer(lab, "--max-clients", "1");
    const first = await startClient(lab);
    const host = lab.addClient(2);
    const second = startProgram(lab, host, "client", ["192.168.2.1"], SECRET);
    await second.until(
      /it has its 1 clients already \(--max-clients\)\. Try: try again later, or ask whoever runs the server/,
    );
    await second.stop();
    await first.stop();
    await server.until(/left: it said goodbye/);
    await startClient(lab, host);
    ping(lab, host, TARGET);
  },
);

labTest(
  "30 clients behind one address begin at once; a flood from there is refused, and others are not",
  async (lab) => {
    const server = await startServer(lab);
    const crowd = attack(lab, "internet", "crowd", 30);
    await crowd.until(/ready/);
    await server.until(/\(30 connected\)/);
    const idle = attack(lab, "internet", "idle", 120); // a slow machine gives the bucket time to refill
    // QUIC leaves callers unproven, and who may be forged is refused without a word
    if (!IS_QUIC)
      await server.until(
        /refused 203\.0\.113\.8:\d+: more than 40 connections at once from its address, or 4 a second/,
      );
    await startClient(lab);
    ping(lab, "client", TARGET);
    await idle.until(/ready/);
    await Promise.all([go(idle), go(crowd)]);
    await server.until(/\(1 connected\)/);
  },
);

labTest(
  "four addresses hold all places with silent connections and go on: an honest client gets in at once",
  async (lab) => {
    const server = await startServer(lab);
    const descriptors = () => readdirSync(`/proc/${server.child.pid}/fd`).length;
    const before = descriptors();
    const host = lab.addClient(2);
    for (let i = 101; i <= 103; i++) lab.run(host, `ip addr add 192.168.2.${i}/24 dev eth0`);
    const occupy = attack(lab, host, "occupy", 40);
    await server.until(
      /refused 192\.168\.2\.10[0-3]:\d+: made room: more than 128 .*, and no address has more of them/,
    );
    for (let i = 0; i < 3; i++) {
      const client = await startClient(lab);
      ping(lab, "client", TARGET);
      await client.stop();
    }
    assert.ok(descriptors() <= before + 128 + 2 * 16, `${descriptors()} descriptors, ${before} before`);
    await go(occupy);
  },
  onlyTcp("elsewhere, who says nothing has no place"),
);

labTest(
  "a flood of 3,000 connections: pings are answered, few lines printed, and little memory taken",
  async (lab) => {
    const server = await startServer(lab);
    await startClient(lab);
    // the compiler's and the allocator's share
    assert.equal(await attack(lab, "internet", "flood", 500).ended, 0);
    if (IS_TCP) await server.until(/more in this second/);
    const before = rss(server);
    const from = server.output.length;
    const since = Date.now();
    const flood = attack(lab, "internet", "flood", 3000);
    const pings = new Running(lab.spawn("client", ["ping", "-i", "0.2", "-W", "5", TARGET]));
    let most = before;
    const sampling = setInterval(() => (most = Math.max(most, rss(server))), 50);
    assert.equal(await flood.ended, 0, flood.output);
    const seconds = (Date.now() - since) / 1000;
    clearInterval(sampling);
    await pings.stop("SIGINT");
    await startClient(lab, lab.addClient(2));
    if (IS_TCP) await until(() => /more in this second/.test(server.output.slice(from)), 20_000);
    const lines = server.output.slice(from).split("refused").length - 1;
    console.log(`# flood: 3000 connections in ${seconds.toFixed(1)} s; ${lines} lines of refusals`);
    const [first, peak, last] = [before, most, rss(server)].map((megabytes) => megabytes.toFixed(1));
    console.log(`# flood: the server had ${first} MB before, at most ${peak} MB meanwhile, ${last} MB after`);
    const [, sent, received] = /(\d+) packets transmitted, (\d+) received/.exec(pings.output)!;
    assert.ok(Number(sent) - Number(received) <= 1, pings.output); // the last one was still on its way
    assert.ok(lines <= 12 * (seconds + 2), `${lines} lines in ${seconds} s: ${server.output.slice(from)}`);
    assert.ok(most < before + 60, `from ${before} MB to ${most} MB`);
  },
);

labTest(
  "2,000 replays of a recorded first message: one is answered, and a few lines are printed",
  async (lab) => {
    const server = await startServer(lab);
    await startClient(lab);
    const since = Date.now();
    const replay = attack(lab, "internet", "replay", 2000);
    await replay.until(/ready/, 60_000);
    await server.until(/refused .*: its first message has come before: a replay/);
    const seconds = (Date.now() - since) / 1000;
    ping(lab, "client", TARGET);
    await go(replay);
    assert.equal(replay.output.match(/answers/g)?.length, 1, replay.output);
    const lines = server.output.match(/refused|more in this second|a probe/g)!.length;
    assert.ok(lines <= 12 * (seconds + 2), `${lines} lines in ${seconds} s: ${server.output}`);
  },
  onlyTcp("elsewhere, a repeated first message is answered alike (udp.test.ts), or TLS has it"),
);

labTest("30 first messages and no sealed frame cost no address and next to no memory", async (lab) => {
  const server = await startServer(lab, "--subnet", "10.8.0.0/29");
  const before = rss(server);
  const unproven = attack(lab, "internet", "unproven", 30);
  await unproven.until(/answers: 30/);
  console.log(
    `# unproven: ${before.toFixed(1)} MB before, ${rss(server).toFixed(1)} MB with 30 of them open`,
  );
  assert.ok(rss(server) < before + 20, "their buffers, 0.8 MB each, are not touched before there is traffic");
  assert.doesNotMatch(server.output, /connected from/);
  const crowd = attack(lab, "client", "crowd", 5);
  await crowd.until(/ready/);
  await server.until(/\(5 connected\)/);
  for (let i = 2; i <= 6; i++)
    assert.match(server.output, new RegExp(`client 10\\.8\\.0\\.${i} connected from 192\\.168\\.1\\.100`));
  await Promise.all([go(unproven), go(crowd)]);
});

labTest(
  "a server out of file descriptors says so, serves its clients, and takes new ones later",
  async (lab) => {
    const server = await startServer(lab);
    await startClient(lab);
    const open = new Set(readdirSync(`/proc/${server.child.pid}/fd`).map(Number));
    let limit = 0; // below it three descriptors are free
    for (let free = 0; free < 3; limit++) if (!open.has(limit)) free++;
    const { status, stderr } = spawnSync("prlimit", ["--pid", `${server.child.pid}`, `--nofile=${limit}`], {
      encoding: "utf8",
    });
    assert.equal(status, 0, stderr);
    const idle = attack(lab, "internet", "idle", 20);
    await server.until(/cannot accept a client: EMFILE; trying again in 1 s/);
    ping(lab, "client", TARGET);
    await idle.until(/ready/);
    await go(idle);
    const host = lab.addClient(2);
    await startClient(lab, host);
    ping(lab, host, TARGET);
  },
  onlyTcp("elsewhere, all clients share one"),
);

labTest(
  "of 22 packets, those two get in whose source is the client's own address, IPv4 and IPv6",
  async (lab) => {
    lab.addIPv6();
    const server = await startServer(lab);
    const spoof = attack(lab, "client", "spoof");
    await spoof.until(/ready/);
    await go(spoof);
    await server.until(/ left: /);
    await server.stop();
    assert.match(
      server.output,
      /received 22 packets .*dropped 20 \(its source is not the client's own address\)/,
    );
  },
);

labTest(
  "a hostile holder of the secret spoofs, lies, floods, rekeys without end: the others go on",
  async (lab) => {
    lab.addIPv6();
    const server = await startServer(lab);
    await startClient(lab);
    const host = lab.addClient(2);
    const warnings = kernelWarnings();
    const before = rss(server);
    for (const [name, count] of [
      ["spoof", 1],
      ["garbage", 3000],
      ["offload", 1],
      ["counts", 10],
      ["rekeys", 20],
      ["frames", 3000],
      ["deaf", IS_QUIC ? 6_000 : 20_000], // more than all buffers hold
    ] as const) {
      const running = attack(lab, host, name, count);
      await retry(() => ping(lab, "client", TARGET, 2)); // a flood may cost one of them, as on any full link
      await transfer(lab);
      await running.until(/ready/, 60_000);
      // what it has sent may still wait in front of the pings
      await retry(() => ping(lab, "client", TARGET, 2));
      await go(running);
    }
    ping(lab, "client", "10.8.0.1");
    await startClient(lab, host);
    ping(lab, host, TARGET);
    if (warnings !== undefined) assert.equal(kernelWarnings(), warnings, "the kernel's log");
    console.log(
      `# hostile: the server had ${before.toFixed(1)} MB before, ${rss(server).toFixed(1)} MB after`,
    );
    assert.doesNotMatch(server.output, /^\s+at |unexpected/m);
    assert.ok(server.output.split("\n").length < 2000, "the terminal was not flooded");
    await server.stop();
    console.log(`# ${/in all:.*/.exec(server.output)![0]}`);
    const asksTooOften = "it asks for fresh keys more than once a second";
    if (!IS_UDP) assert.match(server.output, new RegExp(`left: ${asksTooOften}`));
    for (const reason of [
      "its source is not the client's own address",
      "its offload header .*",
      "the kernel says it is no IP packet",
      // what it does not read, its own kernel drops
      IS_UDP ? "a rekey before the last one was used" : "the socket is full",
      ...(IS_UDP ? ["a record that does not fit its frame"] : []),
    ])
      assert.match(server.output, new RegExp(`dropped \\d+ \\(${reason}\\)`));
  },
);

labTest(
  "first messages that come byte by byte: an honest client gets in meanwhile",
  async (lab) => {
    const server = await startServer(lab);
    const drip = attack(lab, "internet", "drip", 40);
    await drip.until(/ready/);
    await startClient(lab);
    ping(lab, "client", TARGET);
    await server.until(/refused 203\.0\.113\.8:\d+: no handshake within 10 s/);
    await go(drip);
  },
  onlyTcp("a datagram comes whole"),
);

labTest("what the document says is ignored costs no session; a stolen proof gets no address", async (lab) => {
  await startServer(lab);
  await startClient(lab);
  const host = lab.addClient(2);
  const oddities = attack(lab, host, "oddities");
  await oddities.until(/ready/);
  await go(oddities);
  const thief = attack(lab, host, "thief");
  const [, wished, got] = (await thief.until(/wished for (\S+), got (\S+)/)) as unknown as string[];
  assert.notEqual(got, wished);
  await go(thief);
  ping(lab, "client", TARGET);
});

labTest("hostile servers in the place of ours: the client keeps its routes, and comes back", async (lab) => {
  let server = await startServer(lab);
  const client = await startClient(lab);
  lab.spawn("client", ["ping", "-i", "0.5", TARGET]); // or nobody would notice a silent server
  for (const [name, words] of [
    ["storm", /(ETIMEDOUT|ECONNREFUSED|closed the connection .*|the connection was closed .*); trying again/],
    ["refuse", /it refused our secret; trying again/],
    ["liar", /the server's configuration makes no sense; trying again/],
    ["mute", /it has not answered for 12 s/],
  ] as const) {
    await server.stop("SIGKILL");
    const hostile = new Running(lab.spawn("server", [...ours("lab/fuzz/hostile-server"), name], SECRET));
    await hostile.until(/listening/);
    const from = client.output.length;
    await until(() => words.test(client.output.slice(from)), 60_000);
    assert.match(lab.run("client", `ip route get ${TARGET}`), /dev tun0/);
    await hostile.stop("SIGKILL");
    server = await startServer(lab);
    await until(() => /connected again/.test(client.output.slice(from)), 60_000);
    await retry(() => ping(lab, "client", TARGET, 1));
  }
  await client.stop();
});

labTest("a hostile server does not become the client's router: advertisements are not heard", async (lab) => {
  lab.addIPv6();
  const hostile = new Running(lab.spawn("server", [...ours("lab/fuzz/hostile-server"), "router"], SECRET));
  await hostile.until(/listening/);
  const client = startProgram(lab, "client", "client", [SERVER, "--configure"], SECRET);
  await client.until(/connected to/);
  await client.until(/(drop .*its source is link-local, as a router's[^]*){4}/);
  assert.equal(lab.run("client", "ip -6 route show proto ra"), "");
  assert.doesNotMatch(lab.run("client", "ip -6 route"), /dead/);
});
