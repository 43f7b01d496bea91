/** The two pumps against each other, without root. */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { test } from "node:test";
import { Control, FrameType } from "./frame.ts";
import { close, read } from "./libc.ts";
import { memory, packet, put, random, seal, SEED, take, tunnel } from "./testing.ts";
import { trace } from "./trace.ts";
import { flush, inbound, outbound, sendControl } from "./tunnel.ts";

for (const cipher of ["xor", "xor+aes"] as const) {
  test(`packets come out as they went in, in order, both ways (${cipher}, seed ${SEED})`, () => {
    const it = tunnel(cipher);
    const below = random(SEED);
    for (let round = 0; round < 40; round++) {
      const packets = Array.from({ length: 1 + below(8) }, () => packet(20 + below(below(10) ? 1500 : 20_000)));
      const [from, to, sender, receiver, fromTun, toTun] = round % 2
        ? [it.clientKernel, it.serverKernel, it.client, it.server, it.tuns.client, it.tuns.server]
        : [it.serverKernel, it.clientKernel, it.server, it.client, it.tuns.server, it.tuns.client];
      const got: Buffer[] = [];
      for (const one of packets) it.put(from, one);
      for (let turns = 0; got.length < packets.length && turns < 50; turns++) {
        outbound(fromTun, () => sender);
        inbound(receiver, toTun);
        for (let one = it.take(to); one; one = it.take(to)) got.push(one);
      }
      assert.deepEqual(got, packets);
    }
    assert.deepEqual(it.reasons, []);
    it.end();
  });
}

test("all packets of one wake-up share one frame (xor+aes); in the C protocol each has its own", () => {
  for (const [cipher, frames] of [["xor+aes", 1], ["xor", 5]] as const) {
    const it = tunnel(cipher);
    for (let i = 0; i < 5; i++) it.put(it.clientKernel, packet(100));
    outbound(it.tuns.client, () => it.client);
    assert.equal(it.client.framesSent, frames);
    inbound(it.server, it.tuns.server);
    assert.equal(it.server.framesReceived, frames);
    it.end();
  }
});

test("--cipher xor puts exactly the C program's bytes on the wire", () => {
  const it = tunnel("xor");
  it.put(it.clientKernel, Buffer.from("45000054", "hex"));
  outbound(it.tuns.client, () => it.client);
  assert.equal(take(it.serverFd)?.toString("hex"), "000407424216");
  it.end();
});

test("a packet that peerFor() refuses is dropped and counted; the next one passes", () => {
  const it = tunnel("xor+aes");
  const [bad, good] = [packet(60), packet(60)];
  it.put(it.clientKernel, bad);
  it.put(it.clientKernel, good);
  let first = true;
  outbound(it.tuns.client, () => (first ? ((first = false), "test: refused") : it.client));
  inbound(it.server, it.tuns.server);
  assert.deepEqual(it.take(it.serverKernel), good);
  assert.equal(trace.drops.get("test: refused"), 1);
  it.end();
});

test("a packet that admit() refuses never reaches the TUN, is counted, and costs only itself", () => {
  const it = tunnel("xor+aes");
  it.server.admit = (bytes, at) => (bytes[at + 1] === 0xee ? "test: spoofed" : undefined);
  const packets = [1, 0xee, 2].map((mark) => Buffer.concat([Buffer.from([0x45, mark]), randomBytes(40)]));
  for (const one of packets) it.put(it.clientKernel, one);
  outbound(it.tuns.client, () => it.client);
  inbound(it.server, it.tuns.server);
  assert.deepEqual([it.take(it.serverKernel), it.take(it.serverKernel), it.take(it.serverKernel)], [packets[0], packets[2], undefined]);
  assert.equal(trace.drops.get("test: spoofed"), 1);
  it.end();
});

