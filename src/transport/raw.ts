/**
 * Frames in TCP segments that are made by hand. Unlike tcp.ts: no kernel keeps a connection. Segments leave
 * by a raw socket and are caught by a packet socket, behind TCP's back. KCP makes a stream of them again
 * (kcp.ts), and is more eager than TCP where packets get lost. From there on, all is as in tcp.ts.
 *
 *   TCP                                          here
 *   connect(), accept(): SYN, SYN+ACK, ACK       ping, pong; cookies, when the server is busy (cookie.ts)
 *   a segment's place in the stream: seq         seq, ack, window, timestamps only look so (tcp-segments.ts)
 *   what is lost, congestion                     kcp.ts; by default without a congestion window
 *   RST: nobody listens there                    counts only if nothing else comes
 *
 * Our own kernel knows of no connection, and would answer what comes with RST. Rules of the firewall prevent
 * that, and connection tracking: keepKernelOut() in changes.ts. It hides nothing: who looks sees no SYN, and
 * KCP's headers. What is in the stream is sealed as always.
 *
 * A payload begins with its type, the numbers of source document 000:
 *
 *   1 ping                                 2 pong, 3 cookie, 4 gone               6 TUN
 *   offset size                            offset size                            KCP. Its conv begins with
 *   0      1    type                       0      1    type                       the 6: the rest are bytes 1
 *   1      1    0                          1      1    0                          to 3 of message 2
 *   2      2    length of message 1        2      2    length of what follows
 *   4      16   cookie, or zeros           4      4    the client's name; of gone, conv
 *   20     …    message 1; zeros           8      …    message 2, cookie; zeros
 *
 * The client's name is the first 4 bytes of message 1. A ping is as long as the path is believed to take, and
 * a pong as its ping. Numbers are big-endian, but for KCP's.
 */
import { ECONNREFUSED, EPERM, ETIMEDOUT } from "../base/errno.ts";
import { close } from "../base/libc.ts";
import { existsSync } from "node:fs";
import { counters } from "../base/counters.ts";
import { handshakeFraming } from "../core/frame.ts";
import type { Receiver } from "../core/link.ts";
import { type Watch, watch } from "../core/loop.ts";
import { MAX_PACKET } from "../base/packet.ts";
import { trace } from "../base/trace.ts";
import { endpoint, readSockaddr, sockaddr } from "./addresses.ts";
import { COOKIE, Cookies } from "./cookie.ts";
import { pathMtu, Remote } from "./datagrams.ts";
import { type Mode, MODES } from "./kcp.ts";
import { type Owner, RawLink } from "./raw-link.ts";
import { isOwn, RawSocket, reserve } from "./raw-socket.ts";
import { bindFailure } from "./sockets.ts";
import { Flow, RST, Segment } from "./tcp-segments.ts";
import {
  type Answer,
  type IsGood,
  type Port,
  type PortEvents,
  type Transport,
  Unreachable,
} from "./transport.ts";

export const Type = { ping: 1, pong: 2, cookie: 3, gone: 4, tun: 6 } as const;
export const PING_HEADER = 4 + COOKIE;
export const PONG_HEADER = 8;
const SIZES = [1500, 1280, 576]; // bytes of IP packets: Ethernet, IPv6's least, what every host takes
const LEAST = 500; // bytes of a ping
const RETRY = 1_000; // ms between two pings
const REFUSED = 300; // ms that a pong has after an RST
const COOKIES = 3; // in one dial()
const ROUND = 256; // packets received in one turn of the loop
const EARLY = 10_000; // packets that are left aside when a server begins to serve, at most
const CHECK = 1_000; // ms
export const FLAGS = [0x08 + 0x10]; // of the segments: PSH and ACK (RFC 9293, section 3.1)
const NOBODY = "ECONNRESET: nobody listens there any more";

export const raw: Transport = { open: (options) => new RawPort(options) };

/** The name of a session: message 2's first bytes, but for the type in front. */
const convOf = (message2: Buffer) => ((message2.readUInt32LE() & ~0xff) | Type.tun) >>> 0;

