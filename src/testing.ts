/** What unit tests share. Nothing here is part of the VPN. */
import { type FrameType, pad } from "./frame.ts";
import { Memory, SOCK_NONBLOCK, SOCK_STREAM, thisProcess } from "./libc.ts";
import type { Peer } from "./tunnel.ts";
import { xor } from "./xor.ts";

const cSocketpair = thisProcess.func("int socketpair(int domain, int type, int protocol, _Out_ int *fds)");
const AF_UNIX = 1;
export const SOCK_SEQPACKET = 5; // keeps the borders of messages: in tests it stands in for a TUN's fd

/** Two connected non-blocking fds. */
export function socketPair(type = SOCK_STREAM): [number, number] {
  const fds: [number, number] = [0, 0];
  if (cSocketpair(AF_UNIX, type | SOCK_NONBLOCK, 0, fds) !== 0) throw new Error("socketpair failed");
  return fds;
}

/** A whole frame with any body at all, XORed and sealed with the peer's own key: what a hostile holder of the secret can send. */
export function seal(peer: Peer, type: number, body: Buffer): Buffer {
  const { framing, sealer } = peer;
  const size = framing.header + body.length + framing.tag;
  const frame = new Memory(pad(size, 4));
  body.copy(frame.bytes, framing.header);
  xor(frame, framing.header, frame, framing.header, body.length);
  framing.putHeader(frame.bytes, 0, type as FrameType, body.length + framing.tag);
  sealer?.seal(frame, framing.header, body.length, framing.header);
  return frame.bytes.subarray(0, size);
}

/** Waits, with a deadline, until `condition` holds. */
export async function until(condition: () => boolean, ms = 5000): Promise<void> {
  for (const end = Date.now() + ms; !condition(); await new Promise((resolve) => setTimeout(resolve, 2))) {
    if (Date.now() > end) throw new Error(`${ms} ms passed without: ${condition}`);
  }
}

/** A small generator of random numbers (mulberry32): a failing test prints its seed, and can be run again with it. */
export function random(seed: number): (below: number) => number {
  return (below) => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) % below;
  };
}
export const SEED = Number(process.env.SEED ?? Date.now() % 1_000_000);
