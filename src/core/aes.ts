/**
 * Step 6.seal and 8.open: AES-256-GCM in place, in our own memory. This is OpenSSL, the same that node:crypto
 * calls (node exports its functions), reached through the FFI: node:crypto gives a new Buffer for each call,
 * and that costs more than the encryption. Checked against node:crypto and published vectors in aes.test.ts.
 */
import { Memory, thisProcess } from "../base/libc.ts";

export const KEY_LENGTH = 32;
export const TAG_LENGTH = 16;
export const LIMIT = 2 ** 32; // messages under one key; rekey.ts brings a fresh one long before

// openssl/evp.h, EVP_EncryptInit(3ssl). EVP_CTRL_AEAD_GET_TAG = 0x10, EVP_CTRL_AEAD_SET_TAG = 0x11
// Pointers are numbers here: for a void *, koffi looks at each call what it got.
export const EVP_CIPHER_CTX_new = thisProcess.func("uintptr_t EVP_CIPHER_CTX_new()");
export const EVP_CIPHER_CTX_free = thisProcess.func("void EVP_CIPHER_CTX_free(uintptr_t ctx)");
export const EVP_CIPHER_CTX_ctrl = thisProcess.func(
  "int EVP_CIPHER_CTX_ctrl(uintptr_t ctx, int command, int number, uintptr_t pointer)",
);
export const EVP_aes_256_gcm = thisProcess.func("uintptr_t EVP_aes_256_gcm()");
export const EVP_CipherInit_ex = thisProcess.func(
  "int EVP_CipherInit_ex(uintptr_t ctx, uintptr_t type, void *engine, void *key, uintptr_t iv, int encrypt)",
);
const EVP_CipherUpdate = thisProcess.func(
  "int EVP_CipherUpdate(uintptr_t ctx, uintptr_t out, uintptr_t outLength, uintptr_t in, int length)",
);
const EVP_CipherFinal_ex = thisProcess.func(
  "int EVP_CipherFinal_ex(uintptr_t ctx, uintptr_t out, uintptr_t outLength)",
);
const [GET_TAG, SET_TAG] = [0x10, 0x11];

/**
 * One direction's cipher: a key and a counter. The nonce of message n is 4 zero bytes and n as u64
 * big-endian, as in Noise (rev 34, section 12.4). Over TCP both ends count, so it is never sent. One key
 * never meets the same nonce twice.
 */
export class Cipher {
  /** Of the next nonce: messages sealed or opened so far, over TCP. */
  counter: number;
  /** Their bytes. */
  bytes = 0;
  private context: number; // its address
  private readonly end: number; // the counter's
  private readonly encrypt: boolean;
  private readonly nonce = new Memory(12);
  private readonly outLength = new Memory(4); // OpenSSL writes a length here; we know it

  /** @param key 32 bytes */
  constructor(key: Buffer, direction: "seal" | "open", counter = 0) {
    this.counter = counter;
    this.end = counter + LIMIT;
    this.encrypt = direction === "seal";
    this.nonce.bytes.fill(0);
    this.context = EVP_CIPHER_CTX_new();
    if (this.context === 0) throw new Error("Cannot make a cipher: out of memory");
    const result = EVP_CipherInit_ex(this.context, EVP_aes_256_gcm(), null, key, 0, Number(this.encrypt));
    must(result, "set the key");
  }

  /**
   * Encrypts `length` bytes at memory[at …] in place and writes the 16-byte tag behind them. The `ad` bytes
   * in front of them, a frame's header, are authenticated, too, but stay readable.
   */
  seal(memory: Memory, at: number, length: number, ad: number): void {
    const address = this.transform(memory, at, length, ad);
    must(EVP_CipherFinal_ex(this.context, address, this.outLength.address), "finish");
    must(EVP_CIPHER_CTX_ctrl(this.context, GET_TAG, TAG_LENGTH, address + length), "get the tag");
  }

  /**
   * Decrypts `length` bytes at memory[at …] in place; the tag stands behind them. False: forged or damaged,
   * do not use.
   */
  open(memory: Memory, at: number, length: number, ad: number): boolean {
    const address = this.transform(memory, at, length, ad);
    must(EVP_CIPHER_CTX_ctrl(this.context, SET_TAG, TAG_LENGTH, address + length), "set the tag");
    return EVP_CipherFinal_ex(this.context, address, this.outLength.address) === 1;
  }

  /** This key has done its work: it seals and opens nothing more, rather than meet a nonce again. */
  get usedUp(): boolean {
    return this.counter >= this.end;
  }

  /** Lets go of the key. */
  free(): void {
    EVP_CIPHER_CTX_free(this.context); // wipes the key schedule, too
    this.context = 0;
  }

  private transform(memory: Memory, at: number, length: number, ad: number): number {
    memory.check(at - ad, ad + length + TAG_LENGTH);
    memory.check(at, length); // separately: a negative length could pass the combined check above
    const address = memory.address + at;
    if (this.context === 0) throw new Error("Cannot use a cipher: it was freed");
    if (this.usedUp) throw new Error("Cannot use a cipher: its nonce counter is used up");
    this.bytes += length;
    this.nonce.bytes.writeUIntBE(this.counter++, 6, 6);
    must(
      EVP_CipherInit_ex(this.context, 0, null, null, this.nonce.address, Number(this.encrypt)),
      "set the nonce",
    );
    must(EVP_CipherUpdate(this.context, 0, this.outLength.address, address - ad, ad), "add the header");
    must(EVP_CipherUpdate(this.context, address, this.outLength.address, address, length), "transform");
    return address;
  }
}

/** The two keys of a session, 32 bytes each, named from this end's point of view. */
export interface SessionKeys {
  send: Buffer;
  receive: Buffer;
}

/** A session's two ciphers. rekey.ts gives them fresh keys, which are wiped. */
export interface Keys {
  readonly sealer: Pick<Cipher, "counter" | "bytes" | "usedUp" | "free">;
  readonly opener: Keys["sealer"];
  readonly settled: boolean; // is there no key that the other end has yet to use?
  /** As Cipher.seal(). */
  seal(memory: Memory, at: number, length: number, ad: number): void;
  /** As Cipher.open(). Throws BrokenStream. */
  open(memory: Memory, at: number, length: number, ad: number): void;
  /** This key seals what we send from now on; `whenHeard`: once the other end has used its own. */
  sendWith(key: Buffer, whenHeard?: boolean): void;
  /** This key opens what we receive. */
  receiveWith(key: Buffer): void;
  free(): void;
}

/**
 * OpenSSL answers 1 for success. Anything else here is a fault of ours or of the machine, never of a peer.
 */
function must(result: number, action: string): void {
  if (result !== 1) throw new Error(`Cannot ${action}: OpenSSL answered ${result}`);
}