export class RawPort implements Port, Owner {
  readonly socket: RawSocket;
  readonly mode: Mode;
  private readonly port: number;
  private readonly flags: readonly number[];
  private readonly listen: string | undefined; // undefined: a client
  private readonly reserved: number | undefined; // an fd
  private readonly links = new Map<number, RawLink>();
  private readonly segment = new Segment();
  private readonly touched = new Set<RawLink>();
  private watched: Watch | undefined;
  private call: Call | undefined;
  private reception: Reception | undefined;

  constructor({ listen, port, tcpFlags = FLAGS, kcp = "fast" }: Parameters<Transport["open"]>[0]) {
    this.port = port;
    this.flags = tcpFlags;
    this.mode = MODES[kcp];
    this.listen = listen;
    if (listen !== undefined) {
      const any = existsSync("/proc/net/if_inet6") ? "::" : "0.0.0.0"; // as in sockets.ts
      const taken = reserve(listen === "*" ? any : listen, port);
      if (typeof taken === "number") throw bindFailure(listen, port, taken, "tcp");
      this.reserved = taken.fd;
    }
    this.socket = new RawSocket(port, listen !== undefined);
    setInterval(() => this.check(), CHECK).unref();
  }

  /** The segments of what comes are read from now on. */
  private start(): void {
    this.watched ??= watch(this.socket.fd, {
      readable: () => this.receive(),
      error: () => this.restart(), // an interface went down: packet(7), ENETDOWN
    });
  }

  private restart(): void {
    this.socket.receive(this.segment); // takes the error
    this.watched = undefined;
    this.start();
  }

  private receive(): void {
    const { socket, segment, touched } = this;
    const readAt = trace.clock();
    for (let i = 0; i < ROUND; i++) {
      const isOne = socket.receive(segment);
      if (isOne === undefined) break;
      if (!isOne || !this.take(segment)) counters.drop("a segment that makes no sense here", 1);
    }
    socket.flush();
    for (const link of touched) link.settle(readAt);
    touched.clear();
  }

  /** False: it is for nobody here. */
  private take(segment: Segment): boolean {
    const { bytes, payload, size, flags } = segment;
    if (flags & RST) return this.refused(segment);
    if (size < PONG_HEADER) return size === 0; // an ACK of somebody's kernel
    const type = bytes[payload]!;
    if (type !== Type.tun)
      return this.reception?.hello(segment) ?? this.call?.take(segment) ?? this.gone(segment);
    const link = this.links.get(bytes.readUInt32LE(payload));
    if (!link?.flow.isFrom(segment)) return this.reception?.other(segment) ?? false;
    this.touched.add(link);
    if (!link.take(segment)) return false;
    this.socket.learn(link.flow);
    return true;
  }

  /** A kernel there says that nobody listens: ours there, if the rules are missing. */
  private refused(segment: Segment): boolean {
    if (this.call?.flow.isFrom(segment)) this.call.refused();
    for (const link of this.links.values()) if (link.flow.isFrom(segment)) link.doubt(NOBODY);
    return true;
  }

  /** The server was started anew, and does not know the session. */
  private gone({ bytes, payload }: Segment): boolean {
    const link = this.links.get(bytes.readUInt32LE(payload + 4));
    if (bytes[payload] !== Type.gone || !link?.flow.isFrom(this.segment)) return false;
    link.doubt("it was started anew, and does not know this session");
    return true;
  }

  private check(): void {
    counters.drop("the socket was full when they came", this.socket.missed());
    for (const link of this.links.values()) link.check();
  }

  async dial(address: string, ms: number, message1: Buffer, isGood: IsGood = () => true): Promise<Answer> {
    const there = sockaddr(address, this.port);
    const probe = this.socket.own(there, 0);
    const unreachable = (errno: number) => new Unreachable(this.endpoint(address), errno);
    if (typeof probe === "number") throw unreachable(probe);
    const taken = reserve(readSockaddr(probe)[0], 0);
    if (typeof taken === "number") throw unreachable(taken);
    probe.writeUInt16BE(taken.port, 2);
    const flow = new Flow(probe, there, this.flags);
    this.start();
    const call = (this.call = new Call(this.socket, flow, there, message1, isGood));
    const answer = await call.answer(ms);
    this.call = undefined;
    if (typeof answer === "number") close(taken.fd);
    if (typeof answer === "number") throw unreachable(answer);
    const { message2, size } = answer;
    return {
      remote: flow.text,
      message2,
      largest: MAX_PACKET,
      attach: (make) => {
        const link = new RawLink(this, flow, convOf(message2), size);
        this.reservations.set(link, taken.fd);
        return this.add(link, make);
      },
      hangUp: () => void close(taken.fd),
    };
  }

