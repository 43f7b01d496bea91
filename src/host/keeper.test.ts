import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, constants, existsSync, openSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import type { Failure } from "../base/failure.ts";
import { Keeper } from "./keeper.ts";
import { O_CLOEXEC, O_RDWR, thisProcess, waitpid } from "../base/libc.ts";
import { ROOT } from "../lab/lab.ts";
import { newFolder } from "../lab/tests/folder.ts";

const folder = newFolder();

test("our stdout does not become blocking by it: a reader who is slow must not stop the tunnel", async () => {
  console.log("open");
  const flags = () =>
    [1, 2].map((fd) => /flags:\s*(\d+)/.exec(readFileSync(`/proc/self/fdinfo/${fd}`, "utf8"))![1]);
  const before = flags();
  (await Keeper.start()).finish();
  assert.deepEqual(flags(), before);
});

test("what is kept runs at the end, newest first, word by word; what is forgotten does not", async () => {
  const keeper = await Keeper.start();
  keeper.keep(`touch ${folder}/first/* ${folder}/first/$HOME`);
  keeper.keep(`mkdir ${folder}/first/second`);
  keeper.keep(`mkdir ${folder}/forgotten`);
  keeper.keep("true");
  keeper.forget(`mkdir ${folder}/forgotten`);
  keeper.forget(`mkdir ${folder}/never-kept`);
  keeper.keep(`mkdir ${folder}/first`);
  keeper.enough();
  keeper.keep(`mkdir ${folder}/more`);
  assert.deepEqual(readdirSync(folder), [], "nothing before the end");
  keeper.finish();
  assert.deepEqual(readdirSync(folder), ["first"]);
  assert.deepEqual(readdirSync(join(folder, "first")).sort(), ["$HOME", "*", "second"]);
});

test("a terminal that is paused does not hold the undoing up", async () => {
  const [master, terminal] = pausedTerminal();
  const script = `
    const { Keeper } = await import("${ROOT}src/host/keeper.ts");
    const keeper = await Keeper.start();
    keeper.keep("touch ${folder}/undone");
    keeper.keep("ls /no/such/file");
    process.kill(process.pid, "SIGKILL");`;
  spawn(process.execPath, ["--import", "tsx", "--input-type=module", "-e", script], {
    stdio: ["ignore", terminal, terminal],
  });
  for (
    const deadline = Date.now() + 20_000;
    !existsSync(join(folder, "undone"));
    await new Promise((resolve) => setTimeout(resolve, 50))
  )
    assert.ok(Date.now() < deadline);
  for (const fd of [terminal, master]) closeSync(fd);
});

/** Both ends of a terminal as after Ctrl-S: whoever writes to the second one waits. */
function pausedTerminal(): [master: number, terminal: number] {
  // posix_openpt(3), pts(4)
  const master = thisProcess.func("int posix_openpt(int flags)")(O_RDWR | O_CLOEXEC);
  thisProcess.func("int unlockpt(int fd)")(master);
  const terminal = openSync(
    thisProcess.func("str ptsname(int fd)")(master),
    constants.O_RDWR | constants.O_NOCTTY,
  );
  assert.equal(thisProcess.func("int tcflow(int fd, int action)")(terminal, 0), 0); // TCOOFF: tcflow(3)
  return [master, terminal];
}

test("a keeper that was killed takes no more, which is a Failure", async () => {
  const keeper = await Keeper.start();
  keeper.keep("true");
  process.kill(keeper.pid, "SIGKILL");
  assert.throws(() => keeper.finish(), /Cannot undo everything/);
  const another = await Keeper.start();
  process.kill(another.pid, "SIGKILL");
  waitpid(another.pid, [0], 0);
  assert.throws(
    () => another.keep("true"),
    (error: Failure) =>
      /Cannot keep what is to be undone/.test(error.message) && error.hint === "at the end, by hand: true",
  );
});

test("what cannot be undone is a Failure, and the rest is undone all the same", async () => {
  const keeper = await Keeper.start();
  keeper.keep(`mkdir ${folder}/rest`);
  keeper.keep("false");
  assert.throws(() => keeper.finish(), /Cannot undo everything that this program did/);
  assert.ok(existsSync(join(folder, "rest")));
});

test("a process of another user that calls itself a keeper delays nobody", async (t) => {
  if (process.getuid!() !== 0) return t.skip("only root can start a process of another user");
  const script = "echo up; sleep 60; :";
  const args = ["--reuid", "65534", "--clear-groups", "sh", "-c", script, "simple-vpn-keeper of 4194305"];
  const impostor = spawn("setpriv", args, { stdio: ["ignore", "pipe", "ignore"], detached: true });
  await once(impostor.stdout!, "data");
  const begun = performance.now();
  (await Keeper.start()).finish();
  const waited = performance.now() - begun;
  process.kill(-impostor.pid!, "SIGKILL");
  assert.ok(waited < 4_000, `it waited for ${waited} ms`);
});
