/**
 * Frames over UDP. Unlike tcp.ts: each frame is a datagram of its own. The network may lose it, bring it
 * twice, or bring a later one first, and nobody sends it again: that is left to whatever runs inside the
 * tunnel. So a lost packet holds up nothing behind it. What TCP did for us is done here, or not at all:
 *
 *   TCP                                            here
 *   connect(), accept(): an fd a session           one socket for all; each session has an index
 *   bytes in order, each once                      a number a frame (datagram-keys.ts, replay.ts)
 *   segments that fit the path                     cut and joined (segments.ts), a probed path (path.ts)
 *   a connection is bound to two addresses         answers go where the newest good frame came from
 *   a handshake before any state                   cookies, when it gets busy (cookie.ts)
 *   the message is sent again until it comes       message 1 is, each second
 *
 * All numbers are big-endian. An index is a session's name at who receives: 4 random bytes.
 *
 *   data, control: type 2, 3         message 1: type 1                message 2: type 4; cookie: type 5
 *   offset size                      offset size                      offset size
 *   0      1    type                 0      1    type                 0      1    type
 *   1      1    key                  1      1    0                    1      1    0
 *   2      2    length of the body   2      2    length of message 1  2      2    length of what follows
 *   4      4    receiver's index     4      4    client's index       4      4    client's index
 *   8      8    number               8      16   cookie, or zeros     8      4    server's index; cookie: 0
 *   16     …    body, sealed; tag    24     …    message 1; zeros     12     …    message 2, cookie; zeros
 *
 * A frame of no session is answered with its own header, type 6: a server that was started anew says so.
 * Nobody can prove that, so it ends nothing, and neither does an ICMP error. The client then asks, in a
 * sealed frame, and the session is over if no answer comes.
 */
import { randomBytes } from "node:crypto";
import { isIPv6 } from "node:net";
import { aesFraming, Control, type Framing, handshakeFraming, pad } from "../core/frame.ts";
import { EAGAIN, ECONNREFUSED, EINVAL, EIO, EMSGSIZE, ENOBUFS, ETIMEDOUT, errnoName } from "../base/errno.ts";
import type { Keys, SessionKeys } from "../core/aes.ts";
import type { Link, Receiver } from "../core/link.ts";
import { type Watch, watch } from "../core/loop.ts";
import { Memory } from "../base/libc.ts";
import { endpoint, sockaddr } from "./addresses.ts";
import { COOKIE, Cookies } from "./cookie.ts";
import { DatagramKeys, numberOf } from "./datagram-keys.ts";
import { DatagramSocket, MAX_RECEIVED, MAX_RUN, MAX_SEGMENTS, pathMtu, Remote } from "./datagrams.ts";
import { CHECK, Path } from "./path.ts";
import { SegmentCutter, SegmentJoiner } from "./segments.ts";
import { socketError } from "./sockets.ts";
import { trace } from "../base/trace.ts";
import {
  type Answer,
  type IsGood,
  type Port,
  type PortEvents,
  type Transport,
  Unreachable,
} from "./transport.ts";

const [HELLO, DATA, CONTROL, ANSWER, COOKIE_ANSWER, NO_SESSION] = [1, 2, 3, 4, 5, 6];
const HEADER = 16; // bytes, of data and control
const HELLO_HEADER = 8 + COOKIE;
const ANSWER_HEADER = 12;
const UDP_HEADER = 8;
const RETRY = 1_000; // ms between two first messages
const COOKIES = 3; // in one try: nobody makes us send more by forging them
const QUESTIONS = 3; // a CHECK between two of them, and none answered: the session is over
const LARGE = 500; // bytes of a frame that every path takes
const ROUND = 4 * MAX_RECEIVED; // bytes received in one turn of the loop, at most
const LEAST = 64; // bytes that each recvmsg() counts as: a flood of empty datagrams must not go on for ever

export const udp: Transport = { open: ({ listen, port }) => new UdpPort(port, listen) };

