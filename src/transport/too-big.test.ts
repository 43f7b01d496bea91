/** The router's answer, byte by byte. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { close, Memory } from "../base/libc.ts";
import { SOCK_SEQPACKET, socketPair, take } from "../lab/tests/peers.ts";
import { OFFLOAD, pseudo, sum, tcpPacket } from "../lab/tests/tcp-packets.ts";
import { refuseOffload } from "../core/offload.ts";
import { tooBig } from "./too-big.ts";

/** What the TUN gets as an answer to that packet. */
function answerTo(packet: Buffer, largest: number): Buffer | undefined {
  const [fd, kernel] = socketPair(SOCK_SEQPACKET);
  const memory = new Memory((packet.length + 11) & ~3);
  packet.copy(memory.bytes, 4);
  tooBig({ fd, name: "tun0", header: OFFLOAD }, memory, 4, packet.length, largest);
  const answer = take(kernel);
  for (const one of [fd, kernel]) close(one);
  if (answer) assert.equal(refuseOffload(answer, 0, answer.length), undefined);
  return answer?.subarray(OFFLOAD);
}

test("IPv4: unreachable, because it must not be fragmented; it quotes the header and more", () => {
  for (const size of [1300, 40]) {
    const packet = tcpPacket({ payload: Buffer.alloc(size, 7) });
    const ip = packet.subarray(OFFLOAD);
    const answer = answerTo(packet, 1204)!;
    assert.equal(answer.toString("hex", 0, 2), "4500");
    assert.equal(answer.readUInt16BE(2), answer.length);
    assert.equal(sum(answer.subarray(0, 20)), 0xffff, "the header's sum");
    assert.deepEqual(answer.subarray(12, 16), ip.subarray(16, 20), "from where it was sent to");
    assert.deepEqual(answer.subarray(16, 20), ip.subarray(12, 16));
    const icmp = answer.subarray(20);
    assert.equal(sum(icmp), 0xffff, "ICMP's sum");
    assert.deepEqual([...icmp.subarray(0, 2)], [3, 4]);
    assert.equal(icmp.readUInt16BE(6), 1204);
    assert.deepEqual(icmp.subarray(8), ip.subarray(0, icmp.length - 8));
    assert.ok(icmp.length - 8 >= Math.min(ip.length, 28));
  }
});

test("IPv6: packet too big, with as much of it as fits into 1,280 bytes", () => {
  for (const size of [1400, 40, 1201]) {
    const packet = tcpPacket({ version: 6, payload: Buffer.alloc(size, 7) });
    const ip = packet.subarray(OFFLOAD);
    const answer = answerTo(packet, 1300)!;
    assert.equal(answer[0], 0x60);
    assert.equal(answer[6], 58);
    assert.equal(answer.readUInt16BE(4), answer.length - 40);
    assert.ok(answer.length <= 1280);
    const icmp = answer.subarray(40);
    assert.equal(sum(pseudo(answer, 58, icmp.length), icmp), 0xffff);
    assert.deepEqual([...icmp.subarray(0, 2)], [2, 0]);
    assert.equal(icmp.readUInt32BE(4), 1300);
    assert.deepEqual(answer.subarray(8, 24), ip.subarray(24, 40));
    assert.deepEqual(answer.subarray(24, 40), ip.subarray(8, 24));
    assert.deepEqual(icmp.subarray(8), ip.subarray(0, Math.min(ip.length, 1280 - 48)));
  }
});

test("no error is answered with an error; a ping is; what is no IP packet is not", () => {
  const icmp = (version: 4 | 6, type: number) => {
    const packet = tcpPacket({ version, payload: Buffer.alloc(1400) });
    packet[OFFLOAD + (version === 4 ? 9 : 6)] = version === 4 ? 1 : 58;
    packet[OFFLOAD + (version === 4 ? 20 : 40)] = type;
    return packet;
  };
  for (const [version, type, isAnswered] of [
    [4, 8, true],
    [4, 0, true],
    [4, 3, false],
    [4, 11, false],
    [6, 128, true],
    [6, 129, true],
    [6, 1, false],
    [6, 2, false],
  ] as const)
    assert.equal(answerTo(icmp(version, type), 1200) !== undefined, isAnswered, `${version} ${type}`);
  assert.equal(answerTo(Buffer.alloc(1400), 1200), undefined);
});
