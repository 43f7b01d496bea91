import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { test } from "node:test";
import { Memory } from "../base/libc.ts";
import { xor } from "./xor.ts";

function memoryOf(bytes: Buffer): Memory {
  const memory = new Memory(bytes.length);
  bytes.copy(memory.bytes);
  return memory;
}

test("xor() turns 45 00 00 54 into 07 42 42 16", () => {
  const memory = memoryOf(Buffer.from("45000054", "hex"));
  xor(memory, 0, memory, 0, 4);
  assert.equal(memory.bytes.toString("hex"), "07424216");
});

/** xor() from `source` into random bytes gives what a loop of single bytes gives, and touches no other. */
function check(source: Memory, from: number, to: number, length: number): void {
  const before = randomBytes(source.bytes.length);
  const target = memoryOf(before);
  xor(source, from, target, to, length);
  for (let i = 0; i < length; i++) before[to + i] = source.bytes[from + i]! ^ 0x42;
  assert.ok(target.bytes.equals(before), `from ${from} to ${to} length ${length}`);
}

test("xor() changes exactly the bytes asked for, at every alignment and length", () => {
  const source = memoryOf(randomBytes(48));
  for (let from = 0; from < 8; from++)
    for (let to = 0; to < 8; to++)
      for (let length = 0; length <= 40; length++) check(source, from, to, length);
});

test("xor() does so for long packets, too, which go over the bench in pieces of 16 KB", () => {
  const source = memoryOf(randomBytes(2 * 65536));
  const [short, piece] = [256, 16384];
  for (const length of [short, piece, 2 * piece, 65535 + 10].flatMap((n) => [
    n - 17,
    n - 1,
    n,
    n + 1,
    n + 16,
  ]))
    for (const from of [0, 1, 4, 14]) for (const to of [0, 3, 8]) check(source, from, to, length);
});

test("xor() of a long packet throws when it would leave either memory: WebAssembly's copy is C's", () => {
  const [small, large] = [memoryOf(randomBytes(600)), memoryOf(randomBytes(1200))];
  assert.throws(() => xor(large, 0, small, 0, 601), RangeError);
  assert.throws(() => xor(small, 1, large, 0, 600), RangeError);
  assert.throws(() => xor(large, 0, large, -1, 600), RangeError);
});

test("xor() applied twice in place gives the bytes back", () => {
  for (const length of [84, 1400, 65536]) {
    const bytes = randomBytes(length);
    const memory = memoryOf(bytes);
    xor(memory, 0, memory, 0, length);
    assert.notDeepEqual(memory.bytes, bytes);
    xor(memory, 0, memory, 0, length);
    assert.deepEqual(memory.bytes, bytes);
  }
});
