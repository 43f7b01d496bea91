/**
 * Unlike tcp.ts: OpenSSL speaks QUIC (RFC 9000). That is TCP's work done in a program, over UDP, with TLS 1.3
 * in it. We use one stream of each connection. Like TCP, it carries bytes in order and whole, and knows
 * nothing of frames. So frames and handshake are those of tcp.ts, and all is encrypted twice. TLS alone would
 * do. But then the walk would have other steps, and the session another vocabulary.
 *
 * Left out: QUIC's own datagrams (RFC 9221); an address that changes within a session, which OpenSSL cannot,
 * so that the client connects again, with its token; 0-RTT; and Retry, by which a client shows that it
 * receives at its address: with it, OpenSSL starts slowly on a long way.
 */
import { isIPv6 } from "node:net";
import { EAGAIN, ETIMEDOUT } from "../base/errno.ts";
import { BrokenStream } from "../base/failure.ts";
import type { SessionKeys } from "../core/aes.ts";
import { aesFraming, FrameType, handshakeFraming, pad } from "../core/frame.ts";
import { Memory } from "../base/libc.ts";
import type { Link, Receiver } from "../core/link.ts";
import { MAX_PACKET } from "../base/packet.ts";
import { trace } from "../base/trace.ts";
import { endpoint, sockaddr } from "./addresses.ts";
import { DatagramSocket, Remote } from "./datagrams.ts";
import { OrderedKeys } from "./ordered-keys.ts";
import { type Connection, Endpoint } from "./quic-endpoint.ts";
import { must, openssl, TlsContext } from "./quic-tls.ts";
import { takeMessage } from "./tcp.ts";
import {
  type Answer,
  type Port,
  type PortEvents,
  type Stranger,
  type Transport,
  Unreachable,
} from "./transport.ts";

// ms: after half of it without a datagram OpenSSL asks, and after the whole of it more it gives up
const IDLE = 8_000;
const DEADLINE = 10_000; // ms, for the other end's message
const LINGER = 300; // ms that OpenSSL has to deliver our last words
const WAITING = 128 * 1024; // bytes that OpenSSL may hold for a slow network: what is more stays in the TUN
const NO_MESSAGE = Buffer.alloc(0);
// openssl/ssl.h
const [NO_VALIDATE, RAPID, NO_BLOCK] = [2, 1, 4]; // of SSL_new_listener(), of SSL_shutdown_ex()
const [GENERIC, REQUEST, IDLE_TIMEOUT, EVENT_MODE, EXPLICIT, USED] = [0, 1, 5, 6, 2, 8]; // SSL_VALUE_…
const [CTRL_MODE, PARTIAL_WRITE, MOVING_BUFFER] = [33, 1, 2]; // SSL_MODE_…
const [WANT_READ, WANT_WRITE, ZERO_RETURN] = [2, 3, 6]; // SSL_ERROR_…
const IS_TRANSPORT = 2; // SSL_CONN_CLOSE_FLAG_…
const [NOTHING_CAME, TLS_ALERTS] = [2n ** 64n - 1n, 0x100n]; // openssl/quic.h: errors
const LATE = `no handshake within ${DEADLINE / 1000} s`;
const OTHER_SECRET = "it was made with another secret, or with none";
const SILENT = "nothing comes from it any more";
const CLOSED = "the connection was closed without a goodbye";

export const quic: Transport = {
  open: ({ listen, port, secrets }) => new QuicPort(port, secrets!, listen),
};

export class QuicPort implements Port {
  private readonly port: number;
  private readonly contexts: TlsContext[];
  private readonly socket: DatagramSocket | undefined; // a server's
  private listener: Endpoint<QuicLink> | undefined;
  private readonly idle: number;

  constructor(port: number, secrets: Buffer[], listen?: string, idle = IDLE) {
    this.port = port;
    this.idle = idle;
    this.socket = listen === undefined ? undefined : DatagramSocket.listen(listen, port);
    this.contexts = this.socket
      ? [new TlsContext("server", secrets)]
      : secrets.map((secret) => new TlsContext("client", [secret]));
  }

  /** TLS takes one secret at a time. If the server has none of them, its answer is an empty one: refused. */
  async dial(address: string, ms: number, message1: Buffer): Promise<Answer> {
    const to = new Remote(sockaddr(address, this.port));
    let answer: Answer | undefined;
    for (const context of this.contexts) {
      answer = await this.ask(context, to, ms, message1);
      if (answer.message2.length > 0) break;
    }
    return answer!;
  }

