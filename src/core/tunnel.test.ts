/** The two pumps against each other, without root. */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { test } from "node:test";
import { Control, FrameType } from "./frame.ts";
import { close, read } from "../base/libc.ts";
import { memory, packet, put, random, seal, SEED, session, take } from "../lab/tests/peers.ts";
import { counters } from "../base/counters.ts";
import { outbound } from "./tunnel.ts";

for (const cipher of ["xor", "xor+aes"] as const) {
  test(`packets come out as they went in, in order, both ways (${cipher}, seed ${SEED})`, () => {
    const it = session(cipher);
    const below = random(SEED);
    for (let round = 0; round < 40; round++) {
      const packets = Array.from({ length: 1 + below(8) }, () =>
        packet(20 + below(below(10) ? 1500 : 20_000)),
      );
      const [from, to] = round % 2 ? [it.client, it.server] : [it.server, it.client];
      const got: Buffer[] = [];
      for (const one of packets) from.put(one);
      for (let turns = 0; got.length < packets.length && turns < 50; turns++) {
        outbound(from.tun, () => from.peer);
        to.receive();
        for (let one = to.take(); one; one = to.take()) got.push(one);
      }
      assert.deepEqual(got, packets);
    }
    assert.deepEqual(it.reasons(), []);
    it.end();
  });
}

test("all packets of one wake-up share one frame (xor+aes); in the C protocol each has its own", () => {
  for (const [cipher, frames] of [
    ["xor+aes", 1],
    ["xor", 5],
  ] as const) {
    const it = session(cipher);
    for (let i = 0; i < 5; i++) it.client.put(packet(100));
    outbound(it.client.tun, () => it.client.peer);
    assert.equal(it.client.peer.traffic.sent.frames, frames);
    it.server.receive();
    assert.equal(it.server.peer.traffic.received.frames, frames);
    it.end();
  }
});

test("--cipher xor puts exactly the C program's bytes on the wire", () => {
  const it = session("xor");
  it.client.put(Buffer.from("45000054", "hex"));
  outbound(it.client.tun, () => it.client.peer);
  assert.equal(take(it.server.fd)?.toString("hex"), "000407424216");
  it.end();
});

test("a packet that peerFor() refuses is dropped and counted; the next one passes", () => {
  const it = session("xor+aes");
  const [bad, good] = [packet(60), packet(60)];
  it.client.put(bad);
  it.client.put(good);
  let first = true;
  outbound(it.client.tun, () => (first ? ((first = false), "test: refused") : it.client.peer));
  it.server.receive();
  assert.deepEqual(it.server.take(), good);
  assert.equal(counters.drops.get("test: refused"), 1);
  it.end();
});

test("a packet that refuse() objects to is counted, never reaches the TUN, and costs only itself", () => {
  const it = session("xor+aes");
  it.server.peer.events.refuse = (bytes, at) => (bytes[at + 1] === 0xee ? "test: spoofed" : undefined);
  const packets = [1, 0xee, 2].map((mark) => Buffer.concat([Buffer.from([0x45, mark]), randomBytes(40)]));
  for (const one of packets) it.client.put(one);
  outbound(it.client.tun, () => it.client.peer);
  it.server.receive();
  assert.deepEqual(
    [it.server.take(), it.server.take(), it.server.take()],
    [packets[0], packets[2], undefined],
  );
  assert.equal(counters.drops.get("test: spoofed"), 1);
  it.end();
});

test("any byte changed on the wire ends the connection with a reason, and nothing reaches the TUN", () => {
  for (let i = 0; i < 4 + 4 + 20 + 16; i++) {
    const it = session("xor+aes");
    it.client.put(packet(20));
    outbound(it.client.tun, () => it.client.peer);
    const wire = take(it.server.fd)!;
    wire[i]! ^= 0x80;
    put(it.client.fd, wire);
    put(it.client.fd, Buffer.alloc(64)); // in case the length grew
    it.server.receive();
    if (it.reasons().length === 0)
      assert.ok(i >= 1 && i <= 3, `byte ${i}: only a longer frame may still be waited for`);
    else assert.match(it.reasons()[0]!, /tag|type|length/);
    assert.equal(it.server.take(), undefined, `byte ${i}`);
    it.end();
  }
});

