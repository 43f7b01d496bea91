/** Cut and joined: what comes out must be what went in, and each sum right, once a kernel has finished it. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Memory } from "../base/libc.ts";
import { close } from "../base/libc.ts";
import { random, SEED, SOCK_SEQPACKET, socketPair, take } from "../lab/tests/peers.ts";
import { OFFLOAD, type Parts, PLAIN, pseudo, sum, tcpPacket, tcpParts } from "../lab/tests/tcp-packets.ts";
import { counters } from "../base/counters.ts";
import { SegmentCutter, SegmentJoiner } from "./segments.ts";

const [FIN, PSH, ACK, CWR] = [0x01, 0x08, 0x10, 0x80];
const RECORD = 4;

/** A TUN, and the other side of it. */
function newTun() {
  const [fd, kernel] = socketPair(SOCK_SEQPACKET);
  const taken = () => {
    const all: Buffer[] = [];
    for (let one = take(kernel); one; one = take(kernel)) all.push(one);
    return all;
  };
  return { tun: { fd, name: "tun0", header: OFFLOAD }, taken, end: () => [fd, kernel].forEach(close) };
}

/** Cuts one packet, as tunnel.ts does: what enqueue() writes around a piece is spoiled here. */
function cut(packet: Buffer, largest: number, tun = newTun()) {
  const memory = new Memory((RECORD + packet.length + 8 + 3) & ~3);
  memory.bytes.fill(0xee);
  packet.copy(memory.bytes, RECORD);
  const cutter = new SegmentCutter(() => largest);
  const reason = cutter.begin(tun.tun, memory, RECORD, packet.length);
  const pieces: Buffer[] = [];
  while (cutter.next()) {
    assert.ok(pieces.length < 70_000, "it does not end");
    pieces.push(Buffer.from(memory.bytes.subarray(cutter.at, cutter.at + cutter.size)));
    memory.bytes.fill(0xdd, cutter.at - RECORD, cutter.at); // the record's length
    const end = cutter.at + cutter.size;
    memory.bytes.fill(0xdd, end, end + (-cutter.size & 3)); // the padding
  }
  const answers = tun.taken();
  tun.end();
  return { reason, pieces, answers };
}

/** Joins packets as if they had come in one turn of the loop; what the TUN gets. */
function join(packets: Buffer[], joiner = new SegmentJoiner()): Buffer[] {
  const it = newTun();
  const places: number[] = [];
  let end = 0;
  for (const packet of packets) {
    places.push(end);
    end += (packet.length + 16 + 3) & ~3; // a header, a tag
  }
  const memory = new Memory(end + 4);
  packets.forEach((packet, i) => packet.copy(memory.bytes, places[i]!));
  const out: Buffer[] = [];
  packets.forEach((packet, i) => {
    assert.equal(joiner.add(it.tun, memory, places[i]!, packet.length), undefined);
    out.push(...it.taken());
  });
  joiner.flush();
  out.push(...it.taken());
  it.end();
  return out;
}

function anyParts(below: (n: number) => number): Parts {
  const bytes = (length: number) => Buffer.from(Array.from({ length }, () => below(256)));
  const version = below(2) ? 4 : 6;
  return {
    ...PLAIN,
    version,
    id: version === 4 ? [0, 7, 0xfff0, 0xffff][below(4)]! : 0,
    options: bytes(4 * below(11)),
    ipOptions: version === 4 && below(4) === 0 ? bytes(4 * (1 + below(10))) : Buffer.alloc(0),
    sequence: [1000, 0xffff_f000, 0xffff_ffff, below(2 ** 31)][below(4)]!,
    flags: ACK | (below(2) && FIN) | (below(2) && PSH) | (below(2) && CWR),
    payload: bytes(1 + below(below(4) ? 6000 : 64_000)),
    piece: [1348, 1372, 1220, 536, 48, 49 + below(2000)][below(6)]!,
  };
}

