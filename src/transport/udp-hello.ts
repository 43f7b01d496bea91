/** The first words over UDP, before there are keys: a client's call, and a server's reception. */
import { handshakeFraming, pad } from "../core/frame.ts";
import { EAGAIN, EMSGSIZE, ENOBUFS, ETIMEDOUT } from "../base/errno.ts";
import type { Link, Receiver } from "../core/link.ts";
import { Memory } from "../base/libc.ts";
import { COOKIE, Cookies } from "./cookie.ts";
import { type DatagramSocket, pathMtu, type Remote } from "./datagrams.ts";
import { type Answer, type IsGood, type PortEvents, Unreachable } from "./transport.ts";
import {
  ANSWER,
  ANSWER_HEADER,
  around,
  CONTROL,
  COOKIE_ANSWER,
  DATA,
  HEADER,
  HELLO,
  HELLO_HEADER,
  indexOf,
  NO_SESSION,
  SIZES,
} from "./udp-format.ts";
import { Hub } from "./udp-hub.ts";
import { UdpLink } from "./udp-link.ts";

const RETRY = 1_000; // ms between two first messages
const SHORTER = 50; // ms until the next try, once the kernel knows that the path takes less
const DOUBT = 300; // ms that a good answer has after an ICMP error
// bytes: 576 less the longest header of IPv4 and UDP's. Linux believes in no narrower path than 552
const LEAST_HELLO = 508;
const COOKIES = 3; // in one try: nobody makes us send more by forging them

/** A client that asks for a session. */
export class Call {
  private readonly hub: Hub;
  private readonly to: Remote;
  private readonly message1: Buffer;
  private readonly isGood: IsGood;
  private readonly index: number;
  private readonly cookie = Buffer.alloc(COOKIE);
  private sizes: number[] = []; // bytes of the IP packets that message 1 goes in, the largest first
  private largest = 0; // of all so far

  constructor(socket: DatagramSocket, to: Remote, message1: Buffer, isGood: IsGood) {
    this.hub = new Hub(socket);
    this.to = to;
    this.message1 = message1;
    this.isGood = isGood;
    this.index = indexOf(message1);
  }

  /**
   * Sends message 1 each second, until there is an answer. The IP packet is as large as the kernel believes
   * that the path takes. If that one arrives, the path does take it. After two tries without an answer a
   * shorter copy follows each, and after two more a still shorter one. The answer is as long as its question.
   */
  async answer(ms: number): Promise<Answer> {
    const { hub, to } = this;
    const deadline = performance.now() + ms;
    hub.socket.tellErrors(true);
    try {
      for (let attempt = 0; ; attempt++) {
        const left = deadline - performance.now();
        if (left <= 0) throw new Unreachable(to.text, -ETIMEDOUT);
        const known = pathMtu(to) || SIZES[0]!;
        const sizes = SIZES.slice(0, 1 + (attempt >> 1)).map((size) => Math.min(size, known));
        this.sizes = [...new Set(sizes)];
        this.largest = Math.max(this.largest, this.sizes[0]!);
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
      let problem = 0; // an errno
      const end = () => {
        if (problem === 0) resolve(refusal);
        else reject(new Unreachable(to.text, -problem));
      };
      const deadline = performance.now() + ms;
      let again = setTimeout(end, ms);
      // An ICMP error is not sealed, either. However many come, they add no time.
      const failed = (errno: number) => {
        if (errno !== EMSGSIZE) problem = errno;
        clearTimeout(again);
        const left = Math.max(0, deadline - performance.now());
        again = setTimeout(end, Math.min(left, errno === EMSGSIZE ? SHORTER : DOUBT));
      };
      hub.start((type, at, size) => {
        const { bytes } = hub.memory;
        const start = at + ANSWER_HEADER;
        const length = bytes.readUInt16BE(at + 2);
        if (bytes.readInt32BE(at + 4) !== this.index || length > size - ANSWER_HEADER) return false;
        if (type === COOKIE_ANSWER && length === COOKIE) {
          bytes.copy(this.cookie, 0, start, start + COOKIE);
          if (++cookies <= COOKIES) this.send();
          return true;
        }
        const message2 = Buffer.from(bytes.subarray(start, start + length));
        if (type !== ANSWER || (length > 0 && !this.isGood(message2))) return false;
        // What has come tells what the path takes: perhaps it is the late answer to a longer question.
        const came = Math.min(size + around(to.address), this.largest);
        const answer = this.answered(message2, indexOf(bytes, start), came);
        if (length === 0) refusal = answer;
        else {
          clearTimeout(again);
          hub.deafen();
          resolve(answer);
        }
        return true;
      }, failed);
      const result = this.send();
      if (result < 0 && ![EAGAIN, ENOBUFS].includes(-result)) failed(-result); // both: it was lost here
    });
  }

