import assert from "node:assert/strict";
import { test } from "node:test";
import { fold, sumOf } from "../base/checksum.ts";
import { Memory } from "../base/libc.ts";
import { Random } from "../lab/fuzz/random.ts";
import { SEED } from "../lab/tests/peers.ts";
import { readSockaddr, sockaddr } from "./addresses.ts";
import { Flow, Segment } from "./tcp-segments.ts";

const PAIRS = [
  ["192.168.1.100", "192.168.1.1"],
  ["2001:db8:1::100", "2001:db8:1::1"],
] as const;
const PSH_ACK = 0x18;

/** A segment with that payload, from a flow; and as the other end reads it. */
function made(flow: Flow, payload: Buffer, at = 0): { segment: Segment; packet: Buffer } {
  const memory = new Memory(2048);
  payload.copy(memory.bytes, at + flow.header);
  const size = flow.write(memory, at, payload.length);
  const packet = Buffer.from(memory.bytes.subarray(at, at + size));
  const segment = new Segment();
  assert.ok(segment.read(packet, 0, packet.length));
  return { segment, packet };
}

for (const [here, there] of PAIRS) {
  const flow = (flags = [PSH_ACK]) => new Flow(sockaddr(here, 40000), sockaddr(there, 5555), flags);

  test(`checksums from ${here} are right, for payloads of all lengths (${SEED})`, () => {
    const random = new Random(SEED);
    const one = flow();
    for (let size = 0; size < 1400; size = size < 20 ? size + 1 : size + 1 + random.below(99)) {
      const { packet } = made(one, random.bytes(size), 4 * random.below(100));
      const tcp = one.isIPv6 ? 40 : 20;
      if (tcp === 20) assert.equal(fold(sumOf(packet, 0, 20)), 0xffff, "IPv4's header");
      // with the checksum in it, the sum of all is 0xffff: addresses, protocol, length, segment
      const sum = sumOf(packet, tcp === 20 ? 12 : 8, packet.length) + 6 + (packet.length - tcp);
      assert.equal(fold(sum), 0xffff, `${size} bytes`);
    }
  });

  test(`what the kernel is to cut, from ${here}, has the sum of the pseudo header alone`, () => {
    const one = flow();
    const [memory, size] = [new Memory(8192), 5000];
    const total = one.write(memory, 0, size, 1400);
    const [addresses, tcp] = one.isIPv6 ? [8, 40] : [12, 20];
    const pseudo = sumOf(memory.bytes, addresses, tcp) + 6 + (total - tcp);
    assert.equal(memory.bytes.readUInt16BE(tcp + 16), fold(pseudo));
    const [seq, id] = [memory.bytes.readUInt32BE(tcp + 4), memory.bytes.readUInt16BE(4)];
    const next = new Memory(2048);
    one.write(next, 0, 10);
    assert.equal(next.bytes.readUInt32BE(tcp + 4), (seq + size) >>> 0);
    if (!one.isIPv6) assert.equal(next.bytes.readUInt16BE(4), (id + 4) & 0xffff, "it makes four of it");
  });

  test(`a segment from ${here} is read as it was written, and belongs to its flow alone`, () => {
    const payload = Buffer.from("odd");
    const { segment, packet } = made(flow(), payload);
    assert.deepEqual(packet.subarray(segment.payload, segment.payload + segment.size), payload);
    const names = segment.ends.map((name) => readSockaddr(name));
    assert.deepEqual(names, [
      [here, 40000],
      [there, 5555],
    ]);
    const back = (to: string, port: number) =>
      new Flow(sockaddr(there, 5555), sockaddr(to, port), [PSH_ACK], segment);
    assert.ok(back(here, 40000).isFrom(segment));
    assert.ok(!back(here, 40001).isFrom(segment));
    assert.ok(!back(here.replace(/100$/, "101"), 40000).isFrom(segment));
    assert.ok(!flow().isFrom(segment), "its own end");
  });

  test(`segments from ${here} and their answers look like one connection`, () => {
    const client = flow([PSH_ACK, 0x10]);
    const [first, second] = [made(client, Buffer.alloc(100)), made(client, Buffer.alloc(50))];
    assert.deepEqual([first.segment.flags, second.segment.flags], [PSH_ACK, 0x10]);
    assert.equal(second.packet.readUInt32BE(second.segment.tcp + 4), first.segment.next);
    const server = new Flow(sockaddr(there, 5555), sockaddr(here, 40000), [PSH_ACK], first.segment);
    server.took(second.segment);
    server.took(first.segment); // a late one changes nothing
    const answer = made(server, Buffer.alloc(7));
    assert.equal(answer.segment.ack, second.segment.next);
    assert.equal(answer.packet.readUInt32BE(answer.segment.tcp + 4), first.segment.ack);
    assert.equal(answer.packet.readUInt32BE(answer.segment.tcp + 28), first.segment.stamp, "echoed");
    client.took(answer.segment);
    assert.equal(made(client, Buffer.alloc(1)).segment.ack, answer.segment.next);
  });
}

test(`100,000 damaged segments: what is read lies inside (${SEED})`, () => {
  const random = new Random(SEED);
  const segment = new Segment();
  const good = PAIRS.map(([here, there]) => {
    const flow = new Flow(sockaddr(here, 40000), sockaddr(there, 5555), [PSH_ACK]);
    return made(flow, random.bytes(60)).packet;
  });
  let read = 0;
  for (let i = 0; i < 100_000; i++) {
    const bytes = random.mutate(random.one(...good));
    if (!segment.read(bytes, 0, bytes.length)) continue;
    read++;
    assert.ok(segment.payload + segment.size <= bytes.length && segment.payload >= segment.tcp + 20);
    assert.equal(segment.ends.length, 2);
  }
  assert.ok(read > 10_000 && read < 100_000);
});
