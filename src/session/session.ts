/**
 * From the handshake's two messages to a session: what each end makes of the other's message. An empty
 * message 2 says "refused"; it is not authenticated, and only decides which error the client prints.
 */
import type { SessionKeys } from "../core/aes.ts";
import { BrokenStream, Failure } from "../base/failure.ts";
import {
  type ClientConfig,
  decodeReply,
  decodeWish,
  encodeReply,
  encodeWish,
  Handshake,
} from "./handshake.ts";
import { HandshakeError, Refused, type Wish } from "./handshake.ts";

const NO_REPLY = Buffer.alloc(0);

/** The client's side. `wish`: what it had before. */
export class ClientHandshake {
  readonly message1: Buffer;
  private readonly handshake: Handshake;

  constructor(secret: Buffer, wish: Wish = {}) {
    this.handshake = new Handshake("client", secret);
    this.message1 = this.handshake.write(encodeWish(wish));
  }

  /** The session that `message2` of the server `remote` gives us. Errors: a Failure that says what to try. */
  finish(message2: Buffer, remote: string): { keys: SessionKeys; config: ClientConfig } {
    if (message2.length === 0) {
      const hint = "copy the secret file from the server, and check --secret on both ends";
      throw new Failure(`Cannot start a session with ${remote}: it refused our secret`, hint);
    }
    try {
      const config = decodeReply(this.handshake.read(message2));
      return { keys: this.handshake.split(), config };
    } catch (error) {
      throw noSession(remote, error);
    }
  }
}

/** A broken handshake as a Failure that says what to try; other errors as they are. */
export function noSession(remote: string, error: unknown): unknown {
  const because = (hint: string) =>
    new Failure(`Cannot start a session with ${remote}: ${(error as Error).message}`, hint);
  if (error instanceof Refused) return because("try again later, or ask whoever runs the server");
  if (error instanceof HandshakeError)
    return because("ask whoever runs the server; are the secret and the version the same there?");
  if (error instanceof BrokenStream)
    return because(
      "wait a little, if many start at once; check that it is a Simple VPN server, with the same --cipher",
    );
  return error;
}

/** What a server says to message 1. */
export interface Reply {
  message2?: Buffer; // undefined: nothing at all
  keys?: SessionKeys; // of a session that begins
  refused?: string; // why none does
}

/**
 * The server's side: `makeReply` decides what a client is told whose message 1 proved good. The client itself
 * is proven only by its first sealed frame, because message 1 may be a replay.
 */
export function answer(
  secret: Buffer,
  message1: Buffer,
  makeReply: (wish: Wish) => ClientConfig | { refused: string },
): Reply {
  const handshake = new Handshake("server", secret);
  let known = false; // does it have our secret?
  let reply;
  try {
    const wish = handshake.read(message1);
    known = true;
    reply = makeReply(decodeWish(wish));
  } catch (error) {
    if (!(error instanceof BrokenStream)) throw error;
    return { ...(!known && { message2: NO_REPLY }), refused: error.message };
  }
  const message2 = handshake.write(encodeReply(reply));
  return "refused" in reply ? { message2, refused: reply.refused } : { message2, keys: handshake.split() };
}