test(`a packet is cut into whole packets, each with right sums and its part of the stream (${SEED})`, () => {
  const below = random(SEED);
  for (let i = 0; i < 300; i++) {
    const parts = anyParts(below);
    const largest = 500 + below(1500);
    const packet = tcpPacket(parts);
    const { reason, pieces } = cut(packet, largest);
    assert.equal(reason, undefined);
    if (packet.length - OFFLOAD <= largest) {
      assert.deepEqual(pieces, [packet], "it fits");
      continue;
    }
    const seen = pieces.map(tcpParts);
    let sequence = parts.sequence;
    for (const [i, piece] of seen.entries()) {
      const isLast = i === seen.length - 1;
      const here = (i === 0 ? CWR : 0) | (isLast ? FIN | PSH : 0) | ACK;
      assert.deepEqual(piece, {
        ...parts,
        piece: 0,
        id: parts.version === 4 ? (parts.id + i) & 0xffff : 0,
        sequence,
        flags: parts.flags & here,
        payload: piece.payload,
      });
      assert.ok(pieces[i]!.length - OFFLOAD <= largest);
      assert.ok(piece.payload.length <= Math.max(parts.piece, 48));
      assert.ok(isLast || piece.payload.length % 4 === 0);
      sequence = (sequence + piece.payload.length) >>> 0;
    }
    assert.deepEqual(Buffer.concat(seen.map(({ payload }) => payload)), parts.payload);
  }
});

test("pieces of 1, 2 and 3 bytes, which a stream of tiny packets makes, do not hold up the loop", () => {
  for (const piece of [1, 2, 3]) {
    const parts = { payload: Buffer.alloc(2000, piece), piece };
    const { pieces } = cut(tcpPacket(parts), 1000);
    const payloads = pieces.map((one) => tcpParts(one).payload);
    assert.deepEqual(Buffer.concat(payloads), parts.payload);
  }
});

test(`what was cut is joined again, also if it comes in several turns (${SEED})`, () => {
  const below = random(SEED);
  for (let i = 0; i < 200; i++) {
    const parts = { ...anyParts(below), ipOptions: Buffer.alloc(0) };
    parts.flags &= ACK | PSH;
    const { pieces } = cut(tcpPacket(parts), 500 + below(1500));
    const joiner = new SegmentJoiner();
    const turn = below(2) ? pieces.length : 1 + below(pieces.length);
    const out: Buffer[] = [];
    for (let at = 0; at < pieces.length; at += turn) out.push(...join(pieces.slice(at, at + turn), joiner));
    const seen = out.map(tcpParts);
    assert.deepEqual(Buffer.concat(seen.map(({ payload }) => payload)), parts.payload);
    let sequence = parts.sequence;
    for (const piece of seen) {
      assert.equal(piece.sequence, sequence);
      sequence = (sequence + piece.payload.length) >>> 0;
      const rest = { sequence, payload: piece.payload, piece: piece.piece, flags: piece.flags, id: piece.id };
      assert.deepEqual(piece, { ...parts, ...rest, sequence: piece.sequence });
    }
    assert.equal(seen.at(-1)!.flags, parts.flags);
    const first = tcpParts(pieces[0]!).payload.length;
    const small = first < 48; // of those the kernel takes no row
    if (turn === pieces.length && !small)
      assert.ok(
        out.length <= 1 + Math.ceil(parts.payload.length / 60_000),
        `${out.length} of ${pieces.length}`,
      );
    // as the kernel cuts them again
    const again = out.flatMap((one) => cutAsKernel(one)).map(tcpParts);
    const ids = (all: Parts[]) => all.map(({ sequence, payload, flags }) => ({ sequence, payload, flags }));
    const whole = pieces.flatMap((one) => cutAsKernel(one)); // the last may have been one to be cut
    assert.deepEqual(ids(again), ids(whole.map(tcpParts)));
  }
});

/** What Linux does with a large packet: pieces of gso_size. */
function cutAsKernel(packet: Buffer): Buffer[] {
  const parts = tcpParts(packet);
  if (parts.piece === 0) return [packet];
  const all: Buffer[] = [];
  for (let at = 0; at < parts.payload.length; at += parts.piece) {
    const payload = parts.payload.subarray(at, at + parts.piece);
    const isLast = at + payload.length === parts.payload.length;
    const flags = isLast ? parts.flags : parts.flags & ~(PSH | FIN);
    all.push(tcpPacket({ ...parts, payload, flags, sequence: (parts.sequence + at) >>> 0, piece: 0 }));
  }
  return all;
}

