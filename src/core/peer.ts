/**
 * A peer: the other end of one session. What the tunnel sends to it goes through its outbox. What its link
 * receives is taken out of its frames here, and written to our TUN:
 *
 *   received()  link → TUN    server: 8.deframe 8.open 8.xor 8.write    client: R5.deframe, R6
 */
import type { Keys, SessionKeys } from "./aes.ts";
import { counters } from "../base/counters.ts";
import { BrokenStream } from "../base/failure.ts";
import { Control, FrameType, pad, wholeFrame } from "./frame.ts";
import { Memory } from "../base/libc.ts";
import type { Link, Pulse, Receiver } from "./link.ts";
import { describeOffload } from "./offload.ts";
import { Outbox, type Sender } from "./outbox.ts";
import { MAX_PACKET } from "../base/packet.ts";
import { type Steps, trace } from "../base/trace.ts";
import { type Tun, writePacket } from "./tun.ts";
import type { Direction } from "../base/walk.ts";
import { xor } from "./xor.ts";

const NO_MESSAGE = Buffer.alloc(0);
const NO_EVENTS: PeerEvents = { onBacklog() {}, onProven() {}, onRekey() {}, refuse() {}, onClose() {} };
const NO_PULSE: Pulse = { sealed() {}, awaitAnswer() {}, heard() {}, oweAnswer() {} };

/** What a peer tells its owner, and asks it. */
export interface PeerEvents {
  /** Bytes wait for the link; or, with false, none do any more. */
  onBacklog(waiting: boolean): void;
  /** The first good frame came. With keys, it proves that the peer has them. */
  onProven(): void;
  /** A control frame about fresh keys: `rekey` and its message, or `switch`. Throws BrokenStream. */
  onRekey(word: number, message: Buffer): void;
  /** Why this packet of the peer's must not go into our TUN; undefined if it may. */
  refuse(packet: Buffer, at: number, size: number): string | undefined | void;
  /** The session is over; called once. `ended`: the other end ended it, so nobody will come back for it. */
  onClose(reason: string, ended: boolean): void;
}

export class Peer implements Receiver, Sender {
  readonly link: Link;
  readonly tun: Tun;
  readonly sendSteps: Direction; // names of the steps of what we send to this peer
  readonly receiveSteps: Direction; // names of the steps of what we receive from it
  readonly keys: Keys | undefined; // undefined: --cipher xor
  readonly outbox: Outbox;
  readonly events: PeerEvents;
  readonly traffic = counters.begin();
  pulse = NO_PULSE;
  closed = false;
  private rest = 0; // bytes of a frame that has not come whole

  /**
   * @param steps of what we send to it, and of what we receive from it
   * @param keys of the handshake; without them this is the original XOR protocol
   * @param events may be called as soon as the link is started
   */
  constructor(
    link: Link,
    tun: Tun,
    steps: [send: Direction, receive: Direction],
    keys?: SessionKeys,
    events: Partial<PeerEvents> = {},
  ) {
    this.link = link;
    this.tun = tun;
    [this.sendSteps, this.receiveSteps] = steps;
    this.keys = keys && link.keys(keys);
    if ((keys === undefined) !== (link.framing.tag === 0))
      throw new Error("keys that do not fit the framing");
    this.outbox = new Outbox(this);
    this.events = { ...NO_EVENTS, ...events };
  }

  // ---- to the peer ----

  /** Finishes the open frame, and sends it. */
  send(type: FrameType): void {
    if (this.closed) return;
    this.outbox.seal(type);
    this.flush();
  }

  /** Sends what waits in the outbox, as far as the link takes it. */
  flush(): void {
    if (this.closed) return;
    this.outbox.flush();
    if (!this.closed) this.events.onBacklog(this.outbox.waits);
  }

  /**
   * Sends a control frame: one of the Control words, and what belongs to it (a multiple of 4 bytes), XORed
   * and sealed like data. --cipher xor has none. False if the outbox has no room, or the session is over.
   */
  sendControl(word: number, message: Buffer = NO_MESSAGE): boolean {
    const size = 4 + message.length;
    if (!this.keys || this.closed) return false;
    // A data frame is open only if sealing it threw. It is sealed first, so nothing leaves unsealed.
    this.outbox.seal(FrameType.data);
    if (!this.outbox.openFor(size)) return false;
    const body = new Memory(size);
    body.bytes.writeUInt32BE(word);
    message.copy(body.bytes, 4);
    this.outbox.add(body, 0, size);
    this.send(FrameType.control);
    return !this.closed;
  }

  // ---- from the peer ----

