/**
 * What every transport does: a client dials a server, a server answers callers. The handshake's two messages
 * go this way first. Then the connection becomes a Link, which carries the session's frames.
 */
import { errnoName } from "../base/errno.ts";
import type { Link, Receiver } from "../core/link.ts";

/** Opened while we are root, before --user takes that away: some transports need it for their socket. */
export interface Transport {
  /** Errors: a Failure */
  open(options: PortOptions): Port;
}

export interface PortOptions {
  listen?: string; // the server's own address, "*" for all; a client has none
  port: number;
  handshake: boolean;
  secrets?: Buffer[] | undefined; // quic only: its TLS has a handshake of its own, below ours
  tcpFlags?: readonly number[]; // raw only: of the segments it makes, in turn
  kcp?: "normal" | "fast" | "fast2" | "fast3"; // raw only: see kcp.ts
}

export interface Port {
  /**
   * Client: sends message 1 to a server, and waits for message 2. Without a handshake there is neither.
   * Datagrams that are not good are left aside: anybody can send them. Errors: Unreachable; BrokenStream if
   * the server's answer makes no sense.
   */
  dial(address: string, ms: number, message1?: Buffer, isGood?: IsGood): Promise<Answer>;
  /** Server: from now on, callers are heard. */
  serve(server: PortEvents): void;
  end(): void;
  /** An address with the port behind it: "192.168.1.1:5555". */
  endpoint(address: string): string;
}

/** Was this message 2 made by a server that has our secret? */
export type IsGood = (message2: Buffer) => boolean;

/** There is no way to that address, or nobody listens there. */
export class Unreachable extends Error {
  readonly remote: string;
  readonly errno: number; // negative

  constructor(remote: string, errno: number) {
    super(`${remote}: ${errnoName(errno)}`);
    this.remote = remote;
    this.errno = errno;
  }
}

/** A server that has answered our message 1. */
export interface Answer {
  readonly remote: string;
  readonly message2: Buffer;
  readonly largest: number; // bytes of a packet that the path takes in one piece
  /** Makes it a session's link. Else: hangUp(). */
  attach<R extends Receiver>(make: (link: Link) => R): R;
  hangUp(): void;
}

/** A client that has sent its message 1. If the server does not attach() it at once, it is hung up. */
export interface Caller {
  readonly address: string;
  readonly remote: string;
  readonly stranger: Stranger;
  /** Over UDP a public key names the session: has no other one that name? */
  readonly isFree?: (publicKey: Buffer) => boolean;
  /** Sends message 2, if there is a handshake, and makes it a session's link. */
  attach<R extends Receiver>(message2: Buffer | undefined, make: (link: Link) => R): R;
  /** Sends that, and no more. */
  refuse(message2: Buffer): void;
}

/** Somebody who costs us something, and has not proven to have the secret: see limits.ts. */
export interface Stranger {
  /** It has gone, or we have given it up, before it was a caller. */
  lost(reason: string): void;
}

/** What a port tells the server, and asks it. */
export interface PortEvents {
  /**
   * May somebody from there begin a handshake? `end` ends it, if it must make room for another one.
   * `isProven`: it has shown that it receives at that address. Over TCP it always has.
   */
  onArrival(address: string, remote: string, end: () => void, isProven?: boolean): Stranger | undefined;
  onHello(caller: Caller, message1: Buffer): void;
  /** A connection that accept() could not give us. */
  onMissed(remote: string, reason: string): void;
}
