/**
 * KCP: a stream of bytes, in order and whole, out of datagrams that get lost (skywind3000/kcp, protocol.txt
 * and ikcp.c; its bytes are the same). It does what the kernel does for tcp.ts, and one can read how. It
 * knows no socket and no clock: datagrams go in and out, and the time is an argument, ms.
 *
 *   one segment; a datagram is a row of them; numbers are little-endian
 *   offset size
 *   0      4    conv, the connection's name: the same on both ends
 *   4      1    cmd: see Cmd
 *   5      1    frg, fragments of the same message that follow: 0, for a stream has no messages
 *   6      2    wnd, segments that the sender has room for
 *   8      4    ts, when the segment was sent, ms; an ACK repeats that of the segment which it is for
 *   12     4    sn, the segment's number; of an ACK, that of the segment which it is for
 *   16     4    una, the number that the sender waits for: it has all before that one
 *   20     4    len, bytes that follow: only a PUSH has some
 *
 * Left out: messages (frg is not looked at), and the end of a dead link, which RawLink and pulse.ts notice.
 */
export const OVERHEAD = 24; // bytes of a header
export const Cmd = { push: 81, ack: 82, ask: 83, tell: 84 } as const; // data; got it; "how much room?"; room

/** How eager it is: the modes of the reference's own README (normal), and of kcptun (the others). */
export const MODES = {
  normal: { nodelay: false, interval: 40, resend: 0, congestion: true },
  fast: { nodelay: false, interval: 30, resend: 2, congestion: false },
  fast2: { nodelay: true, interval: 20, resend: 2, congestion: false },
  fast3: { nodelay: true, interval: 10, resend: 2, congestion: false },
} satisfies Record<string, Mode>;

export interface Mode {
  readonly nodelay: boolean; // lost: sent again after 30 ms, not 100; then 1.5 times that, not twice
  readonly interval: number; // ms between two calls of flush() while something is on its way
  readonly resend: number; // datagrams of ACKs for later segments that make a segment count as lost; 0: none
  readonly congestion: boolean; // is there a congestion window? Without it others get no share of a full wire
}

const [FIRST_RTO, LONGEST_RTO] = [200, 60_000]; // ms
const FIRST_WINDOW = 128; // segments: what the other end has room for, until it says so
const FAST_TRIES = 5; // a segment sent so often waits for its time
const [ASK_AFTER, ASK_LATEST] = [7_000, 120_000]; // ms: a window of 0 is asked for

const isBefore = (one: number, other: number) => ((one - other) | 0) < 0; // both turn over at 2^32

export class Kcp {
  readonly conv: number;
  readonly segment: number; // bytes of data in one, at most
  private readonly mtu: number;
  private readonly window: number; // segments, on their way or unread; each way. A power of 2
  private readonly mode: Mode;
  private readonly output: (bytes: Buffer, size: number) => void;
  private readonly out: Buffer; // the datagram that is being made
  private size = 0; // of it

  // Sent: segments una to next are on their way, next to end wait. A slot is a number modulo the window.
  private una = 0;
  private next = 0;
  private end = 0;
  private readonly sent: Buffer;
  private readonly length: Int32Array; // bytes of data
  private readonly tries: Int32Array; // -1: it has arrived
  private readonly sentAt: Int32Array; // ms
  private readonly again: Int32Array; // ms, when it counts as lost
  private readonly rtos: Int32Array; // ms until then
  private readonly passed: Int32Array; // datagrams of ACKs for segments sent after it
  private srtt = 0; // ms, smoothed; 0: not known yet
  private rttvar = 0;
  private rto = FIRST_RTO;
  private room = FIRST_WINDOW; // segments, at the other end
  private cwnd = 1; // segments; may be a fraction
  private ssthresh = 2;

  // Received: unread to due have come in order, and some behind those.
  private unread = 0;
  private due = 0;
  private readAt = 0; // bytes of the first one that are read already
  private readonly came: Buffer;
  private readonly cameLength: Int32Array; // -1: it has not come
  private readonly acks: Int32Array; // sn, ts, sn, ts …
  private ackCount = 0; // numbers in it

  private tell = false; // the other end must know our window
  private ask = false;
  private askPause = 0; // ms; 0: no need to ask
  private askAt = 0;

  /**
   * @param mtu bytes of a datagram, at most
   * @param window segments, a power of 2
   * @param output sends a datagram, the first `size` bytes, at once or never: they change
   */
  constructor(
    conv: number,
    mtu: number,
    window: number,
    mode: Mode,
    output: (bytes: Buffer, size: number) => void,
  ) {
    this.conv = conv >>> 0;
    this.mtu = mtu;
    this.segment = mtu - OVERHEAD;
    this.window = window;
    this.mode = mode;
    this.output = output;
    this.out = Buffer.alloc(mtu);
    const ints = () => new Int32Array(window);
    // The kernel gives this memory when it is first written to: a quiet connection has little.
    [this.sent, this.came] = [0, 0].map(() => Buffer.allocUnsafeSlow(window * this.segment)) as [
      Buffer,
      Buffer,
    ];
    [this.length, this.tries, this.sentAt, this.again, this.passed] = [
      ints(),
      ints(),
      ints(),
      ints(),
      ints(),
    ];
    this.rtos = ints();
    this.cameLength = ints().fill(-1);
    this.acks = new Int32Array(4 * window);
  }

