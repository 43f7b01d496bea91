/**
 * "Too big": what a router answers to a packet that is too large for the next link. Its sender then makes
 * smaller ones. Where the tunnel's path takes less than tun0 does, we are that router. The answer goes into
 * the TUN that the packet came from. Its source is the packet's destination (RFC 792 and 1191; IPv6: RFC
 * 4443, section 3.2).
 */
import { complement, sumOf } from "../base/checksum.ts";
import { Memory } from "../base/libc.ts";
import { OFFLOAD_HEADER } from "../core/offload.ts";
import { ipVersion } from "../base/packet.ts";
import { type Tun, writePacket } from "../core/tun.ts";

const [IP4, IP6, ICMP] = [20, 40, 8]; // bytes of these headers
export const MIN_MTU6 = 1280; // bytes: IPv6 knows none that is smaller (RFC 8200, section 5)
const QUOTED4 = IP4 + 8; // of the packet, at least (RFC 792); its options would be more
const answer = new Memory(OFFLOAD_HEADER + 2 + MIN_MTU6); // a multiple of 4

/** Answers the packet in memory[at, at + count), an offload header before it: `largest` bytes go through. */
export function tooBig(tun: Tun, memory: Memory, at: number, count: number, largest: number): void {
  const ip = at + OFFLOAD_HEADER;
  const size = count - OFFLOAD_HEADER;
  const version = ipVersion(memory.bytes, ip, size);
  if (version === 0 || isError(memory.bytes, ip, version)) return;
  const bytes = answer.bytes.fill(0);
  const [header, quoted] =
    version === 4 ? [IP4, Math.min(size, QUOTED4 + 40)] : [IP6, Math.min(size, MIN_MTU6 - IP6 - ICMP)];
  const out = OFFLOAD_HEADER;
  const icmp = out + header;
  const end = icmp + ICMP + quoted;
  memory.bytes.copy(bytes, icmp + ICMP, ip, ip + quoted);
  if (version === 4) {
    bytes[out] = 0x45;
    bytes.writeUInt16BE(end - out, out + 2);
    bytes[out + 8] = 64; // hops
    bytes[out + 9] = 1; // ICMP
    memory.bytes.copy(bytes, out + 12, ip + 16, ip + 20);
    memory.bytes.copy(bytes, out + 16, ip + 12, ip + 16);
    bytes.writeUInt16BE(complement(sumOf(bytes, out, icmp)), out + 10);
    bytes[icmp] = 3; // destination unreachable
    bytes[icmp + 1] = 4; // because it must not be fragmented
    bytes.writeUInt16BE(largest, icmp + 6);
    bytes.writeUInt16BE(complement(sumOf(bytes, icmp, end)), icmp + 2);
  } else {
    bytes[out] = 0x60;
    bytes.writeUInt16BE(end - icmp, out + 4);
    bytes[out + 6] = 58; // ICMPv6
    bytes[out + 7] = 64; // hops
    memory.bytes.copy(bytes, out + 8, ip + 24, ip + 40);
    memory.bytes.copy(bytes, out + 24, ip + 8, ip + 24);
    bytes[icmp] = 2; // packet too big
    bytes.writeUInt32BE(largest, icmp + 4);
    const pseudo = sumOf(bytes, out + 8, icmp) + (end - icmp) + 58; // RFC 8200, section 8.1
    bytes.writeUInt16BE(complement(pseudo + sumOf(bytes, icmp, end)), icmp + 2);
  }
  writePacket(tun, answer, 0, end); // a lost one is sent again for the next packet
}

/** An error is never answered with an error (RFC 1122, section 3.2.2; RFC 4443, section 2.4). */
function isError(bytes: Buffer, ip: number, version: 4 | 6): boolean {
  if (version === 6) return bytes[ip + 6] === 58 && bytes[ip + IP6]! < 128;
  const type = bytes[ip + (bytes[ip]! & 15) * 4]!;
  return bytes[ip + 9] === 1 && type !== 0 && type !== 8;
}
