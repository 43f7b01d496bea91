/** A session over UDP: its index here and there, its keys, its path, and where the other end is now. */
import { aesFraming, Control, type Framing } from "../core/frame.ts";
import {
  EAGAIN,
  ECONNREFUSED,
  EHOSTUNREACH,
  EINVAL,
  EIO,
  EMSGSIZE,
  ENETUNREACH,
  ENOBUFS,
  errnoName,
} from "../base/errno.ts";
import type { Keys, SessionKeys } from "../core/aes.ts";
import type { Link, Receiver } from "../core/link.ts";
import type { Memory } from "../base/libc.ts";
import { DatagramKeys, numberOf } from "./datagram-keys.ts";
import { MAX_RUN, pathMtu, type Remote } from "./datagrams.ts";
import { Path } from "./path.ts";
import { SegmentCutter, type SegmentJoiner } from "./segments.ts";
import { trace } from "../base/trace.ts";
import { around, bodyFor, HEADER, SIZES, sizeOf } from "./udp-format.ts";
import type { Hub, Member } from "./udp-hub.ts";

const QUESTIONS = 3; // a CHECK between two of them, and none answered: the session is over
const LARGE = 500; // bytes of a frame that every path takes
const TOLD = [ECONNREFUSED, EHOSTUNREACH, ENETUNREACH]; // what ICMP errors say
const NOTE_PAUSE = 1_000; // ms between two notes that it has moved
const NO_SIZE = Buffer.alloc(4); // of a probe that only asks whether the other end is there

export class UdpLink implements Link, Member {
  readonly index: number;
  readonly framing: Framing & { maxBody: number };
  readonly cutter: SegmentCutter;
  readonly join: SegmentJoiner["add"];
  closed = false;
  refused = false;
  private readonly hub: Hub;
  private readonly path: Path;
  private sentLarge = false; // since the last probe()
  private smallArrived = false; // a probe without a size, since then
  private questions = 0; // 0: the other end is not in doubt; else one more than were asked since
  private reason = ""; // for that
  private readonly onEnd: () => void;
  private to: Remote;
  private noteAgain = 0; // ms: from then on a move is told again
  private checked = 0; // the latest receive() whose sender was compared with that
  private keysHere: DatagramKeys | undefined;
  private receiver: Receiver | undefined;
  private onProven: (() => void) | undefined;

  /** @param size bytes of the largest IP packet that the path takes */
  constructor(hub: Hub, index: number, theirs: number, to: Remote, size: number, onEnd: () => void) {
    this.hub = hub;
    this.index = index;
    this.to = to;
    this.onEnd = onEnd;
    this.framing = {
      ...aesFraming,
      header: HEADER,
      ordered: false,
      putHeader(bytes, at, type, bodyLength) {
        bytes[at] = type;
        bytes.writeUInt16BE(bodyLength, at + 2);
        bytes.writeInt32BE(theirs, at + 4); // keys.seal() writes the rest
      },
      bodyLength: (bytes, at) => bytes.readUInt16BE(at + 2),
      number: numberOf,
    };
    this.path = new Path(size, () => Math.min(pathMtu(this.to) || SIZES[0]!, SIZES[0]!));
    this.size = size;
    this.cutter = new SegmentCutter(() => this.largest);
    this.join = hub.joiner.add;
  }

  get remote(): string {
    return this.to.text;
  }

  /** Bytes of the largest IP packet that the path takes. */
  set size(size: number) {
    this.framing.maxBody = bodyFor(size, this.to.address);
  }

  get size(): number {
    return this.framing.maxBody + HEADER + around(this.to.address);
  }

  /** Perhaps the path takes no more than that: the search begins there. */
  lower(size: number): void {
    this.path.lower(size);
    this.size = this.path.size;
  }

  /** The path takes no more than that. */
  narrow(size: number): void {
    this.path.limit(size);
    this.size = this.path.size;
  }

  /** Bytes of the largest packet that fits into a datagram. A multiple of 4: see segments.ts. */
  get largest(): number {
    const { maxBody, tag, packet } = this.framing;
    return (maxBody - tag - packet - 2) & ~3; // a record begins and ends at a multiple of 4; a header has 10
  }

  /** From now on, frames are for `receiver`. `onProven`: the first good one has come. */
  start<R extends Receiver>(receiver: R, onProven?: () => void): R {
    this.receiver = receiver;
    this.onProven = onProven;
    if (!this.closed) this.hub.links.set(this.index, this);
    return receiver;
  }

  keys(keys: SessionKeys): Keys {
    return (this.keysHere = new DatagramKeys(keys));
  }

