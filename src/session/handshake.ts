/**
 * The handshake: Noise_NNpsk0_25519_AESGCM_SHA256 (noiseprotocol.org, rev 34). Both ends prove that they have
 * the shared secret. Both get two fresh keys. Nobody can compute these later, not even with the secret,
 * because the ephemeral keys are gone.
 *
 *   client → server   psk, e     message 1: 32 bytes of public key, and sealed: a Wish or nothing
 *   server → client   e, ee      message 2: the same; its payload is what the client needs: a ClientConfig
 *
 * Names (h, ck, MixKey, MixHash) are those of the specification's section 5.2.
 */
import { createCipheriv, createDecipheriv, createHash, createPublicKey } from "node:crypto";
import { diffieHellman, generateKeyPairSync, hkdfSync, type KeyObject } from "node:crypto";
import { embed, formatIPv4, parseIPv4, parsePrefix96, type Prefix96 } from "../base/address.ts";
import { KEY_LENGTH, type SessionKeys, TAG_LENGTH } from "../core/aes.ts";
import { BrokenStream } from "../base/failure.ts";

const NAME = "Noise_NNpsk0_25519_AESGCM_SHA256"; // exactly 32 bytes, so h starts as the name (section 5.2)
const PROLOGUE = Buffer.from("simple-vpn/1"); // both ends must mean the same protocol and version
/** Inside a session: a message of one kind must not pass for one of the other. */
export const REKEY_PROLOGUE = Buffer.from("simple-vpn/1 rekey");
const DH_LENGTH = 32;

/** What the server tells a client: JSON in message 2's payload, so that later versions can add to it. */
export interface ClientConfig {
  address: number; // the client's inner address
  prefix: number; // of the inner subnet, bits
  mtu: number; // bytes
  subnet6?: Prefix96 | undefined; // of the inner IPv6 addresses; undefined: this server's tunnel has none
  token?: string; // who knows it may take this session over
}

/** What a client that had a session asks for: JSON in message 1's payload. */
export interface Wish {
  address?: number; // its inner address
  token?: string; // of that session, 32 hex digits
}

/** The handshake cannot go on: a forged, damaged or foreign message. */
export class HandshakeError extends BrokenStream {}
/** The server knows us, and has a reason to say no. */
export class Refused extends HandshakeError {}

/**
 * One handshake of one side. Message 1 and 2 in turn: the client writes then reads, the server reads then
 * writes.
 */
export class Handshake {
  private h: Buffer = Buffer.from(NAME); // hash of all that was said so far
  private ck: Buffer = this.h; // chaining key: all secrets so far
  private k: Buffer = Buffer.alloc(0);
  private n = 0;
  private theirs: Buffer = Buffer.alloc(0);
  private readonly initiator: boolean;
  private ephemeral: KeyObject | undefined; // made when it is needed: a message that is refused costs no key

  /** @param secret the shared secret, 32 bytes; ephemeral is given by tests only */
  constructor(side: "client" | "server", secret: Buffer, prologue: Buffer = PROLOGUE, ephemeral?: KeyObject) {
    this.initiator = side === "client";
    this.ephemeral = ephemeral;
    this.mixHash(prologue);
    // token psk, the "0" in NNpsk0: before the first message. MixKeyAndHash (section 9.2)
    this.mixKeyAndHash(secret);
  }

  /** The next message of ours, with `payload` sealed in it. */
  write(payload: Buffer): Buffer {
    this.ephemeral ??= generateKeyPairSync("x25519").privateKey;
    const e = publicBytes(this.ephemeral); // token e; with a psk, e is also mixed into the key (section 9.2)
    this.mixHash(e);
    this.mixKey(e);
    if (!this.initiator) this.mixKey(this.ee());
    return Buffer.concat([e, this.encryptAndHash(payload)]);
  }

  /** Reads the other end's message; its payload. Throws HandshakeError if it was not made with our secret. */
  read(message: Buffer): Buffer {
    if (message.length < DH_LENGTH + TAG_LENGTH)
      throw new HandshakeError(
        `handshake message of ${message.length} bytes, expected at least ${DH_LENGTH + TAG_LENGTH}`,
      );
    this.theirs = Buffer.from(message.subarray(0, DH_LENGTH));
    this.mixHash(this.theirs);
    this.mixKey(this.theirs);
    if (this.initiator) this.mixKey(this.ee());
    return this.decryptAndHash(message.subarray(DH_LENGTH));
  }

  /** After both messages: the keys of the session, one per direction (section 5.2, Split). */
  split(): SessionKeys {
    const [clientKey, serverKey] = hkdf(this.ck, Buffer.alloc(0), 2);
    return this.initiator
      ? { send: clientKey!, receive: serverKey! }
      : { send: serverKey!, receive: clientKey! };
  }

  private mixHash(data: Buffer): void {
    this.h = createHash("sha256").update(this.h).update(data).digest();
  }

  private mixKey(input: Buffer): void {
    [this.ck, this.k] = hkdf(this.ck, input, 2) as [Buffer, Buffer];
    this.n = 0;
  }

