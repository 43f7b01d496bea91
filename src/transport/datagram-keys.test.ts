/** Two ends' keys, and a network between them that loses, repeats and reorders what they seal. */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { test, type TestContext } from "node:test";
import { Memory } from "../base/libc.ts";
import { random, SEED } from "../lab/tests/peers.ts";
import { DatagramKeys, numberOf } from "./datagram-keys.ts";

const HEADER = 16;
const TAG = 16;

/** Two ends that share both keys. */
function ends(): [DatagramKeys, DatagramKeys] {
  const [up, down] = [randomBytes(32), randomBytes(32)];
  return [
    new DatagramKeys({ send: Buffer.from(up), receive: Buffer.from(down) }),
    new DatagramKeys({ send: Buffer.from(down), receive: Buffer.from(up) }),
  ];
}

/** A frame with 8 bytes in it. */
function seal(keys: DatagramKeys, word = 0): Buffer {
  const memory = new Memory(HEADER + 8 + TAG);
  memory.bytes.fill(0);
  memory.bytes[0] = 2;
  memory.bytes.writeUInt32BE(word, HEADER);
  keys.seal(memory, HEADER, 8, HEADER);
  return Buffer.from(memory.bytes);
}

function open(keys: DatagramKeys, frame: Buffer): number {
  const memory = new Memory(frame.length);
  frame.copy(memory.bytes);
  keys.open(memory, HEADER, 8, HEADER);
  return memory.bytes.readUInt32BE(HEADER);
}

/** Both ends get fresh keys, in the order in which rekey.ts gives them. */
function rekey(client: DatagramKeys, server: DatagramKeys): void {
  const [up, down] = [randomBytes(32), randomBytes(32)];
  server.receiveWith(Buffer.from(up));
  server.sendWith(Buffer.from(down), true);
  client.receiveWith(Buffer.from(down));
  client.sendWith(Buffer.from(up));
}

function free(...all: DatagramKeys[]): void {
  for (const keys of all) keys.free();
}

test("a frame carries its key and its number, and both are part of what is sealed", () => {
  const [client, server] = ends();
  for (const word of [7, 8, 9]) assert.equal(open(server, seal(client, word)), word);
  const frame = seal(client, 10);
  assert.deepEqual([frame[1], numberOf(frame, 0)], [0, 3]);
  for (let at = 0; at < frame.length; at++)
    for (const bit of [1, 0x80]) {
      const forged = Buffer.from(frame);
      forged[at]! ^= bit;
      assert.throws(() => open(server, forged), /damaged or forged|do not have|come before|too large/);
    }
  assert.equal(open(server, frame), 10, "what was refused has changed nothing");
  assert.throws(() => open(server, frame), /has come before/);
  free(client, server);
});

test("a number of 2^48 and more, and one far beyond the key's use, are refused first of all", () => {
  const [client, server] = ends();
  const frame = seal(client);
  frame.writeUInt16BE(1, 8);
  assert.throws(() => open(server, frame), /too large/);
  frame.writeUInt16BE(0, 8);
  frame.writeUIntBE(2 ** 40, 10, 6);
  assert.throws(() => open(server, frame), /too large/);
  assert.equal(server.window.newest, -1);
  free(client, server);
});

test("a forged frame with a number far ahead makes no true one old", () => {
  const [client, server] = ends();
  const frames = Array.from({ length: 100 }, (_, i) => seal(client, i));
  const forged = Buffer.from(frames[0]!);
  forged.writeUIntBE(1_000_000, 10, 6);
  assert.throws(() => open(server, forged), /damaged or forged/);
  for (const [i, frame] of frames.entries()) assert.equal(open(server, frame), i);
  free(client, server);
});

test("fresh keys go on counting; the server seals with its own once it has heard the client's", () => {
  const [client, server] = ends();
  open(server, seal(client));
  open(client, seal(server));
  rekey(client, server);
  assert.deepEqual([client.settled, server.settled], [false, false]);
  const early = seal(server, 5);
  assert.deepEqual([early[1], numberOf(early, 0)], [0, 1], "the client may not have its fresh key yet");
  const first = seal(client, 6);
  assert.deepEqual([first[1], numberOf(first, 0)], [1, 1]);
  assert.equal(open(server, first), 6);
  const fresh = seal(server, 7);
  assert.deepEqual([fresh[1], numberOf(fresh, 0)], [1, 2]);
  assert.deepEqual([open(client, fresh), open(client, early)], [7, 5]);
  assert.deepEqual([client.settled, server.settled], [true, true]);
  free(client, server);
});

test("keys are numbered from 255 on with 0 again", () => {
  const [client, server] = ends();
  for (let i = 0; i < 600; i++) {
    assert.equal(seal(client)[1], i & 255);
    rekey(client, server);
    assert.equal(open(server, seal(client, i)), i);
    assert.equal(open(client, seal(server, i)), i);
  }
  free(client, server);
});

