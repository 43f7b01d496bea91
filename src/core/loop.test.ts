/**
 * The contract of koffi.node.poll, which is undocumented: a new koffi that breaks it must fail here, not in
 * class.
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { EAGAIN } from "../base/errno.ts";
import { close, Memory, read, write } from "../base/libc.ts";
import { ready, watch } from "./loop.ts";
import { acceptTcp, connectTcp, listenTcp, socketError, type TcpSocket } from "../transport/sockets.ts";
import { socketPair, until } from "../lab/tests/peers.ts";

const memory = new Memory(64);
const drain = (fd: number) => {
  while (read(fd, memory, 0, 64) > 0);
};

test("watch() calls readable as long as there is something to read, and no longer", async () => {
  const [near, far] = socketPair();
  let calls = 0;
  const watched = watch(near, { readable: () => ++calls === 3 && drain(near), error: assert.fail });
  await sleep(30);
  assert.equal(calls, 0);
  write(far, memory, 0, 1);
  await until(() => calls >= 3);
  await sleep(30);
  assert.equal(calls, 3, "drained: no more calls");
  watched.stop();
  write(far, memory, 0, 1);
  await sleep(30);
  assert.equal(calls, 3, "stopped: no more calls");
  close(near);
  close(far);
});

test("want() switches to writable and back, as FD_SET and FD_CLR do", async () => {
  const [near, far] = socketPair();
  let [reads, writes] = [0, 0];
  const watched = watch(near, {
    readable: () => (reads++, drain(near)),
    writable: () => writes++,
    error: assert.fail,
  });
  await sleep(20);
  assert.equal(writes, 0, "writable was not asked for");
  watched.want(false, true);
  await until(() => writes > 2);
  write(far, memory, 0, 1);
  await sleep(20);
  assert.equal(reads, 0, "readable is not wanted now");
  watched.want(false, false);
  const before = writes;
  await sleep(20);
  assert.equal(writes, before);
  watched.want(true, false);
  await until(() => reads === 1);
  watched.stop();
  close(near);
  close(far);
});

test("a watch survives garbage collection", () => {
  const script = `
    import { watch } from "./src/core/loop.ts";
    import { write, Memory } from "./src/base/libc.ts";
    import { socketPair } from "./src/lab/tests/peers.ts";
    const [near, far] = socketPair();
    watch(near, { readable: () => { console.log("called"); process.exit(0); }, error() {} });
    setTimeout(() => { for (let i = 0; i < 5; i++) gc(); write(far, new Memory(4), 0, 1); }, 50);
    setTimeout(() => process.exit(1), 5000);`;
  const { stdout } = spawnSync(
    process.execPath,
    ["--expose-gc", "--import", "tsx", "--input-type=module", "-e", script],
    { encoding: "utf8" },
  );
  assert.equal(stdout, "called\n");
});

test("want() after stop() does nothing: by then the fd may be closed, where libuv aborts the process", () => {
  const script = `
    import { watch } from "./src/core/loop.ts"; import { close } from "./src/base/libc.ts";
    import { socketPair } from "./src/lab/tests/peers.ts";
    const [near, far] = socketPair();
    const watched = watch(near, { readable() {}, error() {} });
    watched.stop();
    close(near);
    watched.want(false, true);
    watched.want(true, false);
    setTimeout(() => console.log("alive"), 20);`;
  const args = ["--import", "tsx", "--input-type=module", "-e", script];
  const { stdout, signal } = spawnSync(process.execPath, args, { encoding: "utf8" });
  assert.deepEqual([stdout, signal], ["alive\n", null]);
});

test("an exception in a handler reaches uncaughtException, so that the program can undo and end", () => {
  const script = `
    import { watch } from "./src/core/loop.ts";
    import { write, Memory } from "./src/base/libc.ts";
    import { socketPair } from "./src/lab/tests/peers.ts";
    process.on("uncaughtException", (error) => { console.log("caught " + error.message); process.exit(0); });
    const [near, far] = socketPair();
    globalThis.kept = watch(near, { readable: () => { throw new Error("boom"); }, error() {} });
    write(far, new Memory(4), 0, 1);
    setTimeout(() => process.exit(1), 5000);`;
  const { stdout } = spawnSync(process.execPath, ["--import", "tsx", "--input-type=module", "-e", script], {
    encoding: "utf8",
  });
  assert.equal(stdout, "caught boom\n");
});

test("a reset connection wakes the loop, and SO_ERROR or read() tells why", async () => {
  const listener = listenTcp("127.0.0.1", 5551);
  const client = (await connectTcp("127.0.0.1", 5551, 5000)) as TcpSocket;
  assert.ok(await ready(listener, "readable", 5000));
  const server = acceptTcp(listener) as TcpSocket;
  let errors = 0;
  let why = 0;
  const watched = watch(server.fd, {
    readable: () => (why = -read(server.fd, memory, 0, 64)),
    error: () => (errors++, (why = socketError(server.fd))),
  });
  write(server.fd, memory, 0, 1);
  await ready(client.fd, "readable", 5000);
  close(client.fd); // with unread data: the kernel sends a reset, not an orderly end
  await until(() => why !== 0);
  assert.equal(why, 104 /* ECONNRESET */);
  assert.ok(errors <= 1);
  watched.stop();
  close(server.fd);
  close(listener);
});

test("ready() is true when ready, false after its deadline", async () => {
  const [near, far] = socketPair();
  assert.equal(await ready(near, "readable", 20), false);
  assert.equal(await ready(near, "writable", 1000), true);
  write(far, memory, 0, 1);
  assert.equal(await ready(near, "readable", 1000), true);
  drain(near);
  assert.equal(read(near, memory, 0, 64), -EAGAIN);
  close(near);
  close(far);
});

test("ready() prefers readiness to a deadline that passed while the program could not look", async () => {
  const [near, far] = socketPair();
  const waiting = ready(near, "readable", 10);
  write(far, memory, 0, 1);
  for (const end = performance.now() + 30; performance.now() < end;); // a stall longer than the deadline
  assert.equal(await waiting, true);
  close(near);
  close(far);
});
