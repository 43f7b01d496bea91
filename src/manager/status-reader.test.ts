import assert from "node:assert/strict";
import { once } from "node:events";
import { rmSync } from "node:fs";
import { createServer, type Socket } from "node:net";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { statusOf } from "../base/status.ts";
import { isLike, SHAPE, StatusReader } from "./status-reader.ts";
import { newFolder } from "../lab/tests/folder.ts";
import { until } from "../lab/tests/peers.ts";

const folder = newFolder();
let count = 0;
const own = {
  ...{ role: "client", state: "connected", tun: { name: "tun0", mtu: 1400 }, transport: "tcp" },
  ...{ endpoint: "192.168.1.1:5555", inner: ["10.8.0.2/24"], peerCount: 1 },
  peers: [
    {
      ...{ inner: "10.8.0.1", inner6: "fd56:504e::a08:1", remote: "192.168.1.1:5555" },
      ...{ sent: { packets: 1, bytes: 84 }, received: { packets: 1, bytes: 84 } },
      ...{ keyAge: 3, lastSeen: 0.1, connected: 3 },
    },
  ],
} as const;
const STATUS = JSON.parse(JSON.stringify(statusOf(own as never, "1.2.3", { p50: 0, p99: 1, max: 2 })));
const STEP = { time: 1, host: "client", step: "6.read", id: "up0.0", bytes: 84, text: "read", hex: "45" };

/** A program of which the test says what it tells, and what a reader makes of it. */
async function pair(t: TestContext) {
  const path = join(folder, `${count++}`);
  const sockets: Socket[] = [];
  const server = createServer((socket) => sockets.push(socket.on("error", () => {})));
  const got: unknown[] = [];
  const reader = new StatusReader(path, {
    status: ({ state }) => got.push(state),
    step: (event) => got.push(event),
    lost: (lines) => got.push(lines),
    silent: (why) => got.push(why),
  });
  t.after(() => (reader.close(), server.close(), sockets.forEach((socket) => socket.destroy())));
  await until(() => got.length === 1);
  assert.deepEqual(got.splice(0), ["its status socket: ENOENT"]);
  server.listen(path);
  await once(server, "connection");
  const tell = (text: string) => sockets.at(-1)!.write(text);
  return { server, sockets, got, tell, path };
}

test("what a program tells is like SHAPE, and without a part of it is not", () => {
  assert.ok(isLike(STATUS, SHAPE));
  const without = (value: any, path: string[]): any => {
    const [first = "", ...rest] = path;
    const copy = Array.isArray(value) ? [...value] : { ...value };
    if (rest.length > 0) copy[first] = without(copy[first], rest);
    else delete copy[first];
    return copy;
  };
  for (const part of [
    "role",
    "tun",
    "tun.mtu",
    "counters.sent.frames",
    "peers",
    "peers.0.remote",
    "loop.max",
  ])
    assert.ok(!isLike(without(STATUS, part.split(".")), SHAPE), part);
  for (const part of ["peers.0.keyAge", "peers.0.inner6"])
    assert.ok(isLike(without(STATUS, part.split(".")), SHAPE), part);
  for (const other of [null, [], "x", { ...STATUS, drops: { a: "1" } }, { ...STATUS, inner: [1] }])
    assert.ok(!isLike(other, SHAPE));
  assert.ok(isLike({ ...STATUS, drops: { forged: 2 }, more: 1 }, SHAPE), "a newer program tells more");
});

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
    '{"type":"step","id":1}\n',
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
  const reader = new StatusReader(path, { status() {}, step() {}, lost() {}, silent() {} });
  reader.close();
  let asked = 0;
  const server = createServer(() => asked++).listen(path);
  t.after(() => server.close());
  await new Promise((resolve) => setTimeout(resolve, 1200)); // longer than it waits between two tries
  assert.equal(asked, 0);
  rmSync(path, { force: true });
});
