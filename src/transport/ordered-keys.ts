/** The keys of a link that keeps frames in order: each fresh one counts from one frame on, on both ends. */
import { Cipher, type Keys, type SessionKeys } from "../core/aes.ts";
import { BrokenStream } from "../base/failure.ts";
import type { Memory } from "../base/libc.ts";
import { wipe } from "../base/wipe.ts";

export class OrderedKeys implements Keys {
  sealer: Cipher;
  opener: Cipher;
  readonly settled = true;
  private freed = false;

  constructor({ send, receive }: SessionKeys) {
    this.sealer = new Cipher(send, "seal");
    this.opener = new Cipher(receive, "open");
    wipe(send, receive);
  }

  seal(memory: Memory, at: number, length: number, ad: number): void {
    this.sealer.seal(memory, at, length, ad);
  }

  open(memory: Memory, at: number, length: number, ad: number): void {
    if (this.opener.usedUp) throw new BrokenStream("its key is used up, and it made no fresh one");
    if (!this.opener.open(memory, at, length, ad))
      throw new BrokenStream(
        `frame ${this.opener.counter - 1} of its key has a wrong tag: damaged, forged or out of order`,
      );
  }

  sendWith(key: Buffer): void {
    if (this.freed) return wipe(key);
    this.sealer.free();
    this.sealer = new Cipher(key, "seal");
    wipe(key);
  }

  receiveWith(key: Buffer): void {
    if (this.freed) return wipe(key);
    this.opener.free();
    this.opener = new Cipher(key, "open");
    wipe(key);
  }

  free(): void {
    this.freed = true;
    this.sealer.free();
    this.opener.free();
  }
}