test("a frame sent again, or left out, ends the connection: its tag is good for one place only", () => {
  for (const order of [[0, 0], [1], [1, 0]]) {
    const it = session("xor+aes");
    const frames = [0, 1].map(() => {
      it.client.put(packet(40));
      outbound(it.client.tun, () => it.client.peer);
      return take(it.server.fd)!;
    });
    for (const index of order) put(it.client.fd, frames[index]!);
    it.server.receive();
    assert.match(it.reasons()[0]!, /wrong tag/);
    it.end();
  }
});

test("a record that does not fit its frame ends the connection of even an authenticated peer", () => {
  for (const lie of [0, 41, 65_536, 0xffffffff]) {
    const it = session("xor+aes");
    put(
      it.client.fd,
      seal(
        it.client.peer,
        FrameType.data,
        Buffer.concat([Buffer.from(lie.toString(16).padStart(8, "0"), "hex"), Buffer.alloc(40)]),
      ),
    );
    it.server.receive();
    assert.match(it.reasons()[0]!, /a record/);
    assert.equal(it.server.take(), undefined);
    it.end();
  }
});

test("frames that a session must not see end the connection: a handshake, no room for a tag", () => {
  for (const [wire, reason] of [
    ["010000040000000000", /handshake frame/],
    ["0200000800000000000000", /room for its tag/],
    ["02000000", /room for its tag/],
  ] as const) {
    const it = session("xor+aes");
    put(it.client.fd, Buffer.from(wire, "hex"));
    put(it.client.fd, Buffer.alloc(8));
    it.server.receive();
    assert.match(it.reasons()[0]!, reason);
    it.end();
  }
});

test("keepalive only proves the peer; goodbye ends the connection; unknown words are ignored", () => {
  const it = session("xor+aes");
  let proven = 0;
  it.server.peer.events.onProven = () => proven++;
  it.client.peer.sendControl(Control.keepalive);
  it.client.peer.sendControl(77);
  it.server.receive();
  assert.deepEqual([proven, it.reasons()], [1, []]);
  assert.equal(
    counters.drops.get("an unknown control word"),
    1,
    "counted, and shown as seldom as packets: a flood of them fills no terminal",
  );
  it.client.peer.sendControl(Control.goodbye);
  it.server.receive();
  assert.deepEqual([proven, it.reasons()], [1, ["it said goodbye"]]);
  it.end();
});

test("a full socket: a bounded queue waits, and arrives whole; the rest is dropped and counted", () => {
  const it = session("xor+aes");
  const backlog: boolean[] = [];
  it.client.peer.events.onBacklog = (waiting) => backlog.push(waiting);
  const sent: Buffer[] = [];
  const before = counters.drops.get("the socket is full") ?? 0;
  for (let i = 0; i < 2000; i++) {
    const one = packet(1400);
    it.client.put(one);
    const dropped = counters.drops.get("the socket is full") ?? 0;
    outbound(it.client.tun, () => it.client.peer);
    if ((counters.drops.get("the socket is full") ?? 0) === dropped) sent.push(one);
  }
  for (
    let dropped = counters.drops.get("the socket is full")!;
    counters.drops.get("the socket is full") === dropped;
  ) {
    const smallest = packet(20);
    it.client.put(smallest);
    outbound(it.client.tun, () => it.client.peer);
    if (counters.drops.get("the socket is full") === dropped) sent.push(smallest);
  }
  assert.ok((counters.drops.get("the socket is full") ?? 0) > before, "the queue is bounded");
  assert.ok(
    it.client.peer.sendControl(Control.keepalive, Buffer.alloc(128)),
    "but a goodbye and fresh keys still fit",
  );
  assert.equal(backlog.at(-1), true);
  const got: Buffer[] = [];
  it.server.peer.events.refuse = (bytes, at, length) => (
    got.push(Buffer.from(bytes.subarray(at, at + length))),
    "test: looked at"
  ); // a socket pair takes fewer than a TUN
  for (let turns = 0; turns < 5000 && got.length < sent.length; turns++) {
    it.client.peer.flush();
    it.server.receive();
  }
  assert.equal(got.length, sent.length);
  assert.ok(got.every((one, i) => one.equals(sent[i]!)));
  assert.equal(backlog.at(-1), false, "empty again");
  assert.deepEqual(it.reasons(), []);
  it.end();
});

