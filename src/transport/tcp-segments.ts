/**
 * TCP segments made by hand, IP header included: what raw.ts sends, and how it reads what comes. No kernel
 * keeps a connection of them. They only look like a part of one (RFC 9293, RFC 7323; IP: RFC 791, RFC 8200).
 *
 *   IPv4: 20 bytes, or IPv6: 40       TCP: 32 bytes
 *   no options, don't fragment        offset size
 *                                     0      4    the two ports
 *                                     4      4    seq: bytes that were sent before
 *                                     8      4    ack: the next byte that is expected
 *                                     12     1    length of this header, in words: 8; then 4 zero bits
 *                                     13     1    flags
 *                                     14     2    window
 *                                     16     2    checksum, with addresses and payload
 *                                     18     2    urgent pointer: 0
 *                                     20     12   two NOPs; timestamps: ours, and the other's latest
 *                                     32     …    payload
 */
import { randomBytes } from "node:crypto";
import { complement, fold, sumOf } from "../base/checksum.ts";
import type { Memory } from "../base/libc.ts";
import { endpoint, readSockaddr } from "./addresses.ts";

export const [TCP_HEADER, CHECKSUM] = [32, 16]; // bytes, and where it has its checksum
const [IPV4_HEADER, IPV6_HEADER] = [20, 40];
const TCP = 6; // IPPROTO_TCP
const WINDOW = 502; // what Linux says for 64 KB and a window scale of 7

export const RST = 0x04;

/** The headers around a payload that goes to that family; bytes. */
export const around = (isIPv6: boolean) => (isIPv6 ? IPV6_HEADER : IPV4_HEADER) + TCP_HEADER;

/** One direction of a made-up connection, from here to there. */
export class Flow {
  readonly address: string; // of the other end
  readonly text: string; // with its port
  readonly isIPv6: boolean;
  readonly header: number; // bytes, of IP and TCP
  readonly here: Buffer; // our sockaddr
  readonly name: Buffer; // the other end's address and port
  readonly to: Buffer; // the other end's sockaddr, as a raw socket takes it: without a port
  /** Who hands on what we send: a sockaddr_ll, and the link's header. Undefined: the kernel finds out. */
  hop: { name: Buffer; header: Buffer } | undefined;
  private readonly template: Buffer;
  private readonly start: number; // of the TCP header
  private readonly pseudo: number; // of what the checksum covers besides the segment: addresses, protocol
  private readonly sum: number; // the same, and the header's fields that never change
  private readonly clock = randomBytes(4).readUInt32BE(); // ms: what our timestamps begin with
  private seq: number;
  private ack: number;
  private echo: number; // the other end's latest timestamp
  private id = randomBytes(2).readUInt16BE(); // of the IPv4 packet
  private turn = 0; // in the cycle of flags
  private readonly flags: readonly number[];

  /**
   * @param here our sockaddr, and the other end's: addresses.ts
   * @param flags a cycle of them; each segment takes the next one
   * @param before what came from there, if anything did: this goes on from it
   */
  constructor(here: Buffer, there: Buffer, flags: readonly number[], before?: Segment) {
    const [address, port] = readSockaddr(there);
    this.here = here;
    this.address = address;
    this.text = endpoint(address, port);
    this.isIPv6 = there.length > 16;
    this.flags = flags;
    this.header = around(this.isIPv6);
    this.start = this.header - TCP_HEADER;
    this.to = Buffer.from(there).fill(0, 2, 4);
    const [from, to] = this.isIPv6 ? [8, 24] : [4, 8]; // of the address in a sockaddr
    this.name = Buffer.concat([there.subarray(from, to), there.subarray(2, 4)]);
    this.template = Buffer.alloc(this.header);
    const { template, start } = this;
    if (this.isIPv6) {
      template.set([0x60, 0, 0, 0, 0, 0, TCP, 64]);
      here.copy(template, 8, from, to);
      there.copy(template, 24, from, to);
    } else {
      template.set([0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, TCP]); // 0x40: don't fragment
      here.copy(template, 12, from, to);
      there.copy(template, 16, from, to);
    }
    here.copy(template, start, 2, 4);
    there.copy(template, start + 2, 2, 4);
    template[start + 12] = (TCP_HEADER / 4) << 4;
    template.writeUInt16BE(WINDOW, start + 14);
    template.set([1, 1, 8, 10], start + 20); // NOP, NOP, timestamps, of 10 bytes
    this.pseudo = sumOf(template, this.isIPv6 ? 8 : 12, start) + TCP;
    this.sum = this.pseudo + sumOf(template, start, this.header);
    this.seq = before ? before.ack : randomBytes(4).readUInt32BE();
    this.ack = before ? before.next : randomBytes(4).readUInt32BE();
    this.echo = before ? before.stamp : 0;
  }

