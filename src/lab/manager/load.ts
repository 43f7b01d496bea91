/**
 * The manager under load, and with faults: `npx tsx src/lab/manager/load.ts`, some minutes. It prints the
 * figures of draft/manager.md. All of it happens on a host of a lab, over TCP; the part that does it runs
 * there as `load.ts inside`. A finding ends it with exit code 1.
 */
import assert from "node:assert/strict";
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmdirSync, rmSync } from "node:fs";
import { Agent } from "node:http";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { flag, option, parse, whole } from "../../host/options.ts";
import { atExit, program } from "../../host/program.ts";
import { Random } from "../fuzz/random.ts";
import { Lab, ours } from "../lab.ts";
import { Running } from "../running.ts";
import { COLLECTOR } from "../soak/soak.ts";
import { SEED } from "../tests/peers.ts";
import { ask, type Where } from "./ask.ts";
import { body } from "./bodies.ts";

const OPTIONS = {
  scale: option("PERCENT", "100", "of the requests, rounds, connections, bodies and kills", whole(1, 1000)),
  seed: option("N", String(SEED), "where all chance comes from (random)", whole(0, 0xffffffff)),
  help: flag("print this"),
};
const MORE_MEMORY = 24; // MB, resident, that the manager may have more at the end: as in soak.ts
const PORT = 8080;
const API = "/api/interface";
const where: Where = { port: PORT };

/** A manager on this host. */
async function start(...args: string[]): Promise<Running> {
  const [node, ...words] = ours("manager/main");
  const collect = ["--import", `data:text/javascript,${encodeURIComponent(COLLECTOR)}`];
  const manager = new Running(spawn(node!, [...collect, ...words, "--rate", "1000000", ...args]));
  running.add(manager.child);
  await manager.until(/the interface manager: /);
  return manager;
}
const running = new Set<ChildProcess>();
atExit(() => running.forEach((child) => child.kill("SIGKILL")));

/** The names of this host's TUNs and TAPs. */
function links(): string[] {
  const { stdout } = spawnSync("ip", ["-o", "link", "show", "type", "tun"], { encoding: "utf8" });
  return [...stdout.matchAll(/^\d+: (\S+?)[:@]/gm)]
    .map(([, name]) => name!)
    .filter((name) => name !== "probe");
}

/** Many at once, each with a connection that is used again. Milliseconds of each. */
async function atOnce(
  count: number,
  many: number,
  one: (i: number, agent: Agent) => Promise<void>,
): Promise<number[]> {
  const agent = new Agent({ keepAlive: true, maxSockets: many });
  const took: number[] = [];
  let next = 0;
  const worker = async () => {
    while (next < count) {
      const since = performance.now();
      await one(next++, agent);
      took.push(performance.now() - since);
    }
  };
  await Promise.all(Array.from({ length: many }, worker));
  agent.destroy();
  return took.sort((a, b) => a - b);
}
const share = (sorted: number[], part: number) =>
  sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))]!;

/** Every kind of request, and what must be answered. */
async function requests(count: number): Promise<string> {
  await ask(where, "POST", `${API}/create`);
  const kinds: [status: number, test: (json: any) => boolean, method: string, path: string, body?: object][] =
    [
      [200, ({ status }) => status === "healthy", "GET", "/health"],
      [200, ({ name, mtu }) => name === "tun0" && mtu >= 1400, "GET", `${API}/status`],
      [200, ({ interfaces }) => interfaces.length === 1, "GET", `${API}/list`],
      [200, ({ status }) => status === "success", "POST", `${API}/start`, { mode: "echo" }],
      [409, ({ error }) => error.startsWith("name: "), "POST", `${API}/create`],
      [400, ({ error }) => error.startsWith("mtu: "), "POST", `${API}/configure`, { mtu: 1 }],
      [200, ({ status }) => status === "success", "POST", `${API}/configure`, { mtu: 1400 }],
      [404, ({ error }) => error.startsWith("there is no such path"), "GET", "/api"],
      [405, ({ error }) => error.startsWith("this path takes POST"), "GET", `${API}/create`],
      [200, ({ status }) => status === "success", "POST", `${API}/stop`],
    ];
  const since = performance.now();
  const took = await atOnce(count, 100, async (i, agent) => {
    const [status, test, method, path, body] = kinds[i % kinds.length]!;
    const answer = await ask(where, method, path, body, {}, agent);
    assert.ok(
      answer.status === status && test(answer.json),
      `${method} ${path}: ${answer.status} ${answer.text}`,
    );
  });
  const seconds = (performance.now() - since) / 1000;
  await ask(where, "DELETE", `${API}/delete`);
  const [p50, p99] = [0.5, 0.99].map((part) => share(took, part).toFixed(0));
  const rate = (count / seconds).toFixed(0);
  return `${count} requests, 100 at a time: none wrong, p50 ${p50} ms, p99 ${p99} ms, ${rate} a second`;
}