test("what one wake-up brings may be more than a frame holds: the rest goes into a second frame", () => {
  for (const sizes of [
    [65_525, 65_535],
    [...Array<number>(10).fill(6541), 65_535],
  ]) {
    const it = session("xor+aes");
    const sent = sizes.map(packet);
    const got: Buffer[] = [];
    for (const one of sent) it.client.put(one);
    outbound(it.client.tun, () => it.client.peer);
    for (let turns = 0; turns < 5000 && got.length < sent.length; turns++) {
      it.client.peer.flush();
      it.server.receive();
      for (let one = it.server.take(); one; one = it.server.take()) got.push(one);
    }
    assert.deepEqual(it.reasons(), []);
    assert.equal(got.length, sent.length);
    assert.ok(got.every((one, i) => one.equals(sent[i]!)));
    assert.equal(it.client.peer.traffic.sent.frames, 2);
    it.end();
  }
});

test("a TUN that fails while it is drained leaves no open frame behind: nothing goes out unsealed", () => {
  const it = session("xor+aes");
  const secret = Buffer.concat([packet(20), Buffer.from("SECRET TEXT")]);
  it.client.put(secret);
  it.client.put(packet(60));
  const closeAndSend = () => {
    close(it.client.tun.fd);
    return it.client.peer;
  };
  assert.throws(() => outbound(it.client.tun, closeAndSend), /Cannot read from tun0: EBADF/);
  it.client.peer.sendControl(Control.goodbye); // what the client's exit does
  it.server.receive();
  assert.deepEqual(it.server.take(), secret, "what was read before it failed arrives");
  assert.deepEqual(it.reasons(), ["it said goodbye"], "and the stream is whole");
});

test("an exception in the middle of a drain leaves no open frame behind either", () => {
  const it = session("xor+aes");
  const secret = Buffer.concat([packet(20), Buffer.from("SECRET TEXT")]);
  it.client.put(secret);
  it.client.put(packet(60));
  const throwAtSecond = (_bytes: Buffer, _at: number, length: number) => {
    if (length === 60) throw new Error("test");
    return it.client.peer;
  };
  assert.throws(() => outbound(it.client.tun, throwAtSecond), /test/);
  it.client.peer.sendControl(Control.goodbye);
  it.server.receive();
  assert.deepEqual(it.server.take(), secret);
  assert.deepEqual(it.reasons(), ["it said goodbye"]);
  it.end();
});

test("a frame that cannot be sealed is never sent", () => {
  const it = session("xor+aes");
  it.client.put(packet(60));
  it.client.peer.keys!.sealer.free();
  assert.throws(() => outbound(it.client.tun, () => it.client.peer), /Cannot use a cipher: it was freed/);
  assert.throws(() => it.client.peer.sendControl(Control.goodbye), /Cannot use a cipher: it was freed/);
  it.client.peer.flush();
  assert.ok(read(it.server.fd, memory, 0, 100) < 0, "nothing is on the wire");
  it.end();
});

test("a closed or reset socket is told once", () => {
  const it = session("xor+aes");
  close(it.client.fd);
  it.server.receive();
  it.server.receive();
  assert.deepEqual(it.reasons(), ["the connection was closed without a goodbye"]);
});
