/** What is left to somebody whose code runs in our programs, or beside them: no root, no keys, no trace. */
import assert from "node:assert/strict";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { type Lab, ours, ROOT } from "../lab.ts";
import { Running, startProgram, TRANSPORT } from "../running.ts";
import { newFolder } from "./folder.ts";
import { labTest, ping, retry, SECRET, snapshot, startClient } from "./testing.ts";

/** False, and the test is skipped, without root: a user namespace has no second user. */
function asRoot(t: TestContext): boolean {
  if (process.getuid!() === 0) return true;
  assert.ok(!process.env.CI);
  t.skip("no other user than root is mapped into this user namespace");
  return false;
}

/** Code in the program itself: once root is gone, it tries what would outlive the program, and says so. */
const INTRUDER = `
  import { spawn } from "node:child_process";
  import { readdirSync, readlinkSync } from "node:fs";
  import { createRequire } from "node:module";
  import { isMainThread } from "node:worker_threads";
  const koffi = createRequire("${ROOT}")("koffi");
  const ioctl = koffi.load(null).func("int ioctl(int fd, unsigned long request, long argument)");
  const attempts = {
    persist: (tun) => ioctl(tun, 0x400454cb, 1),
    owner: (tun) => ioctl(tun, 0x400454cc, 65534),
    "a child that keeps our pipes": (tun, pipes) =>
      spawn("sleep", ["20"], { detached: true, stdio: ["ignore", "ignore", "ignore", ...pipes] }).pid,
  };
  function attempt() {
    if (process.getuid() === 0) return;
    clearInterval(timer);
    const fds = readdirSync("/proc/self/fd").map(Number);
    const leadTo = (pattern) => fds.filter((fd) => {
      try { return pattern.test(readlinkSync("/proc/self/fd/" + fd)); } catch {}
    });
    const [tun] = leadTo(/^.dev.net.tun$/);
    const pipes = leadTo(/^pipe:/).filter((fd) => fd > 2);
    const results = Object.entries(attempts).map(([name, run]) => {
      try {
        return name + ": " + run(tun, pipes) + " " + koffi.errno();
      } catch ({ code }) {
        return name + ": " + code;
      }
    });
    console.log("intruder " + JSON.stringify(results));
  }
  const timer = isMainThread && setInterval(attempt, 20);`;

labTest("--user: code in the program can keep neither the TUN nor the keeper's pipe", async (lab, t) => {
  if (!asRoot(t)) return;
  const intruder = join(newFolder(), "intruder.mjs");
  writeFileSync(intruder, INTRUDER);
  const env = { ...SECRET.env, NODE_OPTIONS: `--import ${intruder}` };
  lab.run("server", "sysctl -w net.ipv4.ip_forward=0");
  const before = snapshot(lab, "server");
  const args = ["--configure", "--nat", "eth1", "--user", "nobody"];
  const server = startProgram(lab, "server", "server", args, { env });
  const [, results] = await server.until(/intruder (.*)/);
  await startClient(lab, "client", "--user", "nobody");
  ping(lab, "client", "8.8.8.8");
  await server.stop("SIGKILL");
  await retry(() => assert.equal(snapshot(lab, "server"), before));
  assert.deepEqual(JSON.parse(results!), [
    "persist: -1 1", // EPERM
    "owner: -1 1",
    "a child that keeps our pipes: EPERM",
  ]);
});

labTest("--user: what compiled us, a child that is still root, ends", async (lab, t) => {
  if (!asRoot(t)) return;
  const env = { ...SECRET.env, TSX_DISABLE_CACHE: "1" };
  const program = [process.execPath, "--import", "tsx", `${ROOT}src/server.ts`];
  const args = ["--transport", TRANSPORT, "--configure", "--nat", "eth1", "--user", "nobody"];
  const server = new Running(lab.spawn("server", [...program, ...args], { env }));
  await server.until(/listening on/);
  const children = () => lab.run("lab", `ps -o comm= --ppid ${server.child.pid}`).trim();
  await retry(() => assert.equal(children(), "sh", "the keeper"));
  await startClient(lab);
  ping(lab, "client", "8.8.8.8");
  assert.equal(await server.stop(), 0, server.output);
});

labTest(
  "--user is refused where a thread of the kernel's, Node's io_uring, would stay root",
  async (lab, t) => {
    if (!asRoot(t)) return;
    const env = { ...SECRET.env, UV_USE_IO_URING: "1" }; // the default of Node.js 20.10
    const server = startProgram(lab, "server", "server", ["--user", "nobody"], { env });
    const [said] = await server.until(/Cannot drop root: a thread .* would stay root|listening on/);
    if (said !== "listening on") return assert.equal(await server.ended, 1);
    const folder = `/proc/${server.child.pid}/fdinfo`;
    for (const fd of readdirSync(folder))
      assert.doesNotMatch(readFileSync(join(folder, fd), "utf8"), /^SqThread:\s+\d/m);
  },
);

/** Ends it by a signal that leaves a core file (signal(7)), where any is left; what its shell says. */
async function crash(lab: Lab, command: string[], until: RegExp, signal: string): Promise<string> {
  const script = `ulimit -c unlimited || exit; "$@"; exit`;
  const shell = new Running(lab.spawn("server", ["sh", "-c", script, "sh", ...command], SECRET));
  await shell.until(until);
  lab.run("lab", `pkill -${signal} -P ${shell.child.pid}`);
  await shell.ended;
  return shell.output;
}

labTest("a program that crashes leaves no core file: the keys are in its memory", async (lab, t) => {
  const folder = newFolder();
  const control = ["sh", "-c", `cd ${folder}; echo up; read line`];
  const other = await crash(lab, control, /up/, "SEGV");
  if (!/core dumped/.test(other)) return t.skip(`this machine writes no core files: ${other}`);
  const files = () => readdirSync(ROOT).filter((name) => name.startsWith("core"));
  const before = files();
  for (const signal of ["SEGV", "ABRT"]) {
    const said = await crash(lab, ours("server"), /listening on/, signal);
    assert.match(said, /Segmentation fault|Aborted/);
    assert.doesNotMatch(said, /core dumped/);
  }
  assert.deepEqual(files(), before);
});

labTest("no other process of its user reads a program's memory or environment", async (lab, t) => {
  if (!asRoot(t)) return;
  // as a service manager starts it: an ordinary user, who may make a TUN
  const user = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"];
  const withRight = [...user, "--inh-caps", "+net_admin", "--ambient-caps", "+net_admin"];
  const node = [process.execPath, "-e", "setInterval(() => console.log('up'), 100)"];
  const plain = new Running(lab.spawn("server", [...withRight, ...node], SECRET));
  await plain.until(/up/);
  const server = new Running(lab.spawn("server", [...withRight, ...ours("server")], SECRET));
  await server.until(/listening on/);
  for (const name of ["environ", "mem"]) {
    const open = ({ child }: Running) =>
      lab.try("server", [...withRight, "sh", "-c", `: < /proc/${child.pid}/${name}`]);
    assert.equal(open(plain).status, 0, "any other program's can be read");
    assert.match(open(server).stderr, /Permission denied/);
  }
  for (const { child } of [plain, server]) lab.run("server", [...withRight, "kill", "-USR1", `${child.pid}`]);
  await plain.until(/Debugger listening/); // Node's own answer; by then the server's would be there, too
  await retry(() => assert.match(lab.run("server", "ss -Hltn"), /:9229/));
  assert.doesNotMatch(server.output, /Debugger listening/);
  assert.match(readFileSync(`/proc/${server.child.pid}/status`, "utf8"), /^Uid:\s+65534/m);
});
