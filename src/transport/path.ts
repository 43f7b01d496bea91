/**
 * How large a packet does the path take? A router that cannot pass one on should say so (ICMP "too big"), and
 * the kernel remembers. But some routers say nothing, and some firewalls drop what they say. Then large
 * packets vanish while small ones go through: a black hole. So each end asks the other: "did these 1,500
 * bytes reach you?" (RFC 8899, simplified.)
 *
 *      low                             high
 *   ────┼────────────┼──────────────────┼────────▶ bytes
 *     goes through   the next probe     does not
 */
export const CHECK = 1_000; // ms between two probes
const TRIES = 3; // so many probes of a size must be lost until we believe that it is too large …
const TRIES_OF_USED = 5; // … and of the size in use: loss by chance must not look like a black hole
const BASE = 1280; // bytes: what every path for IPv6 takes; after a black hole, the search begins here
const LEAST = 576; // bytes: what every host takes (RFC 791)
const EXACT = 16; // bytes: no search for less
const RAISE = 60; // checks after which we look whether the path takes more by now, if it is used

export class Path {
  private low: number; // bytes of IP packets
  private high: number;
  private probing = 0; // the size that is being asked for; 0: none
  private tries = 0;
  private checks = 0;
  private isSure = true; // that `low` goes through
  private readonly top: () => number;

  /**
   * @param size that has gone through already, bytes
   * @param top the most that can be, as far as the kernel knows
   */
  constructor(size: number, top: () => number) {
    this.low = size;
    this.top = top;
    this.high = this.above();
  }

  /** The size of IP packets to use. */
  get size(): number {
    return this.low;
  }

  /**
   * Once a CHECK: the size to ask for now, or 0. `isUsed`: large packets were sent; `isAlive`: a small probe
   * was answered since the last CHECK. If not even that one is, size is not what is wrong.
   */
  check(isUsed: boolean, isAlive: boolean): number {
    if (++this.checks >= RAISE && isUsed) {
      this.checks = 0;
      this.high = this.above();
    }
    const enough = this.probing > this.low ? TRIES : TRIES_OF_USED;
    if (this.probing > 0 && isAlive && ++this.tries >= enough) this.lost(this.probing);
    if (this.probing === 0) this.probing = this.next(isUsed);
    return this.probing;
  }

  /** The other end has received a probe of that size. */
  arrived(size: number): void {
    if (size !== this.probing) return; // a late one, or an answer to nothing
    this.low = Math.max(this.low, size);
    this.isSure = true;
    this.probing = this.tries = 0;
  }

  /** A packet of that size may be all that goes through: this is where to begin. */
  lower(size: number): void {
    this.low = Math.min(this.low, size);
    this.probing = this.tries = 0;
  }

  /** The kernel, or a router through it, says that the path takes no more than that. */
  limit(size: number): void {
    this.low = Math.min(this.low, size);
    this.high = size + 1;
    this.probing = this.tries = 0;
  }

  private next(isUsed: boolean): number {
    if (!this.isSure) return this.low;
    const top = this.high - 1;
    if (top - this.low >= EXACT) {
      const isFirst = this.high === this.above(); // the whole, before its halves
      return isFirst ? top : (this.low + this.high) >> 1;
    }
    return isUsed ? this.low : 0;
  }

  private lost(size: number): void {
    this.probing = this.tries = 0;
    this.high = Math.min(this.high, size);
    if (size > this.low) return;
    this.isSure = false;
    this.low = Math.min(this.low, size > BASE ? BASE : LEAST);
  }

  private above(): number {
    return Math.max(this.top(), this.low) + 1;
  }
}