/** Create and delete: descriptors, interfaces and memory are back at the start. */
async function rounds(pid: number, count: number): Promise<string> {
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  const round = async (i: number) => {
    const type = i % 2 ? "tap" : "tun";
    for (const [method, path, body] of [
      ["POST", "create", { type }],
      ["POST", "start", { mode: "echo" }],
      ["DELETE", "delete", {}],
    ] as const)
      assert.match((await ask(where, method, `${API}/${path}`, body, {}, agent)).text, /"success"/);
  };
  const now = async () => {
    process.kill(pid, "SIGUSR2"); // COLLECTOR
    await sleep(200);
    const [, kilobytes] = /VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))!;
    return {
      fds: readdirSync(`/proc/${pid}/fd`).length,
      links: links().length,
      mb: Number(kilobytes) / 1024,
    };
  };
  for (let i = 0; i < count / 2; i++) await round(i); // compiled code stays, and the heap finds its size
  const before = await now();
  for (let i = 0; i < count; i++) await round(i);
  const after = await now();
  agent.destroy();
  assert.deepEqual([after.fds, after.links], [before.fds, before.links]);
  assert.ok(after.mb < before.mb + MORE_MEMORY, `${before.mb} MB before, ${after.mb} after`);
  const [mb, more] = [before.mb.toFixed(0), after.mb.toFixed(0)];
  const fds = `${before.fds} descriptors before, ${after.fds} after`;
  return `${count} rounds of create, start, delete: ${fds}; ${mb} MB before, ${more} after`;
}

/** Connections that send a header a byte a second, while /health is asked. */
async function loris(count: number, seconds: number): Promise<string> {
  let closed = 0;
  const text = `GET /health HTTP/1.1\r\nHost: localhost\r\nX: ${"x".repeat(1000)}`;
  const sockets = Array.from({ length: count }, () => {
    const socket = connect(PORT, "127.0.0.1").resume();
    let at = 0;
    const drip = setInterval(() => socket.write(text[at++]!), 1000);
    return socket.on("error", () => {}).on("close", () => (clearInterval(drip), closed++));
  });
  const took: number[] = [];
  for (const end = Date.now() + seconds * 1000; Date.now() < end; await sleep(50)) {
    const since = performance.now();
    assert.equal((await ask(where, "GET", "/health")).status, 200);
    took.push(performance.now() - since);
  }
  const closedByManager = closed;
  for (const socket of sockets) socket.destroy();
  const slowest = Math.max(...took).toFixed(0);
  const answered = `/health answered ${took.length} times, slowest ${slowest} ms`;
  return `${count} slow connections for ${seconds} s: ${closedByManager} were closed, ${answered}`;
}

