/** KCP by simulation: two ends, a clock that is a number, and a network that does what networks do. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { Random } from "../lab/fuzz/random.ts";
import { ROOT } from "../lab/lab.ts";
import { SEED } from "../lab/tests/peers.ts";
import { Cmd, Kcp, type Mode, MODES, OVERHEAD } from "./kcp.ts";

const FAST = MODES.fast3;
const [CONV, MTU, WINDOW] = [0x12345606, 1400, 128];

interface Network {
  loss: number; // of 100 datagrams
  twice?: number; // of 100
  delay: number; // ms, at least …
  jitter: number; // … and up to so many more: later ones come first
}

/** Two ends, A and B, and the datagrams between them. */
class Simulation {
  now = 0xffff_ff00; // ms: it turns over soon
  readonly ends: [Kcp, Kcp];
  readonly got = [Buffer.alloc(0), Buffer.alloc(0)];
  readonly sent: [number, number] = [0, 0]; // datagrams
  largest = 0; // bytes of a datagram
  private wire: { at: number; to: number; bytes: Buffer }[] = [];
  private readonly random: Random;
  private readonly network: Network;

  constructor(random: Random, network: Network, mode: Mode = FAST, window = WINDOW) {
    this.random = random;
    this.network = network;
    const end = (me: 0 | 1) =>
      new Kcp(CONV, MTU, window, mode, (bytes, size) => this.post(me, Buffer.from(bytes.subarray(0, size))));
    this.ends = [end(0), end(1)];
  }

  private post(from: 0 | 1, bytes: Buffer): void {
    const { loss, twice = 0, delay, jitter } = this.network;
    this.sent[from]++;
    this.largest = Math.max(this.largest, bytes.length);
    if (this.random.below(100) < loss) return;
    for (let copies = this.random.below(100) < twice ? 2 : 1; copies > 0; copies--)
      this.wire.push({ at: this.now + delay + this.random.below(jitter + 1), to: 1 - from, bytes });
  }

  /** 10 ms more. `reads`: which ends read what has come. */
  step(reads = [true, true]): void {
    this.now += 10;
    const due = this.wire.filter(({ at }) => at <= this.now);
    this.wire = this.wire.filter(({ at }) => at > this.now);
    for (const { to, bytes } of due) assert.ok(this.ends[to]!.input(bytes, 0, bytes.length, this.now | 0));
    this.ends.forEach((end, i) => {
      if (reads[i]) this.got[i] = Buffer.concat([this.got[i]!, readAll(end, this.random)]);
      end.flush(this.now | 0);
    });
  }
}

function readAll(end: Kcp, random: Random): Buffer {
  const bytes = Buffer.alloc(5000);
  const parts: Buffer[] = [];
  for (;;) {
    const count = end.read(bytes, 0, 1 + random.below(bytes.length));
    if (count === 0) return Buffer.concat(parts);
    parts.push(Buffer.from(bytes.subarray(0, count)));
  }
}

/** Messages of any length, each behind its own: `count` of them. */
function messages(random: Random, count: number): Buffer {
  const all = Array.from({ length: count }, () => {
    const length = 2 + random.below(random.one(10, 100, 5000));
    const message = random.bytes(length);
    message.writeUInt16BE(length, 0);
    return message;
  });
  return Buffer.concat(all);
}

const NETWORKS: Record<string, Network> = {
  "a good one": { loss: 0, delay: 10, jitter: 0 },
  "one that reorders and duplicates": { loss: 0, twice: 20, delay: 20, jitter: 100 },
  "one that loses 3 %": { loss: 3, delay: 30, jitter: 20 },
  "one that loses 30 %": { loss: 30, twice: 10, delay: 30, jitter: 60 },
  "a slow one": { loss: 5, delay: 800, jitter: 50 },
};

for (const [name, network] of Object.entries(NETWORKS))
  for (const [modeName, mode] of Object.entries(MODES))
    test(`over ${name}, ${modeName}, each message comes once and in order, both ways (${SEED})`, () => {
      const random = new Random(SEED);
      const simulation = new Simulation(random, network, mode);
      const streams = [messages(random, 60), messages(random, 60)];
      const done = [0, 0];
      const isDone = () => simulation.got.every(({ length }, i) => length === streams[1 - i]!.length);
      for (let steps = 0; !isDone() || !simulation.ends.every((end) => end.isIdle); steps++) {
        assert.ok(steps < 60_000, `10 minutes have passed: ${simulation.got.map(({ length }) => length)}`);
        simulation.ends.forEach(
          (end, i) => (done[i]! += end.send(streams[i]!, done[i]!, streams[i]!.length)),
        );
        simulation.step();
      }
      simulation.got.forEach((got, i) => assert.ok(got.equals(streams[1 - i]!), `end ${i}`));
      assert.ok(simulation.largest <= MTU);
    });

