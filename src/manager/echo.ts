/**
 * The mode "echo": an interface into which a program breathes life. Every address behind it answers pings;
 * behind a TAP each also has a hardware address, and answers requests for it. A request becomes its answer in
 * place. Not answered: fragments, IPv6 with extension headers, and what is sent to a group.
 */
import { complement, sumOf } from "../base/checksum.ts";
import { formatIPv4 } from "../base/address.ts";
import { describe, ipVersion } from "../base/packet.ts";

export const ETHERNET = 14; // bytes: destination 0–5, source 6–11, what follows 12–13
const ARP = 0x0806;
const NAMES: Record<number, string> = { 1: "icmp", 2: "igmp", 6: "tcp", 17: "udp", 58: "icmpv6" };
export const PROTOCOLS = [...Object.values(NAMES), "arp", "other"];

const isArp = (bytes: Buffer, at: number, end: number) =>
  at === ETHERNET && end >= at + 28 && bytes.readUInt16BE(12) === ARP;

/** What bytes[at, end) carries, one of PROTOCOLS. `at`: ETHERNET for a frame of a TAP, 0 for a packet. */
export function protocolOf(bytes: Buffer, at: number, end: number): string {
  if (isArp(bytes, at, end)) return "arp";
  const version = ipVersion(bytes, at, end - at);
  return (version && NAMES[bytes[at + (version === 4 ? 9 : 6)]!]) || "other";
}

/** One line about it: source, destination, protocol, ports. */
export function describeFrame(bytes: Buffer, at: number, end: number): string {
  if (isArp(bytes, at, end)) {
    const [sender, target] = [24 + 4, 24 + 14].map((offset) => formatIPv4(bytes.readUInt32BE(offset)));
    if (bytes.readUInt16BE(20) === 1) return `ARP who has ${target}? tell ${sender}`;
    return `ARP ${sender} is at ${bytes.toString("hex", 22, 28).replace(/..(?=.)/g, "$&:")}`;
  }
  if (at === ETHERNET && ipVersion(bytes, at, end - at) === 0)
    return `Ethernet type 0x${bytes.toString("hex", 12, 14)}`;
  return describe(bytes, at, end - at);
}

/** Turns the request bytes[0, end) into its answer. Returns where that ends; 0: it gets none. */
export function answer(bytes: Buffer, at: number, end: number): number {
  if (isArp(bytes, at, end)) return answerArp(bytes);
  if (at === ETHERNET && bytes[0]! & 1 && !isSolicitation(bytes, at, end)) return 0; // to a group
  const version = ipVersion(bytes, at, end - at);
  if (version === 4) return answerEcho(bytes, at, end);
  if (version !== 6 || bytes[at + 6] !== 58 || end < at + 48) return 0;
  return isSolicitation(bytes, at, end) ? answerNeighbour(bytes, at) : answerEcho6(bytes, at, end);
}

/** RFC 792: type 8 becomes 0, and the addresses change places: the IP header's checksum stays as it is. */
function answerEcho(bytes: Buffer, at: number, end: number): number {
  const icmp = at + (bytes[at]! & 15) * 4;
  const isFragment = (bytes.readUInt16BE(at + 6) & 0x3fff) !== 0;
  if (bytes[at + 9] !== 1 || isFragment || end < icmp + 8 || bytes[icmp] !== 8 || bytes[at + 16]! >= 224)
    return 0;
  swap(bytes, at + 12, at + 16, 4);
  return retype(bytes, at, icmp, 0, end);
}

/** RFC 4443, section 4.2: type 128 becomes 129. */
function answerEcho6(bytes: Buffer, at: number, end: number): number {
  if (bytes[at + 40] !== 128 || bytes[at + 24] === 0xff) return 0;
  swap(bytes, at + 8, at + 24, 16);
  return retype(bytes, at, at + 40, 129, end);
}

/** Another type, and the checksum that goes with it (RFC 1624, equation 3). */
function retype(bytes: Buffer, at: number, icmp: number, type: number, end: number): number {
  const before = bytes.readUInt16BE(icmp);
  bytes[icmp] = type;
  const sum = (~bytes.readUInt16BE(icmp + 2) & 0xffff) + (~before & 0xffff) + bytes.readUInt16BE(icmp);
  bytes.writeUInt16BE(complement(sum), icmp + 2);
  if (at === ETHERNET) swap(bytes, 0, 6, 6);
  return end;
}

/**
 * RFC 826: operation at 20, sender's hardware address at 22 and IP address at 28, target's at 32 and 38. A
 * question whether an address is free (RFC 5227) gets no answer.
 */
function answerArp(bytes: Buffer): number {
  const [sender, target] = [bytes.readUInt32BE(28), bytes.readUInt32BE(38)];
  if (bytes.readUInt16BE(20) !== 1 || sender === 0 || sender === target) return 0;
  bytes[21] = 2; // a reply
  swap(bytes, 22, 32, 10);
  address(bytes, 28, 22);
  bytes.copy(bytes, 0, 32, 38);
  bytes.copy(bytes, 6, 22, 28);
  return ETHERNET + 28;
}

/** A neighbour solicitation, for whoever has that address. */
const isSolicitation = (bytes: Buffer, at: number, end: number) =>
  at === ETHERNET &&
  end >= at + 64 &&
  ipVersion(bytes, at, end - at) === 6 &&
  bytes[at + 6] === 58 &&
  bytes[at + 40] === 135;

/**
 * RFC 4861, section 4.4: behind the IPv6 header type, code, checksum at 2, flags at 4, target at 8, and the
 * option "target's link-layer address" at 24. A question whether an address is free gets no answer.
 */
function answerNeighbour(bytes: Buffer, at: number): number {
  const icmp = at + 40;
  if (bytes.readBigUInt64BE(at + 8) === 0n) return 0;
  bytes.copy(bytes, at + 24, at + 8, at + 24);
  bytes.copy(bytes, at + 8, icmp + 8, icmp + 24);
  bytes.writeUInt16BE(32, at + 4); // payload, bytes
  bytes[at + 7] = 255; // hop limit
  bytes.writeUInt32BE(0x88000000, icmp); // type 136
  bytes.writeUInt32BE(0x60000000, icmp + 4); // solicited, override
  bytes.writeUInt16BE(0x0201, icmp + 24); // target's link-layer address, 1 × 8 bytes
  address(bytes, icmp + 20, icmp + 26);
  bytes.copy(bytes, 0, 6, 12);
  bytes.copy(bytes, 6, icmp + 26, icmp + 32);
  const pseudo = sumOf(bytes, at + 8, at + 40) + 32 + 58; // RFC 8200, section 8.1
  bytes.writeUInt16BE(complement(pseudo + sumOf(bytes, icmp, icmp + 32)), icmp + 2);
  return icmp + 32;
}

/** Writes at `to` a hardware address: 02:00, then the 4 bytes at `from`, the last ones of an IP address. */
function address(bytes: Buffer, from: number, to: number): void {
  bytes.copy(bytes, to + 2, from, from + 4);
  bytes.writeUInt16BE(0x0200, to); // locally administered
}

function swap(bytes: Buffer, one: number, other: number, size: number): void {
  for (let i = 0; i < size; i++) {
    const byte = bytes[one + i]!;
    bytes[one + i] = bytes[other + i]!;
    bytes[other + i] = byte;
  }
}