  /** Sends message 1, and waits for message 2. */
  private async ask(context: TlsContext, to: Remote, ms: number, message1: Buffer): Promise<Answer> {
    const socket = DatagramSocket.open(isIPv6(to.address.replace(/%.*/, "")));
    if (typeof socket === "number") throw new Unreachable(to.text, socket);
    socket.tellErrors(true);
    const root = context.connection();
    let unreachable: Unreachable | undefined;
    const fail = (errno: number) => {
      if (link.isReady) return;
      unreachable = new Unreachable(to.text, -errno);
      link.fail(unreachable.message);
    };
    const at = new Endpoint<QuicLink>(socket, root, fail);
    const link = new QuicLink(at, root, to);
    const { calls } = at;
    must(calls.SSL_set1_initial_peer_addr(root, at.nameOf(to)), "set the server's address");
    must(calls.SSL_set_value_uint(root, REQUEST, IDLE_TIMEOUT, this.idle), "set both ends' time-out");
    calls.SSL_set_connect_state(root);
    const timer = setTimeout(() => fail(ETIMEDOUT), ms);
    const answer = (message2: Buffer): Answer => ({
      remote: to.text,
      message2,
      largest: MAX_PACKET,
      attach: (make) => link.attach(make),
      hangUp: () => link.close(),
    });
    try {
      const message2 = link.exchange(message1);
      at.turn(link);
      return answer(await message2);
    } catch (error) {
      link.close();
      if (error instanceof BrokenStream && error.message === OTHER_SECRET) return answer(NO_MESSAGE);
      throw unreachable ?? error;
    } finally {
      clearTimeout(timer);
    }
  }

  serve(server: PortEvents): void {
    const root = openssl().SSL_new_listener(this.contexts[0]!.address, NO_VALIDATE);
    const greet = (from: Remote) => {
      const { address, text } = from;
      // Anybody can write any sender into a datagram: it is not proven that this one receives.
      const stranger = server.onArrival(address, text, () => link.fail("it made room"), false);
      if (!stranger) return undefined;
      const link = new QuicLink(listener, 0, from);
      void hear(link, stranger, server);
      return link;
    };
    const listener = new Endpoint<QuicLink>(this.socket!, root, () => {}, greet);
    must(openssl().SSL_listen(root), "listen");
    this.listener = listener;
  }

  end(): void {
    if (this.listener) this.listener.deafen();
    else this.socket?.close();
  }

  endpoint(address: string): string {
    return endpoint(address, this.port);
  }
}

/** Server: somebody new has come. He may send message 1. */
async function hear(link: QuicLink, stranger: Stranger, server: PortEvents): Promise<void> {
  const { address, text: remote } = link.to;
  let attached = false;
  try {
    const message1 = await link.exchange();
    const attach = <R extends Receiver>(message2: Buffer | undefined, make: (link: Link) => R) => {
      if (message2) link.sendMessage(message2);
      attached = true;
      return link.attach(make);
    };
    const refuse = (message2: Buffer) => link.sendMessage(message2);
    server.onHello({ address, remote, stranger, attach, refuse }, message1);
  } catch (error) {
    if (!(error instanceof BrokenStream)) throw error;
    stranger.lost(error.message);
  } finally {
    if (!attached) link.close();
  }
}

/** A connection as a peer's link. */
export class QuicLink implements Link, Connection {
  readonly framing = aesFraming;
  readonly remote: string;
  readonly to: Remote;
  ssl: number;
  isReady = false; // has TLS accepted the other end?
  private readonly at: Endpoint<QuicLink>;
  private readonly calls = openssl();
  private receiver: Pick<Receiver, "received" | "lost" | "flush"> | undefined;
  private first: Buffer | undefined; // sent when TLS has accepted the other end
  private memory = new Memory(2 * pad(handshakeFraming.header + handshakeFraming.maxBody, 4));
  private tail = 0; // its end
  private full = false; // does OpenSSL take nothing more for now?
  private state: "open" | "lost" | "closed" = "open";
  private readonly out = new Memory(40); // what OpenSSL writes its answers to

  constructor(at: Endpoint<QuicLink>, ssl: number, to: Remote) {
    this.at = at;
    this.ssl = ssl;
    this.to = to;
    this.remote = to.text;
    at.links.set(to.text, this);
  }

  /** Sends the first message, if there is one, and waits for the other end's. Errors: BrokenStream. */
  exchange(first?: Buffer): Promise<Buffer> {
    this.first = first;
    const timer = setTimeout(() => this.fail(LATE), DEADLINE);
    const came = new Promise<Buffer>((resolve, reject) => {
      const received = ({ bytes }: Memory, from: number, to: number) => {
        try {
          const message = takeMessage(bytes, from, to);
          if (!message) return from;
          this.receiver = undefined; // what comes next waits for attach()
          resolve(message);
        } catch (error) {
          if (!(error instanceof BrokenStream)) throw error;
          this.fail(error.message);
        }
        return to;
      };
      this.receiver = { received, lost: (reason) => reject(new BrokenStream(reason)), flush() {} };
    });
    return came.finally(() => clearTimeout(timer));
  }

  attach<R extends Receiver>(make: (link: Link) => R): R {
    this.memory = new Memory(2 * pad(aesFraming.header + aesFraming.maxBody, 4));
    const receiver = make(this);
    this.receiver = receiver;
    setImmediate(() => this.at.turn(this));
    return receiver;
  }

