/**
 * The cipher of datagrams. It seals each as a record of TLS 1.2 (RFC 5288, section 3): AES-256-GCM. The nonce
 * is 4 zero bytes and the frame's number, the 8 bytes in front of the body. For such records OpenSSL has a
 * short way: two calls do what Cipher needs five for. A frame has 1,400 bytes, so the calls are most of the
 * work.
 *
 *   authenticated: the header's first 8 bytes, 3 zero bytes, and the length of the plaintext, u16 big-endian
 */
import {
  EVP_aes_256_gcm,
  EVP_CIPHER_CTX_ctrl,
  EVP_CIPHER_CTX_free,
  EVP_CIPHER_CTX_new,
  EVP_CipherInit_ex,
  LIMIT,
  TAG_LENGTH,
} from "../core/aes.ts";
import { Memory, thisProcess } from "../base/libc.ts";

// openssl/evp.h, EVP_EncryptInit(3ssl). EVP_CIPHER_CTX_ctrl() could tell the bytes, too; it looks for more.
const EVP_CIPHER_CTX_set_params = thisProcess.func(
  "int EVP_CIPHER_CTX_set_params(uintptr_t ctx, uintptr_t params)",
);
const EVP_Cipher = thisProcess.func(
  "int EVP_Cipher(uintptr_t ctx, uintptr_t out, uintptr_t in, uint32_t length)",
);
const GCM_SET_IV_FIXED = 0x12; // EVP_CTRL_…
const NAME = Buffer.from("tlsaad\0"); // openssl/core_names.h: OSSL_CIPHER_PARAM_AEAD_TLS1_AAD
const OCTET_STRING = 5; // openssl/core.h: OSSL_PARAM_OCTET_STRING
const NUMBER = 8; // bytes
const HEADER = 16; // bytes of it; the number is in its second half
const AUTHENTICATED = 13; // bytes: EVP_AEAD_TLS1_AAD_LEN

export class RecordCipher {
  /** The number of the next frame that is sealed; of an opener, that of the frame to open. */
  counter: number;
  /** Of all bodies. */
  bytes = 0;
  private context: number;
  private readonly end: number;
  private readonly authenticated = new Memory(16);
  private readonly params = parameter(this.authenticated);

  /** @param key 32 bytes. @param counter the number of the first frame */
  constructor(key: Buffer, direction: "seal" | "open", counter = 0) {
    this.counter = counter;
    this.end = counter + LIMIT;
    this.authenticated.bytes.fill(0);
    this.context = EVP_CIPHER_CTX_new();
    const encrypt = Number(direction === "seal");
    const iv = new Memory(12);
    iv.bytes.fill(0).writeUIntBE(counter, 6, 6);
    const isMade =
      this.context !== 0 &&
      EVP_CipherInit_ex(this.context, EVP_aes_256_gcm(), null, key, 0, encrypt) === 1 &&
      EVP_CIPHER_CTX_ctrl(this.context, GCM_SET_IV_FIXED, -1, iv.address) === 1;
    if (!isMade) throw new Error("Cannot make a cipher: OpenSSL refused");
  }

  /** Writes the number into the header, the 16 bytes in front, seals `length` bytes, and adds the tag. */
  seal(memory: Memory, at: number, length: number): void {
    if (this.usedUp) throw new Error("Cannot use a cipher: its nonce counter is used up");
    if (this.run(memory, at, length, length + NUMBER) <= 0) throw new Error("Cannot seal: OpenSSL refused");
    this.counter++;
  }

  /** Opens `length` bytes with the tag behind them, by the number in the header. False: forged or damaged. */
  open(memory: Memory, at: number, length: number): boolean {
    return this.run(memory, at, length, length + NUMBER + TAG_LENGTH) > 0;
  }

  get usedUp(): boolean {
    return this.counter >= this.end;
  }

  free(): void {
    EVP_CIPHER_CTX_free(this.context); // wipes the key schedule, too
    this.context = 0;
  }

  /** `told`: the length as OpenSSL wants it. It takes off what is not plaintext by itself. */
  private run(memory: Memory, at: number, length: number, told: number): number {
    memory.check(at - HEADER, HEADER + length + TAG_LENGTH);
    memory.check(at, length);
    if (this.context === 0) throw new Error("Cannot use a cipher: it was freed");
    this.bytes += length;
    const { bytes } = this.authenticated;
    for (let i = 0; i < NUMBER; i++) bytes[i] = memory.bytes[at - HEADER + i]!;
    bytes[11] = told >> 8;
    bytes[12] = told & 255;
    if (EVP_CIPHER_CTX_set_params(this.context, this.params.address) !== 1)
      throw new Error("Cannot use a cipher: OpenSSL does not know such records");
    const record = memory.address + at - NUMBER;
    return EVP_Cipher(this.context, record, record, NUMBER + length + TAG_LENGTH);
  }
}

/**
 * Tells OpenSSL where the authenticated bytes are: an array of struct ossl_param_st (OSSL_PARAM(3ssl)), whose
 * end is one of zeros. 8 bytes each: the name's address, the type (4, and 4 of padding), the address, the
 * size, and the size that was written.
 */
function parameter(authenticated: Memory): Memory {
  const [ENTRY, NAME_AT] = [40, 80];
  const params = new Memory(2 * ENTRY + 8);
  params.bytes.fill(0);
  NAME.copy(params.bytes, NAME_AT);
  params.bytes.writeBigUInt64LE(BigInt(params.address + NAME_AT), 0);
  params.bytes.writeUInt32LE(OCTET_STRING, 8);
  params.bytes.writeBigUInt64LE(BigInt(authenticated.address), 16);
  params.bytes.writeUInt32LE(AUTHENTICATED, 24);
  return params;
}