test("any byte changed on the wire ends the connection with a reason, and nothing reaches the TUN", () => {
  for (let i = 0; i < 4 + 4 + 20 + 16; i++) {
    const it = tunnel("xor+aes");
    it.put(it.clientKernel, packet(20));
    outbound(it.tuns.client, () => it.client);
    const wire = take(it.serverFd)!;
    wire[i]! ^= 0x80;
    put(it.clientFd, wire);
    put(it.clientFd, Buffer.alloc(64)); // in case the length grew
    inbound(it.server, it.tuns.server);
    if (it.reasons.length === 0) assert.ok(i >= 1 && i <= 3, `byte ${i}: only a longer frame may still be waited for`);
    else assert.match(it.reasons[0]!, /tag|type|length/);
    assert.equal(it.take(it.serverKernel), undefined, `byte ${i}`);
    it.end();
  }
});

test("a frame sent again, or left out, ends the connection: its tag is good for one place only", () => {
  for (const order of [[0, 0], [1], [1, 0]]) {
    const it = tunnel("xor+aes");
    const frames = [0, 1].map(() => {
      it.put(it.clientKernel, packet(40));
      outbound(it.tuns.client, () => it.client);
      return take(it.serverFd)!;
    });
    for (const index of order) put(it.clientFd, frames[index]!);
    inbound(it.server, it.tuns.server);
    assert.match(it.reasons[0]!, /wrong tag/);
    it.end();
  }
});

test("a record that does not fit its frame ends the connection of even an authenticated peer", () => {
  for (const lie of [0, 41, 65_536, 0xffffffff]) {
    const it = tunnel("xor+aes");
    put(it.clientFd, seal(it.client, FrameType.data, Buffer.concat([Buffer.from(lie.toString(16).padStart(8, "0"), "hex"), Buffer.alloc(40)])));
    inbound(it.server, it.tuns.server);
    assert.match(it.reasons[0]!, /record of/);
    assert.equal(it.take(it.serverKernel), undefined);
    it.end();
  }
});

test("frames that a session must not see end the connection: a handshake, no room for a tag", () => {
  for (const [wire, reason] of [["010000040000000000", /handshake frame/], ["0200000800000000000000", /room for its tag/], ["02000000", /room for its tag/]] as const) {
    const it = tunnel("xor+aes");
    put(it.clientFd, Buffer.from(wire, "hex"));
    put(it.clientFd, Buffer.alloc(8));
    inbound(it.server, it.tuns.server);
    assert.match(it.reasons[0]!, reason);
    it.end();
  }
});

test("keepalive proves the peer and says nothing more; goodbye ends the connection; unknown words are ignored", () => {
  const it = tunnel("xor+aes");
  let proven = 0;
  it.server.onProven = () => proven++;
  sendControl(it.client, Control.keepalive);
  sendControl(it.client, 77);
  inbound(it.server, it.tuns.server);
  assert.deepEqual([proven, it.reasons], [1, []]);
  assert.equal(trace.drops.get("an unknown control word"), 1, "counted, and shown as seldom as packets: a flood of them fills no terminal");
  sendControl(it.client, Control.goodbye);
  inbound(it.server, it.tuns.server);
  assert.deepEqual([proven, it.reasons], [1, ["it said goodbye"]]);
  it.end();
});

test("a full socket: the rest waits, the queue is bounded, drops are counted, and what was queued arrives whole", () => {
  const it = tunnel("xor+aes");
  const backlog: boolean[] = [];
  it.client.onBacklog = (waiting) => backlog.push(waiting);
  const sent: Buffer[] = [];
  const before = trace.drops.get("the socket is full") ?? 0;
  for (let i = 0; i < 2000; i++) {
    const one = packet(1400);
    it.put(it.clientKernel, one);
    const dropped = trace.drops.get("the socket is full") ?? 0;
    outbound(it.tuns.client, () => it.client);
    if ((trace.drops.get("the socket is full") ?? 0) === dropped) sent.push(one);
  }
  for (let dropped = trace.drops.get("the socket is full")!; trace.drops.get("the socket is full") === dropped; ) {
    const smallest = packet(20);
    it.put(it.clientKernel, smallest);
    outbound(it.tuns.client, () => it.client);
    if (trace.drops.get("the socket is full") === dropped) sent.push(smallest);
  }
  assert.ok((trace.drops.get("the socket is full") ?? 0) > before, "the queue is bounded");
  assert.ok(sendControl(it.client, Control.keepalive, Buffer.alloc(128)), "but a goodbye and fresh keys still fit");
  assert.equal(backlog.at(-1), true);
  const got: Buffer[] = [];
  it.server.admit = (bytes, at, length) => (got.push(Buffer.from(bytes.subarray(at, at + length))), "test: looked at"); // a socket pair takes fewer than a TUN
  for (let turns = 0; turns < 5000 && got.length < sent.length; turns++) {
    flush(it.client);
    inbound(it.server, it.tuns.server);
  }
  assert.equal(got.length, sent.length);
  assert.ok(got.every((one, i) => one.equals(sent[i]!)));
  assert.equal(backlog.at(-1), false, "empty again");
  assert.deepEqual(it.reasons, []);
  it.end();
});