  /** One of the first things on its stream: it always fits. */
  sendMessage(message: Buffer): void {
    const { header } = handshakeFraming;
    const frame = new Memory(pad(header + message.length, 4));
    handshakeFraming.putHeader(frame.bytes, 0, FrameType.handshake, message.length);
    message.copy(frame.bytes, header);
    this.send(frame, 0, header + message.length);
  }

  send(memory: Memory, from: number, to: number): number {
    memory.check(from, to - from);
    this.full ||= this.waiting > WAITING;
    if (this.full || this.state !== "open") return -EAGAIN;
    const { ssl, calls, out, at } = this;
    const error = this.ask(() => calls.SSL_write_ex(ssl, memory.address + from, to - from, out.address));
    if (error !== 0) {
      this.full = true;
      if (error !== WANT_READ && error !== WANT_WRITE) setImmediate(() => this.fail(this.why()));
      return -EAGAIN;
    }
    const count = out.bytes.readUInt32LE(0);
    at.flush(); // at once: it may be our last words before we exit
    return count;
  }

  keys(keys: SessionKeys): OrderedKeys {
    return new OrderedKeys(keys);
  }

  /** OpenSSL still delivers what was sent; what comes after that would hide it from the other end. */
  close(): void {
    if (this.state === "closed") return;
    this.state = "closed";
    setTimeout(() => {
      if (this.ssl !== 0) this.calls.SSL_shutdown_ex(this.ssl, RAPID | NO_BLOCK, 0, 0);
      this.at.forget(this);
    }, LINGER).unref();
  }

  /** It is over. */
  fail(reason: string): void {
    if (this.state !== "open") return;
    this.state = "lost";
    this.receiver?.lost(reason);
  }

  progress(): boolean {
    const { calls, ssl } = this;
    if (this.state !== "open" || ssl === 0) return false;
    if (!this.isReady) {
      const error = this.ask(() => calls.SSL_do_handshake(ssl));
      if (error === WANT_READ || error === WANT_WRITE) return false;
      // A second guard: TLS has used our key, and no certificate.
      const isOurs = error === 0 && calls.SSL_session_reused(ssl) === 1;
      if (!isOurs) this.fail(error === 0 ? OTHER_SECRET : this.why());
      if (!isOurs) return false;
      calls.SSL_ctrl(ssl, CTRL_MODE, PARTIAL_WRITE | MOVING_BUFFER, 0);
      must(calls.SSL_set_value_uint(ssl, GENERIC, EVENT_MODE, EXPLICIT), "handle events ourselves");
      this.isReady = true;
      if (this.first) this.sendMessage(this.first);
    }
    const moved = this.receive();
    if (!this.full || this.state !== "open" || this.waiting > WAITING / 2) return moved;
    this.full = false;
    this.receiver?.flush();
    return true;
  }

  /** Reads all that is there. What it brought goes to the receiver. False: nothing was. */
  private receive(): boolean {
    const { calls, ssl, out } = this;
    let moved = false;
    for (; this.receiver && this.state === "open"; moved = true) {
      const { memory, tail } = this;
      const room = memory.bytes.length - tail;
      const readAt = trace.clock();
      // WALK 8.read R5.read
      const error = this.ask(() => calls.SSL_read_ex(ssl, memory.address + tail, room, out.address));
      if (error === WANT_READ || error === WANT_WRITE) break;
      if (error !== 0) {
        this.fail(error === ZERO_RETURN ? CLOSED : this.why());
        break;
      }
      this.tail += out.bytes.readUInt32LE(0);
      const rest = this.receiver.received(memory, 0, this.tail, readAt);
      memory.bytes.copyWithin(0, rest, this.tail);
      this.tail -= rest;
    }
    return moved;
  }

  /** One call: 0, or an SSL_ERROR_…. That looks at the queue of errors, which we share with node:crypto. */
  private ask(call: () => number): number {
    this.calls.ERR_clear_error();
    const result = call();
    return result === 1 ? 0 : this.calls.SSL_get_error(this.ssl, result);
  }

  /** Bytes that OpenSSL holds, because the network, or the other end, has not taken them. */
  private get waiting(): number {
    const result = this.calls.SSL_get_value_uint(this.ssl, GENERIC, USED, this.out.address);
    return result === 1 ? this.out.bytes.readUInt32LE(0) : 0; // before the first byte there is no stream
  }

  /** Why it is over: struct ssl_conn_close_info_st (SSL_get_conn_close_info(3ssl)). */
  private why(): string {
    const { bytes, address } = this.out;
    bytes.fill(0);
    this.calls.SSL_get_conn_close_info(this.ssl, address, bytes.length);
    const [code, flags] = [bytes.readBigUInt64LE(0), bytes.readUInt32LE(32)];
    if (code === NOTHING_CAME) return SILENT;
    if (code >= TLS_ALERTS && !this.isReady) return OTHER_SECRET;
    return flags & IS_TRANSPORT ? `QUIC ended it with error ${code}` : CLOSED;
  }
}
