/**
 * Between a peer and the network: the peer's way out (Link), and what comes in (Receiver). The tunnel itself
 * knows no socket. Whatever can carry frames can carry the tunnel: each file in src/transport/ is one way.
 */
import type { Framing } from "./frame.ts";
import type { Memory } from "../base/libc.ts";

/** One peer's way out. */
export interface Link {
  /** The other end, as people write it: "192.168.1.100:40312". */
  readonly remote: string;
  readonly framing: Framing;
  /**
   * Sends the frames in memory[from, to). Returns how many bytes it took, or a negative errno. After -EAGAIN
   * it calls Receiver.writable() as soon as there is room.
   */
  send(memory: Memory, from: number, to: number): number;
  close(): void;
}

/** What the link tells the peer. */
export interface Receiver {
  /**
   * Bytes came, and memory[from, to) begins with a frame. Opens each whole frame in place. Returns where the
   * rest begins, the start of a frame that has not come whole. `readAt`: ns, when the read() began.
   */
  received(memory: Memory, from: number, to: number, readAt: bigint): number;
  /** There is room again. */
  writable(): void;
  /** The link is over. */
  lost(reason: string): void;
}

/** Does the program at the other end still live? What pulse.ts is told, to know it. */
export interface Pulse {
  /** We have sealed a frame. */
  sealed(): void;
  /** The other end must send something now. */
  awaitAnswer(): void;
  /** Bytes came from the other end. */
  heard(): void;
  /** We must send something soon. */
  oweAnswer(): void;
}
