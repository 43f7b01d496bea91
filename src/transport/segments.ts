/**
 * Large TCP packets are cut before they go into datagrams, and joined when they come out. With offload, the
 * TUN gives us up to 64 KB of a TCP stream behind the headers of one packet. Over TCP, the tunnel carries it
 * whole. A datagram cannot, because the network takes 1,500 bytes. So we do what a network card does (TSO;
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
import { MIN_MTU6, tooBig } from "./too-big.ts";
import { trace } from "../base/trace.ts";
import { type Tun, writePacket } from "../core/tun.ts";

const NEEDS_CHECKSUM = 1; // the offload header's flags: see core/offload.ts
const [IPV4, IPV6] = [1, 4]; // its gso_type
const [DONT_FRAGMENT, MORE_FRAGMENTS] = [0x4000, 0x2000]; // in the word at byte 6 of an IPv4 header (RFC 791)
const [FIN, PSH, ACK, CWR] = [0x01, 0x08, 0x10, 0x80]; // of TCP's flags
const TCP = 6;
const TCP_CHECKSUM = 16; // where in the TCP header
const LARGEST = 65_535; // bytes of an IP packet

// Where the headers of one stream's packets are the same: a 1 for each such bit, in words, from the offload
// header on. They differ in that; in IP's length, id and checksum; in TCP's sequence number, flags, checksum.
const SAME_IPV4 = sameBits(20, [2, 6], [10, 12]);
const SAME_IPV6 = sameBits(40, [4, 6]);
const FIRST_HALF = 0xffff; // of a word: little-endian

/** What the pieces of a packet are: the packet itself, TCP segments, or fragments of IP. */
type Pieces = "whole" | "segments" | "fragments";

/** Cuts the packets of one TUN for one link. Each piece is made in place, as late as it can be. */
export class SegmentCutter implements Cutter {
  at = 0; // where the latest piece is; before the first one, a step in front of it
  size = 0; // bytes of it; 0: there was none yet
  private readonly largest: () => number;
  private memory: Memory | undefined;
  private pieces: Pieces = "whole";
  private left = 0; // bytes of payload in pieces to come
  private headers = 0; // bytes in front of a piece's payload: the offload, IP and TCP headers
  private step = 0; // bytes of payload in a piece, but for the last one
  private behind = 0; // what was behind the latest piece: its padding may have taken the place
  private tcp = 0; // of segments: where the TCP header is in a piece
  private tcpFlags = 0; // of segments: those of the last one
  private isIPv6 = false; // of segments
  private readonly sums = new Sums(); // of segments
  private fragment = 0; // of fragments: the next one's flags and offset, as in its IPv4 header

  /** @param largest bytes of the largest IP packet that the link takes now */
  constructor(largest: () => number) {
    this.largest = largest;
  }

  begin(tun: Tun, memory: Memory, at: number, count: number): string | undefined {
    const { bytes } = memory;
    const largest = this.largest();
    this.memory = memory;
    this.left = 0;
    if (count - OFFLOAD_HEADER <= largest) return this.start("whole", at, count, 0, count);
    const ip = at + OFFLOAD_HEADER;
    if (largest < MIN_MTU6 && bytes[ip]! >> 4 === 6 && bytes[ip + 6] === TCP) {
      // No kernel makes IPv6 packets of so few bytes, whoever asks. So a lone segment is cut, too.
      if (bytes[at + 1] === 0) bytes.writeUInt16LE(LARGEST, at + 4);
      bytes[at + 1] = IPV6;
      bytes.writeUInt16LE(40, at + 6);
    }
    const cut = bytes[at + 1]!;
    if (cut === 0 && bytes[ip] === 0x45 && (bytes[ip + 6]! & (DONT_FRAGMENT >> 8)) === 0)
      return this.beginFragments(bytes, at, count, largest);
    if (cut !== IPV4 && cut !== IPV6) {
      tooBig(tun, memory, at, count, largest);
      return "it is larger than the path takes";
    }
    this.isIPv6 = cut === IPV6;
    this.tcp = OFFLOAD_HEADER + bytes.readUInt16LE(at + 6); // csum_start
    const headers = this.tcp + (bytes[at + this.tcp + 12]! >> 4) * 4;
    const room = largest - headers + OFFLOAD_HEADER;
    const wish = Math.max(bytes.readUInt16LE(at + 4), MIN_PIECE); // 1, if somebody sends a byte at a time
    const step = Math.min(wish, room) & ~3; // so that XOR can go by words
    if (step <= 0) return "its headers are larger than the path takes";
    this.tcpFlags = bytes[at + this.tcp + 13]!;
    bytes.fill(0, at, ip);
    askForChecksum(bytes, at, this.tcp);
    this.sums.take(bytes, ip, at + this.tcp, this.isIPv6);
    return this.start("segments", at, count, headers, step);
  }

  /** An IPv4 packet that may be cut by IP itself: its kernel at the end puts it together (RFC 791). */
  private beginFragments(bytes: Buffer, at: number, count: number, largest: number): undefined {
    const ip = at + OFFLOAD_HEADER;
    if (bytes[at]! & NEEDS_CHECKSUM) {
      const start = ip + bytes.readUInt16LE(at + 6);
      const sum = complement(sumOf(bytes, start, at + count)); // the pseudo header's is in its field already
      bytes.writeUInt16BE(sum || 0xffff, start + bytes.readUInt16LE(at + 8)); // 0 is "none" to UDP
    }
    this.fragment = bytes.readUInt16BE(ip + 6);
    bytes.fill(0, at, ip);
    return this.start("fragments", at, count, OFFLOAD_HEADER + 20, Math.max(8, (largest - 20) & ~7));
  }