test("what one wake-up brings may be more than a frame holds: the rest goes into a second frame", () => {
  for (const sizes of [[65_525, 65_535], [...Array<number>(10).fill(6541), 65_535]]) {
    const it = tunnel("xor+aes");
    const sent = sizes.map(packet);
    const got: Buffer[] = [];
    for (const one of sent) it.put(it.clientKernel, one);
    outbound(it.tuns.client, () => it.client);
    for (let turns = 0; turns < 5000 && got.length < sent.length; turns++) {
      flush(it.client);
      inbound(it.server, it.tuns.server);
      for (let one = it.take(it.serverKernel); one; one = it.take(it.serverKernel)) got.push(one);
    }
    assert.deepEqual(it.reasons, []);
    assert.equal(got.length, sent.length);
    assert.ok(got.every((one, i) => one.equals(sent[i]!)));
    assert.equal(it.client.framesSent, 2);
    it.end();
  }
});

test("a TUN that fails in the middle of a drain leaves no open frame behind: nothing unsealed ever reaches the wire", () => {
  const it = tunnel("xor+aes");
  const secret = Buffer.concat([packet(20), Buffer.from("SECRET TEXT")]);
  it.put(it.clientKernel, secret);
  it.put(it.clientKernel, packet(60));
  const closeAndSend = () => {
    close(it.tuns.client.fd);
    return it.client;
  };
  assert.throws(() => outbound(it.tuns.client, closeAndSend), /Cannot read from tun0: EBADF/);
  sendControl(it.client, Control.goodbye); // what the client's exit does
  inbound(it.server, it.tuns.server);
  assert.deepEqual(it.take(it.serverKernel), secret, "what was read before it failed arrives");
  assert.deepEqual(it.reasons, ["it said goodbye"], "and the stream is whole");
});

test("an exception in the middle of a drain leaves no open frame behind either", () => {
  const it = tunnel("xor+aes");
  const secret = Buffer.concat([packet(20), Buffer.from("SECRET TEXT")]);
  it.put(it.clientKernel, secret);
  it.put(it.clientKernel, packet(60));
  const throwAtSecond = (_bytes: Buffer, _at: number, length: number) => {
    if (length === 60) throw new Error("test");
    return it.client;
  };
  assert.throws(() => outbound(it.tuns.client, throwAtSecond), /test/);
  sendControl(it.client, Control.goodbye);
  inbound(it.server, it.tuns.server);
  assert.deepEqual(it.take(it.serverKernel), secret);
  assert.deepEqual(it.reasons, ["it said goodbye"]);
  it.end();
});

test("a frame that cannot be sealed is never sent", () => {
  const it = tunnel("xor+aes");
  it.put(it.clientKernel, packet(60));
  it.client.sealer!.free();
  assert.throws(() => outbound(it.tuns.client, () => it.client), /Cannot use a cipher: it was freed/);
  assert.throws(() => sendControl(it.client, Control.goodbye), /Cannot use a cipher: it was freed/);
  flush(it.client);
  assert.ok(read(it.serverFd, memory, 0, 100) < 0, "nothing is on the wire");
  it.end();
});

test("a closed or reset socket is told once", () => {
  const it = tunnel("xor+aes");
  close(it.clientFd);
  inbound(it.server, it.tuns.server);
  inbound(it.server, it.tuns.server);
  assert.deepEqual(it.reasons, ["the connection was closed without a goodbye"]);
});