  /**
   * Writes the headers for the `size` bytes at memory[at + header …], which begin at a multiple of 4. Returns
   * the bytes of all. `segment`: the kernel is to cut it into pieces of so many bytes, and to finish the
   * checksum, which then has the sum of the pseudo header only.
   */
  write(memory: Memory, at: number, size: number, segment = 0): number {
    const { template, start, header, seq, ack, echo } = this;
    const { bytes } = memory;
    const tcp = at + start;
    const stamp = (this.clock + performance.now()) >>> 0;
    template.copy(bytes, at);
    if (this.isIPv6) bytes.writeUInt16BE(TCP_HEADER + size, at + 4);
    else {
      bytes.writeUInt16BE(header + size, at + 2);
      bytes.writeUInt16BE(this.id, at + 4);
      this.id = (this.id + (segment > 0 ? Math.ceil(size / segment) : 1)) & 0xffff;
      bytes.writeUInt16BE(complement(sumOf(bytes, at, at + IPV4_HEADER)), at + 10);
    }
    const flags = this.flags[this.turn++ % this.flags.length]!;
    bytes.writeUInt32BE(seq, tcp + 4);
    bytes.writeUInt32BE(ack, tcp + 8);
    bytes[tcp + 13] = flags;
    bytes.writeUInt32BE(stamp, tcp + 24);
    bytes.writeUInt32BE(echo, tcp + 28);
    if (segment > 0) bytes.writeUInt16BE(fold(this.pseudo + TCP_HEADER + size), tcp + CHECKSUM);
    else {
      const words = halves(seq) + halves(ack) + halves(stamp) + halves(echo);
      const payload = sumOfWords(memory, at + header, size);
      bytes.writeUInt16BE(complement(this.sum + TCP_HEADER + size + flags + words + payload), tcp + CHECKSUM);
    }
    this.seq = (seq + size) >>> 0;
    return header + size;
  }

  /** For ping: the packet is dropped after so many routers. */
  set hops(count: number) {
    this.template[this.isIPv6 ? 7 : 8] = count;
  }

  /** Has that segment come from the other end, to our end? */
  isFrom({ bytes, at, tcp }: Segment): boolean {
    const { template, start } = this;
    const [own, length] = this.isIPv6 ? [8, 16] : [12, 4];
    const [from, to] = [at + own, at + own + length]; // its source, and its destination
    return (
      bytes[at]! >> 4 === template[0]! >> 4 &&
      bytes.compare(template, own + length, own + 2 * length, from, to) === 0 &&
      bytes.compare(template, own, own + length, to, to + length) === 0 &&
      bytes.readUInt16BE(tcp) === template.readUInt16BE(start + 2) &&
      bytes.readUInt16BE(tcp + 2) === template.readUInt16BE(start)
    );
  }

  /** From now on, what we send acknowledges that. */
  took(segment: Segment): void {
    if (((segment.next - this.ack) | 0) > 0) this.ack = segment.next;
    this.echo = segment.stamp;
  }
}

const halves = (word: number) => (word >>> 16) + (word & 0xffff);

/** Like sumOf(), of bytes that begin at a multiple of 4, four at a time. The sum minds no byte order. */
function sumOfWords({ bytes, words }: Memory, from: number, size: number): number {
  let sum = 0;
  const last = (from + size) >> 2;
  for (let i = from >> 2; i < last; i++) sum += words[i]!;
  const rest = sumOf(bytes, last * 4, from + size);
  while (sum > 0xffff) sum = (sum % 0x10000) + Math.floor(sum / 0x10000);
  return ((sum & 0xff) << 8) + (sum >> 8) + rest; // the words were read as little-endian
}

/** What came, where it lies in memory. One object for all. */
export class Segment {
  bytes: Buffer = Buffer.alloc(0);
  at = 0; // the IP header
  tcp = 0; // the TCP header
  payload = 0;
  size = 0; // bytes of payload
  flags = 0;
  ack = 0;
  next = 0; // the seq that follows
  stamp = 0; // the sender's timestamp, or 0

  /** Reads the IP packet bytes[at, end). False if that is no whole TCP segment. */
  read(bytes: Buffer, at: number, end: number): boolean {
    const version = end > at ? bytes[at]! >> 4 : 0;
    const shortest = version === 6 ? IPV6_HEADER : IPV4_HEADER;
    if ((version !== 4 && version !== 6) || end - at < shortest + 20) return false;
    const tcp = at + (version === 6 ? IPV6_HEADER : (bytes[at]! & 15) * 4);
    const length = version === 6 ? IPV6_HEADER + bytes.readUInt16BE(at + 4) : bytes.readUInt16BE(at + 2);
    if (bytes[at + (version === 6 ? 6 : 9)] !== TCP || tcp < at + shortest) return false;
    if (at + length > end || tcp + 20 > at + length) return false;
    const payload = tcp + (bytes[tcp + 12]! >> 4) * 4;
    if (payload < tcp + 20 || payload > at + length) return false;
    [this.bytes, this.at, this.tcp, this.payload] = [bytes, at, tcp, payload];
    this.size = at + length - payload;
    this.flags = bytes[tcp + 13]!;
    this.ack = bytes.readUInt32BE(tcp + 8);
    this.next = (bytes.readUInt32BE(tcp + 4) + this.size) >>> 0;
    const hasStamp = payload >= tcp + TCP_HEADER && bytes.readUInt32BE(tcp + 20) === 0x0101080a;
    this.stamp = hasStamp ? bytes.readUInt32BE(tcp + 24) : 0;
    return true;
  }

  /** The sockaddr of its sender, and of its receiver. */
  get ends(): [from: Buffer, to: Buffer] {
    const { bytes, at, tcp } = this;
    return [0, 1].map((i) => {
      const isIPv6 = bytes[at]! >> 4 === 6;
      const name = Buffer.alloc(isIPv6 ? 28 : 16);
      name.writeUInt16LE(isIPv6 ? 10 : 2); // AF_INET6, AF_INET
      bytes.copy(name, 2, tcp + 2 * i, tcp + 2 * i + 2);
      if (isIPv6) bytes.copy(name, 8, at + 8 + 16 * i, at + 24 + 16 * i);
      else bytes.copy(name, 4, at + 12 + 4 * i, at + 16 + 4 * i);
      return name;
    }) as [Buffer, Buffer];
  }
}
