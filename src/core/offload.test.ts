import assert from "node:assert/strict";
import { test } from "node:test";
import { describeOffload, OFFLOAD_HEADER, refuseOffload } from "./offload.ts";

/**
 * An offload header as the kernel writes it, and a packet of `size` bytes behind it: TCP over IPv4 unless
 * said otherwise.
 */
function packet(
  header: { flags?: number; cut?: number; piece?: number; start?: number; offset?: number },
  size = 3000,
  version = 4,
  protocol = 6,
): Buffer {
  const { flags = 1, cut = 1, piece = 1348, start = version === 4 ? 20 : 40, offset = 16 } = header;
  const bytes = Buffer.alloc(OFFLOAD_HEADER + size);
  bytes[0] = flags;
  bytes[1] = cut;
  bytes.writeUInt16LE(piece, 4);
  bytes.writeUInt16LE(start, 6);
  bytes.writeUInt16LE(offset, 8);
  bytes[10] = version === 4 ? 0x45 : 0x60;
  bytes[10 + (version === 4 ? 9 : 6)] = protocol;
  const tcp = OFFLOAD_HEADER + (version === 4 ? 20 : 40);
  if (protocol === 6 && bytes.length > tcp + 12) bytes[tcp + 12] = 0x50; // 20 bytes of header
  return bytes;
}
const refuse = (bytes: Buffer) => refuseOffload(bytes, 0, bytes.length);
const changed = (at: number, value: number, bytes: Buffer) => {
  bytes[at] = value;
  return bytes;
};

test("what the kernel sends passes: plain, checksum left over or good, large TCP over IPv4 and IPv6", () => {
  assert.equal(refuse(packet({ flags: 0, cut: 0, piece: 0, start: 0, offset: 0 }, 84, 4, 1)), undefined);
  assert.equal(refuse(packet({ flags: 2, cut: 0, piece: 0, start: 0, offset: 0 }, 84, 4, 17)), undefined);
  assert.equal(
    refuse(packet({ cut: 0, piece: 0, offset: 6 }, 100, 4, 17)),
    undefined,
    "UDP, checksum left over",
  );
  assert.equal(refuse(packet({})), undefined);
  assert.equal(refuse(packet({ cut: 4 }, 65535, 6)), undefined);
});

test("a header that lies about its packet is refused, with a reason", () => {
  const lies: [string, Buffer, RegExp][] = [
    ["unknown flag", packet({ flags: 0x81 }), /unknown flags/],
    ["UDP fragmentation", packet({ cut: 3 }), /does not fit/],
    ["UDP segmentation", packet({ cut: 5 }, 3000, 4, 17), /does not fit/],
    ["unknown type", packet({ cut: 0x21 }), /does not fit/],
    ["TCPv6 over IPv4", packet({ cut: 4 }), /does not fit/],
    ["TCPv4 over IPv6", packet({ cut: 1 }, 3000, 6), /does not fit/],
    ["cut an ICMP packet", packet({}, 3000, 4, 1), /does not fit/],
    ["cut without a checksum", packet({ flags: 0 }), /does not fit/],
    ["pieces of nothing", packet({ piece: 0 }), /no sensible size/],
    ["a flood of pieces", packet({ piece: 8 }), /no sensible size/],
    ["the kernel's own sign", packet({ piece: 0xffff }), /no sensible size/],
    ["TCP's header begins later", packet({ start: 1500 }), /its TCP header/],
    ["TCP's checksum elsewhere", packet({ offset: 6 }), /its TCP header/],
    ["no room for a TCP header", packet({}, 38), /its TCP header/],
    ["nothing to cut", packet({}, 40), /its TCP header/],
    ["a TCP header of 60 bytes in 79", changed(42, 0xf0, packet({}, 79)), /its TCP header/],
    ["a TCP header of 16 bytes", changed(42, 0x40, packet({})), /its TCP header/],
    ["a fragment, more to follow", changed(16, 0x20, packet({})), /does not fit/],
    ["a fragment, the last", changed(17, 1, packet({})), /does not fit/],
    [
      "an IP header of nothing",
      changed(10, 0x40, packet({ start: 0 })),
      /IP header has an impossible length/,
    ],
    ["checksum over the IP header", packet({ start: 0 }), /checksum/],
    ["checksum behind the end", packet({ start: 2990, offset: 16 }), /checksum/],
    ["checksum far behind the end", packet({ start: 65535, offset: 65535 }), /checksum/],
    ["IP header of 16 bytes", Buffer.concat([Buffer.alloc(10), Buffer.alloc(60, 0x44)]), /impossible length/],
    [
      "IP header longer than the packet",
      Buffer.concat([Buffer.alloc(10), Buffer.alloc(40, 0x4f)]),
      /impossible length/,
    ],
    ["no packet at all", Buffer.alloc(OFFLOAD_HEADER + 1), /no IP packet/],
    ["IP version 9", Buffer.concat([Buffer.alloc(10), Buffer.alloc(60, 0x95)]), /no IP packet/],
  ];
  for (const [what, bytes, reason] of lies) assert.match(refuse(bytes) ?? "let through", reason, what);
});

test("the trace says when a packet is a large one", () => {
  assert.equal(describeOffload(packet({ cut: 0 }), 0), "");
  assert.match(describeOffload(packet({}), 0), /pieces of 1348/);
});
