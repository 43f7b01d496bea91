/** What the lab's tests share: a fresh lab for each test, and the two programs in it. */
import { spawnSync } from "node:child_process";
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { Failure } from "../../base/failure.ts";
import { tunnelTo } from "../../client/routes.ts";
import { IP_PROTOCOL } from "../../host/options.ts";
import { Lab, LAB_SECRET, ours, ROOT, SERVER, TARGET } from "../lab.ts";
import { Running, startProgram, TRANSPORT } from "../running.ts";
import { newFolder } from "./folder.ts";
import { has } from "../tools.ts";
import { addRouter } from "../wire/router.ts";

/**
 * A test with a lab of its own. Where this machine allows no lab it is skipped, and says why; in CI that is a
 * failure. `senseless`: why it has no meaning over a transport. There it is skipped. A sentence alone is for
 * UDP.
 */
export function labTest(
  name: string,
  run: (lab: Lab, t: TestContext) => Promise<void>,
  senseless: string | Partial<Record<typeof TRANSPORT, string>> = {},
): void {
  const skip = (typeof senseless === "string" ? { udp: senseless } : senseless)[TRANSPORT];
  // twice what the longest takes on a busy machine
  const options = { timeout: 240_000, ...(skip && { skip }) };
  test(TRANSPORT === "tcp" ? name : `${name} (${TRANSPORT})`, options, async (t) => {
    let lab: Lab;
    try {
      lab = await Lab.up();
      lab.run("client", "ip tuntap add dev probe mode tun");
    } catch (error) {
      if (process.env.CI || !(error instanceof Failure)) throw error;
      return t.skip(`${error.message}. Try: ${error.hint}`);
    }
    try {
      await run(lab, t);
    } finally {
      await lab.down();
    }
  });
}

/** A test with a lab that has IPv6 and a router. `tools`: what else it needs. */
export function routerTest(name: string, run: (lab: Lab) => Promise<void>, ...tools: string[]): void {
  const missing = ["ethtool", ...tools].find((tool) => !has(tool));
  const why = `${missing} is not installed`;
  if (missing) return void test(name, (t) => (process.env.CI ? assert.fail(why) : t.skip(why)));
  labTest(name, async (lab) => {
    lab.addIPv6();
    addRouter(lab);
    await run(lab);
  });
}

/** In CI the tools are installed; elsewhere a test that needs one says so and is skipped. */
export function needs(t: { skip: (why: string) => void }, tool: string): boolean {
  if (has(tool)) return true;
  assert.ok(!process.env.CI, `${tool} is not installed`);
  t.skip(`${tool} is not installed`);
  return false;
}

/** Throws unless promtool takes this for metrics, without a word. */
export function checkMetrics(text: string): void {
  if (!has("promtool")) return assert.ok(!process.env.CI, "promtool is not installed");
  const options = { input: text, encoding: "utf8" } as const;
  const { status, stdout, stderr } = spawnSync("promtool", ["check", "metrics"], options);
  assert.deepEqual([status, stdout + stderr], [0, ""]);
}

export const SECRET: { env: NodeJS.ProcessEnv } = {
  // old versions of Node.js need the latter for --user: privileges.ts
  env: { ...process.env, SIMPLE_VPN_SECRET: LAB_SECRET, UV_USE_IO_URING: "0" },
};

export const [IS_TCP, IS_UDP] = [TRANSPORT === "tcp", TRANSPORT === "udp"];
export const [IS_RAW, IS_QUIC] = [TRANSPORT === "raw", TRANSPORT === "quic"];
/** The IP protocol of the tunnel's own packets, and what `ip route get` knows them by. */
export const PROTOCOL = IP_PROTOCOL[TRANSPORT];
export const TUNNEL = tunnelTo({ transport: TRANSPORT, port: 5555 }, true);
/** For labTest(): why a test has a meaning over TCP only. */
export const onlyTcp = (why: string) => ({ udp: why, raw: why, quic: why });
/** Of tun0, where the path takes 1,500 bytes. */
export const MTU = IS_UDP ? 1424 : 1400;

/** Runs one of our programs on this machine, "lab/demo", to its end. */
export function runProgram(name: string, args: string[] = [], env: NodeJS.ProcessEnv = process.env) {
  const [node, ...words] = ours(name);
  return spawnSync(node!, [...words, ...args], { cwd: ROOT, env, encoding: "utf8", timeout: 60_000 });
}

/**
 * An environment in which a tool is another one: this shell script, first in PATH. In it, `real` is the real
 * tool, and "$@" are the arguments.
 */
export function standIn(tool: string, script: string): { env: NodeJS.ProcessEnv } {
  const folder = newFolder();
  const real = `real() { PATH="\${PATH#*:}" command ${tool} "$@"; }`;
  writeFileSync(join(folder, tool), `#!/bin/sh\n${real}\n${script}\n`, { mode: 0o755 });
  return { env: { ...SECRET.env, PATH: `${folder}:${process.env.PATH}` } };
}

const START = 60_000; // ms, at most: the soak starts some at once, beside 60 others

/** A configured server that forwards and masquerades. */
export async function startServer(lab: Lab, ...args: string[]): Promise<Running> {
  const server = startProgram(lab, "server", "server", ["--configure", "--nat", "eth1", ...args], SECRET);
  await server.until(/listening on/, START);
  return server;
}