  private mixKeyAndHash(input: Buffer): void {
    const [ck, hash, k] = hkdf(this.ck, input, 3) as [Buffer, Buffer, Buffer];
    this.ck = ck;
    this.mixHash(hash);
    this.k = k;
    this.n = 0;
  }

  /** token ee: X25519 of our ephemeral key and theirs. Node refuses a public key of low order. */
  private ee(): Buffer {
    try {
      const publicKey = createPublicKey({
        key: { kty: "OKP", crv: "X25519", x: this.theirs.toString("base64url") },
        format: "jwk",
      });
      return diffieHellman({ privateKey: this.ephemeral!, publicKey });
    } catch {
      throw new HandshakeError("the other end's public key is not valid");
    }
  }

  private encryptAndHash(plaintext: Buffer): Buffer {
    const cipher = createCipheriv("aes-256-gcm", this.k, this.nonce()).setAAD(this.h);
    const sealed = Buffer.concat([cipher.update(plaintext), cipher.final(), cipher.getAuthTag()]);
    this.mixHash(sealed);
    return sealed;
  }

  private decryptAndHash(sealed: Buffer): Buffer {
    const body = sealed.subarray(0, -TAG_LENGTH);
    const decipher = createDecipheriv("aes-256-gcm", this.k, this.nonce())
      .setAAD(this.h)
      .setAuthTag(sealed.subarray(-TAG_LENGTH));
    try {
      const plaintext = Buffer.concat([decipher.update(body), decipher.final()]);
      this.mixHash(sealed);
      return plaintext;
    } catch {
      throw new HandshakeError("it was made with another secret, or is not our protocol");
    }
  }

  private nonce(): Buffer {
    const nonce = Buffer.alloc(12);
    nonce.writeUInt32BE(this.n++, 8);
    return nonce;
  }
}

/** HKDF with an empty info, `count` keys of 32 bytes (section 4.3; RFC 5869). */
function hkdf(ck: Buffer, input: Buffer, count: number): Buffer[] {
  const all = Buffer.from(hkdfSync("sha256", input, ck, Buffer.alloc(0), count * KEY_LENGTH));
  return Array.from({ length: count }, (_, i) => all.subarray(i * KEY_LENGTH, (i + 1) * KEY_LENGTH));
}

/**
 * The 32 bytes of an X25519 public key: the end of its DER form (RFC 8410, section 4). The JWK form can hang
 * Node 20: it holds the key's lock while it makes strings. If memory is collected just then, the destructor
 * of the finished key generation needs the same lock: a deadlock.
 */
function publicBytes(privateKey: KeyObject): Buffer {
  return createPublicKey(privateKey).export({ format: "der", type: "spki" }).subarray(-DH_LENGTH);
}

/** The payload of message 1. */
export function encodeWish({ address, token }: Wish): Buffer {
  return address === undefined
    ? Buffer.alloc(0)
    : Buffer.from(JSON.stringify({ address: formatIPv4(address), token }));
}

/** Reads and checks the payload of message 1; empty: no wish. Throws HandshakeError. */
export function decodeWish(payload: Buffer): Wish {
  if (payload.length === 0) return {};
  const wish = parseObject(payload);
  const address = parseIPv4(wish.address);
  if (address !== undefined && (wish.token === undefined || isToken(wish.token)))
    return { address, token: wish.token };
  throw new HandshakeError("the client's wish makes no sense");
}

/** The payload of message 2: what the client needs, or why it gets no session. */
export function encodeReply(reply: ClientConfig | { refused: string }): Buffer {
  if ("refused" in reply) return Buffer.from(JSON.stringify(reply));
  const subnet6 = reply.subnet6 && `${embed(reply.subnet6, 0)}/96`;
  return Buffer.from(JSON.stringify({ ...reply, address: formatIPv4(reply.address), subnet6 }));
}

/** Reads and checks the payload of message 2: these values go into commands. Throws HandshakeError. */
export function decodeReply(payload: Buffer): ClientConfig {
  const { refused, address: text, prefix, mtu, token, subnet6: text6 } = parseObject(payload);
  if (typeof refused === "string") throw new Refused(refused.replace(/[^ -~]/g, "?"));
  const address = parseIPv4(text);
  const subnet6 = parsePrefix96(text6);
  if (
    address !== undefined &&
    isWhole(prefix, 8, 30) &&
    isWhole(mtu, 68, 65535) &&
    (token === undefined || isToken(token)) &&
    (text6 === undefined || subnet6)
  )
    return { address, prefix, mtu, ...(token !== undefined && { token }), ...(subnet6 && { subnet6 }) };
  throw new HandshakeError("the server's configuration makes no sense");
}

/** JSON from the wire; {} for anything but an object. */
function parseObject(payload: Buffer): Record<string, unknown> {
  try {
    return JSON.parse(payload.toString()) ?? {};
  } catch {
    return {};
  }
}

const isToken = (value: unknown): value is string =>
  typeof value === "string" && /^[0-9a-f]{32}$/.test(value);
const isWhole = (value: unknown, min: number, max: number): value is number =>
  Number.isInteger(value) && (value as number) >= min && (value as number) <= max;
