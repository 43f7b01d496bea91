/**
 * Between a peer and the network: the peer's way out (Link), and what comes in (Receiver). The tunnel itself
 * knows no socket. Whatever can carry frames can carry the tunnel: each file in src/transport/ is one way.
 */
import type { Keys, SessionKeys } from "./aes.ts";
import type { Framing } from "./frame.ts";
import type { Memory } from "../base/libc.ts";
import type { Tun, writePacket } from "./tun.ts";

/** One peer's way out. */
export interface Link {
  /** The other end, as people write it: "192.168.1.100:40312". */
  readonly remote: string;
  readonly framing: Framing;
  /**
   * Sends the frames in memory[from, to). Returns how many bytes it took, or a negative errno. After -EAGAIN
   * it calls Receiver.flush() as soon as there is room.
   */
  send(memory: Memory, from: number, to: number): number;
  close(): void;
  /** The session's ciphers, from its keys, which are wiped. */
  keys(keys: SessionKeys): Keys;
  // Only what carries datagrams has the rest, for they are small, and packets are not.
  readonly cutter?: Cutter;
  readonly join?: typeof writePacket;
  readonly refused?: boolean; // what the last send() took did not leave: it is lost
  /** A control frame that may be the link's own. False: it is not. */
  control?(word: number, message: Buffer): boolean;
}

/** Cuts packets that are too large for a frame: see transport/segments.ts. */
export interface Cutter {
  begin(tun: Tun, memory: Memory, at: number, count: number): string | undefined; // why there is no piece
  next(): boolean; // is there one more?
  at: number; // where it is
  size: number;
}

/** What the link tells the peer. */
export interface Receiver {
  /**
   * Bytes came, and memory[from, to) begins with a frame. Opens each whole frame in place. Returns where the
   * rest begins, the start of a frame that has not come whole. `readAt`: ns, when the read() began.
   */
  received(memory: Memory, from: number, to: number, readAt: bigint): number;
  flush(): void; // there is room again: send what waits
  lost(reason: string): void; // the link is over
  sendControl(word: number, message?: Buffer): boolean; // false: there was no room
}

/** Does the program at the other end still live? What pulse.ts is told, to know it. */
export interface Pulse {
  sealed(): void; // we have sealed a frame
  awaitAnswer(): void; // the other end must send something now
  heard(): void; // a frame came from it, or a part of a large one
  oweAnswer(): void; // we must send something soon
}
