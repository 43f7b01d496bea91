/** Fixed bytes: what is asked, and what is answered. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { complement, fold, sumOf } from "../base/checksum.ts";
import { answer, describeFrame, ETHERNET, protocolOf } from "./echo.ts";

const hex = (text: string) => Buffer.from(text.replace(/[^\da-f]/gi, ""), "hex");

/** The answer to `frame`, undefined if there is none. `at`: 0 for a packet, ETHERNET for a frame. */
function answered(frame: Buffer, at: number): Buffer | undefined {
  const memory = Buffer.alloc(2048);
  frame.copy(memory);
  const end = answer(memory, at, frame.length);
  if (end === 0)
    assert.deepEqual(memory.subarray(0, frame.length), frame, "what is not answered is left alone");
  return end === 0 ? undefined : memory.subarray(0, end);
}

// ping -c 1 10.0.0.7 from 10.0.0.1, as the kernel sends it into a TUN; then the answer
const PING = hex(
  "45000054 5af34000 4001cbae 0a000001 0a000007 08006efc 25d90001" +
    "0d19086b".padEnd(2 * 56, "0123456789abcdef"),
);
PING.writeUInt16BE(0, 22);
PING.writeUInt16BE(complement(sumOf(PING, 20, PING.length)), 22);

test("answer() of an IPv4 ping: addresses changed, type 0, both checksums right", () => {
  const reply = answered(PING, 0)!;
  assert.equal(describeFrame(reply, 0, reply.length), "10.0.0.7 → 10.0.0.1 ICMP echo reply id 9689 seq 1");
  assert.equal(fold(sumOf(reply, 0, 20)), 0xffff);
  assert.equal(fold(sumOf(reply, 20, reply.length)), 0xffff);
  assert.deepEqual(reply.subarray(24), PING.subarray(24));
});

test("answer() has none for fragments, replies, groups, other protocols, and what is cut short", () => {
  const with_ =
    (at: number, ...bytes: number[]) =>
    (frame: Buffer) =>
      void Buffer.from(bytes).copy(frame, at);
  const changes = [
    with_(6, 0x20, 0),
    with_(6, 0, 5),
    with_(20, 0),
    with_(16, 224, 0, 0, 1),
    with_(9, 17),
    with_(0, 0x65),
  ];
  for (const change of changes) {
    const frame = Buffer.from(PING);
    change(frame);
    assert.equal(answered(frame, 0), undefined);
  }
  for (let length = 0; length < 28; length++) assert.equal(answered(PING.subarray(0, length), 0), undefined);
});

const PING6 = hex(
  "600ab29e 00103a40 fd010000 00000000 00000000 00000001 fd010000 00000000 00000000 00000007" +
    "80000000 25e90001 0011223344556677",
);
const pseudo = (packet: Buffer, at: number) =>
  sumOf(packet, at + 8, packet.length) + packet.readUInt16BE(at + 4) + 58;
PING6.writeUInt16BE(complement(pseudo(PING6, 0)), 42);

test("answer() of an IPv6 ping, and none behind extension headers or to a group", () => {
  const reply = answered(PING6, 0)!;
  assert.equal(describeFrame(reply, 0, reply.length), "fd01::7 → fd01::1 ICMPv6 echo reply id 9705 seq 1");
  assert.equal(fold(pseudo(reply, 0)), 0xffff);
  const group = Buffer.from(PING6);
  group[24] = 0xff;
  const extension = Buffer.from(PING6);
  extension[6] = 0;
  for (const frame of [group, extension, PING6.subarray(0, 47)]) assert.equal(answered(frame, 0), undefined);
});

test("answer() of ARP: 02:00 and the address; none to who asks for its own, or for a free one", () => {
  const ask = (sender: string, target: string) =>
    hex(`ffffffffffff da2a8d47add0 0806 0001 0800 06 04 0001 da2a8d47add0 ${sender} 000000000000 ${target}`);
  const reply = answered(ask("0a010001", "0a010007"), ETHERNET)!;
  const expected =
    "da2a8d47add0 02000a010007 0806 0001 0800 06 04 0002 02000a010007 0a010007 da2a8d47add0 0a010001";
  assert.deepEqual(reply, hex(expected));
  assert.equal(describeFrame(reply, ETHERNET, 42), "ARP 10.1.0.7 is at 02:00:0a:01:00:07");
  assert.equal(protocolOf(reply, ETHERNET, 42), "arp");
  assert.equal(answered(ask("0a010001", "0a010001"), ETHERNET), undefined);
  assert.equal(answered(ask("00000000", "0a010007"), ETHERNET), undefined);
  assert.equal(answered(reply, ETHERNET), undefined);
  for (let length = 0; length < 42; length++)
    assert.equal(answered(ask("0a010001", "0a010007").subarray(0, length), ETHERNET), undefined);
});

test("answer() of a neighbour solicitation; none to who looks for a free address", () => {
  const ask = (source: string) =>
    hex(
      `3333ff000007 da2a8d47add0 86dd 60000000 0020 3a ff ${source} ff0200000000000000000001ff000007 ` +
        "8700 0000 00000000 fd010000000000000000000000000007 0101 da2a8d47add0",
    );
  const reply = answered(ask("fd010000000000000000000000000001"), ETHERNET)!;
  assert.equal(describeFrame(reply, ETHERNET, 86), "fd01::7 → fd01::1 ICMPv6 neighbour advertisement");
  assert.equal(reply.toString("hex", 0, 14), "da2a8d47add002000000000786dd");
  assert.equal(reply.toString("hex", 78), "0201020000000007");
  assert.deepEqual([reply.length, reply[ETHERNET + 7], fold(pseudo(reply, ETHERNET))], [86, 255, 0xffff]);
  assert.equal(answered(ask("00000000000000000000000000000000"), ETHERNET), undefined);
});

test("protocolOf() and describeFrame() take any bytes", () => {
  for (let i = 0; i < 20_000; i++) {
    const frame = Buffer.from(Array.from({ length: i % 90 }, (_, at) => (at * 7 + i * 13 + (i >> 5)) & 255));
    if (frame.length > 14) frame.writeUInt16BE([0x0806, 0x86dd, 0x0800, i & 0xffff][i & 3]!, 12);
    for (const at of [0, ETHERNET]) {
      assert.ok(
        ["icmp", "igmp", "tcp", "udp", "icmpv6", "arp", "other"].includes(
          protocolOf(frame, at, frame.length),
        ),
      );
      assert.equal(typeof describeFrame(frame, at, frame.length), "string");
      answer(Buffer.concat([frame, Buffer.alloc(100)]), at, frame.length);
    }
  }
});
