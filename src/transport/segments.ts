/**
 * Large TCP packets are cut before they go into datagrams, and joined when they come out. With offload, the
 * TUN gives us up to 64 KB of a TCP stream behind the headers of one packet. TCP on the wire would carry that
 * whole. A datagram cannot, because the network takes 1,500 bytes. So we do what a network card does (TSO,
 * GSO in the kernel), and at the other end what GRO does:
 *
 *   IP | TCP seq 1000 | 4,000 bytes     ◀─ join ─ ─ cut ─▶     IP | TCP seq 1000 | 1,372 bytes
 *                                                              IP | TCP seq 2372 | 1,372 bytes
 *                                                              IP | TCP seq 3744 | 1,256 bytes
 *
 * Each piece is a whole packet, not "part 2 of 3": a lost datagram costs one packet. No checksum of TCP's is
 * computed here. Its field holds the sum of the pseudo header only, and the packet's offload header says that
 * the kernel has to finish it (RFC 9293, section 3.1; linux Documentation/networking/checksum-offloads.rst).
 */
import { complement, fold, sumOf } from "../base/checksum.ts";
import type { Cutter } from "../core/link.ts";
import type { Memory } from "../base/libc.ts";
import { MIN_PIECE, OFFLOAD_HEADER } from "../core/offload.ts";
import { tooBig } from "./too-big.ts";
import { trace } from "../base/trace.ts";
import { type Tun, writePacket } from "../core/tun.ts";

const NEEDS_CHECKSUM = 1; // the offload header's flags: see core/offload.ts
const [IPV4, IPV6] = [1, 4]; // its gso_type
const [DONT_FRAGMENT, MORE_FRAGMENTS] = [0x4000, 0x2000]; // in the word at byte 6 of an IPv4 header (RFC 791)
const [FIN, PSH, ACK, CWR] = [0x01, 0x08, 0x10, 0x80]; // of TCP's flags
const TCP = 6;
const TCP_CHECKSUM = 16; // where in the TCP header
const LARGEST = 65_535; // bytes of an IP packet

/** Cuts the packets of one TUN for one link. Each piece is made in place, as late as it can be. */
export class SegmentCutter implements Cutter {
  at = 0;
  size = 0;
  private readonly largest: () => number;
  private memory: Memory | undefined;
  private left = 0; // bytes of payload in pieces to come; -1: the packet goes as it is
  private headers = 0; // bytes of the offload, IP and TCP headers
  private step = 0; // bytes of payload in a piece
  private tcp = 0; // where the TCP header is in the piece
  private isIPv6 = false;
  private fragments = false; // of IP, not of TCP
  private flags = 0; // of TCP, for the last piece; or of the next fragment, with its offset
  private readonly sums = new Sums();
  private behind = 0; // what was behind the last piece: its padding may have taken the place

  /** @param largest bytes of the largest IP packet that the link takes now */
  constructor(largest: () => number) {
    this.largest = largest;
  }

  begin(tun: Tun, memory: Memory, at: number, count: number): string | undefined {
    const { bytes } = memory;
    const largest = this.largest();
    this.memory = memory;
    this.at = at;
    this.size = 0;
    this.left = -1;
    if (count - OFFLOAD_HEADER <= largest) {
      this.size = count;
      return undefined;
    }
    const cut = bytes[at + 1]!;
    const ip = at + OFFLOAD_HEADER;
    this.fragments = cut === 0 && bytes[ip] === 0x45 && (bytes[ip + 6]! & (DONT_FRAGMENT >> 8)) === 0;
    if (this.fragments) return this.beginFragments(bytes, at, count, largest);
    if (cut !== IPV4 && cut !== IPV6) {
      tooBig(tun, memory, at, count, largest);
      return "it is larger than the path takes";
    }
    this.isIPv6 = cut === IPV6;
    this.tcp = OFFLOAD_HEADER + bytes.readUInt16LE(at + 6); // csum_start
    this.headers = this.tcp + (bytes[at + this.tcp + 12]! >> 4) * 4;
    const room = largest - this.headers + OFFLOAD_HEADER;
    const wish = Math.max(bytes.readUInt16LE(at + 4), MIN_PIECE); // 1, if somebody sends a byte at a time
    this.step = Math.min(wish, room) & ~3; // so that XOR can go by words
    if (this.step <= 0) return "its headers are larger than the path takes";
    this.left = count - this.headers;
    this.flags = bytes[at + this.tcp + 13]!;
    this.at = at - this.step;
    bytes.fill(0, at, at + OFFLOAD_HEADER);
    this.sums.take(bytes, ip, at + this.tcp, this.isIPv6);
    return undefined;
  }

