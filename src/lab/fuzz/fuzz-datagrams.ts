/**
 * For fuzz.ts: datagrams, from anybody and from a holder of the keys, into a server's UdpPort; and what cuts
 * and joins the packets in them.
 */
import assert from "node:assert/strict";
import { Memory } from "../../base/libc.ts";
import { Control } from "../../core/frame.ts";
import { OFFLOAD_HEADER } from "../../core/offload.ts";
import { SegmentCutter, SegmentJoiner } from "../../transport/segments.ts";
import { type DatagramEnd, DatagramServer, dialEnd, freePort } from "../tests/datagram-pair.ts";
import { seal, SOCK_SEQPACKET, socketPair } from "../tests/peers.ts";
import { PLAIN, tcpPacket, tcpParts } from "../tests/tcp-packets.ts";
import { drain, harmless, isOwn } from "./fuzz-inputs.ts";
import { accepted, records } from "./fuzz-packets.ts";
import type { Random } from "./random.ts";

// ---- datagrams: Hub, Reception, UdpLink, DatagramKeys, Peer ----

// what one is in the input: sealed here; as it is; as it is, but with the session's index
const [SEALED, RAW, INDEXED] = [0, 1, 2];
const [DATA, CONTROL] = [2, 3];

interface Session {
  server: DatagramServer;
  client: DatagramEnd;
  far: DatagramEnd;
}
let current: Session | undefined;

async function begin(): Promise<Session> {
  const server = new DatagramServer(await freePort());
  const client = await dialEnd(server.port);
  const far = server.ends[0]!;
  server.onHello = (caller) => caller.refuse(Buffer.alloc(0));
  far.peer.events.refuse = (bytes, at, size) =>
    isOwn(bytes.subarray(at, at + size)) ? undefined : "test: its source is another's";
  return { server, client, far };
}

export function endDatagrams(): void {
  current?.client.end();
  current?.server.end();
  current = undefined;
}

/** Each: a byte for what it is, its length in 2 bytes, its bytes; one to be sealed has its type in front. */
export function makeDatagrams(any: Random): Buffer {
  const all = Array.from({ length: 1 + any.below(6) }, () => {
    const kind = any.one(SEALED, SEALED, RAW, INDEXED);
    let bytes: Buffer;
    if (kind === SEALED) {
      const word = any.one(Control.keepalive, Control.probe, Control.probed, Control.goodbye, 77);
      const control = Buffer.concat([Buffer.from([CONTROL, 0, 0, 0, word]), any.bytes(4 * any.below(4))]);
      const data = Buffer.concat([Buffer.from([DATA]), records(any).subarray(0, 8000)]);
      bytes = any.below(5) ? data : control;
    } else {
      bytes = any.bytes(any.one(any.below(40), any.below(700), 1472, 508, 16, 17));
      if (bytes.length > 0) bytes[0] = any.one(0, 1, 1, 2, 3, 4, 5, 6, any.below(256));
      if (bytes.length >= 4)
        bytes.writeUInt16BE(any.one(Math.max(0, bytes.length - 16), 48, any.edge() & 0xffff), 2);
      if (bytes.length >= 16 && any.below(2)) bytes.fill(0, 8, 14); // a number that may be
    }
    const head = Buffer.from([kind, 0, 0]);
    head.writeUInt16BE(bytes.length, 1);
    return Buffer.concat([head, bytes]);
  });
  return Buffer.concat(all);
}

export async function checkDatagrams(input: Buffer, any: Random): Promise<void> {
  current ??= await begin();
  const { server, client, far } = current;
  const { hub } = server;
  const expected: Buffer[] = [];
  let isOver = false;
  const take = (datagram: Buffer) => {
    datagram.copy(hub.memory.bytes);
    hub["take"](0, datagram.length, 0n);
    hub.joiner.flush();
  };
  for (let at = 0; at + 3 <= input.length;) {
    const kind = input[at]!;
    const length = input.readUInt16BE(at + 1);
    const bytes = Buffer.from(input.subarray(at + 3, at + 3 + length));
    at += 3 + length;
    if (kind !== SEALED) {
      if (kind === INDEXED && bytes.length >= 8) bytes.writeInt32BE(far.link.index, 4);
      take(bytes);
      continue;
    }
    const [type = DATA, body] = [bytes[0], bytes.subarray(1)];
    const frame = Buffer.from(seal(client.peer, type, body));
    const changed = any.below(3) ? frame : any.mutate(frame);
    take(changed);
    const isWhole = changed.equals(frame) && (type === DATA || type === CONTROL) && body.length % 4 === 0;
    if (changed !== frame && !changed.equals(frame)) take(frame); // what was changed has used up nothing
    if (type === DATA && body.length % 4 === 0 && !isOver) expected.push(...accepted(body));
    if (isWhole || type === CONTROL) take(frame); // a replay
    const word = body.length >= 4 ? body.readUInt32BE(0) : 0;
    if (type === CONTROL && body.length % 4 === 0 && word === Control.goodbye) isOver = true;
  }
  assert.deepEqual(drain(far.kernel), expected);
  assert.deepEqual(far.reasons, isOver ? ["it said goodbye"] : [], "a datagram ends no session");
  if (isOver || client.reasons.length > 0) endDatagrams();
}