/** The largest body of a frame in an IP packet of `size` bytes; a multiple of 4. */
const bodyFor = (size: number, to: Remote) => (size - around(to.address) - HEADER) & ~3;

/** A frame's bytes. */
const sizeOf = (bytes: Buffer, at: number) => HEADER + bytes.readUInt16BE(at + 2);

/** The header of the IP packet around a datagram to that address, and of UDP; bytes. */
const around = (address: string) => (isIPv6(address) ? 40 : 20) + UDP_HEADER;

export class UdpPort implements Port {
  private readonly port: number;
  private readonly hub: Hub | undefined; // of a server

  constructor(port: number, listen?: string) {
    this.port = port;
    this.hub = listen === undefined ? undefined : new Hub(DatagramSocket.listen(listen, port));
  }

  async dial(address: string, ms: number, message1: Buffer, isGood: IsGood = () => true): Promise<Answer> {
    const socket = DatagramSocket.open(isIPv6(address.replace(/%.*/, "")));
    if (typeof socket === "number") throw new Unreachable(this.endpoint(address), socket);
    return new Call(socket, new Remote(sockaddr(address, this.port)), message1, isGood).answer(ms);
  }

  serve(server: PortEvents): void {
    const hub = this.hub!;
    const reception = new Reception(hub, server);
    hub.start((type, at, size) => (type === HELLO ? reception.hello(at, size) : reception.other(type, at)));
  }

  /** Nobody new is answered. The sessions go on, for they have to say goodbye. */
  end(): void {
    this.hub?.deafen();
  }

  endpoint(address: string): string {
    return endpoint(address, this.port);
  }
}

/** One socket, and the links that share it. */
class Hub {
  readonly socket: DatagramSocket;
  readonly memory = new Memory(ROUND + MAX_RECEIVED); // what was received in this turn of the loop
  readonly joiner = new SegmentJoiner();
  readonly links = new Map<number, UdpLink>(); // by our index
  segments = MAX_SEGMENTS; // datagrams that one sendmsg() takes
  private watched: Watch | undefined;
  private readonly waiting = new Set<UdpLink>(); // for room in the socket
  private readonly clock: NodeJS.Timeout;
  private onOther: (type: number, at: number, size: number) => unknown = () => {};
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
  }

  deafen(): void {
    this.onOther = () => {};
  }

  newIndex(): number {
    for (;;) {
      const index = randomBytes(4).readUInt32BE();
      if (!this.links.has(index)) return index;
    }
  }

  /** Calls the link's receiver as soon as the socket has room. */
  waitFor(link: UdpLink): void {
    this.waiting.add(link);
    this.watched?.want(true, true);
  }

  forget(link: UdpLink): void {
    this.links.delete(link.index);
    this.waiting.delete(link);
  }

  close(): void {
    clearInterval(this.clock);
    this.watched?.stop();
    this.watched = undefined;
    this.socket.close();
  }

  /** One turn of the loop: what has come, a recvmsg() after the other, one behind the other in memory. */
  private receive(): void {
    const { socket, memory } = this;
    let at = 0;
    let count = 0;
    while (at < ROUND && this.watched) {
      const readAt = trace.clock();
      count = socket.receive(memory, at); // WALK 8.read R5.read
      if (count < 0) break;
      const end = at + count;
      if (count === 0) this.drop("a datagram that makes no sense", at, 0);
      for (; at < end; at += socket.segment) this.take(at, Math.min(socket.segment, end - at), readAt);
      at = pad(Math.max(end, at + LEAST), 4);
    }
    this.joiner.flush();
    if (count < 0 && count !== -EAGAIN) this.onError(-count);
  }

  /** Gives one datagram to whom it is for. What is for nobody is counted. */
  private take(at: number, size: number, readAt: bigint): void {
    const { bytes } = this.memory;
    const type = size >= HEADER ? bytes[at]! : 0;
    const isFrame = type === DATA || type === CONTROL;
    const link = isFrame ? this.links.get(bytes.readUInt32BE(at + 4)) : undefined;
    if (link) {
      const length = bytes.readUInt16BE(at + 2);
      if (length === size - HEADER && length % 4 === 0) link.take(at, size, readAt);
      else this.drop("a datagram that is cut short", at, size);
    } else if (type === 0 || this.onOther(type, at, size) === false)
      this.drop(isFrame ? "a datagram of no session here" : "a datagram that makes no sense", at, size);
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
    this.start(this.onOther, this.onError);
    this.onError(errno);
  }
}