test("a receiver that stops: the sender waits, with bounded memory, and goes on with the reading", () => {
  const simulation = new Simulation(new Random(SEED), { loss: 10, delay: 10, jitter: 10 });
  const [a, b] = simulation.ends;
  const stream = new Random(SEED).bytes(1 << 16);
  let taken = 0;
  const offer = () => (taken += a.send(stream, taken % stream.length, stream.length));
  for (let steps = 0; steps < 3000; steps++) {
    offer();
    simulation.step([true, false]);
  }
  const both = 2 * WINDOW * a.segment;
  assert.ok(taken <= both && taken > 0.95 * both, `${taken}, both windows hold ${both}`);
  const idle = simulation.sent[0];
  for (let steps = 0; steps < 6000; steps++) simulation.step([true, false]);
  assert.ok(simulation.sent[0] - idle < 10, "in a minute, it asks a few times");
  const before = taken;
  // if the word that there is room again is lost, it waits for the next question
  for (let steps = 0; steps < 20_000 && taken <= before + 100_000; steps++) {
    offer();
    simulation.step();
  }
  assert.ok(taken > before + 100_000, `${taken - before} bytes`);
  const { length } = simulation.got[1]!;
  for (let at = 0; at < length; at += stream.length)
    assert.ok(simulation.got[1]!.subarray(at, at + stream.length).equals(stream.subarray(0, length - at)));
  assert.ok(b.isIdle);
});

test("a segment counts as lost after two datagrams of ACKs for later ones, long before its time", () => {
  for (const [resend, expected] of [
    [2, [0]],
    [0, []],
  ] as const) {
    const numbers: number[] = [];
    const kcp = new Kcp(CONV, MTU, WINDOW, { ...FAST, resend }, (bytes) =>
      numbers.push(bytes.readUInt32LE(12)),
    );
    kcp.send(Buffer.alloc(10 * kcp.segment), 0, 10 * kcp.segment);
    kcp.flush(0);
    assert.equal(numbers.splice(0).length, 10);
    for (const sn of [1, 2]) kcp.input(segment(Cmd.ack, { sn }), 0, OVERHEAD, 20);
    kcp.flush(20);
    assert.deepEqual(numbers, expected);
  }
});

test("the congestion window grows with what arrives, and falls to one segment when a time is up", () => {
  let count = 0;
  const kcp = new Kcp(CONV, MTU, WINDOW, MODES.normal, () => count++);
  kcp.send(Buffer.alloc(WINDOW * kcp.segment), 0, WINDOW * kcp.segment);
  const flights: number[] = [];
  let sn = 0;
  for (let now = 0; now < 1000; now += 100) {
    count = 0;
    kcp.flush(now);
    flights.push(count);
    for (let i = 0; i < count; i++, sn++)
      kcp.input(segment(Cmd.ack, { sn, ts: now, una: sn + 1 }), 0, OVERHEAD, now + 50);
  }
  assert.equal(flights[0], 1);
  assert.ok(
    flights.every((flight, i) => i === 0 || flight >= flights[i - 1]!),
    `${flights}`,
  );
  assert.ok(flights.at(-1)! > 3 && flights.at(-1)! < 32, `${flights}`);
  kcp.flush(1000);
  kcp.flush(3000); // all of these are lost
  count = 0;
  kcp.input(segment(Cmd.ack, { sn, ts: 3000, una: sn + 1 }), 0, OVERHEAD, 3001);
  kcp.flush(3001);
  assert.ok(count <= 1, `${count} new ones`);
});

/** One segment as anybody could write it. */
function segment(cmd: number, { conv = CONV, wnd = WINDOW, ts = 0, sn = 0, una = 0, data = "" }): Buffer {
  const bytes = Buffer.alloc(OVERHEAD + data.length);
  bytes.writeUInt32LE(conv, 0);
  bytes[4] = cmd;
  bytes.writeUInt16LE(wnd, 6);
  bytes.writeUInt32LE(ts >>> 0, 8);
  bytes.writeUInt32LE(sn >>> 0, 12);
  bytes.writeUInt32LE(una >>> 0, 16);
  bytes.writeUInt32LE(data.length, 20);
  bytes.write(data, OVERHEAD, "latin1");
  return bytes;
}

