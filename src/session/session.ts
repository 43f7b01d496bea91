/**
 * From the handshake's two messages to a session: what each end makes of the other's message. An empty
 * message 2 says "refused"; it is not authenticated, and only decides which error the client prints.
 */
import { KEY_LENGTH, type SessionKeys } from "../core/aes.ts";
import { BrokenStream, Failure } from "../base/failure.ts";
import { Handshake, HandshakeError } from "./handshake.ts";
import {
  type ClientConfig,
  decodeReply,
  decodeWish,
  encodeReply,
  encodeWish,
  proofOf,
  Refused,
  type Wish,
} from "./payloads.ts";

const NO_REPLY = Buffer.alloc(0);

/** The server says that it has another secret. Nothing proves it. */
export class WrongSecret extends Failure {}

/** What a client had in the session before. */
export interface Before {
  address?: number; // its inner address
  token?: string;
}

/** The client's side. */
export class ClientHandshake {
  readonly message1: Buffer;
  private readonly handshake: Handshake;
  private payload: Buffer | undefined; // of the message 2 that was good

  constructor(secret: Buffer, before: Before = {}) {
    this.handshake = new Handshake("client", secret);
    const { address, token } = before;
    const proof = token && { proof: proofOf(token, this.handshake.publicKey) };
    this.message1 = this.handshake.write(encodeWish({ ...(address !== undefined && { address }), ...proof }));
  }

  /** Was message 2 made by a server that has our secret? Another one changes nothing. */
  readonly isGood = (message2: Buffer): boolean => {
    try {
      this.payload = this.handshake.read(message2);
      return true;
    } catch (error) {
      if (!(error instanceof HandshakeError)) throw error;
      return false;
    }
  };

  /** The session that `message2` of the server `remote` gives us. Errors: a Failure that says what to try. */
  finish(message2: Buffer, remote: string): { keys: SessionKeys; config: ClientConfig } {
    if (message2.length === 0) {
      const hint = "copy the secret file from the server, and check --secret on both ends";
      throw new WrongSecret(`Cannot start a session with ${remote}: it refused our secret`, hint);
    }
    try {
      const config = decodeReply(this.payload ?? this.handshake.read(message2));
      return { keys: this.handshake.split(), config };
    } catch (error) {
      throw noSession(remote, error);
    } finally {
      this.end();
    }
  }

  /** It does not come to a session: wipes its keys. */
  end(): void {
    this.handshake.end();
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
  secret?: Buffer; // the one that it began with
  refused?: string; // why none does
}

/**
 * The server's side: `makeReply` decides what a client is told whose message 1 proved good. The client itself
 * is proven only by its first sealed frame, because message 1 may be a replay. `isNew`: has its public key
 * never come before? A replay costs no X25519. `isFree`: may ours be that?
 */
export function answer(
  secrets: Buffer[],
  message1: Buffer,
  isNew: (publicKey: Buffer) => boolean,
  makeReply: (wish: Wish, publicKey: Buffer) => ClientConfig | { refused: string },
  isFree = (_publicKey: Buffer) => true,
): Reply {
  const known = readFirst(secrets, message1);
  if ("refused" in known) return known;
  const { handshake, secret, payload } = known;
  try {
    const publicKey = message1.subarray(0, KEY_LENGTH);
    if (!isNew(publicKey)) throw new HandshakeError("its first message has come before: a replay");
    const reply = makeReply(decodeWish(payload), publicKey);
    while (!isFree(handshake.publicKey)) handshake.forgetKey();
    const message2 = handshake.write(encodeReply(reply));
    return "refused" in reply
      ? { message2, refused: reply.refused }
      : { message2, keys: handshake.split(), secret };
  } catch (error) {
    if (!(error instanceof BrokenStream)) throw error;
    return { refused: error.message };
  } finally {
    handshake.end();
  }
}

/** Reads message 1 with whichever secret it was made. */
function readFirst(secrets: Buffer[], message1: Buffer) {
  let refused = "";
  for (const secret of secrets) {
    const handshake = new Handshake("server", secret);
    try {
      return { handshake, secret, payload: handshake.read(message1) };
    } catch (error) {
      handshake.end();
      if (!(error instanceof BrokenStream)) throw error;
      refused = error.message;
    }
  }
  return { message2: NO_REPLY, refused };
}
