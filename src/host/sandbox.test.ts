import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";

/**
 * For a child process: all of this is tried before the sandbox, and in it. Each call makes no sense, so that
 * it changes nothing before, either: it fails with another error than EPERM.
 */
const TRIES = `
  import { spawnSync } from "node:child_process";
  import { readdirSync, readFileSync } from "node:fs";
  import { lookup } from "node:dns/promises";
  import { readFile } from "node:fs/promises";
  import { Worker } from "node:worker_threads";
  import { errnoName } from "./src/base/errno.ts";
  import { libc, thisProcess } from "./src/base/libc.ts";
  import { enterSandbox } from "./src/host/sandbox.ts";

  const arm = process.arch === "arm64";
  const syscall = libc("long syscall(long number, long a, long b, long c, long d, long e)");
  const call = (x64, arm64, ...args) => {
    const result = syscall(arm ? arm64 : x64, ...args, ...Array(5 - args.length).fill(0));
    return result < 0 ? errnoName(result) : "done";
  };
  const BAD = -1; // no such fd, no such address, no such process
  const tries = {
    execve: () => call(59, 221, BAD, 0, 0),
    execveat: () => call(322, 281, BAD, BAD, 0, 0, 0),
    ptrace: () => call(101, 117, 16, 0x7fffffff, 0, 0),
    process_vm_readv: () => call(310, 270, 0x7fffffff, 0, 0, 0, 0),
    unshare: () => call(272, 97, 0),
    clone: () => call(56, 220, 0x800), // CLONE_SIGHAND alone makes no sense: EINVAL, and no process
    setns: () => call(308, 268, BAD, 0),
    finit_module: () => call(313, 273, BAD, BAD, 0),
    bpf: () => call(321, 280, 99, 0, 0),
    keyctl: () => call(250, 219, 99, 0, 0, 0, 0),
    io_uring_setup: () => call(425, 425, 0, 0),
    TUNSETPERSIST: () => call(16, 29, BAD, 0x400454cb, 1),
    TUNSETOWNER: () => call(16, 29, BAD, 0x400454cc, 1),
    TUNSETGROUP: () => call(16, 29, BAD, 0x400454ce, 1),
    TIOCSTI: () => call(16, 29, BAD, 0x5412, 0),
    TUNSETIFF: () => call(16, 29, BAD, 0x400454ca, 0), // is not refused
    getpid: () => call(39, 172), // is not refused
    thread: () => call(56, 220, 0x10000), // nor is clone() with CLONE_THREAD: EINVAL here
    x32: () => arm ? "EPERM" : call(0x40000000 + 39, 0), // getpid of the x32 ABI
  };
  const all = () => Object.fromEntries(Object.entries(tries).map(([name, run]) => [name, run()]));
  const inPool = async () => {
    const unshare = thisProcess.func("int unshare(int flags)");
    const one = () => new Promise((done) => unshare.async(0, (_, result) => done(result)));
    return Promise.all(Array.from({ length: 8 }, one));
  };
  const spawns = () => spawnSync("true").error?.code ?? "done";
  new Worker("setInterval(() => {}, 1000)", { eval: true }).unref();

  const before = { ...all(), pool: await inPool(), spawns: spawns() };
  const warning = enterSandbox();
  const after = { ...all(), pool: await inPool(), spawns: spawns() };
  const statuses = readdirSync("/proc/self/task").map((task) =>
    readFileSync("/proc/self/task/" + task + "/status", "utf8"));
  const threads = statuses.map((text) => text.match(/^(NoNewPrivs|Seccomp):.*/gm).join(" "));
  new Worker("process.exit()", { eval: true }); // a new thread
  const [{ address }] = await lookup("localhost", { all: true });
  const file = (await readFile("/etc/passwd", "utf8")).length > 0;
  console.log(JSON.stringify({ before, warning, after, threads, address, file }));
  process.exit();`;

test("in the sandbox, each thread is refused what an intruder would need; the rest goes on", () => {
  const args = ["--import", "tsx", "--input-type=module", "-e", TRIES];
  const { stdout, stderr, signal } = spawnSync(process.execPath, args, { encoding: "utf8", timeout: 60_000 });
  assert.equal(signal, null);
  const { before, warning, after, threads, address, file } = JSON.parse(stdout || `"${stderr}"`);
  assert.equal(warning, "");
  const { TUNSETIFF, getpid, thread, pool, spawns, ...refused } = after;
  for (const [name, result] of Object.entries(refused)) {
    assert.equal(result, "EPERM", name);
    if (process.getuid!() === 0) assert.notEqual(before[name], "EPERM", `${name}, before`);
  }
  assert.deepEqual([TUNSETIFF, getpid, thread], ["EBADF", "done", "EINVAL"]);
  assert.deepEqual([before.pool, pool], [Array(8).fill(0), Array(8).fill(-1)]);
  assert.deepEqual([before.spawns, spawns], ["done", "EPERM"]);
  assert.ok(threads.length > 5);
  for (const thread of threads) assert.equal(thread, "NoNewPrivs:\t1 Seccomp:\t2");
  assert.match(address, /^(127\.0\.0\.1|::1)$/);
  assert.ok(file);
});

test("where a container's sandbox refuses ours, or there is none for this machine, a line says so", () => {
  const script = `
    import { enterSandbox, install } from "./src/host/sandbox.ts";
    const arm = process.arch === "arm64";
    Object.defineProperty(process, "arch", { value: "riscv64", configurable: true });
    console.log(enterSandbox());
    Object.defineProperty(process, "arch", { value: arm ? "arm64" : "x64" });
    // load the number; seccomp(2): EPERM; the rest: allow
    const number = arm ? 277 : 317;
    const [refuse, allow] = [[0x06, 0, 0, 0x50001], [0x06, 0, 0, 0x7fff0000]];
    console.log(install([[0x20, 0, 0, 0], [0x15, 0, 1, number], refuse, allow], arm ? 1 : 0));
    console.log(enterSandbox());`;
  const args = ["--import", "tsx", "--input-type=module", "-e", script];
  const { stdout, stderr } = spawnSync(process.execPath, args, { encoding: "utf8", timeout: 60_000 });
  const [none, own, refused] = stdout.split("\n");
  assert.equal(none, "no sandbox: for riscv64 there is none yet", stderr);
  assert.equal(own, "0", stderr);
  assert.match(refused!, /^no sandbox: the kernel, or a container around us, refuses the filter \(EPERM\)$/);
});
