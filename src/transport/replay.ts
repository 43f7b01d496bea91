/**
 * Which datagrams have come already? The network may bring one twice, or an attacker may send a recorded one
 * again. Each has a number of its own, and this window knows the last 2,048 of them, a bit each. What is
 * older than the window is refused, too, because nobody knows any more. (RFC 6479: a ring of words, so that
 * nothing is shifted.)
 *
 *        refused                    known, bit by bit                   new
 *   ───────────────────┤ newest − 2,047 ………………………………… newest ├────────────────▶ numbers
 */
export const WINDOW = 2048; // numbers
const WORDS = 2 * (WINDOW / 32); // more than the window has, so that a word can be cleared before it is used

export class ReplayWindow {
  newest = -1; // the greatest number so far
  private readonly seen = new Uint32Array(WORDS);

  /** Has this number never come, as far as we know? It is asked before the tag is checked. */
  isNew(number: number): boolean {
    if (number > this.newest) return true;
    if (number <= this.newest - WINDOW) return false;
    return (this.seen[wordOf(number)]! & bitOf(number)) === 0;
  }

  /** It has come. Only once its tag has proven good: else a forged one would make the window forget. */
  take(number: number): void {
    if (number > this.newest) {
      const words = Math.min(Math.floor(number / 32) - Math.floor(this.newest / 32), WORDS);
      for (let i = 0; i < words; i++) this.seen[wordOf(number - 32 * i)] = 0;
      this.newest = number;
    }
    this.seen[wordOf(number)]! |= bitOf(number);
  }
}

const wordOf = (number: number) => Math.floor(number / 32) % WORDS;
const bitOf = (number: number) => 1 << (number % 32);
