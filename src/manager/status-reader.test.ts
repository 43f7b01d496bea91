import assert from "node:assert/strict";
import { once } from "node:events";
import { rmSync } from "node:fs";
import { createServer, type Socket } from "node:net";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { STATUS, STEP } from "../lab/manager/sample.ts";
import { readStatus } from "./status-reader.ts";
import { newFolder } from "../lab/tests/folder.ts";
import { until } from "../lab/tests/peers.ts";

const folder = newFolder();
let count = 0;
/** A program of which the test says what it tells, and what a reader makes of it. */
async function pair(t: TestContext) {
  const path = join(folder, `${count++}`);
  const sockets: Socket[] = [];
  const server = createServer((socket) => sockets.push(socket.on("error", () => {})));
  const got: unknown[] = [];
  const close = readStatus(path, {
    status: ({ state }) => got.push(state.toString()), // throws if there is none
    step: (event) => got.push(event),
    lost: (lines) => got.push(lines),
    silent: (why) => got.push(why),
  });
  t.after(() => (close(), server.close(), sockets.forEach((socket) => socket.destroy())));
  await until(() => got.length === 1);
  assert.deepEqual(got.splice(0), ["its status socket: ENOENT"]);
  server.listen(path);
  await once(server, "connection");
  const tell = (text: string) => sockets.at(-1)!.write(text);
  return { server, sockets, got, tell, path };
}

test("lines come as they are, however they were cut", async (t) => {
  const { got, tell } = await pair(t);
  const lines = [STATUS, { type: "step", ...STEP }, { type: "lost", lines: 7 }, STATUS];
  for (const letter of lines.map((line) => `${JSON.stringify(line)}\n`).join("")) tell(letter);
  await until(() => got.length === 4);
  assert.deepEqual(got, ["connected", STEP, 7, "connected"]);
});

test("a program that ends, and one that speaks otherwise, are told once, and asked again", async (t) => {
  const { got, tell, sockets, server } = await pair(t);
  tell(`${JSON.stringify(STATUS)}\n`);
  await until(() => got.length === 1);
  sockets.at(-1)!.destroy();
  await once(server, "connection");
  const odd = [
    "what\n",
    "{}\n",
    "null\n",
    '{"type":"status"}\n',
    `${JSON.stringify({ ...STEP, type: "step", text: 1 })}\n`,
    "x".repeat(2 ** 20),
  ];
  for (const text of odd) {
    tell(text);
    await once(server, "connection");
  }
  assert.deepEqual(got, [
    "connected",
    "it has closed its status socket",
    "it does not speak as our programs do",
  ]);
  tell(`${JSON.stringify(STATUS)}\n`);
  await until(() => got.length === 4);
  assert.equal(got.at(-1), "connected");
});

test("a reader that is closed asks no more", async (t) => {
  const path = join(folder, "closed");
  const close = readStatus(path, { status() {}, step() {}, lost() {}, silent() {} });
  close();
  let asked = 0;
  const server = createServer(() => asked++).listen(path);
  t.after(() => server.close());
  await new Promise((resolve) => setTimeout(resolve, 1200)); // longer than it waits between two tries
  assert.equal(asked, 0);
  rmSync(path, { force: true });
});