  private readonly reservations = new WeakMap<RawLink, number>(); // fds

  /** Gives a link to whoever receives. */
  add<R extends Receiver>(link: RawLink, make: (link: RawLink) => R): R {
    const receiver = link.start(make(link));
    if (!link.closed) this.links.set(link.conv, link);
    return receiver;
  }

  forget(link: RawLink): void {
    const fd = this.reservations.get(link);
    if (fd !== undefined) close(fd);
    this.links.delete(link.conv);
  }

  has(conv: number): boolean {
    return this.links.has(conv);
  }

  serve(server: PortEvents): void {
    this.reception = new Reception(this, server, this.flags, this.listen!);
    // What came before our kernel was kept out has had its RST. Its senders come again.
    for (let i = 0; i < EARLY && this.socket.receive(this.segment) !== undefined; i++);
    this.start();
  }

  /** Nobody new is answered. The sessions go on, for they have to say goodbye. */
  end(): void {
    this.reception = undefined;
    if (this.reserved !== undefined) close(this.reserved);
  }

  endpoint(address: string): string {
    return endpoint(address, this.port);
  }
}

/** A client that asks for a session. */
class Call {
  readonly flow: Flow;
  private readonly socket: RawSocket;
  private readonly there: Buffer;
  private readonly message1: Buffer;
  private readonly isGood: IsGood;
  private readonly cookie = Buffer.alloc(COOKIE);
  private cookies = 0;
  private sizes: number[] = []; // bytes of the IP packets that a ping goes in, the largest first
  private refusal: { message2: Buffer; size: number } | undefined; // nobody has proven it
  private end: (result: number | { message2: Buffer; size: number }) => void = () => {};

  constructor(socket: RawSocket, flow: Flow, there: Buffer, message1: Buffer, isGood: IsGood) {
    [this.socket, this.flow, this.there, this.message1, this.isGood] = [
      socket,
      flow,
      there,
      message1,
      isGood,
    ];
  }

  /** Pings each second until there is a good pong. It, and the size of its packet; or a negative errno. */
  answer(ms: number): Promise<number | { message2: Buffer; size: number }> {
    const most = Math.min(pathMtu(new Remote(this.there)) || SIZES[0]!, SIZES[0]!);
    let tries = 0;
    const ping = () => {
      // After two without an answer a shorter ping goes with each, and after two more a still shorter one.
      const sizes = SIZES.slice(0, 1 + (tries++ >> 1)).map((size) => Math.min(size, most));
      this.sizes = [...new Set(sizes)];
      if (this.refusal) this.end(this.refusal);
      else this.ping();
    };
    return new Promise((resolve) => {
      const again = setInterval(ping, RETRY);
      const late = setTimeout(() => this.end(-ETIMEDOUT), ms);
      this.end = (result) => {
        clearInterval(again);
        clearTimeout(late);
        resolve(result);
      };
      ping();
    });
  }

  private ping(): void {
    const { socket, flow, message1, cookie } = this;
    for (const size of this.sizes) {
      const bytes = Buffer.alloc(size - flow.header);
      bytes[0] = Type.ping;
      bytes.writeUInt16BE(message1.length, 2);
      cookie.copy(bytes, 4);
      message1.copy(bytes, PING_HEADER);
      socket.put(flow, bytes, 0, bytes.length);
    }
    if (socket.flush() === -EPERM) this.end(-EPERM); // our own firewall drops it
  }

  /** Is it an answer? Undefined: it is not. */
  take(segment: Segment): true | undefined {
    const { bytes, payload, size } = segment;
    const [start, length] = [payload + PONG_HEADER, bytes.readUInt16BE(payload + 2)];
    const isOurs = bytes.compare(this.message1, 0, 4, payload + 4, payload + 8) === 0;
    if (!this.flow.isFrom(segment) || !isOurs || PONG_HEADER + length > size) return undefined;
    const message = Buffer.from(bytes.subarray(start, start + length));
    if (bytes[payload] === Type.cookie && length === COOKIE) {
      message.copy(this.cookie);
      if (++this.cookies <= COOKIES) this.ping();
      return true;
    }
    const answer = { message2: message, size: size + this.flow.header };
    if (bytes[payload] !== Type.pong || (length > 0 && !this.isGood(message))) return undefined;
    this.flow.took(segment);
    if (length === 0) this.refusal = answer;
    else this.end(answer);
    return true;
  }

