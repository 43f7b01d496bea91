/**
 * All numbers that a program counts: what went through the tunnel, what did not, and the sessions that came
 * and went. The trace shows them, and whoever asks by --status or --metrics gets them. Counting a packet is
 * an addition: nothing is allocated, and no clock is read.
 */

/** What one direction carried: the packets, their bytes, and the frames they shared. */
export class Counter {
  packets = 0;
  bytes = 0;
  frames = 0;

  /** Adds another one's. */
  add({ packets, bytes, frames }: Counter): this {
    this.packets += packets;
    this.bytes += bytes;
    this.frames += frames;
    return this;
  }
}

/** What one session carried. Times are ms, as performance.now() has them. */
export class Traffic {
  readonly sent = new Counter();
  readonly received = new Counter();
  readonly since = performance.now();
  keysSince = this.since; // when its keys were made
  lastSeen = this.since; // when a frame had come, as far as look() has looked
  private framesSeen = 0;

  /** Has a frame come since? Asked once a second, so no frame has to read a clock. */
  look(now: number): void {
    if (this.framesSeen !== this.received.frames) this.lastSeen = now;
    this.framesSeen = this.received.frames;
  }
}

class Counters {
  /** Packets that went no further, by the reason as people read it; drops.ts has its code. */
  readonly drops = new Map<string, number>();
  /** Tries to begin a session. A client's: those that came to one, and those that did not. A server's: those
   * that a sealed frame has proven, and those that were refused or left before. */
  readonly handshakes = { ok: 0, failed: 0 };
  rekeys = 0; // fresh keys in sessions that went on
  reconnects = 0; // a client's sessions after its first
  /** By --socks: programs that are connected; requests that came to something, and those that did not. */
  readonly socks = { open: 0, ok: 0, failed: 0 };
  readonly live = new Set<Traffic>(); // of the sessions that there are
  private readonly past = new Traffic(); // of those that have ended, together

  /** A session begins. */
  begin(): Traffic {
    const traffic = new Traffic();
    this.live.add(traffic);
    return traffic;
  }

  /** It has ended, and counts no more. */
  end(traffic: Traffic): void {
    if (!this.live.delete(traffic)) return;
    this.past.sent.add(traffic.sent);
    this.past.received.add(traffic.received);
  }

  /** Of all sessions that there are or were. A new Counter: later traffic does not change it. */
  sum(way: "sent" | "received"): Counter {
    const sum = new Counter().add(this.past[way]);
    for (const traffic of this.live) sum.add(traffic[way]);
    return sum;
  }

  /** `count` packets go no further. `reason`: one of few. */
  drop(reason: string, count = 1): void {
    if (count > 0) this.drops.set(reason, (this.drops.get(reason) ?? 0) + count);
  }

  get dropped(): number {
    return [...this.drops.values()].reduce((sum, count) => sum + count, 0);
  }
}

/** This program's. */
export const counters = new Counters();

/** "sent 3 packets (252 bytes) in 2 frames": since `before`. */
export function rates(now: Counter, before: Counter, verb: string): string {
  const [packets, frames, bytes] = [
    now.packets - before.packets,
    now.frames - before.frames,
    now.bytes - before.bytes,
  ];
  const size = bytes < 1e5 ? `${bytes} bytes` : `${(bytes / 1e6).toFixed(1)} MB`;
  return `${verb} ${packets} packets (${size}) in ${frames} frames`;
}
