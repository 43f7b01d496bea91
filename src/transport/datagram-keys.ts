/**
 * The keys of a link that carries datagrams. Datagrams get lost, come twice, and overtake each other, so
 * nobody can count them. So each has its number in its header, and the number of its key.
 *
 *   offset size   (both big-endian; the whole header is authenticated)
 *   1      1      key: 0 for that of the handshake, then one more with each fresh one; 255 is followed by 0
 *   8      8      number: 0, 1, 2 … of all frames that this end sends in this session, whatever their key
 *
 * The nonce is the number with 4 zero bytes in front. With fresh keys the numbers go on. So no nonce is used
 * twice, and one window finds all replays. An old key opens for 10 s more, for what was on its way. Fresh
 * keys come once a second at most (PAUSE in rekey.ts). So there are a dozen old ones at most.
 */
import type { Keys, SessionKeys } from "../core/aes.ts";
import { BrokenStream } from "../base/failure.ts";
import type { Memory } from "../base/libc.ts";
import { RecordCipher } from "./record-cipher.ts";
import { ReplayWindow } from "./replay.ts";
import { wipe } from "../base/wipe.ts";

export const KEY_AT = 1;
export const NUMBER_AT = 8;
const OVERLAP = 10_000; // ms

/** The number in a frame's header. Its first two bytes must be 0: no session lives for 2^48 frames. */
export const numberOf = (bytes: Buffer, header: number) => bytes.readUIntBE(header + NUMBER_AT + 2, 6);

export class DatagramKeys implements Keys {
  readonly window = new ReplayWindow();
  sealer: RecordCipher;
  opener: RecordCipher;
  settled = true; // has the other end used the newest key that opens?
  private sends = 0; // the key that seals
  private receives = 0; // the newest key that opens
  private readonly former = new Map<number, RecordCipher>(); // what opened before, by key
  private waiting: Buffer | undefined; // a key to seal with, once it has
  private freed = false;

  constructor({ send, receive }: SessionKeys) {
    this.sealer = new RecordCipher(send, "seal");
    this.opener = new RecordCipher(receive, "open");
    wipe(send, receive);
  }

  /** Writes the key into the header, the `ad` bytes in front. The cipher writes the number, and seals. */
  seal(memory: Memory, at: number, length: number, ad: number): void {
    memory.bytes[at - ad + KEY_AT] = this.sends;
    this.sealer.seal(memory, at, length);
  }

  open(memory: Memory, at: number, length: number, ad: number): void {
    const header = at - ad;
    const key = memory.bytes[header + KEY_AT]!;
    const isNewest = key === this.receives;
    const opener = isNewest ? this.opener : this.former.get(key);
    if (!opener) throw new BrokenStream("a datagram under a key that we do not have");
    const number = numberOf(memory.bytes, header);
    opener.counter = number;
    if (memory.bytes.readUInt16BE(header + NUMBER_AT) !== 0 || opener.usedUp)
      throw new BrokenStream("a datagram whose number is too large");
    if (!this.window.isNew(number))
      throw new BrokenStream("a datagram that has come before (or much too late)");
    if (!opener.open(memory, at, length)) throw new BrokenStream("a datagram that is damaged or forged");
    this.window.take(number);
    if (isNewest && !this.settled) this.settle();
  }

  sendWith(key: Buffer, whenHeard = false): void {
    if (this.freed) return wipe(key);
    if (whenHeard && !this.settled) {
      this.waiting = key;
      return;
    }
    const next = new RecordCipher(key, "seal", this.sealer.counter);
    this.sealer.free();
    this.sealer = next;
    this.sends = (this.sends + 1) & 255;
    wipe(key);
  }

  receiveWith(key: Buffer): void {
    if (this.freed) return wipe(key);
    this.endFormer(this.receives); // 256 keys ago
    this.former.set(this.receives, this.opener);
    this.opener = new RecordCipher(key, "open", this.window.newest + 1);
    this.receives = (this.receives + 1) & 255;
    this.settled = false;
    wipe(key);
  }

  free(): void {
    this.freed = true;
    wipe(this.waiting);
    for (const cipher of [this.sealer, this.opener, ...this.former.values()]) cipher.free();
    this.former.clear();
  }

  /** The other end has used its fresh key: now it has ours, too. */
  private settle(): void {
    this.settled = true;
    if (this.waiting) this.sendWith(this.waiting);
    this.waiting = undefined;
    const key = (this.receives - 1) & 255;
    setTimeout(() => this.endFormer(key), OVERLAP).unref();
  }

  private endFormer(key: number): void {
    this.former.get(key)?.free();
    this.former.delete(key);
  }
}