const piece = (i: number, changes: Partial<Parts> = {}) =>
  tcpPacket({ sequence: 1000 + 100 * i, payload: Buffer.alloc(100, i), ...changes });

test("what does not belong together is not joined, and comes out as it came, in its order", () => {
  const timestamp = (value: number) => Buffer.from([1, 1, 8, 10, 0, 0, 0, value, 0, 0, 0, 1]);
  const strangers: Record<string, Buffer> = {
    "another port": piece(1, { ports: 0x2329_1234 }),
    IPv6: piece(1, { version: 6 }),
    "a gap": piece(2),
    "the same again": piece(0),
    "another timestamp": piece(1, { options: timestamp(2) }),
    "an option more": piece(1, { options: timestamp(1) }),
    "another window": piece(1, { window: 501 }),
    FIN: piece(1, { flags: ACK | FIN }),
    SYN: piece(1, { flags: ACK | 2 }),
    RST: piece(1, { flags: ACK | 4 }),
    URG: piece(1, { flags: ACK | 0x20 }),
    ECE: piece(1, { flags: ACK | 0x40 }),
    CWR: piece(1, { flags: ACK | CWR }),
    "no ACK": piece(1, { flags: 0 }),
    "no payload": piece(1, { payload: Buffer.alloc(0) }),
    "more payload than the first": piece(1, { payload: Buffer.alloc(101) }),
    "to be cut itself": piece(1, { piece: 60 }),
    "IP options": piece(1, { ipOptions: Buffer.alloc(4) }),
    "another address": changed(piece(1), 12 + OFFLOAD, 11),
    "another TOS": changed(piece(1), 1 + OFFLOAD, 2),
    "another TTL": changed(piece(1), 8 + OFFLOAD, 63),
    "a fragment": changed(piece(1), 6 + OFFLOAD, 0x20),
    "a checksum that is not known": changed(piece(1), 0, 0),
    "a length that lies": changed(piece(1), 3 + OFFLOAD, 1),
    ICMP: changed(piece(1), 9 + OFFLOAD, 1),
  };
  for (const [what, stranger] of Object.entries(strangers)) {
    const first = piece(0, what.includes("timestamp") ? { options: timestamp(1) } : {});
    assert.deepEqual(join([first, stranger]), [first, stranger], what);
    assert.deepEqual(join([first, stranger, piece(1)])[0], first, what);
  }
  assert.equal(join([piece(0), piece(1)]).length, 1, "these two are");
});

function changed(packet: Buffer, at: number, value: number): Buffer {
  packet[at] = value;
  return packet;
}

test("PSH and a shorter one end a row; the row's last flags are the whole's", () => {
  const row = [piece(0), piece(1), piece(2, { flags: ACK | PSH }), piece(3), piece(4)];
  const [first, second, ...rest] = join(row).map(tcpParts);
  assert.deepEqual([first!.payload.length, first!.flags, first!.piece], [300, ACK | PSH, 100]);
  assert.deepEqual([second!.payload.length, second!.flags, rest.length], [200, ACK, 0]);
  const short = [piece(0), piece(1, { payload: Buffer.alloc(60) }), tcpPacket({ sequence: 1160 })];
  assert.deepEqual(
    join(short).map((one) => tcpParts(one).payload.length),
    [160, 100],
  );
  const pushed = piece(0, { flags: ACK | PSH });
  assert.deepEqual(join([pushed, piece(1)]), [pushed, piece(1)], "nothing follows the first one's PSH");
});

test("the kernel takes no row of packets with less than 48 bytes each: they stay as they are", () => {
  for (const size of [1, 4, 47]) {
    const tiny = [0, 1, 2].map((i) =>
      tcpPacket({ sequence: 1000 + i * size, payload: Buffer.alloc(size, i) }),
    );
    assert.deepEqual(join(tiny), tiny, `${size} bytes`);
  }
});

test("no row is longer than an IP packet can be", () => {
  const size = 1400;
  const many = Array.from({ length: 60 }, (_, i) =>
    tcpPacket({ sequence: 1000 + i * size, payload: Buffer.alloc(size, i) }),
  );
  const out = join(many).map(tcpParts);
  assert.equal(out.length, 2);
  assert.deepEqual(
    Buffer.concat(out.map(({ payload }) => payload)),
    Buffer.concat(many.map((one) => tcpParts(one).payload)),
  );
});

