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

test("xor() changes exactly the bytes asked for, at every alignment and length", () => {
  const source = memoryOf(randomBytes(32));
  for (let from = 0; from < 8; from++) {
    for (let to = 0; to < 8; to++) {
      for (let length = 0; length <= 24; length++) {
        const before = randomBytes(32);
        const target = memoryOf(before);
        xor(source, from, target, to, length);
        const expected = Buffer.from(before);
        for (let i = 0; i < length; i++) expected[to + i] = source.bytes[from + i]! ^ 0x42;
        assert.deepEqual(target.bytes, expected, `from ${from} to ${to} length ${length}`);
      }
    }
  }
});

test("xor() applied twice in place gives the bytes back", () => {
  const bytes = randomBytes(1400);
  const memory = memoryOf(bytes);
  xor(memory, 0, memory, 0, 1400);
  assert.notDeepEqual(memory.bytes, bytes);
  xor(memory, 0, memory, 0, 1400);
  assert.deepEqual(memory.bytes, bytes);
});
