/**
 * A peer's outbox: the bytes on their way to its link. All packets of one wake-up are XORed into one open
 * frame (6.xor). It then gets its header (6.frame), is sealed in place (6.seal), and the link takes it
 * (6.write). What the link does not take waits here. Nothing is allocated for a packet that is not shown.
 */
import { EAGAIN, errnoName } from "../base/errno.ts";
import type { Keys } from "./aes.ts";
import { BATCH, FrameType } from "./frame.ts";
import type { Traffic } from "../base/counters.ts";
import { Memory } from "../base/libc.ts";
import type { Link, Pulse } from "./link.ts";
import { type Steps, trace } from "../base/trace.ts";
import type { Direction } from "../base/walk.ts";
import { xor } from "./xor.ts";

const SIZE = 8 * BATCH; // bytes that may wait for one link

/** Whose outbox it is: peer.ts. */
export interface Sender {
  readonly link: Link;
  readonly sendSteps: Direction;
  readonly keys: Keys | undefined;
  readonly pulse: Pulse;
  readonly traffic: Traffic;
  close(reason: string): void;
}

export class Outbox {
  packets = 0; // in the open frame
  private readonly memory = new Memory(SIZE);
  private readonly sender: Sender;
  private head = 0; // first byte that the link has not taken
  private tail = 0; // end of what is in here
  private frameAt = -1; // where the open frame starts; -1: none is open
  private steps: Steps | undefined; // of the latest frame, if the trace shows it

  constructor(sender: Sender) {
    this.sender = sender;
  }

  /**
   * Opens a frame unless one is open that has room for a record of `size` bytes more. False if that is too
   * much, or if less than `reserve` bytes would be free then.
   */
  openFor(size: number, reserve = 0): boolean {
    const { header, tag, maxBody } = this.sender.link.framing;
    // A drain of many small packets, then a large one, can be more than a frame holds.
    const isFull = this.frameAt >= 0 && this.tail + size + tag > this.frameAt + header + maxBody;
    if (isFull) this.seal(FrameType.data);
    if (!this.makeRoom(header + size + tag + reserve)) return false;
    if (this.frameAt >= 0) return true;
    this.frameAt = this.tail;
    this.tail += header;
    return true;
  }

  /** The steps of the open frame's next packet, if the trace shows it. */
  show(): Steps | undefined {
    const steps = trace.show(this.sender.sendSteps, this.sender.traffic.sent.frames);
    if (steps) this.steps = steps;
    return steps?.packet(this.packets);
  }

  /**
   * Puts a record, `size` bytes of source[at …], into the open frame: XOR does the copying. `packet`: bytes
   * of it.
   */
  add(source: Memory, at: number, size: number, packet = 0, steps?: Steps): void {
    xor(source, at, this.memory, this.tail, size); // WALK 6.xor R4.xor
    steps?.xor(this.memory, this.tail + this.sender.link.framing.packet, packet);
    this.tail += size;
    this.packets++;
  }

  /** Finishes the open frame, if there is one. */
  seal(type: FrameType): void {
    if (this.frameAt < 0) return;
    const { sender, memory, frameAt, steps } = this;
    const { link, keys, pulse } = sender;
    const { header, tag, packet } = link.framing;
    if (keys?.sealer.usedUp) return sender.close("its key is used up, and it made no fresh one");
    const body = frameAt + header;
    const length = this.tail - body;
    // WALK 6.frame R4.frame: the header first, because the seal covers it
    link.framing.putHeader(memory.bytes, frameAt, type, length + tag);
    keys?.seal(memory, body, length, header); // WALK 6.seal R4.seal
    this.tail += tag;
    // The bytes shown are the packet's own, as for 6.xor: so one sees what the seal has made of them.
    if (keys) steps?.seal(memory, body + packet, length + tag, keys.sealer.counter - 1);
    steps?.frame(memory, frameAt, header + length + tag, header, link.framing.ordered);
    this.frameAt = -1;
    this.packets = 0;
    sender.traffic.sent.frames++; // both ends number frames alike: up2 here is up2 there
    pulse.sealed();
    if (type === FrameType.data) pulse.awaitAnswer();
  }

  /** The link takes what it can. Called again when the link has room. */
  flush(): void {
    const { link } = this.sender;
    const end = this.frameAt < 0 ? this.tail : this.frameAt; // nothing of an open frame may leave
    while (this.head < end) {
      const writtenAt = trace.clock(); // before the call: the other end may be faster than our return from it
      const count = link.send(this.memory, this.head, end); // WALK 6.write R4.write
      if (count === -EAGAIN) break;
      if (count < 0) return this.sender.close(`write: ${errnoName(count)}`);
      const first = this.steps && link.framing.number?.(this.memory.bytes, this.head);
      if (!link.refused) this.steps?.write(this.memory, this.head, count, link.remote, writtenAt, first);
      this.head += count;
    }
    this.steps = undefined;
    if (this.head === this.tail) this.head = this.tail = 0;
  }

  get waits(): boolean {
    return this.tail > 0;
  }

  /**
   * Is there room for `size` bytes more? The outbox begins anew whenever the link has taken all. Else the
   * rest moves to the front, but only after a quarter has gone: so no byte moves more than a few times.
   */
  private makeRoom(size: number): boolean {
    if (this.tail + size <= SIZE) return true;
    if (this.head < SIZE / 4) return false;
    const shift = this.head & ~3; // frames stay at multiples of 4
    this.memory.bytes.copyWithin(0, shift, this.tail);
    this.head -= shift;
    this.tail -= shift;
    if (this.frameAt >= 0) this.frameAt -= shift;
    return this.tail + size <= SIZE;
  }
}