  /** An IPv4 packet that may be cut by IP itself: its kernel at the end puts it together (RFC 791). */
  private beginFragments(bytes: Buffer, at: number, count: number, largest: number): undefined {
    const ip = at + OFFLOAD_HEADER;
    if (bytes[at]! & NEEDS_CHECKSUM) {
      const start = ip + bytes.readUInt16LE(at + 6);
      const sum = complement(sumOf(bytes, start, at + count)); // the pseudo header's is in its field already
      bytes.writeUInt16BE(sum || 0xffff, start + bytes.readUInt16LE(at + 8)); // 0 is "none" to UDP
    }
    this.tcp = this.headers = OFFLOAD_HEADER + 20;
    this.step = Math.max(8, (largest - 20) & ~7);
    this.left = count - this.headers;
    this.flags = bytes.readUInt16BE(ip + 6);
    this.at = at - this.step;
    bytes.fill(0, at, ip);
    return undefined;
  }

  next(): boolean {
    if (this.left < 0) {
      this.left = 0; // once
      return this.size > 0;
    }
    if (this.left === 0) return false;
    const { bytes } = this.memory!;
    const { at, size, headers, step } = this;
    this.at = at + step;
    if (size > 0) {
      // The headers move to the front of the next piece, over what has been sent.
      bytes.writeInt32LE(this.behind, at + size);
      bytes.copyWithin(this.at, at, at + headers);
    }
    const payload = Math.min(step, this.left);
    if (this.fragments) this.finishFragment(bytes, this.at, payload);
    else this.finish(bytes, this.at, payload, size === 0);
    this.size = headers + payload;
    this.left -= payload;
    if (this.left > 0) this.behind = bytes.readInt32LE(this.at + this.size);
    return true;
  }

  /** Makes the headers at `at` those of a piece with `payload` bytes. */
  private finish(bytes: Buffer, at: number, payload: number, isFirst: boolean): void {
    const ip = at + OFFLOAD_HEADER;
    const tcp = at + this.tcp;
    const length = at + this.headers + payload - ip; // of the packet
    bytes[at] = NEEDS_CHECKSUM;
    bytes.writeUInt16LE(tcp - ip, at + 6);
    bytes.writeUInt16LE(TCP_CHECKSUM, at + 8);
    if (!isFirst) {
      bytes.writeInt32BE((bytes.readInt32BE(tcp + 4) + this.step) | 0, tcp + 4); // sequence number
      if (!this.isIPv6) bytes.writeUInt16BE((bytes.readUInt16BE(ip + 4) + 1) & 0xffff, ip + 4); // id
    }
    const isLast = payload === this.left;
    const notHere = (isFirst ? 0 : CWR) | (isLast ? 0 : FIN | PSH);
    bytes[tcp + 13] = this.flags & ~notHere;
    setLength(bytes, ip, tcp, length, this.isIPv6, this.sums);
  }

  private finishFragment(bytes: Buffer, at: number, payload: number): void {
    const ip = at + OFFLOAD_HEADER;
    const isLast = payload === this.left;
    bytes.writeUInt16BE(20 + payload, ip + 2);
    bytes.writeUInt16BE(isLast ? this.flags : this.flags | MORE_FRAGMENTS, ip + 6);
    this.flags += payload / 8; // offsets count by 8 bytes
    setHeaderSum(bytes, ip, ip + 20);
  }
}

/**
 * Joins the packets that one socket has brought, until flush(). Those of two clients never meet in one: each
 * has passed Peer's refuse(), so its source is its own, and only packets of one source are joined.
 */
