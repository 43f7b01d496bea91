import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { existsSync, lstatSync, mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { test } from "node:test";
import { Failure } from "../base/failure.ts";
import { MAX_READERS, MAX_WAITING, StatusSocket } from "./status-socket.ts";
import { ROOT } from "../lab/lab.ts";
import { newFolder } from "../lab/tests/folder.ts";
import { readLines } from "../lab/tests/lines.ts";
import { until } from "../lab/tests/peers.ts";

const folder = newFolder();
let count = 0;
const newPath = () => join(folder, `${count++}.sock`);

/** The failure has one line and a hint. */
const refuses = (path: string, why: RegExp) =>
  assert.rejects(
    StatusSocket.open(path, () => ""),
    (error) => {
      assert.ok(error instanceof Failure && error.hint !== "", String(error));
      assert.match(error.message, why);
      return true;
    },
  );

test("a reader gets a line at once, then those that all get; the file is its owner's alone", async () => {
  const path = newPath();
  const before = process.umask(0); // the widest
  const status = await StatusSocket.open(path, () => "hello");
  assert.equal(process.umask(before), 0, "the umask is as it was");
  assert.equal(lstatSync(path).mode & 0o777, 0o600);
  assert.equal(status.isRead, false);
  const [one, other] = [readLines(path), readLines(path)];
  await until(() => one.lines.length === 1 && other.lines.length === 1);
  status.write(["a", "b"]);
  await until(() => one.lines.length === 3 && other.lines.length === 3);
  assert.deepEqual(one.lines, ["hello", "a", "b"]);
  one.socket.destroy();
  other.socket.destroy();
  await until(() => (status.write(["?"]), !status.isRead)); // the next line finds that they have gone
  status.close();
});

test("bind(2) itself makes the file with mode 0600: nobody can be quicker than a later chmod", async (t) => {
  const path = newPath();
  const program = `
    const { StatusSocket } = await import("${ROOT}src/host/status-socket.ts");
    process.umask(0);
    await StatusSocket.open(${JSON.stringify(path)}, () => "");
    process.exit(0);`;
  const calls = ["-f", "-e", "trace=bind,umask,chmod,fchmod,fchmodat"];
  const node = [process.execPath, "--import", "tsx", "--input-type=module", "-e", program];
  const strace = spawn("strace", [...calls, ...node], { stdio: ["ignore", "ignore", "pipe"] });
  let said = "";
  strace.stderr.setEncoding("utf8").on("data", (text) => (said += text));
  const ended = await new Promise((resolve) => strace.once("error", resolve).once("close", resolve));
  if (ended instanceof Error) return t.skip("strace is not installed");
  const lines = said.split("\n").filter((line) => /umask\(0177\)|bind\(|chmod/.test(line));
  const at = lines.findIndex((line) => line.includes(path));
  assert.ok(at > 0, said);
  assert.match(lines[at - 1]!, /umask\(0177\)/);
  assert.doesNotMatch(lines.slice(at).join("\n"), /chmod/);
});

test("what a dead program left is replaced; a living one's, or another file, is a Failure", async () => {
  const path = newPath();
  const script = `require("net").createServer().listen("${path}", () => process.kill(process.pid, 9))`;
  await once(spawn(process.execPath, ["-e", script]), "exit");
  assert.ok(lstatSync(path).isSocket(), "killed, it could not remove its socket");
  const status = await StatusSocket.open(path, () => "new");
  const { lines, socket } = readLines(path);
  await until(() => lines[0] === "new");
  await refuses(path, /a program that runs has it/);
  assert.ok(existsSync(path), "it stays the other one's");
  socket.destroy();
  status.close();

  const [file, link, directory] = [newPath(), newPath(), newPath()];
  writeFileSync(file, "mine");
  symlinkSync("/nowhere", link);
  mkdirSync(directory);
  for (const other of [file, link, directory]) await refuses(other, /there is something else, and no socket/);
  await refuses(join(folder, "no", "such"), /ENOENT|EACCES/);
});

test("a program whose queue of connections is full is alive all the same", async () => {
  const path = newPath();
  const server = createServer().listen({ path, backlog: 1 });
  await once(server, "listening");
  // a child fills the queue: while this process waits for it, nobody accepts
  const fill = `const net = require("net");
    for (let i = 0; i < 20; i++) net.connect(${JSON.stringify(path)}).on("error", () => {});
    setTimeout(() => process.exit(0), 200);`;
  spawnSync(process.execPath, ["-e", fill]);
  await refuses(path, /a program that runs has it/);
  server.close();
});

test("a slow reader loses lines, and is told how many; little waits for it; others lose none", async () => {
  const path = newPath();
  const status = await StatusSocket.open(path, () => "hello");
  const [slow, quick] = [readLines(path), readLines(path)];
  await until(() => slow.lines.length === 1 && quick.lines.length === 1);
  slow.socket.pause();
  const line = "x".repeat(10_000);
  const sockets = [...status["readers"]].map((reader) => reader["socket"]);
  for (let sent = 1; sent <= 200; sent++) {
    status.write([`${sent} ${line}`]);
    assert.ok(Math.max(...sockets.map((one) => one.writableLength)) < MAX_WAITING + 20_000);
    await until(() => quick.lines.length === sent + 1); // as a quick one does
  }
  slow.socket.resume();
  await until(() => sockets.every((one) => one.writableLength === 0));
  status.write(["last"]);
  await until(() => slow.lines.at(-1) === "last" && quick.lines.at(-1) === "last");
  const told = JSON.parse(slow.lines.at(-2)!);
  assert.equal(told.type, "lost");
  assert.equal(slow.lines.length - 3 + told.lines, 200, "each line came, or is counted");
  assert.ok(told.lines > 50, `${told.lines}`);
  for (const { socket } of [slow, quick]) socket.destroy();
  status.close();
});

test("what a reader writes is thrown away; whoever writes much is sent away", async () => {
  const path = newPath();
  const status = await StatusSocket.open(path, () => "hello");
  const quiet = readLines(path);
  quiet.socket.end("DELETE /everything\n"); // it has nothing more to say, and still reads
  const loud = readLines(path);
  await until(() => quiet.lines.length === 1 && loud.lines.length === 1);
  const closed = new Promise((resolve) => loud.socket.once("close", resolve)); // perhaps after an EPIPE
  const flood = setInterval(() => loud.socket.writable && loud.socket.write(Buffer.alloc(8192)), 1);
  await closed;
  clearInterval(flood);
  status.write(["still here"]);
  await until(() => quiet.lines.at(-1) === "still here");
  quiet.socket.destroy();
  status.close();
});

test(`there are at most ${MAX_READERS} readers: one more is told, and the others stay`, async () => {
  const path = newPath();
  const status = await StatusSocket.open(path, () => "hello");
  const readers = Array.from({ length: MAX_READERS }, () => readLines(path));
  await until(() => readers.every(({ lines }) => lines.length === 1));
  const more = readLines(path);
  await once(more.socket, "close");
  assert.deepEqual(
    more.lines.map((line) => JSON.parse(line).type),
    ["error"],
  );
  readers.pop()!.socket.destroy();
  await until(() => (status.write(["?"]), status["readers"].size === MAX_READERS - 1));
  const next = readLines(path);
  await until(() => next.lines[0] === "hello");
  for (const { socket } of [...readers, next]) socket.destroy();
  status.close();
});
