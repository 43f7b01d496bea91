/**
 * What a long way does to packets, for emulator-program.ts: each is kept for a while, and some are lost, or
 * kept longer, so that others overtake them. Chance decides, the same for the same seed.
 */
import { Memory } from "../../base/libc.ts";
import { random } from "../tests/peers.ts";

export interface Way {
  delay: number; // ms, of every packet
  loss: number; // how probable it is that a packet is lost, 0 to 1
  reorder: number; // how probable it is that a packet is late
  late: number; // ms more for those
}

/** What became of the packets. Of those that came, the rest is on its way or has arrived. */
export interface Counts {
  came: number;
  lost: number; // by chance
  late: number;
  dropped: number; // no room, or the kernel took it not back
}

const SLOT = 2048; // bytes: a packet of 1,500 and some room
const SLOTS = 8192; // with 25 ms, enough for 3 Gbit/s; then packets are dropped, as by a router
const MILLION = 1_000_000;

/** Packets that wait equally long: the first to come is the first to go. */
class Line {
  private readonly slots = new Uint32Array(SLOTS);
  private readonly lengths = new Uint32Array(SLOTS);
  private readonly dues = new Float64Array(SLOTS);
  private first = 0;
  private count = 0;

  push(slot: number, length: number, due: number): void {
    const at = (this.first + this.count++) % SLOTS;
    this.slots[at] = slot;
    this.lengths[at] = length;
    this.dues[at] = due;
  }

  /** When the first one may go. */
  get due(): number {
    return this.count > 0 ? this.dues[this.first]! : Infinity;
  }

  take(): [slot: number, length: number] {
    const at = this.first;
    this.first = (at + 1) % SLOTS;
    this.count--;
    return [this.slots[at]!, this.lengths[at]!];
  }
}

export class DelayLine {
  readonly counts: Counts = { came: 0, lost: 0, late: 0, dropped: 0 };
  private readonly way: Way;
  private readonly chance: (below: number) => number;
  private readonly memory = new Memory(SLOT * (SLOTS + 1)); // the last slot is for those without room
  private readonly free = Array.from({ length: SLOTS }, (_, slot) => slot);
  private readonly onTime = new Line();
  private readonly late = new Line();

  constructor(way: Way, seed: number) {
    this.way = way;
    this.chance = random(seed);
  }

  /** Takes one packet at `now` (ms). `read` puts it into memory[at …], and returns its length, if any. */
  take(now: number, read: (memory: Memory, at: number, room: number) => number): boolean {
    const slot = this.free.at(-1) ?? SLOTS;
    const length = read(this.memory, slot * SLOT, SLOT);
    if (length <= 0) return false;
    this.counts.came++;
    const lost = this.chance(MILLION) < this.way.loss * MILLION;
    const late = this.chance(MILLION) < this.way.reorder * MILLION;
    if (lost) this.counts.lost++;
    else if (slot === SLOTS) this.counts.dropped++;
    else {
      this.free.pop();
      if (late) this.counts.late++;
      const line = late ? this.late : this.onTime;
      line.push(slot, length, now + this.way.delay + (late ? this.way.late : 0));
    }
    return true;
  }

  /** Gives `write` all that may go at `now` (ms), in the order in which they might. It says if one went. */
  give(now: number, write: (memory: Memory, at: number, length: number) => boolean): void {
    for (;;) {
      const line = this.late.due < this.onTime.due ? this.late : this.onTime;
      if (line.due > now) return;
      const [slot, length] = line.take();
      if (!write(this.memory, slot * SLOT, length)) this.counts.dropped++;
      this.free.push(slot);
    }
  }
}