  /** Takes as much of bytes[from, to) as there is room for: how many bytes. flush() sends them. */
  send(bytes: Buffer, from: number, to: number): number {
    const { segment, window, length } = this;
    let at = from;
    while (at < to) {
      // The last one that waits may have room left.
      let slot = (this.end - 1) & (window - 1);
      if (this.end === this.next || length[slot] === segment) {
        if (this.end - this.una >= window) break;
        slot = this.end++ & (window - 1);
        length[slot] = this.tries[slot] = 0;
      }
      const count = Math.min(segment - length[slot]!, to - at);
      bytes.copy(this.sent, slot * segment + length[slot]!, at, at + count);
      length[slot]! += count;
      at += count;
    }
    return at - from;
  }

  /** Nothing waits, and nothing is on its way. */
  get isIdle(): boolean {
    return this.una === this.end && this.ackCount === 0;
  }

  /** Like read(2): bytes of the stream to bytes[at …], at most `count`; how many. */
  read(bytes: Buffer, at: number, count: number): number {
    const { segment, window, came, cameLength } = this;
    const wasFull = this.free === 0;
    let done = 0;
    while (done < count && this.unread !== this.due) {
      const slot = this.unread & (window - 1);
      const part = Math.min(count - done, cameLength[slot]! - this.readAt);
      came.copy(bytes, at + done, slot * segment + this.readAt, slot * segment + this.readAt + part);
      done += part;
      this.readAt += part;
      if (this.readAt < cameLength[slot]!) break;
      cameLength[slot] = -1;
      this.readAt = 0;
      this.unread++;
    }
    if (wasFull && this.free > 0) this.tell = true; // or the other end would have to ask
    return done;
  }

  /** Segments that there is room for. */
  private get free(): number {
    return this.window - (this.due - this.unread);
  }

  // ---- what comes ----

  /**
   * A datagram, bytes[from, to). False if some of it makes no sense: the rest is left aside. Anybody can
   * write such a datagram, so this throws nothing, and keeps no more than the windows hold.
   */
  input(bytes: Buffer, from: number, to: number, now: number): boolean {
    const una = this.una;
    let [latest, latestAt, some] = [0, 0, false]; // of the ACKs
    let at = from;
    while (to - at >= OVERHEAD) {
      const cmd = bytes[at + 4]!;
      const length = bytes.readUInt32LE(at + 20);
      const isKnown = cmd >= Cmd.push && cmd <= Cmd.tell;
      if (bytes.readUInt32LE(at) !== this.conv || !isKnown || length > to - at - OVERHEAD) break;
      this.room = bytes.readUInt16LE(at + 6);
      const ts = bytes.readInt32LE(at + 8);
      const sn = bytes.readInt32LE(at + 12);
      this.arrivedBefore(bytes.readInt32LE(at + 16));
      if (cmd === Cmd.ack) {
        if (!isBefore(now, ts)) this.measure((now - ts) | 0);
        this.arrived(sn);
        if (!some || isBefore(latest, sn)) [latest, latestAt, some] = [sn, ts, true];
      } else if (cmd === Cmd.push) this.take(bytes, at + OVERHEAD, length, sn, ts);
      else if (cmd === Cmd.ask) this.tell = true;
      at += OVERHEAD + length;
    }
    if (some) this.pass(latest, latestAt);
    if (this.una !== una) this.grow();
    return at === to;
  }

  /** The other end has all before that number. */
  private arrivedBefore(una: number): void {
    const count = (una - this.una) | 0;
    if (count > 0 && count <= this.next - this.una) this.una += count;
    this.skipArrived();
  }

  private arrived(sn: number): void {
    const ahead = (sn - this.una) | 0;
    if (ahead < 0 || ahead >= this.next - this.una) return;
    this.tries[sn & (this.window - 1)] = -1;
    this.skipArrived();
  }

  private skipArrived(): void {
    while (this.una !== this.next && this.tries[this.una & (this.window - 1)] === -1) this.una++;
  }

  /** One more round trip, ms (RFC 6298, as ikcp_update_ack() has it). */
  private measure(rtt: number): void {
    if (this.srtt === 0) [this.srtt, this.rttvar] = [rtt, rtt >> 1];
    else {
      this.rttvar = Math.floor((3 * this.rttvar + Math.abs(rtt - this.srtt)) / 4);
      this.srtt = Math.max(1, Math.floor((7 * this.srtt + rtt) / 8));
    }
    const rto = this.srtt + Math.max(this.mode.interval, 4 * this.rttvar);
    this.rto = Math.min(Math.max(this.mode.nodelay ? 30 : 100, rto), LONGEST_RTO);
  }

  /** Segment `latest`, sent at `latestAt`, has arrived. What was sent before it, and has not, may be lost. */
  private pass(latest: number, latestAt: number): void {
    const ahead = Math.min((latest - this.una) | 0, this.next - this.una);
    for (let i = 0; i < ahead; i++) {
      const slot = (this.una + i) & (this.window - 1);
      if (!isBefore(latestAt, this.sentAt[slot]!)) this.passed[slot]!++;
    }
  }

