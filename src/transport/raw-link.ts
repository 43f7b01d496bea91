/**
 * A session over crafted segments: KCP makes a stream of them, and the rest is as in tcp.ts. What the kernel
 * does there beside, is done here: a timer for what is lost, and the question whether the other end is there.
 */
import { aesFraming, pad } from "../core/frame.ts";
import type { Keys, SessionKeys } from "../core/aes.ts";
import type { Link, Receiver } from "../core/link.ts";
import { EAGAIN } from "../base/errno.ts";
import { Memory } from "../base/libc.ts";
import { Kcp, type Mode } from "./kcp.ts";
import { OrderedKeys } from "./ordered-keys.ts";
import { isOwn, type RawSocket } from "./raw-socket.ts";
import type { Flow, Segment } from "./tcp-segments.ts";

const WINDOW = 1024; // segments: 1.4 MB on their way, each way; over 50 ms that is 225 Mbit/s
const QUIET = 5_000; // ms without a word, then the other end is asked each second …
const GONE = 15_000; // … and so long until it counts as gone: as tcp.ts has it
const DOUBT = 3_000; // ms that it has to answer, once something unproven says that it is gone

/** What a link needs of the port that it belongs to. */
export interface Owner {
  readonly socket: RawSocket;
  readonly mode: Mode;
  /** The link is over. */
  forget(link: RawLink): void;
}

export class RawLink implements Link {
  readonly framing = aesFraming;
  readonly conv: number;
  readonly flow: Flow;
  closed = false;
  onProven: (() => void) | undefined; // until a segment of it has come, nobody has proven to be there
  private readonly owner: Owner;
  private readonly kcp: Kcp;
  private readonly memory: Memory; // what was read of the stream, as in tcp.ts
  private head = 0;
  private tail = 0;
  private receiver: Receiver | undefined;
  private full = false; // does KCP take nothing more for now?
  private timer: NodeJS.Timeout | undefined; // while something is on its way
  private heardAt = clock();
  private doubtedAt = 0; // 0: no doubt
  private reason = ""; // for it
  private away = false; // has this machine our address no longer? Then nothing goes, and nothing counts

  /** @param size bytes of the largest IP packet that the path takes */
  constructor(owner: Owner, flow: Flow, conv: number, size: number) {
    this.owner = owner;
    this.flow = flow;
    this.conv = conv;
    const { socket } = owner;
    const mtu = (size - flow.header) & ~3; // payloads begin at multiples of 4
    this.kcp = new Kcp(conv, mtu, WINDOW, owner.mode, (bytes, count) => {
      if (!this.away) socket.put(flow, bytes, 0, count);
    });
    this.memory = new Memory(2 * pad(aesFraming.header + aesFraming.maxBody, 4));
  }

  get remote(): string {
    return this.flow.text;
  }

  start<R extends Receiver>(receiver: R): R {
    this.receiver = receiver;
    return receiver;
  }

  keys(keys: SessionKeys): Keys {
    return new OrderedKeys(keys);
  }

  send(memory: Memory, from: number, to: number): number {
    const count = this.kcp.send(memory.bytes, from, to);
    this.full = count === 0;
    this.flush();
    return count || -EAGAIN;
  }

  /** KCP's segments, a row of them. False if they make no sense. */
  take(segment: Segment): boolean {
    const { bytes, payload, size } = segment;
    if (this.away) return true;
    if (!this.kcp.input(bytes, payload, payload + size, clock())) return false;
    this.flow.took(segment);
    this.onProven?.();
    this.onProven = undefined;
    this.heardAt = clock();
    this.doubtedAt = 0;
    return true;
  }

  /** All is taken that has come in this turn of the loop: on to the receiver, and ACKs back. */
  settle(readAt: bigint): void {
    const { receiver, memory } = this;
    while (!this.closed && receiver && this.fill() > 0)
      this.head = receiver.received(memory, this.head, this.tail, readAt); // WALK 8.read R5.read
    if (this.closed) return;
    this.flush();
    if (!this.full) return;
    this.full = false;
    receiver!.flush();
  }

  /** As in tcp.ts. What was received in order, as much as fits; its bytes. */
  private fill(): number {
    const { bytes } = this.memory;
    if (this.head === this.tail) this.head = this.tail = 0;
    else if (this.head > bytes.length / 2) {
      bytes.copyWithin(0, this.head, this.tail);
      this.tail -= this.head;
      this.head = 0;
    }
    const count = this.kcp.read(bytes, this.tail, bytes.length - this.tail);
    this.tail += count;
    return count;
  }

  /** Sends what KCP has to send by now, and looks again later if something is on its way. */
  private flush(): void {
    if (this.onProven) return; // anybody can write any sender: he gets nothing
    this.kcp.flush(clock());
    this.owner.socket.flush();
    if (this.timer || this.kcp.isIdle || this.closed) return;
    this.timer = setTimeout(() => {
      this.timer = undefined;
      if (!this.closed) this.flush();
    }, this.owner.mode.interval).unref();
  }

  /** Something says that the other end is gone, and nothing proves it. */
  doubt(reason: string): void {
    if (this.doubtedAt === 0) this.doubtedAt = clock();
    this.reason = reason;
  }

  /** Once a second. */
  check(): void {
    const silence = clock() - this.heardAt;
    if (this.onProven) return;
    this.away = !isOwn(this.flow.here); // a kernel would send nothing from an address that is gone
    if (silence > GONE) return this.receiver!.lost("ETIMEDOUT");
    if (this.doubtedAt > 0 && clock() - this.doubtedAt > DOUBT) return this.receiver!.lost(this.reason);
    if (silence <= QUIET && this.doubtedAt === 0) return;
    this.kcp.probe();
    this.flush();
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    clearTimeout(this.timer);
    this.owner.forget(this);
  }
}

/** ms, as a whole number. */
const clock = () => Math.floor(performance.now());