export class SegmentJoiner {
  private tun: Tun | undefined;
  private memory: Memory | undefined; // undefined: there is nothing to write
  private at = 0; // of the offload header of the first
  private size = 0; // of what is joined so far, offload header included
  private tcp = 0; // where the TCP header is in it
  private headers = 0;
  private step = 0; // bytes of payload of the first
  private sequence = 0; // of the next one; signed, since V8 allocates for numbers of 2^31 and more
  private isIPv6 = false;
  private count = 0; // packets
  private readonly sums = new Sums();

  /** As writePacket(), perhaps later: with the next ones, or at flush(). */
  readonly add = (tun: Tun, memory: Memory, at: number, size: number): string | undefined => {
    if (this.memory && this.follows(memory, at, size)) return undefined;
    this.flush();
    if (!this.canBegin(memory.bytes, at, size)) return writePacket(tun, memory, at, size);
    this.tun = tun;
    this.memory = memory;
    this.at = at;
    this.size = size;
    this.count = 1;
    return undefined;
  };

  /** Writes what is joined. */
  flush(): void {
    const { memory, at, size, tun, count } = this;
    if (!memory) return;
    this.memory = undefined;
    if (count > 1) this.finish(memory.bytes);
    const refusal = writePacket(tun!, memory, at, size);
    if (refusal !== undefined) trace.drop(refusal, "", memory, at + OFFLOAD_HEADER, size - OFFLOAD_HEADER);
  }

  /**
   * Can others be joined to it? A TCP packet with payload, no options of IP, none of TCP's rarer flags, not
   * to be fragmented, and a checksum that needs no check any more. While packets are shown, each is written
   * by itself.
   */
  private canBegin(bytes: Buffer, at: number, size: number): boolean {
    const ip = at + OFFLOAD_HEADER;
    if (bytes[at] === 0 || bytes[at + 1] !== 0 || size < OFFLOAD_HEADER + 60 || trace.clock() !== 0n)
      return false;
    this.isIPv6 = bytes[ip]! >> 4 === 6;
    const isPlain = this.isIPv6
      ? bytes[ip + 6] === TCP
      : bytes[ip] === 0x45 && bytes[ip + 9] === TCP && bytes.readUInt16BE(ip + 6) === DONT_FRAGMENT;
    if (!isPlain) return false;
    this.tcp = OFFLOAD_HEADER + (this.isIPv6 ? 40 : 20);
    this.headers = this.tcp + (bytes[at + this.tcp + 12]! >> 4) * 4;
    this.step = size - this.headers;
    if (
      this.headers < this.tcp + 20 ||
      this.step < MIN_PIECE || // the kernel cuts none that are smaller
      lengthOf(bytes, ip, this.isIPv6) !== size - OFFLOAD_HEADER
    )
      return false;
    this.sequence = (bytes.readInt32BE(at + this.tcp + 4) + this.step) | 0;
    return bytes[at + this.tcp + 13] === ACK; // PSH: nothing may follow
  }

  /** Joins it, if it is the next of the same stream. */
  private follows(memory: Memory, at: number, size: number): boolean {
    const { bytes } = memory;
    const { headers, tcp, step } = this;
    const payload = size - headers;
    const flags = bytes[at + tcp + 13]!;
    if (
      memory !== this.memory ||
      payload <= 0 ||
      payload > step ||
      this.size + payload > LARGEST ||
      bytes[at] === 0 ||
      bytes[at + 1] !== 0 ||
      (flags & ~PSH) !== ACK ||
      bytes.readInt32BE(at + tcp + 4) !== this.sequence ||
      lengthOf(bytes, at + OFFLOAD_HEADER, this.isIPv6) !== size - OFFLOAD_HEADER ||
      !this.isSameStream(bytes, at)
    )
      return false;
    bytes.copyWithin(this.at + this.size, at + headers, at + size);
    this.size += payload;
    this.sequence = (this.sequence + payload) | 0;
    this.count++;
    if (payload < step || flags & PSH) {
      bytes[this.at + tcp + 13] = flags;
      this.flush();
    }
    return true;
  }

