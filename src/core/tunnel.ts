/**
 * The pump from the TUN to the peers. Client and server run the same code; the steps' names differ:
 *
 *   outbound()  TUN → link    client: 5, 6.read 6.xor 6.seal 6.frame 6.write    server: R3, R4
 *
 * Each wake-up is drained: packets are read until there is none left (or 64 KB). Those to one peer share a
 * frame, a seal and a write(); with --cipher xor, each has a frame. The way back, to the TUN, is in peer.ts.
 */
import { EAGAIN } from "../base/errno.ts";
import { BATCH, FrameType, pad } from "./frame.ts";
import { Memory, read } from "../base/libc.ts";
import { describeOffload, OFFLOAD_HEADER } from "./offload.ts";
import { MAX_PACKET } from "../base/packet.ts";
import type { Peer } from "./peer.ts";
import { trace } from "../base/trace.ts";
import type { Tun } from "./tun.ts";
import { notRead } from "../base/tun-failure.ts";

const RECORD_SPACE = 4; // in front of the packet in `scratch`, for a record's length
const scratch = new Memory(RECORD_SPACE + pad(OFFLOAD_HEADER + MAX_PACKET, 4)); // the packet just read
const CONTROL_ROOM = 256; // bytes that packets leave free in a full outbox, for a goodbye or fresh keys
const touched: Peer[] = []; // peers that got a frame in this wake-up

/**
 * The peer that a packet goes to; a sentence instead says why it is dropped. `size`: the packet's, at
 * bytes[at …].
 */
export type PeerFor = (bytes: Buffer, at: number, size: number) => Peer | string;

/** Drains the TUN, and sends each packet to its peer. Throws a Failure if the TUN is gone. */
export function outbound(tun: Tun, peerFor: PeerFor): void {
  const wokenAt = trace.clock(); // WALK 5 R3.wake
  const packet = RECORD_SPACE + tun.header;
  let count = 0; // bytes that read() gave: the TUN's header, and the packet
  try {
    for (let drained = 0; drained < BATCH; drained += count) {
      count = read(tun.fd, scratch, RECORD_SPACE, tun.header + MAX_PACKET); // WALK 6.read R3.read
      if (count < 0) break;
      const peer = peerFor(scratch.bytes, packet, count - tun.header);
      const reason = typeof peer === "string" ? peer : pass(peer, tun, count, wokenAt);
      if (reason === undefined) continue;
      const remote = typeof peer === "string" ? "" : peer.link.remote;
      trace.drop(reason, remote, scratch, packet, count - tun.header);
    }
  } finally {
    // Whatever ended the drain: no frame is left open. If sealing one throws, the program ends.
    for (let peer = touched.pop(); peer; peer = touched.pop()) peer.send(FrameType.data);
  }
  if (count < 0 && count !== -EAGAIN) throw notRead(tun.name, count);
}

/** Puts the packet in `scratch` into the peer's frames. A sentence says why all of it is dropped. */
function pass(peer: Peer, tun: Tun, count: number, wokenAt: bigint): string | undefined {
  const { cutter } = peer.link;
  if (!cutter) return enqueue(peer, tun, RECORD_SPACE, count, wokenAt);
  const tooLarge = cutter.begin(tun, scratch, RECORD_SPACE, count);
  while (cutter.next()) {
    const { at, size } = cutter;
    const reason = enqueue(peer, tun, at, size, wokenAt);
    if (reason) trace.drop(reason, peer.link.remote, scratch, at + tun.header, size - tun.header);
  }
  return tooLarge;
}

/** The same for a packet that fits into one frame: scratch[at …]. */
function enqueue(peer: Peer, tun: Tun, at: number, count: number, wokenAt: bigint): string | undefined {
  const { outbox } = peer;
  const { framing } = peer.link;
  const size = framing.record + pad(count, framing.align); // of the record
  if (!outbox.openFor(size, CONTROL_ROOM)) return "the socket is full";
  if (touched.at(-1) !== peer) touched.push(peer);

  const length = count - tun.header; // the packet's
  const steps = outbox.show();
  if (outbox.packets === 0) steps?.wake(wokenAt);
  steps?.read(scratch, at + tun.header, length, tun.header ? describeOffload(scratch.bytes, at) : "");

  const from = at - framing.record;
  if (framing.record > 0) scratch.bytes.writeUInt32BE(count, from);
  for (let i = at + count; i < from + size; i++) scratch.bytes[i] = 0; // the padding
  outbox.add(scratch, from, size, length, steps);
  peer.traffic.sent.packets++;
  peer.traffic.sent.bytes += length;
  if (!framing.batches) outbox.seal(FrameType.data);
  return undefined;
}