  /**
   * A run of frames of one length leaves with one system call. What the network does not take is lost, and
   * counted: nobody waits for it.
   */
  send(memory: Memory, from: number, to: number): number {
    const { hub } = this;
    // Until a frame of his has opened, nobody has proven that he receives there: he gets nothing.
    this.refused = this.onProven !== undefined && this.keysHere!.window.newest < 0;
    if (this.refused) return to - from;
    const size = sizeOf(memory.bytes, from);
    let end = from + size;
    this.sentLarge ||= size > LARGE;
    for (let count = 1; end < to && count < hub.segments; count++) {
      const next = sizeOf(memory.bytes, end);
      if (next > size || end + next - from > MAX_RUN) break;
      end += next;
      if (next < size) break;
    }
    let result = hub.socket.send(this.to, memory, from, end - from, size);
    if (result < 0 && TOLD.includes(-result)) {
      this.failed(-result); // the answer to an earlier one: this one was not sent
      result = hub.socket.send(this.to, memory, from, end - from, size);
    }
    if (result === -EAGAIN) hub.waitFor(this);
    if (result >= 0 || result === -EAGAIN) return result;
    return this.notSent(-result, memory, from, end, size);
  }

  /** What to do about an errno. */
  private notSent(errno: number, memory: Memory, from: number, end: number, size: number): number {
    const { hub, to } = this;
    this.failed(errno);
    // A card that cannot compute UDP's checksum: older kernels refuse runs (net/ipv4/udp.c, udp_send_skb()).
    if (errno === EIO && hub.segments > 1) {
      hub.segments = 1;
      return this.send(memory, from, end);
    }
    let reason = `the network does not take it: ${errnoName(errno)}`;
    if (errno === ENOBUFS) reason = "the socket is full";
    if (errno === EMSGSIZE || errno === EINVAL) {
      const known = pathMtu(to);
      if (known > 0 && known < size + around(to.address)) {
        this.narrow(known);
        reason = "it is larger than the path takes";
      } else if (to.local && errno === EINVAL) this.to = to.fromAny(); // our address there may be gone
    }
    this.refused = true;
    for (let at = from; at < end; at += size)
      trace.drop(reason, this.remote, memory, at, Math.min(size, end - at));
    return end - from;
  }

  /** A datagram with our index, in the hub's memory. */
  take(at: number, size: number, readAt: bigint): void {
    const { hub, keysHere } = this;
    const { newest } = keysHere!.window;
    this.receiver!.received(hub.memory, at, at + size, readAt);
    if (keysHere!.window.newest === newest || this.closed) return;
    // It was authentic, and the newest: so this is where the other end is now.
    this.onProven?.();
    this.onProven = undefined;
    this.questions = 0;
    if (this.checked === hub.socket.received) return;
    this.checked = hub.socket.received;
    if (!hub.socket.isFrom(this.to)) this.moved(hub.socket.from());
  }

  /** An ICMP error may say that nobody listens there. */
  failed(errno: number): void {
    if (errno === ECONNREFUSED) this.doubt("nobody listens there any more");
  }

  /** Is the other end still there? Something says no that nobody has proven. Asked in the next probe(). */
  doubt(reason: string): true {
    if (this.questions === 0) this.questions = 1;
    this.reason = reason;
    return true;
  }

  /** Once a CHECK: asks what is to be asked of the other end. */
  probe(): void {
    if (this.onProven) return;
    if (this.questions > QUESTIONS) return this.receiver!.lost(this.reason);
    if (this.questions > 0) {
      this.questions++;
      this.receiver!.sendControl(Control.probe, NO_SIZE);
    }
    this.probePath();
  }

  /** How much of the path's packets does it get? */
  private probePath(): void {
    const { path, receiver } = this;
    const size = path.check(this.sentLarge, this.smallArrived);
    this.smallArrived = false;
    if (path.size < this.size) trace.note(`${this.remote}: packets of ${this.size} bytes do not arrive`);
    this.size = path.size;
    this.sentLarge = false;
    if (size === 0) return;
    const word = 4;
    const message = Buffer.alloc(bodyFor(size, this.to.address) - this.framing.tag - word);
    message.writeUInt32BE(size);
    receiver!.sendControl(Control.probe, message);
    receiver!.sendControl(Control.probe, NO_SIZE); // a small one: if it is answered, size is what is wrong
    this.sentLarge = false; // a probe is no traffic
  }

  control(word: number, message: Buffer): boolean {
    if (message.length < 4) return false;
    const size = message.readUInt32BE();
    if (word === Control.probe) this.receiver!.sendControl(Control.probed, message.subarray(0, 4));
    else if (word === Control.probed && size === 0) {
      this.questions = 0;
      this.smallArrived = true;
    } else if (word === Control.probed) this.path.arrived(Math.min(size, SIZES[0]!));
    else return false;
    this.size = this.path.size;
    return true;
  }

  private moved(to: Remote): void {
    const { size } = this;
    if (to.text !== this.remote) {
      if (performance.now() > this.noteAgain) trace.note(`${this.remote} is at ${to.text} now`);
      this.noteAgain = performance.now() + NOTE_PAUSE;
    } // else it writes to another address of ours
    this.to = to;
    this.size = size;
  }

  writable(): void {
    this.receiver!.flush();
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    this.hub.forget(this);
    this.onEnd();
  }
}
