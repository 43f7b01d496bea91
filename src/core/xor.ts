/**
 * Step 6.xor and 8.xor (R4, R6): every byte XOR 0x42, as in the original C programs. It hides nothing:
 * applying it twice gives the bytes back, and one known byte of plaintext gives the key away. aes.ts is what
 * protects.
 */
import type { Memory } from "../base/libc.ts";
import { xorWith } from "../base/simd.ts";

export const XOR_KEY = 0x42;
const KEY_WORD = 0x42424242; // the key four times: one 32-bit operation does four bytes
const LONG = 256; // bytes: from here on, copying to the bench of simd.ts and back is worth it
const xorLong = xorWith(XOR_KEY);

/**
 * target[to …] = source[from …] ^ 0x42, for `length` bytes. Source and target may be the same place.
 * Where both offsets are multiples of 4, it goes word by word.
 *
 * Example: 45 00 00 54, the start of an IPv4 header, becomes 07 42 42 16.
 */
export function xor(source: Memory, from: number, target: Memory, to: number, length: number): void {
  if (length >= LONG) return xorLong(source, from, target, to, length);
  let done = 0;
  if (((from | to) & 3) === 0)
    for (; done + 4 <= length; done += 4)
      target.words[(to + done) >> 2] = source.words[(from + done) >> 2]! ^ KEY_WORD;
  for (; done < length; done++) target.bytes[to + done] = source.bytes[from + done]! ^ XOR_KEY;
}
