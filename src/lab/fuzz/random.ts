/** For the fuzzer: chance, which is the same again for the same seed. */
import { random } from "../tests/peers.ts";

const EDGES = [
  0, 1, 2, 3, 4, 15, 16, 19, 20, 39, 40, 47, 48, 127, 128, 255, 256, 1023, 1024, 1025, 0x7fff, 0x8000, 0xfffe,
  0xffff, 0x10000, 0xffffff, 0x7fffffff, 0x80000000, 0xffffffff,
];
const below = random(1);
const POOL = Buffer.from(Array.from({ length: 1 << 18 }, () => below(256))); // random bytes to cut from

/** What a case is made of: everything that it does by chance comes from here. */
export class Random {
  /** A whole number from 0 to n - 1. */
  readonly below: (n: number) => number;

  constructor(seed: number) {
    this.below = random(seed);
  }

  one<T>(...of: T[]): T {
    return of[this.below(of.length)]!;
  }

  /**
   * A number where programs go wrong: around zero, and around what fits into 1, 2, 3 or 4 bytes and into our
   * buffers.
   */
  edge(): number {
    return this.one(...EDGES);
  }

  bytes(length: number): Buffer {
    const at = this.below(POOL.length - length);
    return Buffer.from(POOL.subarray(at, at + length));
  }

  /**
   * The same bytes, changed in up to three places: a bit, a byte, a number; cut, extended, repeated. One in
   * four is left as it is.
   */
  mutate(input: Buffer): Buffer {
    let bytes: Buffer = Buffer.from(input);
    for (let times = this.below(4); times > 0; times--) {
      const at = this.below(bytes.length + 1);
      const some = this.below(20);
      const size = this.one(1, 2, 3, 4);
      const kind = this.below(7);
      if (kind === 0 && at < bytes.length) bytes[at]! ^= 1 << this.below(8);
      else if (kind === 1 && at < bytes.length) bytes[at] = this.edge();
      else if (kind === 2 && at + size <= bytes.length)
        bytes.writeUIntBE(this.edge() % 256 ** size, at, size);
      else if (kind === 3 && at + size <= bytes.length)
        bytes.writeUIntLE(this.edge() % 256 ** size, at, size);
      else if (kind === 4) bytes = Buffer.from(bytes.subarray(0, at));
      else if (kind === 5)
        bytes = Buffer.concat([bytes.subarray(0, at), this.bytes(some), bytes.subarray(at)]);
      else bytes = Buffer.concat([bytes.subarray(0, at + some), bytes.subarray(at)]);
    }
    return bytes;
  }

  mutateText(text: string): string {
    return this.mutate(Buffer.from(text)).toString();
  }
}