// ---- cut, and join ----

const [tunFd, kernelFd] = socketPair(SOCK_SEQPACKET);
const TUN = { fd: tunFd, name: "tun0", header: OFFLOAD_HEADER };

/** A large TCP packet as a kernel hands it over, behind 2 bytes: how much the path takes. */
export function makePieces(any: Random): Buffer {
  const version = any.one(4, 6) as 4 | 6;
  const packet = tcpPacket({
    ...PLAIN,
    version,
    id: any.edge() & 0xffff,
    sequence: any.edge() >>> 0,
    flags: any.below(256),
    options: any.bytes(4 * any.below(11)),
    ipOptions: version === 4 ? any.bytes(4 * any.below(11)) : Buffer.alloc(0),
    payload: any.bytes(1 + any.below(any.one(100, 3000, 60_000))),
    piece: any.one(1, 3, 47, 48, 536, 1348, 1 + any.below(9000), 65_535),
  });
  const head = Buffer.alloc(2);
  head.writeUInt16BE(any.one(500, 1204, 1424, 500 + any.below(9000)));
  return Buffer.concat([head, packet]);
}

export function checkPieces(input: Buffer): void {
  const packet = input.subarray(2);
  const largest = input.readUInt16BE();
  const memory = new Memory((packet.length + 15) & ~3);
  packet.copy(memory.bytes, 4);
  const cutter = new SegmentCutter(() => largest);
  const reason = cutter.begin(TUN, memory, 4, packet.length);
  const payloads: Buffer[] = [];
  for (let count = 0; cutter.next(); count++) {
    assert.ok(count < 2000, "pieces without end");
    assert.ok(cutter.size - OFFLOAD_HEADER <= largest, "a piece that does not fit");
    const piece = Buffer.from(memory.bytes.subarray(cutter.at, cutter.at + cutter.size));
    payloads.push(tcpParts(piece).payload);
    memory.bytes.fill(0xdd, cutter.at - 4, cutter.at);
    memory.bytes.fill(0xdd, cutter.at + cutter.size, cutter.at + cutter.size + (-cutter.size & 3));
  }
  drain(kernelFd);
  if (reason === undefined) assert.deepEqual(Buffer.concat(payloads), tcpParts(Buffer.from(packet)).payload);
}

/**
 * A row of packets, each behind its length in 2 bytes: pieces of a stream, most of them as they should be.
 */
export function makeJoined(any: Random): Buffer {
  const version = any.one(4, 6) as 4 | 6;
  const size = any.one(40, 48, 100, 1348, 1372);
  const start = any.edge() >>> 0;
  const packets = Array.from({ length: 2 + any.below(60) }, (_, i) => {
    const packet = tcpPacket({
      version,
      sequence: (start + i * size) >>> 0,
      flags: any.below(8) ? 0x10 : any.below(256),
      payload: any.bytes(any.below(8) ? size : any.below(1400)),
    });
    const one = any.below(6) ? packet : any.mutate(packet).subarray(0, 3000);
    const head = Buffer.alloc(2);
    head.writeUInt16BE(one.length);
    return Buffer.concat([head, one]);
  });
  return Buffer.concat(packets);
}

export function checkJoined(input: Buffer): void {
  const joiner = new SegmentJoiner();
  const memory = new Memory((2 * input.length + 67) & ~3);
  const out: Buffer[] = [];
  let [all, good] = [0, 0]; // bytes of packets; of those that may go to the kernel, each alone
  for (let at = 0, to = 0; at + 2 <= input.length;) {
    const length = input.readUInt16BE(at);
    const packet = input.subarray(at + 2, at + 2 + length);
    at += 2 + length;
    if (packet.length <= OFFLOAD_HEADER) continue; // peer.ts
    packet.copy(memory.bytes, to);
    const isHarmless = harmless(packet);
    const refusal = joiner.add(TUN, memory, to, packet.length);
    all += packet.length;
    if (isHarmless) good += packet.length;
    if (isHarmless) assert.equal(refusal, undefined);
    out.push(...drain(kernelFd));
    to += (packet.length + 3) & ~3;
  }
  joiner.flush();
  out.push(...drain(kernelFd));
  for (const one of out) assert.ok(harmless(one), "what reaches the kernel is harmless");
  const got = out.reduce((sum, { length }) => sum + length, 0);
  assert.ok(got <= all, "nothing is made up");
  assert.ok(got > 0 || good === 0, "nothing is lost");
}
