/**
 * X25519 and HKDF for the handshake. node:crypto has both, but its objects keep copies of keys until memory
 * is collected, whenever that is. These calls go to the same OpenSSL, and leave nothing behind: it wipes what
 * it frees, and what it gives us we wipe ourselves.
 */
import { randomFillSync } from "node:crypto";
import { KEY_LENGTH } from "../core/aes.ts";
import { thisProcess } from "../base/libc.ts";
import { room, wipe } from "../base/wipe.ts";

// openssl/evp.h, EVP_PKEY_new(3ssl), EVP_PKEY_derive(3ssl)
const EVP_PKEY_new_raw_private_key = thisProcess.func(
  "void *EVP_PKEY_new_raw_private_key(int type, void *engine, void *key, size_t length)",
);
const EVP_PKEY_new_raw_public_key = thisProcess.func(
  "void *EVP_PKEY_new_raw_public_key(int type, void *engine, void *key, size_t length)",
);
const EVP_PKEY_get_raw_public_key = thisProcess.func(
  "int EVP_PKEY_get_raw_public_key(void *pair, void *key, void *length)",
);
const EVP_PKEY_free = thisProcess.func("void EVP_PKEY_free(void *pair)");
const EVP_PKEY_CTX_new = thisProcess.func("void *EVP_PKEY_CTX_new(void *pair, void *engine)");
const EVP_PKEY_CTX_free = thisProcess.func("void EVP_PKEY_CTX_free(void *context)");
const EVP_PKEY_derive_init = thisProcess.func("int EVP_PKEY_derive_init(void *context)");
const EVP_PKEY_derive_set_peer = thisProcess.func("int EVP_PKEY_derive_set_peer(void *context, void *peer)");
const EVP_PKEY_derive = thisProcess.func("int EVP_PKEY_derive(void *context, void *secret, void *length)");
const X25519 = 1034; // openssl/obj_mac.h: NID_X25519
// openssl/err.h: what failed stays in a list of this thread's, where node:crypto would find it
const ERR_clear_error = thisProcess.func("void ERR_clear_error()");
// openssl/hmac.h, HMAC(3ssl)
const EVP_sha256 = thisProcess.func("void *EVP_sha256()");
const HMAC = thisProcess.func(
  "void *HMAC(void *hash, void *key, int keyLength, void *data, size_t length, void *out, void *outLength)",
);

/** An X25519 key pair (RFC 7748). */
export class KeyPair {
  readonly publicKey = Buffer.alloc(KEY_LENGTH);
  private pair: unknown;

  /** @param privateKey 32 bytes, given by tests only; they are wiped here */
  constructor(privateKey: Buffer = randomFillSync(room(KEY_LENGTH))) {
    this.pair = EVP_PKEY_new_raw_private_key(X25519, null, privateKey, KEY_LENGTH);
    wipe(privateKey);
    if (EVP_PKEY_get_raw_public_key(this.pair, this.publicKey, lengthOf(KEY_LENGTH)) !== 1)
      throw new Error("Cannot make a key pair: OpenSSL refused");
  }

  /**
   * The secret that we share with the owner of that public key: 32 bytes, to be wiped. undefined for a key of
   * low order, with which it would be zero for everyone.
   */
  shared(publicKey: Buffer): Buffer | undefined {
    const secret = room(KEY_LENGTH);
    const peer: unknown = EVP_PKEY_new_raw_public_key(X25519, null, publicKey, KEY_LENGTH);
    const context: unknown = EVP_PKEY_CTX_new(this.pair, null);
    const isGood =
      EVP_PKEY_derive_init(context) === 1 &&
      EVP_PKEY_derive_set_peer(context, peer) === 1 &&
      EVP_PKEY_derive(context, secret, lengthOf(KEY_LENGTH)) === 1;
    EVP_PKEY_CTX_free(context);
    EVP_PKEY_free(peer);
    if (!isGood) ERR_clear_error();
    return isGood ? secret : undefined;
  }

  /** Wipes the private key. */
  free(): void {
    EVP_PKEY_free(this.pair);
    this.pair = null;
  }
}

/** A size_t in memory, for a function that takes the length of a buffer, and gives back what it used. */
function lengthOf(size: number): Buffer {
  const length = Buffer.alloc(8);
  length.writeUInt32LE(size);
  return length;
}

/** HKDF with an empty info: `count` keys of 32 bytes, to be wiped (Noise rev 34, section 4.3; RFC 5869). */
export function hkdf(chainingKey: Buffer, input: Buffer, count: number): Buffer[] {
  const temporary = hmac(chainingKey, input);
  const keys: Buffer[] = [];
  const data = room(KEY_LENGTH + 1); // the key before, and the number of the next one
  for (let number = 1; number <= count; number++) {
    data[KEY_LENGTH] = number;
    keys.push(hmac(temporary, number === 1 ? data.subarray(KEY_LENGTH) : data));
    keys.at(-1)!.copy(data);
  }
  wipe(temporary, data);
  return keys;
}

/** HMAC-SHA256: 32 bytes. */
export function hmac(key: Buffer, data: Buffer): Buffer {
  const out = room(KEY_LENGTH);
  if (HMAC(EVP_sha256(), key, key.length, data, data.length, out, null) === null)
    throw new Error("Cannot compute an HMAC: OpenSSL refused");
  return out;
}
