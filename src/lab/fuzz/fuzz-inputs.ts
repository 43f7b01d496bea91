/**
 * For the fuzzer's parsers: packets and offload headers to begin with, what is harmless among them, and the
 * way into a socket and out of it.
 */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { constants } from "node:os";
import { Failure } from "../../base/failure.ts";
import { Memory, read, thisProcess, write } from "../../base/libc.ts";
import { OFFLOAD_HEADER } from "../../core/offload.ts";
import { trace } from "../../base/trace.ts";
import type { Random } from "./random.ts";

export const SECRET = createHash("sha256").update("the fuzzer's").digest();
export const OWN = 0x0a080002; // 10.8.0.2, the hostile client's own inner address
// of the inner IPv6 addresses: the default of --subnet6
export const PREFIX6 = Buffer.from("fd56504e0000000000000000", "hex");
export const ADDRESSES = [
  OWN,
  0,
  0x0a080000,
  0x0a080001,
  0x0a080003,
  0x0a080006,
  0x0a080007,
  0x0a080008,
  0x08080808,
  0x7f000001,
  0xc0a80101,
  0xe0000001,
  0xffffffff,
];
export const io = new Memory(1 << 18);
export const shutdown = thisProcess.func("int shutdown(int fd, int how)"); // shutdown(2)
export const SHUT_WR = 1;
const { EPIPE } = constants.errno;

/** Something like an IP packet: IPv4 in most cases, from its sender's own address in half of them. */
export function packet(any: Random, most = 200): Buffer {
  const bytes = any.bytes(
    any.below(8) ? any.below(most) : any.one(0, 1, 19, 20, 21, 39, 40, 41, 60, 79, 80, 81, 1400, 65535),
  );
  if (bytes.length > 0)
    bytes[0] = any.one(0x45, 0x45, 0x45, 0x45, 0x46, 0x4f, 0x44, 0x40, 0x60, 0x60, 0x05, 0xf5);
  if (bytes.length >= 20 && any.below(8)) bytes.writeUInt32BE(any.one(OWN, any.one(...ADDRESSES)), 12);
  if (bytes.length >= 20) bytes.writeUInt32BE(any.one(...ADDRESSES), 16);
  if (bytes.length >= 20) bytes[bytes[0]! >> 4 === 6 ? 6 : 9] = any.one(1, 6, 6, 17, 58, any.below(256));
  const isSix = bytes.length >= 40 && bytes[0]! >> 4 === 6;
  if (bytes.length >= 8 && !isSix && any.below(2)) bytes.writeUInt16BE(0x4000, 6); // no fragment
  for (const at of isSix && any.below(4) ? [8, 24] : []) {
    PREFIX6.copy(bytes, at);
    bytes.writeUInt32BE(any.one(OWN, any.one(...ADDRESSES)), at + 12);
    if (any.below(8) === 0) bytes[at + any.below(12)]! ^= 1 << any.below(8);
  }
  return bytes;
}

/**
 * An offload header for an IP packet of `size` bytes: none needed; as the kernel writes it; at the packet's
 * end; or anything.
 */
export function offload(any: Random, size: number): Buffer {
  const bytes = Buffer.alloc(OFFLOAD_HEADER);
  if (any.below(3) === 0) return bytes;
  bytes.set([any.one(1, 1, 1, 0, 2, 3, any.below(256)), any.one(0, 1, 1, 4, 3, 5, 0x81, any.below(256))]);
  bytes.writeUInt16LE(any.one(1348, 1348, 48, 47, any.edge() & 0xffff), 4);
  bytes.writeUInt16LE(any.one(20, 20, 40, 60, 19, any.edge() & 0xffff), 6);
  const room = Math.max(0, size - bytes.readUInt16LE(6)); // for the checksum
  bytes.writeUInt16LE(any.one(16, 6, Math.max(0, room - 2), Math.max(0, room - 1), any.edge() & 0xffff), 8);
  return any.below(2) ? bytes : any.mutate(Buffer.concat([bytes, bytes])).subarray(0, OFFLOAD_HEADER);
}

/**
 * May the kernel be handed this offload header with this packet? As offload.ts and linux/virtio_net.h
 * describe it.
 */
export function harmless(bytes: Buffer): boolean {
  const ip = bytes.subarray(OFFLOAD_HEADER);
  const version = versionOf(ip);
  const headers = version === 4 ? (ip[0]! % 16) * 4 : 40;
  if (version === 0 || headers < 20 || headers > ip.length) return false;
  const [flags, cut, piece, start, offset] = [
    bytes[0]!,
    bytes[1]!,
    bytes.readUInt16LE(4),
    bytes.readUInt16LE(6),
    bytes.readUInt16LE(8),
  ];
  const checksum = flags === 1 || flags === 3;
  if (!checksum && flags !== 0 && flags !== 2) return false;
  if (checksum && (start < headers || start + offset + 2 > ip.length)) return false;
  if (cut === 0) return true;
  const whole = version === 6 || (ip.readUInt16BE(6) & 0x3fff) === 0;
  const tcp = ip[version === 4 ? 9 : 6] === 6 && ip.length > headers + 20 ? 4 * (ip[headers + 12]! >> 4) : 0;
  const cuttable = whole && tcp >= 20 && headers + tcp < ip.length;
  return (
    cut === (version === 4 ? 1 : 4) &&
    cuttable &&
    checksum &&
    start === headers &&
    offset === 16 &&
    piece >= 48 &&
    piece < 65535
  );
}

/** 4 or 6; 0 for what is too short to have addresses, or has another version. */
export const versionOf = (ip: Buffer) =>
  ip.length >= 20 && ip[0]! >> 4 === 4 ? 4 : ip.length >= 40 && ip[0]! >> 4 === 6 ? 6 : 0;

/** Is its source OWN, in a packet long enough to have one? */
export const isOwn = (ip: Buffer) => ip.length >= 20 && ip[0]! >> 4 === 4 && ip.readUInt32BE(12) === OWN;

/** Writes `bytes` to `fd` in pieces of at most `piece()`, and calls `take` after each. */
export function feed(fd: number, bytes: Buffer, piece: () => number, take: () => void): void {
  for (let at = 0; at < bytes.length;) {
    const size = Math.min(piece(), bytes.length - at, 60_000);
    bytes.copy(io.bytes, 0, at, at + size);
    if (write(fd, io, 0, size) === -EPIPE) return; // the other end has closed it
    at += size;
    take();
  }
}

/** All that waits in `fd`, one read() after the other. */
export function drain(fd: number): Buffer[] {
  const all: Buffer[] = [];
  for (let count = read(fd, io, 0, io.bytes.length); count > 0; count = read(fd, io, 0, io.bytes.length))
    all.push(Buffer.from(io.bytes.subarray(0, count)));
  return all;
}

/**
 * In half of the cases each packet is shown: the trace and describe() see the hostile bytes, too. Nothing is
 * printed.
 */
export function show(any: Random): void {
  Object.assign(trace, { mute: true, mode: any.one("walk", "off"), folded: false, shown: -1000 });
  trace["print"]();
}

/** What a program ends with is one line, and says what to try. */
export function checkFailure(error: unknown, exitCode = 1): void {
  assert.ok(error instanceof Failure, String(error));
  assert.equal(error.exitCode, exitCode);
  assert.match(
    error.message,
    /^Cannot [^\x00-\x1f\x7f-\x9f]+$/,
    "one line, and nothing that a terminal would obey",
  );
  assert.ok(error.hint.length > 0, "something to try");
}