  /** Are all the headers' bytes the same, but for length, id, checksums, sequence number and flags? */
  private isSameStream(bytes: Buffer, at: number): boolean {
    const { at: first, tcp, headers } = this;
    const ip = OFFLOAD_HEADER;
    return (
      same(bytes, first, at, ip, ip + (this.isIPv6 ? 4 : 2)) &&
      same(bytes, first, at, ip + 6, ip + (this.isIPv6 ? 40 : 10)) &&
      (this.isIPv6 || same(bytes, first, at, ip + 12, ip + 20)) &&
      same(bytes, first, at, tcp, tcp + 4) &&
      same(bytes, first, at, tcp + 8, tcp + 12) &&
      bytes[first + tcp + 12] === bytes[at + tcp + 12] &&
      same(bytes, first, at, tcp + 14, tcp + 16) &&
      same(bytes, first, at, tcp + 18, headers)
    );
  }

  /** Makes the first one's headers those of all. */
  private finish(bytes: Buffer): void {
    const { at, tcp, headers } = this;
    const ip = at + OFFLOAD_HEADER;
    bytes[at] = NEEDS_CHECKSUM;
    bytes[at + 1] = this.isIPv6 ? IPV6 : IPV4;
    bytes.writeUInt16LE(headers - OFFLOAD_HEADER, at + 2);
    bytes.writeUInt16LE(this.step, at + 4);
    bytes.writeUInt16LE(tcp - OFFLOAD_HEADER, at + 6);
    bytes.writeUInt16LE(TCP_CHECKSUM, at + 8);
    this.sums.take(bytes, ip, at + tcp, this.isIPv6);
    setLength(bytes, ip, at + tcp, this.size - OFFLOAD_HEADER, this.isIPv6, this.sums);
  }
}

/** Are the bytes from `from` to `to` the same, counted from `first` and from `second`? */
function same(bytes: Buffer, first: number, second: number, from: number, to: number): boolean {
  for (let i = from; i < to; i++) if (bytes[first + i] !== bytes[second + i]) return false;
  return true;
}

/** The length of the packet at `ip`, as its header says it, bytes. */
const lengthOf = (bytes: Buffer, ip: number, isIPv6: boolean) =>
  isIPv6 ? 40 + bytes.readUInt16BE(ip + 4) : bytes.readUInt16BE(ip + 2);

/** What stays the same in the checksums of all pieces of a packet. */
class Sums {
  header = 0; // of the IPv4 header without its length, id and checksum
  pseudo = 0; // of the addresses and the protocol (RFC 9293, section 3.1)

  take(bytes: Buffer, ip: number, tcp: number, isIPv6: boolean): void {
    if (!isIPv6)
      this.header = sumOf(bytes, ip, ip + 2) + sumOf(bytes, ip + 6, ip + 10) + sumOf(bytes, ip + 12, tcp);
    this.pseudo = TCP + (isIPv6 ? sumOf(bytes, ip + 8, ip + 40) : sumOf(bytes, ip + 12, ip + 20));
  }
}

/**
 * Sets a packet's length, and the two sums that it is part of: the IPv4 header's, and the pseudo header's.
 */
function setLength(
  bytes: Buffer,
  ip: number,
  tcp: number,
  length: number,
  isIPv6: boolean,
  sums: Sums,
): void {
  if (isIPv6) bytes.writeUInt16BE(length - 40, ip + 4);
  else {
    const sum = complement(sums.header + length + bytes.readUInt16BE(ip + 4));
    bytes.writeUInt16BE(length, ip + 2);
    bytes.writeUInt16BE(sum, ip + 10);
  }
  bytes.writeUInt16BE(fold(sums.pseudo + ip + length - tcp), tcp + TCP_CHECKSUM);
}

function setHeaderSum(bytes: Buffer, ip: number, end: number): void {
  bytes.writeUInt16BE(0, ip + 10);
  bytes.writeUInt16BE(complement(sumOf(bytes, ip, end)), ip + 10);
}