test(`100,000 hostile datagrams: nothing is thrown, no memory grows (${SEED})`, () => {
  const random = new Random(SEED);
  const sizes = new Set<number>();
  const kcp = new Kcp(CONV, MTU, WINDOW, FAST, (_, size) => sizes.add(size));
  const sink = Buffer.alloc(1 << 20);
  kcp.send(sink, 0, 100_000);
  const number = () =>
    random.one(random.below(300), -random.below(300), random.edge(), random.below(2 ** 31));
  for (let i = 0; i < 100_000; i++) {
    const parts = Array.from({ length: 1 + random.below(3) }, () =>
      segment(random.one(81, 82, 83, 84, random.below(256)), {
        wnd: random.one(0, 1, 128, 65535),
        ts: number() | 0,
        sn: number() | 0,
        una: number() | 0,
        data: "x".repeat(random.one(0, 1, 2, 20, 20, 100, 100, kcp.segment + random.below(2))),
      }),
    );
    const bytes = random.mutate(Buffer.concat(parts));
    kcp.input(bytes, 0, bytes.length, i | 0); // one a ms
    if (i % 7 === 0) kcp.flush(i | 0);
    if (i % 31 === 0) kcp.read(sink, 0, sink.length);
    if (i % 101 === 0) kcp.send(sink, 0, 5000);
  }
  assert.ok(Math.max(...sizes) <= MTU);
  const { unread, due, una, next, end, ackCount } = kcp as unknown as Record<string, number>;
  assert.ok(due! - unread! <= WINDOW && una! <= next! && next! <= end! && end! - una! <= WINDOW);
  assert.ok(ackCount! <= 4 * WINDOW);
});

test(`datagrams of another connection, and cut or damaged ones, disturb no stream (${SEED})`, () => {
  const random = new Random(SEED);
  const simulation = new Simulation(random, { loss: 5, delay: 10, jitter: 10 });
  const stream = messages(random, 100);
  for (let done = 0, steps = 0; simulation.got[1]!.length < stream.length; steps++) {
    assert.ok(steps < 6000);
    done += simulation.ends[0].send(stream, done, stream.length);
    const others = segment(random.one(81, 82, 83, 84), { conv: random.below(CONV), sn: steps, una: steps });
    const short = segment(Cmd.push, { data: "abc" }).subarray(0, random.below(OVERHEAD + 3));
    for (const bytes of [others, short])
      for (const end of simulation.ends)
        assert.equal(end.input(bytes, 0, bytes.length, simulation.now | 0), bytes.length === 0);
    simulation.step();
  }
  assert.ok(simulation.got[1]!.equals(stream));
});

test("an exchange of the reference: each end of ours, in the place of its own, sends the same bytes", () => {
  const lines = readFileSync(`${ROOT}src/transport/kcp-exchange.txt`, "utf8").trim().split("\n");
  const all = lines.filter((line) => !line.startsWith("#")).map((line) => line.split(" "));
  for (const me of ["A", "B"]) {
    const mine = all.filter(([, end]) => end === me);
    const out: string[] = [];
    let now = 1000;
    const kcp = new Kcp(CONV, 64, 128, MODES.fast3, (bytes, size) =>
      out.push(`${now} ${me} out ${bytes.toString("hex", 0, size)}`),
    );
    const read = Buffer.alloc(4096);
    let received = "";
    for (; now < 1600; now += 10) {
      for (const [, , what, hex] of mine.filter(([ms]) => Number(ms) === now)) {
        const bytes = Buffer.from(hex!, "hex");
        if (what === "send") assert.equal(kcp.send(bytes, 0, bytes.length), bytes.length);
        if (what === "in") assert.ok(kcp.input(bytes, 0, bytes.length, now));
      }
      received += read.toString("hex", 0, kcp.read(read, 0, read.length));
      kcp.flush(now);
    }
    const theirs = (word: string) => mine.filter(([, , what]) => what === word);
    assert.equal(
      received,
      theirs("recv")
        .map(([, , , hex]) => hex)
        .join(""),
      "what it has received",
    );
    assert.deepEqual(
      out,
      theirs("out").map((words) => words.join(" ")),
    );
  }
});