/** A configured client on `host`, with a route to the internet host through the tunnel. */
export async function startClient(lab: Lab, host = "client", ...args: string[]): Promise<Running> {
  const client = startProgram(
    lab,
    host,
    "client",
    [
      host === "client" ? SERVER : `192.168.${host.slice(6)}.1`,
      "--configure",
      "--route",
      `${TARGET}/32`,
      ...args,
    ],
    SECRET,
  );
  await client.until(/connected to/, START);
  return client;
}

/**
 * Fails with ping's own words unless every one of `count` pings is answered. One by one: for its last answer,
 * ping waits only about as long as the others took.
 */
export function ping(lab: Lab, host: string, target: string, count = 3): void {
  for (let i = 0; i < count; i++) {
    const { status, stdout, stderr } = lab.try(host, `ping -c 1 -W 5 ${target}`);
    if (status !== 0) throw new Error(`${host} cannot ping ${target}:\n${stdout}${stderr}`);
  }
}

/** Tries until it does not throw, for 20 s. */
export async function retry(attempt: () => unknown): Promise<void> {
  for (const deadline = Date.now() + 20_000; ; await new Promise((resolve) => setTimeout(resolve, 100))) {
    try {
      return void (await attempt());
    } catch (error) {
      if (Date.now() > deadline) throw error;
    }
  }
}

/**
 * What a host has that our programs may change, as text: two of them are equal if nothing was left behind.
 */
export function snapshot(lab: Lab, host: string): string {
  const commands = [
    "ip addr",
    "ip route show table all",
    "ip rule",
    "ip -6 rule",
    "iptables-save",
    "ip6tables-save",
    "sysctl net.ipv4.ip_forward net.ipv4.conf net.ipv6.conf",
  ];
  const text = commands.map((command) => lab.run(host, command)).join("");
  const empty = /\*\w+\n(:\w+ ACCEPT.*\n)*COMMIT\n/g; // a table that was looked at once
  // without times, counters, carriers
  return text.replace(/^#.*\n|\[\d+:\d+\]|NO-CARRIER,|,LOWER_UP|state \w+/gm, "").replace(empty, "");
}

/**
 * Sends `megabytes` over TCP, with a pause until it is told to go on, and prints their hash; the other end
 * prints the hash of what arrived. Each kilobyte has its number in front, so none can stand for another. The
 * hash is GMAC (NIST SP 800-38D): half the time of SHA-256. For node -e.
 */
const stream = (role: "send" | "receive", target: string, port: string | undefined, megabytes: number) => `
  const net = require("node:net"), crypto = require("node:crypto");
  const hash = crypto.createCipheriv("aes-128-gcm", Buffer.alloc(16), Buffer.alloc(12));
  const done = () => (hash.final(), console.log("hash " + hash.getAuthTag().toString("hex")));
  async function run(socket) {
    if ("${role}" === "receive") {
      socket.on("data", (data) => hash.setAAD(data)).on("end", () => { done(); process.exit(0); });
      return;
    }
    const piece = crypto.randomBytes(1 << 20);
    for (let i = 0; i < ${megabytes}; i++) {
      if (i === ${megabytes >> 2}) {
        console.log("pause");
        await new Promise((resolve) => process.stdin.once("data", resolve).unref());
      }
      for (let k = 0; k < 1024; k++) piece.writeUInt32BE(1024 * i + k, 1024 * k);
      const sent = new Promise((resolve) => socket.write(piece, resolve));
      hash.setAAD(piece);
      await sent;
    }
    socket.end();
    done();
  }
  if (${port}) run(net.connect(${port}, "${target}"));
  else {
    const server = net.createServer(run);
    server.listen(0, () => console.log("port " + server.address().port));
  }`;

/**
 * Sends a quarter of `megabytes` between a client host and the one that has `target`; what sends the rest,
 * and throws unless all arrived unchanged.
 */
export async function startTransfer(
  lab: Lab,
  from: string,
  to: string,
  megabytes: number,
  target = TARGET,
): Promise<() => Promise<void>> {
  const node = (host: string, port?: string) =>
    new Running(
      lab.spawn(host, [
        process.execPath,
        "-e",
        stream(from === host ? "send" : "receive", target, port, megabytes),
      ]),
    );
  const [near, far] = to === "internet" || from.startsWith("client") ? [from, to] : [to, from];
  const listener = node(far);
  const [, port] = await listener.until(/port (\d+)/);
  const connector = node(near, port);
  const sender = from === near ? connector : listener;
  await sender.until(/pause/);
  return async () => {
    sender.child.stdin!.write("\n");
    const [sent, received] = [
      await connector.until(/hash (\w{32})/, 90_000),
      await listener.until(/hash (\w{32})/, 90_000),
    ];
    if (sent[1] !== received[1])
      throw new Error(`${megabytes} MB from ${from} to ${to} did not arrive unchanged`);
    for (const end of [connector, listener]) await end.stop("SIGKILL");
  };
}

/** A whole transfer. `between`: done after a quarter of it. */
export async function transfer(
  lab: Lab,
  from: string,
  to: string,
  megabytes: number,
  between = () => {},
  target = TARGET,
): Promise<void> {
  const rest = await startTransfer(lab, from, to, megabytes, target);
  between();
  await rest();
}
