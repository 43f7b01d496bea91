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
import { createHash } from "node:crypto";
import { Cipher, KEY_LENGTH, type SessionKeys, TAG_LENGTH } from "../core/aes.ts";
import { BrokenStream } from "../base/failure.ts";
import { pad } from "../core/frame.ts";
import { Memory } from "../base/libc.ts";
import { hkdf, KeyPair } from "./primitives.ts";
import { room, wipe } from "../base/wipe.ts";

const NAME = "Noise_NNpsk0_25519_AESGCM_SHA256"; // exactly 32 bytes, so h starts as the name (section 5.2)
const PROLOGUE = Buffer.from("simple-vpn/1"); // both ends must mean the same protocol and version
/** Inside a session: a message of one kind must not pass for one of the other. */
export const REKEY_PROLOGUE = Buffer.from("simple-vpn/1 rekey");
const DH_LENGTH = 32;
const HASH_LENGTH = 32;

/** The handshake cannot go on: a forged, damaged or foreign message. */
export class HandshakeError extends BrokenStream {}

/**
 * One handshake of one side. Message 1 and 2 in turn: the client writes then reads, the server reads then
 * writes. Then split() gives the keys; if it does not come to that, end() wipes what there is.
 */
export class Handshake {
  private h: Buffer = Buffer.from(NAME); // hash of all that was said so far
  private readonly ck = room(KEY_LENGTH); // chaining key: all secrets so far
  private readonly k = room(KEY_LENGTH); // the key of the next message
  private theirs: Buffer = Buffer.alloc(0);
  private readonly initiator: boolean;
  private ephemeral: KeyPair | undefined; // made when it is needed: a message that is refused costs no key

  /** @param secret the shared secret, 32 bytes; ephemeral is given by tests only */
  constructor(side: "client" | "server", secret: Buffer, prologue: Buffer = PROLOGUE, ephemeral?: KeyPair) {
    this.initiator = side === "client";
    this.ephemeral = ephemeral;
    this.h.copy(this.ck);
    this.mixHash(prologue);
    // token psk, the "0" in NNpsk0: before the first message. MixKeyAndHash (section 9.2)
    this.mixKeyAndHash(secret);
  }

  /** Our public key of this handshake: the first 32 bytes of the message that we shall write. */
  get publicKey(): Buffer {
    this.ephemeral ??= new KeyPair();
    return this.ephemeral.publicKey;
  }

  /** The next message of ours, with `payload` sealed in it. */
  write(payload: Buffer): Buffer {
    const e = this.publicKey; // token e; with a psk, e is also mixed into the key (section 9.2)
    this.mixHash(e);
    this.mixKey(e);
    if (!this.initiator) this.mixSharedKey();
    return Buffer.concat([e, this.encryptAndHash(payload)]);
  }

  /**
   * Reads the other end's message; its payload. Throws HandshakeError if it was not made with our secret:
   * then all is as before, and another message can be read.
   */
  read(message: Buffer): Buffer {
    if (message.length < DH_LENGTH + TAG_LENGTH)
      throw new HandshakeError(
        `handshake message of ${message.length} bytes, expected at least ${DH_LENGTH + TAG_LENGTH}`,
      );
    const { h } = this;
    const before = room(2 * KEY_LENGTH);
    this.ck.copy(before);
    this.k.copy(before, KEY_LENGTH);
    try {
      this.theirs = Buffer.from(message.subarray(0, DH_LENGTH));
      this.mixHash(this.theirs);
      this.mixKey(this.theirs);
      if (this.initiator) this.mixSharedKey();
      return this.decryptAndHash(message.subarray(DH_LENGTH));
    } catch (error) {
      this.h = h;
      before.copy(this.ck, 0, 0, KEY_LENGTH);
      before.copy(this.k, 0, KEY_LENGTH);
      throw error;
    } finally {
      wipe(before);
    }
  }

  /** After both messages: the keys of the session, one per direction (section 5.2, Split). */
  split(): SessionKeys {
    const [clientKey, serverKey] = hkdf(this.ck, Buffer.alloc(0), 2);
    this.end();
    return this.initiator
      ? { send: clientKey!, receive: serverKey! }
      : { send: serverKey!, receive: clientKey! };
  }

  /** Wipes its keys. */
  end(): void {
    wipe(this.ck, this.k);
    this.forgetKey();
  }

  /** Wipes the key pair. publicKey is another one from then on. */
  forgetKey(): void {
    this.ephemeral?.free();
    this.ephemeral = undefined;
  }

  private mixHash(data: Buffer): void {
    this.h = createHash("sha256").update(this.h).update(data).digest();
  }

  private mixKey(input: Buffer): void {
    this.take(hkdf(this.ck, input, 2));
  }

  private mixKeyAndHash(input: Buffer): void {
    const [ck, hash, k] = hkdf(this.ck, input, 3);
    this.mixHash(hash!);
    this.take([ck!, k!, hash!]);
  }

  /** The chaining key and the next message's key; the rest is wiped only. */
  private take(keys: Buffer[]): void {
    keys[0]!.copy(this.ck);
    keys[1]!.copy(this.k);
    wipe(...keys);
  }

  /** token ee: X25519 of our ephemeral key and theirs. */
  private mixSharedKey(): void {
    const shared = this.ephemeral!.shared(this.theirs);
    if (!shared) throw new HandshakeError("the other end's public key is not valid");
    this.mixKey(shared);
    wipe(shared);
  }

  // A message's key seals one payload, so its nonce is always 0. What is authenticated with it is h.

  private encryptAndHash(plaintext: Buffer): Buffer {
    const [cipher, memory] = [new Cipher(this.k, "seal"), this.behindHash(plaintext)];
    cipher.seal(memory, HASH_LENGTH, plaintext.length, HASH_LENGTH);
    cipher.free();
    const sealed = Buffer.from(
      memory.bytes.subarray(HASH_LENGTH, HASH_LENGTH + plaintext.length + TAG_LENGTH),
    );
    this.mixHash(sealed);
    return sealed;
  }

  private decryptAndHash(sealed: Buffer): Buffer {
    const [cipher, memory] = [new Cipher(this.k, "open"), this.behindHash(sealed)];
    const length = sealed.length - TAG_LENGTH;
    const isGood = cipher.open(memory, HASH_LENGTH, length, HASH_LENGTH);
    cipher.free();
    if (!isGood) throw new HandshakeError("it was made with another secret, or is not our protocol");
    this.mixHash(sealed);
    return Buffer.from(memory.bytes.subarray(HASH_LENGTH, HASH_LENGTH + length));
  }

  private behindHash(bytes: Buffer): Memory {
    const memory = new Memory(pad(HASH_LENGTH + bytes.length + TAG_LENGTH, 4));
    this.h.copy(memory.bytes);
    bytes.copy(memory.bytes, HASH_LENGTH);
    return memory;
  }
}