  /** 0, or the first negative errno. */
  private send(): number {
    const results = this.sizes.map((size) => this.sendIn(size));
    return results.find((result) => result < 0) ?? 0;
  }

  private sendIn(size: number): number {
    const { message1, to, cookie } = this;
    const datagram = new Memory(pad(size - around(to.address), 4));
    const { bytes } = datagram;
    bytes.fill(0);
    bytes[0] = HELLO;
    bytes.writeUInt16BE(message1.length, 2);
    cookie.copy(bytes, 4);
    message1.copy(bytes, HELLO_HEADER);
    const length = size - around(to.address);
    return this.hub.socket.send(to, datagram, 0, length, length);
  }

  private answered(message2: Buffer, theirs: number, size: number): Answer {
    const { hub, to, index } = this;
    const link = new UdpLink(hub, index, theirs, to, size, () => hub.close());
    const attach = <R extends Receiver>(make: (link: Link) => R) => {
      hub.start(
        (type, at) => {
          const name = hub.memory.bytes.readInt32BE(at + 4);
          if (type === ANSWER && name === index) return true; // to another of our questions
          if (type !== NO_SESSION || name !== theirs) return false;
          return link.doubt("it was started anew, and does not know this session");
        },
        (errno) => link.failed(errno),
      );
      return link.start(make(link));
    };
    return { remote: to.text, message2, largest: link.largest, attach, hangUp: () => hub.close() };
  }
}

/** A server's first words with its clients. */
export class Reception {
  private readonly hub: Hub;
  private readonly server: PortEvents;
  private readonly cookies = new Cookies();
  private toldAt = 0; // the latest receive() whose sender was told that there is no session
  /** Who has been answered, and has not proven itself yet: by its message 1, which may come again. */
  private readonly answered = new Map<string, { link: UdpLink; message2: Buffer }>();

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
    if (size < LEAST_HELLO || length > handshakeFraming.maxBody || HELLO_HEADER + length > size) return false;
    const start = at + HELLO_HEADER;
    const theirs = indexOf(bytes, start);
    const message1 = Buffer.from(bytes.subarray(start, start + length));
    const name = message1.toString("latin1");
    const before = answered.get(name);
    // Whoever forges senders must not use up what their addresses may ask: so a proven one counts by itself.
    const isProven = cookies.isGood(bytes.subarray(at + 4, start), from.name);
    const isEnough = isProven || !cookies.needed();
    if (isEnough && before) {
      // perhaps it is shorter by now, and so the answer; others who have seen it may not say how long it is
      if (from.text === before.link.remote) before.link.lower(size + around(from.address));
      this.send(ANSWER, theirs, before.message2, from, size);
      return true;
    }
    const stranger = isEnough ? server.onArrival(from.address, from.text, () => {}, isProven) : undefined;
    if (!stranger) {
      if (!isProven) this.send(COOKIE_ANSWER, theirs, cookies.make(from.name), from, ANSWER_HEADER + COOKIE);
      return true;
    }
    const refuse = (message2: Buffer) => this.send(ANSWER, theirs, message2, from, size);
    const isFree = (publicKey: Buffer) => !hub.links.has(indexOf(publicKey));
    const attach = <R extends Receiver>(message2: Buffer | undefined, make: (link: Link) => R) => {
      const index = indexOf(message2!);
      const link: UdpLink = new UdpLink(hub, index, theirs, from, size + around(from.address), () =>
        answered.delete(name),
      );
      const receiver = link.start(make(link), () => answered.delete(name));
      if (link.closed) return receiver;
      answered.set(name, { link, message2: message2! });
      this.send(ANSWER, theirs, message2!, from, size);
      return receiver;
    };
    server.onHello({ address: from.address, remote: from.text, stranger, isFree, attach, refuse }, message1);
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
  private send(type: number, theirs: number, message: Buffer, to: Remote, size: number): void {
    if (ANSWER_HEADER + message.length > size) return;
    const datagram = new Memory(pad(size, 4));
    const { bytes } = datagram;
    bytes.fill(0);
    bytes[0] = type;
    bytes.writeUInt16BE(message.length, 2);
    bytes.writeInt32BE(theirs, 4);
    message.copy(bytes, ANSWER_HEADER);
    this.hub.socket.send(to, datagram, 0, size, size); // if it is lost, the question comes again
  }
}
