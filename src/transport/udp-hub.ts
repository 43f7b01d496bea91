/** One UDP socket, and the sessions that share it. */
import { EAGAIN } from "../base/errno.ts";
import { type Watch, watch } from "../core/loop.ts";
import { counters } from "../base/counters.ts";
import { Memory } from "../base/libc.ts";
import { pad } from "../core/frame.ts";
import { type DatagramSocket, MAX_RECEIVED, MAX_SEGMENTS } from "./datagrams.ts";
import { CHECK } from "./path.ts";
import { SegmentJoiner } from "./segments.ts";
import { socketError } from "./sockets.ts";
import { trace } from "../base/trace.ts";
import { CONTROL, DATA, HEADER } from "./udp-format.ts";

const ROUND = 4 * MAX_RECEIVED; // bytes received in one turn of the loop, at most
const LEAST = 64; // bytes that each recvmsg() counts as: a flood of empty datagrams must not go on for ever

/** A session's link, as the socket sees it. */
export interface Member {
  readonly index: number; // ours; signed, since V8 allocates for numbers of 2^31 and more
  /** A datagram with this index is in the hub's memory. `readAt`: ns, when the recvmsg() began. */
  take(at: number, size: number, readAt: bigint): void;
  /** The socket has room again. */
  writable(): void;
  /** A CHECK has passed. */
  probe(): void;
}

/** One socket, and the links that share it. */
export class Hub {
  readonly socket: DatagramSocket;
  readonly memory = new Memory(ROUND + MAX_RECEIVED); // what was received in this turn of the loop
  readonly joiner = new SegmentJoiner();
  readonly links = new Map<number, Member>(); // by our index
  private overflowed = 0; // of the socket's, so many are counted already
  segments = MAX_SEGMENTS; // datagrams that one sendmsg() takes
  private watched: Watch | undefined;
  private readonly waiting = new Set<Member>(); // for room in the socket
  private readonly clock: NodeJS.Timeout;
  private onOther: (type: number, at: number, size: number) => boolean = () => false;
  private onError: (errno: number) => void = () => {};

  constructor(socket: DatagramSocket) {
    this.socket = socket;
    this.clock = setInterval(() => this.links.forEach((link) => link.probe()), CHECK).unref();
  }

  /** Puts the socket into the loop. `onOther`: a datagram that is no session's. */
  start(onOther: Hub["onOther"], onError: Hub["onError"] = () => {}): void {
    this.onOther = onOther;
    this.onError = onError;
    this.watched?.stop();
    this.watched = watch(this.socket.fd, {
      readable: () => this.receive(),
      writable: () => this.drain(),
      error: () => this.failed(),
    });
    if (this.waiting.size > 0) this.watched.want(true, true);
  }

  deafen(): void {
    this.onOther = () => false;
  }

  /** Calls the link's receiver as soon as the socket has room. */
  waitFor(link: Member): void {
    this.waiting.add(link);
    this.watched?.want(true, true);
  }

  forget(link: Member): void {
    this.links.delete(link.index);
    this.waiting.delete(link);
  }

  close(): void {
    clearInterval(this.clock);
    this.watched?.stop();
    this.watched = undefined;
    this.socket.close();
  }

  /** One turn of the loop: recvmsg() again and again. What comes is put one behind the other in memory. */
  private receive(): void {
    const { socket, memory } = this;
    let at = 0;
    let count = 0;
    while (at < ROUND && this.watched) {
      const readAt = trace.clock();
      count = socket.receive(memory, at); // WALK 8.read R5.read
      if (count < 0) break;
      const end = at + count;
      if (count === 0) this.drop("a datagram that makes no sense here", at, 0);
      for (; at < end; at += socket.segment) this.take(at, Math.min(socket.segment, end - at), readAt);
      at = pad(Math.max(end, at + LEAST), 4);
    }
    this.joiner.flush();
    counters.drop("the socket was full when they came", socket.overflowed - this.overflowed);
    this.overflowed = socket.overflowed;
    if (count < 0 && count !== -EAGAIN) this.onError(-count);
  }

  /** Gives one datagram to whom it is for. What is for nobody is counted. */
  private take(at: number, size: number, readAt: bigint): void {
    const { bytes } = this.memory;
    const type = size >= HEADER ? bytes[at]! : 0;
    const isFrame = type === DATA || type === CONTROL;
    const link = isFrame ? this.links.get(bytes.readInt32BE(at + 4)) : undefined;
    if (link) {
      const length = bytes.readUInt16BE(at + 2);
      if (length === size - HEADER && length % 4 === 0) link.take(at, size, readAt);
      else this.drop("a datagram that is cut short", at, size);
    } else if (type === 0 || this.onOther(type, at, size) === false)
      this.drop(isFrame ? "a datagram of no session here" : "a datagram that makes no sense here", at, size);
  }

  drop(reason: string, at: number, size: number): void {
    trace.drop(reason, this.socket.from().text, this.memory, at, size);
  }

  private drain(): void {
    const links = [...this.waiting];
    this.waiting.clear();
    this.watched!.want(true, false);
    for (const link of links) link.writable();
  }

  /** POLLERR. The socket itself is well: an answer to a datagram of ours says that it was not delivered. */
  private failed(): void {
    const errno = socketError(this.socket.fd);
    this.socket.tellErrors(false); // forgets those that wait, too
    this.socket.tellErrors(true);
    this.start(this.onOther, this.onError);
    if (errno !== 0) this.onError(errno);
  }
}