  /** The packet of `count` bytes at `at` is to be made into such pieces: next() gives one after the other. */
  private start(pieces: Pieces, at: number, count: number, headers: number, step: number): undefined {
    this.pieces = pieces;
    this.at = at - step;
    this.size = 0;
    this.headers = headers;
    this.step = step;
    this.left = count - headers;
  }

  next(): boolean {
    if (this.left <= 0) return false;
    const { bytes } = this.memory!;
    const { pieces, at, size, headers, step } = this;
    const isFirst = size === 0;
    this.at = at + step;
    if (!isFirst) {
      // The headers move to the front of the next piece, over what has been sent.
      bytes.writeInt32LE(this.behind, at + size);
      bytes.copyWithin(this.at, at, at + headers);
    }
    const payload = Math.min(step, this.left);
    if (pieces === "segments") this.finishSegment(bytes, this.at, payload, isFirst);
    if (pieces === "fragments") this.finishFragment(bytes, this.at, payload);
    this.size = headers + payload;
    this.left -= payload;
    if (this.left > 0) this.behind = bytes.readInt32LE(this.at + this.size);
    return true;
  }

  /** Makes the headers at `at` those of a segment with `payload` bytes. */
  private finishSegment(bytes: Buffer, at: number, payload: number, isFirst: boolean): void {
    const ip = at + OFFLOAD_HEADER;
    const tcp = at + this.tcp;
    const length = at + this.headers + payload - ip; // of the packet
    if (!isFirst) {
      bytes.writeInt32BE((bytes.readInt32BE(tcp + 4) + this.step) | 0, tcp + 4); // sequence number
      if (!this.isIPv6) bytes.writeUInt16BE((bytes.readUInt16BE(ip + 4) + 1) & 0xffff, ip + 4); // id
    }
    const isLast = payload === this.left;
    const notHere = (isFirst ? 0 : CWR) | (isLast ? 0 : FIN | PSH);
    bytes[tcp + 13] = this.tcpFlags & ~notHere;
    setLength(bytes, ip, tcp, length, this.isIPv6, this.sums);
  }

  private finishFragment(bytes: Buffer, at: number, payload: number): void {
    const ip = at + OFFLOAD_HEADER;
    const isLast = payload === this.left;
    bytes.writeUInt16BE(20 + payload, ip + 2);
    bytes.writeUInt16BE(isLast ? this.fragment : this.fragment | MORE_FRAGMENTS, ip + 6);
    this.fragment += payload / 8; // offsets count by 8 bytes
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
    if ((at & 3) !== 0) return false; // isSameStream() compares words
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
      (at & 3) !== 0 ||
      payload <= 0 ||
      payload > step ||
      this.size + payload > LARGEST ||
      bytes[at] === 0 ||
      bytes[at + 1] !== 0 ||
      (flags & ~PSH) !== ACK ||
      bytes.readInt32BE(at + tcp + 4) !== this.sequence ||
      lengthOf(bytes, at + OFFLOAD_HEADER, this.isIPv6) !== size - OFFLOAD_HEADER ||
      !this.isSameStream(memory, at)
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

  /** Are the headers the same, where those of one stream are? They end in the middle of a word. */
  private isSameStream({ words }: Memory, at: number): boolean {
    const same = this.isIPv6 ? SAME_IPV6 : SAME_IPV4;
    const last = this.headers >> 2;
    const first = this.at >> 2;
    const second = at >> 2;
    let difference = (words[first + last]! ^ words[second + last]!) & FIRST_HALF;
    for (let i = 2; i < last; i++) difference |= (words[first + i]! ^ words[second + i]!) & same[i]!;
    return difference === 0;
  }

  /** Makes the first one's headers those of all. */
  private finish(bytes: Buffer): void {
    const { at, tcp, headers } = this;
    const ip = at + OFFLOAD_HEADER;
    bytes[at + 1] = this.isIPv6 ? IPV6 : IPV4;
    bytes.writeUInt16LE(headers - OFFLOAD_HEADER, at + 2);
    bytes.writeUInt16LE(this.step, at + 4);
    askForChecksum(bytes, at, tcp);
    this.sums.take(bytes, ip, at + tcp, this.isIPv6);
    setLength(bytes, ip, at + tcp, this.size - OFFLOAD_HEADER, this.isIPv6, this.sums);
  }
}

function sameBits(ipHeader: number, ...differing: [from: number, to: number][]): Uint32Array {
  const [ip, tcp] = [OFFLOAD_HEADER, OFFLOAD_HEADER + ipHeader];
  const bytes = new Uint8Array(tcp + 60 + 2).fill(0xff); // TCP's longest header; to the end of a word
  bytes.fill(0, 0, ip);
  for (const [from, to] of differing) bytes.fill(0, ip + from, ip + to);
  bytes
    .fill(0, tcp + 4, tcp + 8)
    .fill(0, tcp + 13, tcp + 14)
    .fill(0, tcp + 16, tcp + 18);
  return new Uint32Array(bytes.buffer);
}

/** Leaves the checksum of the packet behind the offload header to the kernel. `tcp`: where TCP begins. */
function askForChecksum(bytes: Buffer, at: number, tcp: number): void {
  bytes[at] = NEEDS_CHECKSUM;
  bytes.writeUInt16LE(tcp - OFFLOAD_HEADER, at + 6);
  bytes.writeUInt16LE(TCP_CHECKSUM, at + 8);
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