/** A client that asks for a session. */
class Call {
  private readonly hub: Hub;
  private readonly to: Remote;
  private readonly message1: Buffer;
  private readonly isGood: IsGood;
  private readonly index: number;
  private readonly cookie = Buffer.alloc(COOKIE);
  private size = 0; // bytes of the IP packet that message 1 was sent in
  private largest = 0; // of the largest one

  constructor(socket: DatagramSocket, to: Remote, message1: Buffer, isGood: IsGood) {
    this.hub = new Hub(socket);
    this.to = to;
    this.message1 = message1;
    this.isGood = isGood;
    this.index = this.hub.newIndex();
  }

  /**
   * Sends message 1 each second, until there is an answer. It is as long as the path's largest packet, so
   * what gets through tells how much does; after two tries in vain it is shorter. The answer is as long.
   */
  async answer(ms: number): Promise<Answer> {
    const { hub, to } = this;
    const deadline = performance.now() + ms;
    hub.socket.tellErrors(true);
    try {
      for (let attempt = 0; ; attempt++) {
        const left = deadline - performance.now();
        if (left <= 0) throw new Unreachable(to.text, -ETIMEDOUT);
        this.size = Math.min(pathMtu(to) || SIZES[0]!, SIZES[Math.min(attempt >> 1, SIZES.length - 1)]!);
        this.largest = Math.max(this.largest, this.size);
        const answer = await this.ask(Math.min(left, RETRY));
        if (answer) return answer;
      }
    } catch (error) {
      hub.close();
      throw error;
    }
  }

  /**
   * Sends message 1 once, and waits. Undefined: try again. Anybody on the way can forge an answer. A sealed
   * one is left aside unless it is good. A refusal is not sealed: it counts only if nothing better comes.
   */
  private ask(ms: number): Promise<Answer | undefined> {
    const { hub, to } = this;
    return new Promise((resolve, reject) => {
      let refusal: Answer | undefined;
      let cookies = 0;
      const again = setTimeout(() => resolve(refusal), ms);
      const failed = (errno: number) => {
        if (errno === ENOBUFS) return; // it was lost on this machine: it goes out again
        clearTimeout(again);
        if (errno === EMSGSIZE) resolve(undefined);
        else reject(new Unreachable(to.text, -errno));
      };
      hub.start((type, at, size) => {
        const { bytes } = hub.memory;
        const start = at + ANSWER_HEADER;
        const length = bytes.readUInt16BE(at + 2);
        if (bytes.readUInt32BE(at + 4) !== this.index || length > size - ANSWER_HEADER) return false;
        if (type === COOKIE_ANSWER && length === COOKIE) {
          bytes.copy(this.cookie, 0, start, start + COOKIE);
          if (++cookies <= COOKIES) this.send();
          return true;
        }
        const message2 = Buffer.from(bytes.subarray(start, start + length));
        if (type !== ANSWER || (length > 0 && !this.isGood(message2))) return false;
        // What has come tells what the path takes: perhaps it is the late answer to a longer question.
        const came = Math.min(size + around(to.address), this.largest);
        const answer = this.answered(message2, bytes.readUInt32BE(at + 8), came);
        if (length === 0) refusal = answer;
        else {
          clearTimeout(again);
          hub.deafen();
          resolve(answer);
        }
        return true;
      }, failed);
      const result = this.send();
      if (result < 0 && result !== -EAGAIN) failed(-result);
    });
  }