  refused(): void {
    setTimeout(() => this.end(this.refusal ?? -ECONNREFUSED), REFUSED);
  }
}

/** A server's first words with its clients: as in udp-hello.ts. */
class Reception {
  private readonly port: RawPort;
  private readonly server: PortEvents;
  private readonly flags: readonly number[];
  private readonly listen: string;
  private readonly cookies = new Cookies();
  /** Who has been answered, and has not proven itself yet: by its message 1, which may come again. */
  private readonly answered = new Map<string, { flow: Flow; message2: Buffer }>();

  constructor(port: RawPort, server: PortEvents, flags: readonly number[], listen: string) {
    [this.port, this.server, this.flags, this.listen] = [port, server, flags, listen];
  }

  /** A ping. False: it makes no sense. */
  hello(segment: Segment): boolean {
    const { port, server, cookies, answered } = this;
    const { bytes, payload, size } = segment;
    const length = bytes.readUInt16BE(payload + 2);
    const [from, to] = segment.ends;
    if (bytes[payload] !== Type.ping || size < LEAST || PING_HEADER + length > size) return false;
    if (length < 32 || length > handshakeFraming.maxBody || !this.isFor(to)) return false;
    const flow = new Flow(to, from, this.flags, segment);
    const start = payload + PING_HEADER;
    const message1 = Buffer.from(bytes.subarray(start, start + length));
    const name = message1.toString("latin1");
    const before = answered.get(name);
    const isProven = cookies.isGood(bytes.subarray(payload + 4, start), flow.name);
    const isEnough = isProven || !cookies.needed();
    const refuse = (message2: Buffer) => this.send(Type.pong, message1, message2, flow, size);
    if (isEnough && before) {
      if (before.flow.isFrom(segment)) this.send(Type.pong, message1, before.message2, before.flow, size);
      return true;
    }
    const stranger = isEnough ? server.onArrival(flow.address, flow.text, () => {}, isProven) : undefined;
    if (!stranger) {
      const cookie = cookies.make(flow.name);
      if (!isProven) this.send(Type.cookie, message1, cookie, flow, PONG_HEADER + COOKIE);
      return true;
    }
    const isFree = (publicKey: Buffer) => !port.has(convOf(publicKey));
    const attach = <R extends Receiver>(message2: Buffer | undefined, make: (link: RawLink) => R) => {
      const link = new RawLink(port, flow, convOf(message2!), size + flow.header);
      link.onProven = () => void answered.delete(name);
      const receiver = port.add(link, make);
      if (link.closed) return receiver;
      answered.set(name, { flow, message2: message2! });
      refuse(message2!);
      return receiver;
    };
    server.onHello({ address: flow.address, remote: flow.text, stranger, isFree, attach, refuse }, message1);
    return true;
  }

  /** Is it for us? The packet socket sees what a router hands on, too. */
  private isFor(to: Buffer): boolean {
    return ["*", "0.0.0.0", "::"].includes(this.listen) ? isOwn(to) : readSockaddr(to)[0] === this.listen;
  }

  /** KCP of no session here: its sender is told. */
  other(segment: Segment): false {
    const [from, to] = segment.ends;
    if (!this.isFor(to)) return false;
    const conv = Buffer.from(segment.bytes.subarray(segment.payload, segment.payload + 4));
    this.send(Type.gone, conv, Buffer.alloc(0), new Flow(to, from, this.flags, segment), PONG_HEADER);
    return false;
  }

  /** A payload of `size` bytes: never longer than what it answers, so nobody can be flooded by it. */
  private send(type: number, name: Buffer, message: Buffer, flow: Flow, size: number): void {
    if (PONG_HEADER + message.length > size) return;
    const bytes = Buffer.alloc(size);
    bytes[0] = type;
    bytes.writeUInt16BE(message.length, 2);
    name.copy(bytes, 4, 0, 4);
    message.copy(bytes, PONG_HEADER);
    this.port.socket.put(flow, bytes, 0, size); // it leaves at the end of this turn; if it is lost, no matter
  }
}
