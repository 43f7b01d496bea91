/** Copies between two connected sockets, both ways: what a program sends goes on, and so do the answers. */
import { EAGAIN } from "../base/errno.ts";
import { close, Memory, read, write } from "../base/libc.ts";
import { type Watch, watch } from "../core/loop.ts";
import { SHUT_WR, SO_LINGER, SOL_SOCKET, setsockopt, shutdown } from "../transport/socket-calls.ts";

const SIZE = 256 * 1024; // bytes of one read(); the kernel gives their pages only as they are used
const TURNS = 4; // reads and writes in one wake-up: the tunnel has its turn
const IDLE = 7_440_000; // ms: 2 hours and 4 minutes, as long as a NAT has to wait (RFC 5382, REQ-5)

/** One way of the two. What was read and not written yet is memory[head, tail). */
interface Way {
  from: number; // fd
  to: number;
  memory: Memory;
  head: number;
  tail: number;
  over: boolean; // `from` has said its last word, and `to` was told
}

export class Relay {
  private readonly ways: [Way, Way];
  private readonly watches: [Watch, Watch];
  private readonly idle: NodeJS.Timeout;
  private readonly onEnd: () => void;
  private ended = false;

  /** Closes both fds at the end, then calls `onEnd`. `first`: bytes that `one` has sent already. */
  constructor(one: number, other: number, first: Buffer, onEnd: () => void) {
    const way = (from: number, to: number) => {
      return { from, to, memory: new Memory(SIZE), head: 0, tail: 0, over: false };
    };
    this.ways = [way(one, other), way(other, one)];
    this.ways[0].tail = first.copy(this.ways[0].memory.bytes);
    this.onEnd = onEnd;
    this.idle = setTimeout(() => this.end(true), IDLE).unref();
    this.watches = [0, 1].map((i) =>
      watch(this.ways[i]!.from, {
        readable: () => this.pump(this.ways[i]!),
        writable: () => this.pump(this.ways[1 - i]!),
        error: () => (this.pump(this.ways[i]!), this.end(true)), // what came before the end still goes on
      }),
    ) as [Watch, Watch];
    this.pump(this.ways[0]);
  }

  private pump(way: Way): void {
    this.idle.refresh();
    for (let i = 0; i < TURNS && !this.ended; i++) {
      const { from, to, memory, head, tail } = way;
      if (head === tail) {
        const count = way.over ? -EAGAIN : read(from, memory, 0, SIZE);
        if (count === -EAGAIN) break;
        if (count < 0) return this.end(true);
        if (count === 0) shutdown(to, SHUT_WR);
        way.over = count === 0;
        [way.head, way.tail] = [0, count];
        if (way.over) break;
      } else {
        const count = write(to, memory, head, tail - head);
        if (count === -EAGAIN) break;
        if (count < 0) return this.end(true);
        way.head += count;
      }
    }
    if (this.ways.every(({ over }) => over)) this.end(false);
    this.watches.forEach((one, i) => {
      const [its, others] = [this.ways[i]!, this.ways[1 - i]!];
      // A socket that takes nothing more holds up who sends to it, and nobody else.
      one.want(its.head === its.tail && !its.over, others.head < others.tail);
    });
  }

  /** `broken`: neither end has heard all. Both are reset, so none takes that for the end (RFC 9293). */
  private end(broken: boolean): void {
    if (this.ended) return;
    this.ended = true;
    clearTimeout(this.idle);
    for (const one of this.watches) one.stop();
    const linger = Buffer.from([1, 0, 0, 0, 0, 0, 0, 0]); // struct linger: on, 0 s (socket(7))
    for (const { from } of this.ways) {
      if (broken) setsockopt(from, SOL_SOCKET, SO_LINGER, linger, linger.length);
      close(from);
    }
    this.onEnd();
  }
}