  private send(): number {
    const { message1, size, to, index, cookie } = this;
    const datagram = new Memory(pad(size - around(to.address), 4));
    const { bytes } = datagram;
    bytes.fill(0);
    bytes[0] = HELLO;
    bytes.writeUInt16BE(message1.length, 2);
    bytes.writeUInt32BE(index, 4);
    cookie.copy(bytes, 8);
    message1.copy(bytes, HELLO_HEADER);
    const length = size - around(to.address);
    return this.hub.socket.send(to, datagram, 0, length, length);
  }

  private answered(message2: Buffer, theirs: number, size: number): Answer {
    const { hub, to, index } = this;
    const link = new UdpLink(hub, index, theirs, to, size, () => hub.close());
    const attach = <R extends Receiver>(make: (link: Link) => R) => {
      const failed = (errno: number) => {
        hub.socket.tellErrors(true);
        link.failed(errno);
      };
      hub.start((type, at) => {
        const name = hub.memory.bytes.readUInt32BE(at + 4);
        if (type === ANSWER && name === index) return true; // to another of our questions
        if (type !== NO_SESSION || name !== theirs) return false;
        return link.doubt("it was started anew, and does not know this session");
      }, failed);
      return link.start(make(link));
    };
    return { remote: to.text, message2, largest: link.largest, attach, hangUp: () => hub.close() };
  }
}

/** A server's first words with its clients. */
class Reception {
  private readonly hub: Hub;
  private readonly server: PortEvents;
  private readonly cookies = new Cookies();
  private toldAt = 0; // the latest receive() whose sender was told that there is no session
  /**
   * Who has been answered, and has not proven itself yet: by its public key. Its message 1 may come again.
   */
  private readonly answered = new Map<string, { link: UdpLink; message2: Buffer; theirs: number }>();

  constructor(hub: Hub, server: PortEvents) {
    this.hub = hub;
    this.server = server;
  }

  /** Message 1. False: it makes no sense. */
  hello(at: number, size: number): boolean {
    const { hub, server, cookies, answered } = this;
    const { bytes } = hub.memory;
    const length = bytes.readUInt16BE(at + 2);
    const from = hub.socket.from();
    if (
      size < SIZES.at(-1)! - around("::") ||
      length > handshakeFraming.maxBody ||
      HELLO_HEADER + length > size
    )
      return false;
    const theirs = bytes.readUInt32BE(at + 4);
    const start = at + HELLO_HEADER;
    const message1 = Buffer.from(bytes.subarray(start, start + length));
    const name = message1.toString("latin1", 0, 32);
    const before = answered.get(name);
    if (before) {
      before.link.lower(size + around(from.address)); // perhaps it is shorter by now, and so the answer
      this.send(ANSWER, theirs, before.link.index, before.message2, from, size);
      return true;
    }
    const cookie = bytes.subarray(at + 8, start);
    if (cookies.needed() && !cookies.isGood(cookie, from.name)) {
      this.send(COOKIE_ANSWER, theirs, 0, cookies.make(from.name), from, ANSWER_HEADER + COOKIE);
      return true;
    }
    const stranger = server.onArrival(from.address, from.text, () => {});
    if (!stranger) return true;
    const refuse = (message2: Buffer) => this.send(ANSWER, theirs, 0, message2, from, size);
    const attach = <R extends Receiver>(message2: Buffer | undefined, make: (link: Link) => R) => {
      const link: UdpLink = new UdpLink(hub, hub.newIndex(), theirs, from, size + around(from.address), () =>
        answered.delete(name),
      );
      const receiver = link.start(make(link), () => answered.delete(name));
      if (link.closed) return receiver;
      answered.set(name, { link, message2: message2!, theirs });
      this.send(ANSWER, theirs, link.index, message2!, from, size);
      return receiver;
    };
    server.onHello({ address: from.address, remote: from.text, stranger, attach, refuse }, message1);
    return true;
  }

  /** A datagram of no session here: false. If it is a frame, its sender is told, once a receive(). */
  other(type: number, at: number): boolean {
    const { socket, memory } = this.hub;
    if ((type !== DATA && type !== CONTROL) || this.toldAt === socket.received) return false;
    this.toldAt = socket.received;
    memory.bytes[at] = NO_SESSION;
    socket.send(socket.from(), memory, at, HEADER, HEADER);
    memory.bytes[at] = type;
    return false;
  }

