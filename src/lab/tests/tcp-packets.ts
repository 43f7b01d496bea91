/** For tests: TCP packets behind an offload header, made and checked without the code that is tested. */
import assert from "node:assert/strict";

export const OFFLOAD = 10; // bytes of its header
const NEEDS_CHECKSUM = 1;

/** RFC 1071, byte by byte: the folded sum of 16-bit words. */
export function sum(...parts: Buffer[]): number {
  const bytes = Buffer.concat(parts);
  let total = 0;
  for (let i = 0; i < bytes.length; i++) total += i % 2 ? bytes[i]! : bytes[i]! * 256;
  while (total > 0xffff) total = (total % 0x10000) + Math.floor(total / 0x10000);
  return total;
}

/** What stands before a transport's bytes when its checksum is computed (RFC 9293, 8200). */
export function pseudo(ip: Buffer, protocol: number, length: number): Buffer {
  const addresses = ip[0]! >> 4 === 6 ? ip.subarray(8, 40) : ip.subarray(12, 20);
  return Buffer.concat([addresses, Buffer.from([0, 0, length >> 8, length & 255, 0, 0, 0, protocol])]);
}

export interface Parts {
  version: 4 | 6;
  id: number; // IPv4's
  options: Buffer; // TCP's, a multiple of 4 bytes
  ipOptions: Buffer; // IPv4's
  sequence: number;
  flags: number;
  payload: Buffer;
  piece: number; // gso_size; 0: it is not to be cut
  ports: number; // both, in 4 bytes
  window: number;
}

export const PLAIN: Parts = {
  version: 4,
  id: 7,
  options: Buffer.alloc(0),
  ipOptions: Buffer.alloc(0),
  sequence: 1000,
  flags: 0x10,
  payload: Buffer.alloc(100, 1),
  piece: 0,
  ports: 0x2328_1234,
  window: 500,
};

/** A TCP packet as a kernel hands it over: its checksum is left over. */
export function tcpPacket(given: Partial<Parts>): Buffer {
  const { version, id, options, ipOptions, sequence, flags, payload, piece, ports, window } = {
    ...PLAIN,
    ...given,
  };
  const tcp = Buffer.alloc(20 + options.length);
  tcp.writeUInt32BE(ports, 0);
  tcp.writeUInt32BE(sequence, 4);
  tcp.writeUInt32BE(0x01020304, 8);
  tcp[12] = (tcp.length / 4) << 4;
  tcp[13] = flags;
  tcp.writeUInt16BE(window, 14);
  options.copy(tcp, 20);
  const length = tcp.length + payload.length;
  const ip = Buffer.alloc(version === 4 ? 20 + ipOptions.length : 40);
  if (version === 4) {
    ip[0] = 0x40 | (ip.length / 4);
    ip.writeUInt16BE(ip.length + length, 2);
    ip.writeUInt16BE(id, 4);
    ip.writeUInt16BE(0x4000, 6);
    ip[8] = 64;
    ip[9] = 6;
    ip.writeUInt32BE(0x0a080002, 12);
    ip.writeUInt32BE(0x08080808, 16);
    ipOptions.copy(ip, 20);
    ip.writeUInt16BE(~sum(ip) & 0xffff, 10);
  } else {
    ip.writeUInt32BE(0x60012345, 0);
    ip.writeUInt16BE(length, 4);
    ip[6] = 6;
    ip[7] = 64;
    for (let i = 8; i < 40; i++) ip[i] = i;
  }
  tcp.writeUInt16BE(sum(pseudo(ip, 6, length)), 16);
  const offload = Buffer.alloc(OFFLOAD);
  offload[0] = NEEDS_CHECKSUM;
  offload[1] = piece === 0 ? 0 : version === 4 ? 1 : 4;
  if (piece > 0) offload.writeUInt16LE(ip.length + tcp.length, 2);
  offload.writeUInt16LE(piece, 4);
  offload.writeUInt16LE(ip.length, 6);
  offload.writeUInt16LE(16, 8);
  return Buffer.concat([offload, ip, tcp, payload]);
}

/** Takes such a packet apart. Fails if one of its sums, lengths or offload fields is wrong. */
export function tcpParts(bytes: Buffer): Parts {
  const ip = Buffer.from(bytes.subarray(OFFLOAD));
  const version = ip[0]! >> 4 === 6 ? 6 : 4;
  const start = version === 4 ? (ip[0]! & 15) * 4 : 40;
  const length = ip.length - start;
  if (version === 4) {
    assert.equal(sum(ip.subarray(0, start)), 0xffff, "the sum of the IPv4 header");
    assert.equal(ip.readUInt16BE(2), ip.length);
  } else assert.equal(ip.readUInt16BE(4), length);
  assert.equal(bytes[0], NEEDS_CHECKSUM);
  assert.deepEqual([bytes.readUInt16LE(6), bytes.readUInt16LE(8)], [start, 16]);
  const partial = ip.readUInt16BE(start + 16);
  assert.equal(partial, sum(pseudo(ip, 6, length)), "the sum of the pseudo header");
  // as a kernel or a card finishes it
  ip.writeUInt16BE(~sum(ip.subarray(start)) & 0xffff, start + 16);
  assert.equal(sum(pseudo(ip, 6, length), ip.subarray(start)), 0xffff, "TCP's checksum, finished");
  const data = start + (ip[start + 12]! >> 4) * 4;
  const piece = bytes.readUInt16LE(4);
  assert.equal(bytes[1], piece === 0 ? 0 : version === 4 ? 1 : 4);
  if (piece > 0) assert.equal(bytes.readUInt16LE(2), data);
  return {
    version,
    id: version === 4 ? ip.readUInt16BE(4) : 0,
    options: ip.subarray(start + 20, data),
    ipOptions: version === 4 ? ip.subarray(20, start) : Buffer.alloc(0),
    sequence: ip.readUInt32BE(start + 4),
    flags: ip[start + 13]!,
    payload: ip.subarray(data),
    piece,
    ports: ip.readUInt32BE(start),
    window: ip.readUInt16BE(start + 14),
  };
}