test("the key before opens for 10 s after the fresh one was used, and no longer", (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const timers = withoutUnref(t);
  const [client, server] = ends();
  const [late, later] = [seal(client, 1), seal(client, 2)];
  rekey(client, server);
  timers(60_000);
  const first = seal(client, 3);
  assert.equal(open(server, late), 1, "as long as the fresh one was not used, it opens");
  open(server, first);
  timers(9_999);
  const inTime = Buffer.from(later);
  assert.equal(open(server, inTime), 2);
  timers(2);
  const tooLate = Buffer.from(late);
  assert.throws(() => open(server, tooLate), /a key that we do not have/);
  free(client, server);
});

/** Node 20's mocked timers have no unref(). */
function withoutUnref(t: TestContext): (ms: number) => void {
  const { setTimeout } = globalThis;
  t.mock.method(globalThis, "setTimeout", (run: () => void, ms: number) => {
    const timer = setTimeout(run, ms) as unknown as Record<string, unknown>;
    timer.unref ??= () => timer;
    return timer;
  });
  return (ms) => t.mock.timers.tick(ms);
}

test("keys that follow each other in a second open for 10 s each", (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const timers = withoutUnref(t);
  const [client, server] = ends();
  const late: Buffer[] = [];
  for (let second = 0; second < 15; second++) {
    if (second >= 10)
      assert.throws(
        () => open(server, Buffer.from(late[second - 10]!)),
        /a key that we do not have/,
        `${second}`,
      );
    if (second >= 9) assert.equal(open(server, Buffer.from(late[second - 9]!)), second - 9);
    late.push(seal(client, second));
    rekey(client, server);
    open(server, seal(client));
    open(client, seal(server));
    timers(1000);
  }
  free(client, server);
});

test("what is freed takes no key, and leaves none", () => {
  const [client, server] = ends();
  rekey(client, server);
  free(client, server);
  const key = randomBytes(32);
  for (const keys of [client, server]) {
    keys.sendWith(key);
    assert.ok(key.every((byte) => byte === 0));
    assert.throws(() => seal(keys), /freed/);
  }
});

interface Sent {
  frame: Buffer;
  word: number;
  due: number; // the step at which it comes
  message?: Buffer[]; // of a rekey: the two keys
  answer?: boolean;
}

for (const lossy of [0, 0.1, 0.5])
  // A model of rekey.ts gives the keys. rekey.ts itself over UDP: rekey.test.ts, and udp.test.ts of the lab.
  test(`modelled rekeys, ${lossy * 100} % lost, all reordered: what comes opens, once (${SEED})`, () => {
    const below = random(SEED);
    const [client, server] = ends();
    const DELAY = 30; // steps, at most
    const wires: Record<"up" | "down", Sent[]> = { up: [], down: [] };
    const came: { frame: Buffer; keys: DatagramKeys }[] = [];
    let step = 0;
    let words = 0;
    const send = (way: "up" | "down", message?: Buffer[], answer = false) => {
      const frame = seal(way === "up" ? client : server, ++words);
      if (below(1000) < lossy * 1000) return;
      for (let copies = below(10) ? 1 : 2; copies > 0; copies--)
        wires[way].push({
          frame,
          word: words,
          due: step + below(DELAY),
          ...(message && { message }),
          answer,
        });
    };
    let asked: Buffer[] | undefined; // the client's message 1
    let answered: Buffer[] | undefined; // the latest that the server has answered
    let earliest = 0;
    let rekeys = 0;
    const opened = new Set<number>();
    for (; step < 4000; step++) {
      if (below(2)) send("up");
      if (below(2)) send("down");
      if (!asked && client.settled && step >= earliest) asked = [randomBytes(32), randomBytes(32)];
      if (asked && step % 10 === 0) send("up", asked);
      for (const way of ["up", "down"] as const) {
        const keys = way === "up" ? server : client;
        const here = wires[way].filter(({ due }) => due <= step);
        wires[way] = wires[way].filter(({ due }) => due > step);
        for (const { frame, word, message, answer } of here) {
          if (opened.has(word)) {
            assert.throws(() => open(keys, frame), /come before/);
            continue;
          }
          assert.equal(open(keys, frame), word, `step ${step}, ${way}`);
          opened.add(word);
          came.push({ frame, keys });
          if (message && way === "up") {
            if (message !== answered && !server.settled) continue; // "before the last one was used"
            if (message !== answered) {
              answered = message;
              send("down", message, true); // under the old key
              server.receiveWith(Buffer.from(message[0]!));
              server.sendWith(Buffer.from(message[1]!), true);
            } else send("down", message, true);
          }
          if (answer && message === asked && asked) {
            client.receiveWith(Buffer.from(message![1]!));
            client.sendWith(Buffer.from(message![0]!));
            send("up");
            [asked, earliest] = [undefined, step + 2 * DELAY];
            rekeys++;
          }
        }
      }
    }
    assert.ok(rekeys > 10, `${rekeys} rekeys`);
    for (const { frame, keys } of came)
      assert.throws(() => open(keys, frame), /come before|do not have/, "a replay");
    free(client, server);
  });

test("the last number of a key seals; then the key is used up, and says so before anything throws", () => {
  const [client, server] = ends();
  client.sealer.counter = 2 ** 32 - 1;
  assert.ok(!client.sealer.usedUp);
  seal(client);
  assert.ok(client.sealer.usedUp);
  assert.throws(() => seal(client), /used up/);
  free(client, server);
});