  /** An answer of `size` bytes: never longer than the question, so nobody can be flooded by it. */
  private send(type: number, theirs: number, ours: number, message: Buffer, to: Remote, size: number): void {
    if (ANSWER_HEADER + message.length > size) return;
    const datagram = new Memory(pad(size, 4));
    const { bytes } = datagram;
    bytes.fill(0);
    bytes[0] = type;
    bytes.writeUInt16BE(message.length, 2);
    bytes.writeUInt32BE(theirs, 4);
    bytes.writeUInt32BE(ours, 8);
    message.copy(bytes, ANSWER_HEADER);
    this.hub.socket.send(to, datagram, 0, size, size); // if it is lost, the question comes again
  }
}

/** A session's link: its index here and there, and where it sends to. */
export class UdpLink implements Link {
  readonly index: number;
  readonly framing: Framing & { maxBody: number };
  readonly cutter: SegmentCutter;
  readonly join: SegmentJoiner["add"];
  closed = false;
  private readonly hub: Hub;
  private readonly path: Path;
  private sentLarge = false; // since the last probe()
  private questions = 0; // 0: the other end is not in doubt; else one more than were asked since
  private reason = ""; // for that
  private readonly onEnd: () => void;
  private to: Remote;
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
        bytes.writeUInt32BE(theirs, at + 4); // keys.seal() writes the rest
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
    this.framing.maxBody = bodyFor(size, this.to);
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
    const size = sizeOf(memory.bytes, from);
    let end = from + size;
    this.sentLarge ||= size > LARGE;
    for (let count = 1; end < to && count < hub.segments; count++) {
      const next = sizeOf(memory.bytes, end);
      if (next > size || end + next - from > MAX_RUN) break;
      end += next;
      if (next < size) break;
    }
    const result = hub.socket.send(this.to, memory, from, end - from, size);
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
      } else if (to.local) this.to = to.fromAny(); // our address there may be gone
    }
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
    if (this.questions > QUESTIONS) return this.receiver!.lost(this.reason);
    if (this.questions > 0) {
      this.questions++;
      this.receiver!.sendControl(Control.probe, Buffer.alloc(4));
    }
    this.probePath();
  }

  /** How much of the path's packets does it get? */
  private probePath(): void {
    const { path, receiver, keysHere } = this;
    const size = path.check(this.sentLarge, keysHere?.window.newest ?? -1);
    this.sentLarge = false;
    if (path.size < this.size) trace.note(`${this.remote}: packets of ${this.size} bytes do not arrive`);
    this.size = path.size;
    if (size === 0) return;
    const word = 4;
    const message = Buffer.alloc(bodyFor(size, this.to) - this.framing.tag - word);
    message.writeUInt32BE(size);
    receiver!.sendControl(Control.probe, message);
    receiver!.sendControl(Control.keepalive); // if that is too large, the other end still hears of us
  }

  control(word: number, message: Buffer): boolean {
    if (message.length < 4) return false;
    const size = message.readUInt32BE();
    if (word === Control.probe) this.receiver!.sendControl(Control.probed, message.subarray(0, 4));
    else if (word === Control.probed && size === 0) this.questions = 0;
    else if (word === Control.probed) this.path.arrived(Math.min(size, SIZES[0]!));
    else return false;
    this.size = this.path.size;
    return true;
  }

  private moved(to: Remote): void {
    if (to.address === this.to.address && to.text === this.to.text) return;
    trace.note(`${this.remote} is at ${to.text} now`);
    const { size } = this;
    this.to = to;
    this.size = size;
  }

  writable(): void {
    this.receiver!.writable();
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    this.hub.forget(this);
    this.onEnd();
  }
}

/**
 * Bytes of IP packets: the most that Ethernet takes, the least that IPv6 does, and what all must (RFC 791).
 */
const SIZES = [9000, 1280, 576];