  received(memory: Memory, from: number, to: number, readAt: bigint): number {
    const { framing } = this.link;
    const count = to - from - this.rest; // this read()'s own bytes
    let at = from;
    try {
      while (!this.closed) {
        const size = wholeFrame(framing, memory.bytes, at, to); // WALK 8.deframe R5.deframe
        if (size === 0) break;
        const type = framing.typed ? (memory.bytes[at] as FrameType) : FrameType.data;
        const number = framing.number?.(memory.bytes, at) ?? this.traffic.received.frames;
        const steps = type === FrameType.data ? trace.show(this.receiveSteps, number) : undefined;
        if (at === from) steps?.receive(memory, at, count, this.link.remote, readAt);
        this.receiveFrame(memory, at, size, type, steps);
        at += size;
      }
    } catch (error) {
      if (!(error instanceof BrokenStream)) throw error;
      if (framing.ordered) this.close(error.message);
      else trace.drop(error.message, this.link.remote, memory, at, to - at); // the next datagram may be good
    }
    if (!framing.ordered) return to;
    this.rest = to - at;
    if (this.rest > 0) this.pulse.heard();
    if (this.rest > 0) this.pulse.oweAnswer(); // a large frame takes long to come: we must not seem to hang
    return at;
  }

  /** Opens the frame at memory[at …], and takes its packets out. Throws BrokenStream. */
  private receiveFrame(memory: Memory, at: number, size: number, type: FrameType, steps?: Steps): void {
    const { header, tag, packet, ordered } = this.link.framing;
    const start = at + header;
    const end = at + size - tag;
    steps?.deframe(memory, at, size, header, ordered);
    if (type === FrameType.handshake) throw new BrokenStream("a handshake frame inside a session");
    if (end < start) throw new BrokenStream("a frame without room for its tag");
    this.keys?.open(memory, start, end - start, header); // WALK 8.open R6.open
    if (this.keys) steps?.open(memory, start + packet, end - start); // the same bytes as after 6.xor
    this.pulse.heard();
    xor(memory, start, memory, start, end - start); // WALK 8.xor R6.xor
    if (this.traffic.received.frames++ === 0) this.events.onProven();
    if (type === FrameType.control) return this.receiveControl(memory, start, end);
    this.pulse.oweAnswer();
    this.takePackets(memory, start, end, steps);
  }

  /** Each record of a data frame's body is one packet. */
  private takePackets(memory: Memory, start: number, end: number, frameSteps?: Steps): void {
    const { record, align } = this.link.framing;
    const { header } = this.tun;
    for (let at = start, place = 0; at < end && !this.closed; place++) {
      const count = record > 0 ? memory.bytes.readUInt32BE(at) : end - at; // with the TUN's header
      const from = at + record;
      if (count <= header || count > header + MAX_PACKET || from + count > end)
        throw new BrokenStream("a record that does not fit its frame");
      const shown = frameSteps && (place === 0 || trace.mayShow());
      this.inject(memory, from, count, shown ? frameSteps.packet(place) : undefined);
      at = from + pad(count, align);
    }
  }

  /** Gives one packet to our kernel, through the TUN. `count`: with the TUN's header, which comes first. */
  private inject(memory: Memory, from: number, count: number, steps?: Steps): void {
    const { tun, traffic } = this;
    const packet = from + tun.header;
    const size = count - tun.header;
    traffic.received.packets++;
    traffic.received.bytes += size;
    steps?.unxor(memory, packet, size, tun.header ? describeOffload(memory.bytes, from) : "");
    const writtenAt = trace.clock();
    const write = this.link.join ?? writePacket;
    // WALK 8.write R6.write
    const refusal = this.events.refuse(memory.bytes, packet, size) ?? write(tun, memory, from, count);
    if (refusal !== undefined) trace.drop(refusal, this.link.remote, memory, packet, size);
    else steps?.inject(memory, packet, size, tun.name, writtenAt);
  }

  private receiveControl(memory: Memory, start: number, end: number): void {
    const word = end - start >= 4 ? memory.bytes.readUInt32BE(start) : 0;
    const message = Buffer.from(memory.bytes.subarray(start + 4, end));
    if (word === Control.goodbye) this.close("it said goodbye", true);
    else if (word === Control.rekey || word === Control.switch) this.events.onRekey(word, message);
    else if (word !== Control.keepalive && !this.link.control?.(word, message))
      trace.drop("an unknown control word", this.link.remote, memory, start, end - start);
  }

  // ---- its end ----

  lost(reason: string): void {
    this.close(reason);
  }

  /** The session is over, and its link is closed. `ended`: see PeerEvents. */
  close(reason: string, ended = false): void {
    if (this.closed) return;
    this.closed = true;
    counters.end(this.traffic);
    this.keys?.free();
    this.link.close();
    this.events.onClose(reason, ended);
  }
}
