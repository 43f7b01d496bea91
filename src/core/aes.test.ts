import assert from "node:assert/strict";
import { createCipheriv, randomBytes } from "node:crypto";
import { test } from "node:test";
import { Cipher, TAG_LENGTH } from "./aes.ts";
import { Memory } from "../base/libc.ts";
import { random, SEED } from "../lab/tests/peers.ts";

const MOST = 256 * 1024; // bytes

/** A message in memory: `header` bytes of associated data, the text, and room for the tag. */
class Message {
  readonly memory: Memory;
  readonly header: number;
  readonly length: number;
  constructor(header: Buffer, text: Buffer) {
    this.memory = new Memory(Math.ceil((header.length + text.length + TAG_LENGTH) / 4) * 4);
    header.copy(this.memory.bytes);
    text.copy(this.memory.bytes, header.length);
    this.header = header.length;
    this.length = text.length;
  }
  private get at() {
    return [this.memory, this.header, this.length, this.header] as const;
  }
  seal = (cipher: Cipher) => cipher.seal(...this.at);
  open = (cipher: Cipher) => cipher.open(...this.at);
  get text() {
    return this.memory.bytes.subarray(this.header, this.header + this.length);
  }
  get sealed() {
    return this.memory.bytes.subarray(this.header, this.header + this.length + TAG_LENGTH);
  }
}

test("seal() gives the published result: GCM specification (McGrew and Viega), test cases 13 and 14", () => {
  const zeros = (length: number) => Buffer.alloc(length);
  const empty = new Message(zeros(0), zeros(0));
  empty.seal(new Cipher(zeros(32), "seal"));
  assert.equal(empty.sealed.toString("hex"), "530f8afbc74536b9a963b4f1c4cb738b");
  const block = new Message(zeros(0), zeros(16));
  block.seal(new Cipher(zeros(32), "seal"));
  assert.equal(
    block.sealed.toString("hex"),
    "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919",
  );
});

test(`seal() agrees with node:crypto on up to 256 KB, and open() undoes it (seed ${SEED})`, () => {
  const key = randomBytes(32);
  const [sealer, opener] = [new Cipher(key, "seal"), new Cipher(key, "open")];
  const below = random(SEED);
  for (let counter = 0; counter < 200; counter++) {
    const header = randomBytes(below(8));
    const text = randomBytes(
      counter < 40 ? counter : counter === 40 ? MOST : below(counter < 100 ? 3000 : MOST),
    );
    const message = new Message(header, text);
    message.seal(sealer);

    const nonce = Buffer.alloc(12);
    nonce.writeBigUInt64BE(BigInt(counter), 4);
    const reference = createCipheriv("aes-256-gcm", key, nonce).setAAD(header);
    const expected = Buffer.concat([reference.update(text), reference.final(), reference.getAuthTag()]);
    assert.ok(message.sealed.equals(expected), `message ${counter} of ${text.length} bytes`);
    assert.ok(message.open(opener));
    assert.ok(message.text.equals(text));
  }
});

test("open() refuses a message with any one bit changed: in the text, the tag or the header", () => {
  const key = randomBytes(32);
  const length = 4 + 20 + TAG_LENGTH;
  for (let bit = 0; bit < length * 8; bit++) {
    const message = new Message(randomBytes(4), randomBytes(20));
    message.seal(new Cipher(key, "seal"));
    message.memory.bytes[bit >> 3]! ^= 1 << (bit & 7);
    assert.equal(message.open(new Cipher(key, "open")), false, `bit ${bit}`);
  }
});

test("open() refuses a replayed, a skipped and a foreign message", () => {
  const key = randomBytes(32);
  const [sealer, opener] = [new Cipher(key, "seal"), new Cipher(key, "open")];
  const messages = [0, 1, 2].map(() => new Message(Buffer.alloc(4), randomBytes(20)));
  for (const message of messages) message.seal(sealer);
  const recorded = Buffer.from(messages[0]!.memory.bytes);
  assert.ok(messages[0]!.open(opener));
  recorded.copy(messages[0]!.memory.bytes);
  assert.equal(messages[0]!.open(opener), false, "replayed");
  assert.ok(messages[2]!.open(opener), "the counter is at 2 by now");
  assert.equal(messages[1]!.open(new Cipher(randomBytes(32), "open")), false, "another key");
});

test("a counter at its end seals and opens nothing more: it never wraps, so no nonce comes twice", () => {
  const key = randomBytes(32);
  const [sealer, opener] = [new Cipher(key, "seal"), new Cipher(key, "open")];
  sealer.counter = opener.counter = 2 ** 32 - 1;
  const message = new Message(Buffer.alloc(4), randomBytes(20));
  message.seal(sealer);
  assert.ok(message.open(opener), "the last one");
  assert.deepEqual([sealer.usedUp, opener.usedUp, sealer.bytes], [true, true, 20]);
  const sealed = Buffer.from(message.memory.bytes);
  assert.throws(() => message.seal(sealer), /used up/);
  assert.throws(() => message.open(opener), /used up/);
  assert.deepEqual(message.memory.bytes, sealed, "untouched");
});

test("a freed Cipher throws instead of touching freed memory", () => {
  const cipher = new Cipher(randomBytes(32), "seal");
  cipher.free();
  assert.throws(() => new Message(Buffer.alloc(0), randomBytes(4)).seal(cipher), /freed/);
});

test("a length below zero throws before OpenSSL sees it: there it would be a crash", () => {
  const memory = new Memory(64);
  for (const length of [-1, -4, -16])
    assert.throws(
      () => new Cipher(randomBytes(32), "open").open(memory, 32, length, 16),
      RangeError,
      `${length}`,
    );
});