/** Bodies made to break it: 2xx or 4xx, and no interface that nobody asked for. */
async function fuzz(count: number, seed: number): Promise<string> {
  const asked = new Set<string>();
  const statuses = new Map<number, number>();
  await atOnce(count, 8, async (i, agent) => {
    const any = new Random(Math.imul(seed, 0x9e3779b1) + i);
    const [method, path, bytes, headers] = body(any);
    const { status, text, json } = await ask(where, method, path, bytes, headers, agent);
    const repeat = `case ${i} of seed ${seed}: ${method} ${path} ${JSON.stringify(String(bytes))}`;
    assert.ok(status >= 200 && status < 500, `${repeat}: ${status} ${text}`);
    statuses.set(status, (statuses.get(status) ?? 0) + 1);
    const [, created] = /^Interface (\S+) created/.exec(json.message ?? "") ?? [];
    const [, deleted] = /^Interface (\S+) deleted/.exec(json.message ?? "") ?? [];
    if (created) assert.ok(created === "tun0" || String(bytes) + path.includes(created), repeat);
    if (created) asked.add(created);
    if (i % 1000 === 999)
      for (const name of links()) assert.ok(asked.has(name), `${name}: nobody asked for it (${repeat})`);
    if (deleted) assert.ok(asked.has(deleted));
  });
  assert.deepEqual((await ask(where, "GET", "/api/vpn")).json, { vpns: [] });
  const { interfaces } = (await ask(where, "GET", `${API}/list`)).json;
  assert.deepEqual(links().sort(), interfaces.map(({ name }: { name: string }) => name).sort());
  const counts = [...statuses].sort().map(([status, n]) => `${n} × ${status}`);
  return `${count} bodies of the fuzzer, seed ${seed}: ${counts.join(", ")}`;
}

/** SIGKILL while it creates; then the next one starts at the same place. */
async function kills(count: number, any: Random): Promise<string> {
  const folder = mkdtempSync(join(tmpdir(), "simple-vpn-load-"));
  atExit(() => rmSync(folder, { recursive: true, force: true }));
  const socketPath = join(folder, "manager.sock");
  let made = 0; // before the kill
  for (let i = 0; i < count; i++) {
    const manager = await start("--host", socketPath);
    const creating = [0, 1, 2].map((n) =>
      ask({ socketPath }, "POST", `${API}/create`, { name: `tun${n}` }).catch(() => ({ status: 0 })),
    );
    await sleep(any.below(150));
    await manager.stop("SIGKILL");
    made += (await Promise.all(creating)).filter(({ status }) => status === 200).length;
    // `ip` of a killed manager may be at work for a moment
    for (const deadline = Date.now() + 2000; links().length > 0 || helpers() > 0; await sleep(5))
      assert.ok(Date.now() < deadline, `left after kill ${i}: ${links()}, ${helpers()} processes`);
  }
  const last = await start("--host", socketPath);
  await last.stop();
  assert.deepEqual(readdirSync(folder), []);
  rmdirSync(folder);
  const what = `while it was creating ${3 * count} interfaces, ${made} of them made before`;
  return `${count} kills ${what}: nothing left`;
}

/** Programs `ip` on this host, that is in our network namespace. */
function helpers(): number {
  const own = spawnSync("readlink", ["/proc/self/ns/net"], { encoding: "utf8" }).stdout;
  const { stdout } = spawnSync("sh", ["-c", "for p in $(pgrep -x ip); do readlink /proc/$p/ns/net; done"], {
    encoding: "utf8",
  });
  return stdout.split("\n").filter((line) => line === own.trim()).length;
}

program(async () => {
  const { values, positionals } = parse(process.argv.slice(2), OPTIONS, "src/lab/manager/load.ts");
  const [scale, seed] = [values.scale!.at(-1)! / 100, values.seed!.at(-1)!];
  if (positionals[0] !== "inside") {
    const lab = await Lab.up();
    lab.addIPv6();
    const words = [...ours("lab/manager/load"), "inside", "--scale", `${scale * 100}`, "--seed", `${seed}`];
    const inside = lab.spawn("client", words, { stdio: "inherit" });
    const code = await new Promise<number | null>((resolve) => inside.once("exit", resolve));
    await lab.down();
    process.exitCode = code ?? 1;
    return;
  }
  const of = (count: number) => Math.ceil(count * scale);
  const manager = await start();
  console.log(await requests(of(10_000)));
  console.log(await rounds(manager.child.pid!, of(1_000)));
  console.log(await loris(of(500), of(20)));
  console.log(await fuzz(of(100_000), seed));
  await manager.stop();
  assert.deepEqual(links(), []);
  console.log(await kills(of(200), new Random(seed)));
});