test("a packet with an impossible header is refused at once; who asked for it counts it", () => {
  const before = counters.drops.get("its IP header has an impossible length") ?? 0;
  const it = newTun();
  const memory = new Memory(64);
  memory.bytes.fill(0);
  memory.bytes[OFFLOAD] = 0x41;
  assert.match(new SegmentJoiner().add(it.tun, memory, 0, 40)!, /impossible length/);
  assert.equal(
    counters.drops.get("its IP header has an impossible length") ?? 0,
    before,
    "peer.ts counts it",
  );
  it.end();
});

// ---- IP's own fragments ----

/** An IPv4 packet with UDP in it, that may be cut. `left`: its checksum is left over. */
function udpPacket(size: number, left: boolean, flags = 0): Buffer {
  const ip = Buffer.alloc(20 + 8 + size);
  ip[0] = 0x45;
  ip.writeUInt16BE(ip.length, 2);
  ip.writeUInt16BE(99, 4);
  ip.writeUInt16BE(flags, 6);
  ip[8] = 64;
  ip[9] = 17;
  ip.writeUInt32BE(0x0a080002, 12);
  ip.writeUInt32BE(0x08080808, 16);
  ip.writeUInt32BE(0x1234_0035, 20);
  ip.writeUInt16BE(8 + size, 24);
  for (let i = 0; i < size; i++) ip[28 + i] = i * 7;
  ip.writeUInt16BE(~sum(ip.subarray(0, 20)) & 0xffff, 10);
  const head = pseudo(ip, 17, 8 + size);
  ip.writeUInt16BE(left ? sum(head) : ~sum(head, ip.subarray(20)) & 0xffff, 26);
  const offload = Buffer.alloc(OFFLOAD);
  if (left) {
    offload[0] = 1;
    offload.writeUInt16LE(20, 6);
    offload.writeUInt16LE(6, 8);
  }
  return Buffer.concat([offload, ip]);
}

for (const left of [true, false])
  test(`an IPv4 packet that may be fragmented is; its checksum is ${left ? "computed" : "kept"}`, () => {
    for (const [size, largest] of [
      [1500, 1200],
      [9000, 576],
      [1181, 1200],
      [65_000, 1204],
    ] as const) {
      const packet = udpPacket(size, left);
      const { reason, pieces } = cut(packet, largest);
      assert.equal(reason, undefined);
      assert.ok(pieces.length > 1);
      const whole = Buffer.alloc(packet.length - OFFLOAD - 20);
      for (const [i, piece] of pieces.entries()) {
        const ip = piece.subarray(OFFLOAD);
        assert.ok(ip.length <= largest);
        assert.ok(piece.subarray(0, OFFLOAD).every((byte) => byte === 0));
        assert.equal(sum(ip.subarray(0, 20)), 0xffff);
        assert.equal(ip.readUInt16BE(2), ip.length);
        assert.equal(ip.readUInt16BE(4), 99);
        assert.equal((ip[6]! & 0x20) !== 0, i < pieces.length - 1);
        ip.copy(whole, (ip.readUInt16BE(6) & 0x1fff) * 8, 20);
      }
      assert.deepEqual(whole.subarray(8), packet.subarray(OFFLOAD + 28));
      const head = pseudo(packet.subarray(OFFLOAD), 17, whole.length);
      assert.equal(sum(head, whole), 0xffff, "UDP's checksum");
    }
  });

test("a fragment is cut into fragments of the same packet", () => {
  const packet = udpPacket(2000, false, 0x2000 | 100); // more follow, and 800 bytes came before
  const { pieces } = cut(packet, 1000);
  const words = pieces.map((piece) => piece.readUInt16BE(OFFLOAD + 6));
  assert.deepEqual(words, [0x2000 | 100, 0x2000 | (100 + 976 / 8), 0x2000 | (100 + 1952 / 8)]);
});

test("what must not be cut is answered with the size that goes through", () => {
  const refused = udpPacket(1500, false, 0x4000);
  const { reason, pieces, answers } = cut(refused, 1200);
  assert.match(reason!, /larger than the path takes/);
  assert.equal(pieces.length, 0);
  assert.equal(answers.length, 1);
});