  /** The congestion window, after an ACK: slow start, then about one segment in a round trip. */
  private grow(): void {
    if (this.cwnd >= this.room) return;
    this.cwnd += this.cwnd < this.ssthresh ? 1 : 1 / this.cwnd + 1 / 16;
    this.cwnd = Math.min(this.cwnd, this.room);
  }

  private take(bytes: Buffer, at: number, length: number, sn: number, ts: number): void {
    const { segment, window, cameLength } = this;
    const ahead = (sn - this.unread) | 0;
    if (ahead >= window || length > segment) return;
    if (this.ackCount < this.acks.length) {
      this.acks[this.ackCount++] = sn; // even if we have it already: our ACK may have been lost
      this.acks[this.ackCount++] = ts;
    }
    const slot = sn & (window - 1);
    if (ahead < 0 || isBefore(sn, this.due) || cameLength[slot] !== -1) return;
    bytes.copy(this.came, slot * segment, at, at + length);
    cameLength[slot] = length;
    while (this.due - this.unread < window && cameLength[this.due & (window - 1)] !== -1) this.due++;
  }

  // ---- what goes ----

  /** Sends what is to be sent by now: ACKs, new segments as far as the windows allow, and lost ones again. */
  flush(now: number): void {
    const { acks } = this;
    for (let i = 0; i < this.ackCount; i += 2) this.put(Cmd.ack, acks[i]!, acks[i + 1]!, 0);
    this.ackCount = 0;
    this.askForRoom(now);
    if (this.ask) this.put(Cmd.ask, 0, 0, 0);
    if (this.tell) this.put(Cmd.tell, 0, 0, 0);
    this.ask = this.tell = false;
    this.flushData(now);
    if (this.size > 0) this.leave();
  }

  /** Asks the other end for a sign of life with the next flush(). */
  probe(): void {
    this.ask = true;
  }

  private flushData(now: number): void {
    const { mode, window, tries, again, rtos, passed } = this;
    const before = Math.floor(this.cwnd);
    const most = Math.min(window, this.room, mode.congestion ? before : Infinity);
    const limit = Math.min(this.una + most, this.end);
    let [lost, passedBy] = [false, false];
    if (limit > this.next) this.next = limit;
    for (let sn = this.una; sn !== this.next; sn++) {
      const slot = sn & (window - 1);
      const count = tries[slot]!;
      if (count === -1) continue;
      if (count === 0) {
        rtos[slot] = this.rto;
        again[slot] = now + this.rto + (mode.nodelay ? 0 : this.rto >> 3);
      } else if (!isBefore(now, again[slot]!)) {
        const more = mode.nodelay ? rtos[slot]! >> 1 : Math.max(rtos[slot]!, this.rto);
        rtos[slot] = Math.min(rtos[slot]! + more, LONGEST_RTO);
        again[slot] = now + rtos[slot]!;
        lost = true;
      } else if (mode.resend > 0 && passed[slot]! >= mode.resend && count <= FAST_TRIES) {
        again[slot] = now + rtos[slot]!;
        passedBy = true;
      } else continue;
      tries[slot] = count + 1;
      passed[slot] = 0;
      this.sentAt[slot] = now;
      this.put(Cmd.push, sn, now, this.length[slot]!, slot * this.segment);
    }
    if (passedBy) this.ssthresh = Math.max(2, (this.next - this.una) >> 1);
    if (passedBy) this.cwnd = this.ssthresh + mode.resend;
    if (lost) [this.ssthresh, this.cwnd] = [Math.max(2, before >> 1), 1];
  }

  private askForRoom(now: number): void {
    if (this.room > 0) this.askPause = 0;
    else if (this.askPause === 0) {
      this.askPause = ASK_AFTER;
      this.askAt = now + ASK_AFTER;
    } else if (!isBefore(now, this.askAt)) {
      this.askPause = Math.min(1.5 * this.askPause, ASK_LATEST);
      this.askAt = now + this.askPause;
      this.ask = true;
    }
  }

  /** One segment more in the datagram, or in the next one. Its data: sent[data, data + length). */
  private put(cmd: number, sn: number, ts: number, length: number, data = 0): void {
    const { out } = this;
    if (this.size + OVERHEAD + length > this.mtu) this.leave();
    const at = this.size;
    out.writeUInt32LE(this.conv, at);
    out[at + 4] = cmd;
    out[at + 5] = 0;
    out.writeUInt16LE(Math.min(this.free, 0xffff), at + 6);
    out.writeInt32LE(ts | 0, at + 8);
    out.writeInt32LE(sn | 0, at + 12);
    out.writeInt32LE(this.due | 0, at + 16);
    out.writeInt32LE(length, at + 20);
    if (length > 0) this.sent.copy(out, at + OVERHEAD, data, data + length);
    this.size += OVERHEAD + length;
  }

  private leave(): void {
    this.output(this.out, this.size);
    this.size = 0;
  }
}
