/**
 * Unlike tcp.ts: OpenSSL speaks QUIC (RFC 9000), TCP's work done in a program, over UDP, and with TLS 1.3 in
 * it. We carry datagrams between our socket and OpenSSL, and use one stream of each connection: like TCP it
 * is in order and whole, and knows nothing of frames. The frames and the handshake inside are those of tcp.ts:
 * TLS alone would do, but then no step of the walk would be the same. All of it is encrypted twice.
 *
 * It leaves out: datagrams of QUIC (RFC 9221), another address in the same session (OpenSSL has no migration:
 * the client connects again, with its token), 0-RTT, and addresses proven before the handshake (Retry: with
 * it OpenSSL starts slowly on a long way).
 */
import { isIPv6 } from "node:net";
import { EAGAIN, EIO, ENOBUFS, ETIMEDOUT } from "../base/errno.ts";
import { BrokenStream } from "../base/failure.ts";
import type { Keys, SessionKeys } from "../core/aes.ts";
import { aesFraming, FrameType, handshakeFraming, pad } from "../core/frame.ts";
import { Memory } from "../base/libc.ts";
import type { Link, Receiver } from "../core/link.ts";
import { type Watch, watch } from "../core/loop.ts";
import { MAX_PACKET } from "../base/packet.ts";
import { trace } from "../base/trace.ts";
import { endpoint, sockaddr, SIZEOF_SOCKADDR_IN6 } from "./addresses.ts";
import { DatagramSocket, MAX_RECEIVED, Remote } from "./datagrams.ts";
import { OrderedKeys } from "./ordered-keys.ts";
import { must, openssl, TlsContext } from "./quic-tls.ts";
import { socketError } from "./sockets.ts";
import { takeMessage } from "./tcp.ts";
import { type Answer, type Port, type PortEvents, type Transport, Unreachable } from "./transport.ts";

const IDLE = 10_000; // ms without a datagram until both ends give up; OpenSSL asks after half of it
const DEADLINE = 10_000; // ms, for the other end's message
const LINGER = 300; // ms that OpenSSL has to deliver our last words
const WAITING = 128 * 1024; // bytes that OpenSSL may hold for a slow network: what is more stays in the TUN
const ROUNDS = 16; // in one turn of the loop
const ROUND = 4 * MAX_RECEIVED; // bytes received in one turn of the loop, at most
const LEAST = 64; // bytes that each recvmsg() counts as
const DATAGRAM = 1200; // bytes, all that OpenSSL's QUIC sends at once: what every path takes
const BATCH = 54; // of them: one sendmsg() takes no more than 65,507 bytes
const BIO_ADDR = 112; // bytes: a sockaddr, with room for the longest of them
const BIO_MSG = 40; // bytes: data, its length, peer, local, flags, each 8
const NO_MESSAGE = Buffer.alloc(0);
// openssl/ssl.h, openssl/bio.h
const [NO_VALIDATE, NO_BLOCK, RAPID] = [2, 1, 1 | 4]; // of SSL_new_listener, …_accept_connection, …_shutdown_ex
const [GENERIC, REQUEST, IDLE_TIMEOUT, EVENT_MODE, EXPLICIT, USED] = [0, 1, 5, 6, 2, 8]; // SSL_VALUE_…
const [CTRL_MODE, PARTIAL_WRITE, MOVING_BUFFER] = [33, 1, 2]; // SSL_MODE_…
const LATER = [2, 3]; // SSL_ERROR_WANT_READ, …_WRITE
const CLOSED = "the connection was closed without a goodbye";
const ALERT = "TLS refused it: alert"; // RFC 8446, section 6
const INITIAL = 0b1100; // the first four bits of a connection's first datagram (RFC 9000, section 17.2.2)
const NO_DATA = 6; // SSL_ERROR_ZERO_RETURN
const [SET_CAPS, ALL_CAPS, LOCAL_ADDRESS] = [87, 15, 84]; // BIO_CTRL_DGRAM_…

export const quic: Transport = {
  open: ({ listen, port, secrets }) => new QuicPort(port, secrets!, listen),
};

export class QuicPort implements Port {
  private readonly port: number;
  private readonly contexts: TlsContext[];
  private readonly listener: Endpoint | undefined;

  constructor(port: number, secrets: Buffer[], listen?: string) {
    const ssl = openssl();
    this.port = port;
    if (listen === undefined) {
      this.contexts = secrets.map((secret) => new TlsContext("client", [secret]));
      return;
    }
    const socket = DatagramSocket.listen(listen, port);
    this.contexts = [new TlsContext("server", secrets)];
    this.listener = new Endpoint(socket, ssl.SSL_new_listener(this.contexts[0]!.address, NO_VALIDATE), true);
  }

  /** TLS takes one secret at a time. If the server has none of them, its answer is an empty one: refused. */
  async dial(address: string, ms: number, message1: Buffer): Promise<Answer> {
    const to = new Remote(sockaddr(address, this.port));
    for (const context of this.contexts) {
      const socket = DatagramSocket.open(isIPv6(address.replace(/%.*/, "")));
      if (typeof socket === "number") throw new Unreachable(to.text, socket);
      const answer = await ask(new Endpoint(socket, context.connection(), false), to, ms, message1);
      if (answer) return answer;
    }
    const attach = () => {
      throw new Error("a refusal begins no session");
    };
    return { remote: to.text, message2: NO_MESSAGE, largest: MAX_PACKET, attach, hangUp() {} };
  }

  serve(server: PortEvents): void {
    this.listener!.start(
      () => {},
      (from) => greet(this.listener!, from, server),
    );
  }

  /** Nobody new is answered. The sessions go on, for they have to say goodbye. */
  end(): void {
    this.listener?.deafen();
  }

  endpoint(address: string): string {
    return endpoint(address, this.port);
  }
}

/** A client's question: message 1, and the server's answer to it. Undefined: it has not this secret. */
function ask(at: Endpoint, to: Remote, ms: number, message1: Buffer): Promise<Answer | undefined> {
  const { ssl, root, socket } = at;
  const link = new QuicLink(at, root, to);
  at.putName(to);
  must(ssl.SSL_set1_initial_peer_addr(root, at.name.address), "set the server's address");
  must(ssl.SSL_set_value_uint(root, REQUEST, IDLE_TIMEOUT, IDLE), "set the idle time-out");
  ssl.SSL_set_connect_state(root);
  socket.tellErrors(true);
  return new Promise((resolve, reject) => {
    const fail = (error: Error) => {
      clearTimeout(timer);
      link.close();
      reject(error);
    };
    let timer = setTimeout(() => fail(new Unreachable(to.text, -ETIMEDOUT)), ms);
    link.greet({
      ready() {
        clearTimeout(timer);
        const late = `no handshake within ${DEADLINE / 1000} s`;
        timer = setTimeout(() => fail(new BrokenStream(late)), DEADLINE);
        link.sendMessage(message1);
      },
      message(message2) {
        clearTimeout(timer);
        const attach: Answer["attach"] = (make) => link.attach(make);
        resolve({ remote: to.text, message2, largest: MAX_PACKET, attach, hangUp: () => link.close() });
      },
      lost(reason) {
        if (!reason.startsWith(ALERT)) return fail(new BrokenStream(reason));
        clearTimeout(timer);
        link.close();
        resolve(undefined);
      },
    });
    at.start((errno) => !link.isReady && fail(new Unreachable(to.text, -errno)));
    at.turn(link);
  });
}

/** Server: a datagram has come from somebody new. Undefined: it is not taken. */
function greet(at: Endpoint, from: Remote, server: PortEvents): QuicLink | undefined {
  const { address, text: remote } = from;
  let link: QuicLink | undefined;
  const stranger = server.onArrival(address, remote, () => link?.fail("it made room"), false);
  if (!stranger) return undefined;
  link = new QuicLink(at, 0, from);
  const timer = setTimeout(() => link!.fail(`no handshake within ${DEADLINE / 1000} s`), DEADLINE);
  link.greet({
    ready() {},
    message(message1) {
      clearTimeout(timer);
      let attached = false;
      const attach = <R extends Receiver>(message2: Buffer | undefined, make: (link: Link) => R) => {
        if (message2) link!.sendMessage(message2);
        attached = true;
        return link!.attach(make);
      };
      const refuse = (message2: Buffer) => link!.sendMessage(message2);
      server.onHello({ address, remote, stranger, attach, refuse }, message1);
      if (!attached) link!.close();
    },
    lost(reason) {
      clearTimeout(timer);
      stranger.lost(reason);
      link!.close();
    },
  });
  return link;
}

/** Who waits for the handshake's message. */
interface Greeter {
  ready(): void; // TLS has accepted the other end
  message(message: Buffer): void;
  lost(reason: string): void;
}

/** A connection as a peer's link. */
export class QuicLink implements Link {
  readonly framing = aesFraming;
  readonly remote: string;
  readonly to: Remote;
  connection: number; // OpenSSL's: the address of an SSL
  isReady = false; // has TLS accepted the other end?
  private readonly at: Endpoint;
  private receiver: Pick<Receiver, "received" | "lost" | "flush"> | undefined;
  private greeter: Greeter | undefined;
  private memory = new Memory(2 * pad(handshakeFraming.header + handshakeFraming.maxBody, 4));
  private head = 0; // of it: first byte that the receiver has not taken
  private tail = 0; // of it: the end
  private full = false; // does OpenSSL take nothing more for now?
  private closed = false;
  private failed = false;
  private readonly out = new Memory(40); // what OpenSSL writes its answers to

  constructor(at: Endpoint, connection: number, to: Remote) {
    this.at = at;
    this.connection = connection;
    this.to = to;
    this.remote = to.text;
    at.links.set(to.text, this);
  }

  greet(greeter: Greeter): void {
    this.greeter = greeter;
    const received = (memory: Memory, from: number, to: number) => {
      try {
        const message = takeMessage(memory.bytes, from, to);
        if (message) greeter.message(message);
      } catch (error) {
        if (!(error instanceof BrokenStream)) throw error;
        greeter.lost(error.message);
      }
      return from;
    };
    this.receiver = { received, lost: (reason) => greeter.lost(reason), flush() {} };
  }

  attach<R extends Receiver>(make: (link: Link) => R): R {
    this.memory = new Memory(2 * pad(aesFraming.header + aesFraming.maxBody, 4));
    this.head = this.tail = 0;
    const receiver = make(this);
    this.receiver = receiver;
    return receiver;
  }

  sendMessage(message: Buffer): void {
    const { header } = handshakeFraming;
    const frame = new Memory(pad(header + message.length, 4));
    handshakeFraming.putHeader(frame.bytes, 0, FrameType.handshake, message.length);
    message.copy(frame.bytes, header);
    this.send(frame, 0, header + message.length); // the first thing on its stream: it always fits
  }

  send(memory: Memory, from: number, to: number): number {
    const { ssl } = this.at;
    memory.check(from, to - from);
    if (this.full || this.closed) return -EAGAIN;
    this.full = this.waiting > WAITING;
    if (this.full) return -EAGAIN;
    const write = () => ssl.SSL_write_ex(this.connection, memory.address + from, to - from, this.out.address);
    const error = this.attempt(write);
    if (error !== 0) {
      this.full = true;
      setImmediate(() => this.at.turn(this)); // if it is over, reading tells why
      return -EAGAIN;
    }
    const count = this.out.bytes.readUInt32LE(0);
    this.at.flush();
    return count;
  }

  keys(keys: SessionKeys): Keys {
    return new OrderedKeys(keys);
  }

  /** OpenSSL delivers what was sent, then ends the connection. */
  close(): void {
    if (this.closed) return;
    this.closed = true;
    setTimeout(() => this.at.forget(this), LINGER).unref();
  }

  /** It is over. */
  fail(reason: string): void {
    if (this.closed || this.failed) return;
    this.failed = true;
    this.receiver!.lost(reason);
  }

  /** Does what can be done now. False: nothing. */
  progress(): boolean {
    const { ssl } = this.at;
    if (this.closed || this.failed || this.connection === 0) return false;
    if (!this.isReady) {
      const error = this.attempt(() => ssl.SSL_do_handshake(this.connection));
      if (error !== 0) return LATER.includes(error) ? false : (this.fail(this.why()), true);
      // A second guard: TLS has used our key, and no certificate.
      if (ssl.SSL_session_reused(this.connection) !== 1) return (this.fail("TLS without our secret"), true);
      ssl.SSL_ctrl(this.connection, CTRL_MODE, PARTIAL_WRITE | MOVING_BUFFER, 0);
      must(ssl.SSL_set_value_uint(this.connection, GENERIC, EVENT_MODE, EXPLICIT), "handle events ourselves");
      this.isReady = true;
      this.greeter!.ready();
    }
    const moved = this.receive();
    if (!this.full || this.closed || this.failed || this.waiting > WAITING / 2) return moved;
    this.full = false;
    this.receiver!.flush();
    return true;
  }

  /** Reads all that is there. What it brought goes to the receiver. */
  private receive(): boolean {
    let moved = false;
    while (!this.closed && !this.failed) {
      const { memory } = this;
      const readAt = trace.clock();
      const count = this.fill(); // WALK 8.read R5.read
      if (count === -EAGAIN) break;
      moved = true;
      if (count <= 0) this.fail(count === 0 ? CLOSED : this.why());
      else {
        const rest = this.receiver!.received(memory, this.head, this.tail, readAt);
        if (memory === this.memory) this.head = rest; // attach() has made another one
      }
    }
    return moved;
  }

  /** One SSL_read_ex() of as much as fits. Bytes read, 0 at the end of the stream, -EAGAIN, or -EIO. */
  private fill(): number {
    const { bytes, address } = this.memory;
    if (this.head > 0) {
      bytes.copyWithin(0, this.head, this.tail);
      this.tail -= this.head;
      this.head = 0;
    }
    const { out, tail } = this;
    const room = bytes.length - tail;
    const error = this.attempt(() =>
      this.at.ssl.SSL_read_ex(this.connection, address + tail, room, out.address),
    );
    if (error !== 0) return LATER.includes(error) ? -EAGAIN : error === NO_DATA ? 0 : -EIO;
    const count = out.bytes.readUInt32LE(0);
    this.tail += count;
    return count;
  }

  /** One call of OpenSSL: 0, or an SSL_ERROR_…. Its queue of errors is node:crypto's, too: it is emptied. */
  private attempt(call: () => number): number {
    this.at.ssl.ERR_clear_error();
    const result = call();
    return result === 1 ? 0 : this.at.ssl.SSL_get_error(this.connection, result);
  }

  /** Bytes that OpenSSL holds: the network, or the other end, has not taken them. */
  private get waiting(): number {
    const { out } = this;
    const result = this.at.ssl.SSL_get_value_uint(this.connection, GENERIC, USED, out.address);
    return result === 1 ? out.bytes.readUInt32LE(0) : 0; // before the first byte there is no stream
  }

  /** Why it is over: SSL_get_conn_close_info(3ssl). */
  private why(): string {
    const { bytes, address } = this.out;
    bytes.fill(0);
    this.at.ssl.SSL_get_conn_close_info(this.connection, address, bytes.length);
    const code = bytes.readBigUInt64LE(0);
    const flags = bytes.readUInt32LE(32);
    if (code === 2n ** 64n - 1n) return `nothing has come from it for ${IDLE / 1000} s`;
    if (!(flags & 2)) return CLOSED;
    return code >= 0x100n && code < 0x200n ? `${ALERT} ${code - 0x100n}` : `QUIC error ${code}`;
  }

  free() {
    const { ssl } = this.at;
    ssl.SSL_shutdown_ex(this.connection, RAPID, 0, 0);
    this.at.flush();
    ssl.SSL_free(this.connection);
    this.connection = 0;
  }
}

/** Our socket, and OpenSSL's end of it: a client's connection, or a listener and its connections. */
class Endpoint {
  readonly ssl = openssl();
  readonly root: number;
  readonly socket: DatagramSocket;
  readonly links = new Map<string, QuicLink>(); // by the other end's address and port
  readonly name = new Memory(BIO_ADDR); // the other end's, for OpenSSL
  private readonly isListener: boolean;
  private deaf: boolean;
  private ended = false;
  private readonly far: number; // a BIO: what OpenSSL sends waits there
  private readonly inbox = new Memory(MAX_RECEIVED);
  private readonly outbox = new Memory(BATCH * DATAGRAM);
  private readonly names = new Memory(BATCH * BIO_ADDR); // where those datagrams go
  private readonly messages = new Memory(BATCH * BIO_MSG);
  private readonly answer = new Memory(24);
  private next = 0; // of the messages: the first that is not sent
  private count = 0;
  private segments = BATCH; // datagrams that one sendmsg() takes
  private watched: Watch | undefined;
  private timer: NodeJS.Timeout | undefined;
  private readonly moving = new Set<QuicLink>(); // those for whom something has come
  private onError: (errno: number) => void = () => {};
  private greet: (from: Remote) => QuicLink | undefined = () => undefined;

  /** @param root the listener, or a client's connection: an SSL */
  constructor(socket: DatagramSocket, root: number, isListener: boolean) {
    const { ssl, answer } = this;
    this.socket = socket;
    this.root = root;
    this.isListener = isListener;
    this.deaf = !isListener;
    const size = BATCH * (DATAGRAM + 2 * BIO_ADDR + 8);
    must(ssl.BIO_new_bio_dgram_pair(answer.address, size, answer.address + 8, 0), "make a pair of BIOs");
    const [near, far] = [answer.bytes.readBigUInt64LE(0), answer.bytes.readBigUInt64LE(8)].map(Number);
    this.far = far!;
    for (const bio of [near, far]) ssl.BIO_ctrl(bio, SET_CAPS, ALL_CAPS, 0);
    must(ssl.BIO_ctrl(far, LOCAL_ADDRESS, 1, 0), "ask for addresses");
    ssl.SSL_set_bio(root, near, near);
    if (isListener) must(ssl.SSL_listen(root), "listen");
    for (let i = 0; i < BATCH; i++) {
      const at = i * BIO_MSG;
      this.messages.bytes.fill(0, at, at + BIO_MSG);
      this.messages.bytes.writeBigUInt64LE(BigInt(this.outbox.address + i * DATAGRAM), at);
      this.messages.bytes.writeBigUInt64LE(BigInt(this.names.address + i * BIO_ADDR), at + 24);
    }
  }

  start(onError: Endpoint["onError"], greet: Endpoint["greet"] = this.greet): void {
    this.onError = onError;
    this.greet = greet;
    this.watched?.stop();
    this.watched = watch(this.socket.fd, {
      readable: () => this.receive(),
      writable: () => this.turn(),
      error: () => this.failed(),
    });
  }

  /** Nobody new is greeted. With the last link, the endpoint ends. */
  deafen(): void {
    this.greet = () => undefined;
    this.deaf = true;
    this.endIfDone();
  }

  putName({ name }: Remote): void {
    name.copy(this.name.bytes.fill(0));
  }

  forget(link: QuicLink): void {
    this.links.delete(link.remote);
    this.moving.delete(link);
    if (link.connection !== 0) link.free();
    this.endIfDone();
  }

  private endIfDone(): void {
    if (!this.deaf || this.links.size > 0 || this.ended) return;
    this.ended = true;
    clearTimeout(this.timer);
    this.watched?.stop();
    this.socket.close();
    if (this.isListener) this.ssl.SSL_free(this.root);
    this.ssl.BIO_free(this.far);
  }

  /** Hands OpenSSL what has come, then does what follows from it. */
  private receive(): void {
    const { socket, inbox } = this;
    for (let left = ROUND; left > 0;) {
      const count = socket.receive(inbox, 0);
      if (count < 0 && count !== -EAGAIN) this.onError(-count);
      if (count < 0) break;
      left -= Math.max(count, LEAST);
      for (let at = 0; at < count; at += socket.segment)
        this.take(at, Math.min(socket.segment, count - at), socket.from());
    }
    this.turn();
  }

  /** One datagram. The other end of a connection is known by its address. */
  private take(at: number, size: number, from: Remote): void {
    const { ssl, root, inbox } = this;
    let link = this.links.get(from.text);
    const isFirst = !link && inbox.bytes[at]! >> 4 === INITIAL;
    if (isFirst) link = this.greet(from);
    if (!link) return trace.drop("a datagram of no session here", from.text, inbox, at, size);
    this.putName(from);
    ssl.SSL_inject_net_dgram(root, inbox.address + at, size, this.name.address, 0);
    this.moving.add(link);
    if (!isFirst) return;
    ssl.SSL_handle_events(root);
    link.connection = ssl.SSL_accept_connection(root, NO_BLOCK);
    if (link.connection === 0) link.fail("its first datagram is no QUIC of ours");
  }

  /**
   * OpenSSL does its work, and the links theirs, until nothing moves any more: what is read makes room, which
   * the other end must be told, and no fd tells of that. The rest waits for the next turn of the loop.
   */
  turn(link?: QuicLink): void {
    if (this.ended) return;
    if (link) this.moving.add(link);
    for (let round = 0; round < ROUNDS && this.moving.size > 0; round++) {
      this.flush();
      for (const one of this.moving) if (!one.progress()) this.moving.delete(one);
    }
    this.flush();
    if (this.moving.size > 0) setImmediate(() => this.turn());
  }

  /** OpenSSL does its work, and what it sends leaves. It says when it must be asked again. */
  flush(): void {
    const { ssl, root, answer } = this;
    if (this.ended) return;
    ssl.SSL_handle_events(root);
    this.send();
    must(ssl.SSL_get_event_timeout(root, answer.address, answer.address + 16), "ask for the time-out");
    clearTimeout(this.timer);
    if (answer.bytes[16] !== 0) return;
    const ms = Number(answer.bytes.readBigInt64LE(0)) * 1000 + Number(answer.bytes.readBigInt64LE(8)) / 1000;
    this.timer = setTimeout(() => this.expired(), Math.ceil(ms)).unref();
  }

  private expired(): void {
    for (const link of this.links.values()) this.moving.add(link);
    this.turn();
  }

  /** Sends what OpenSSL has for the network, in runs of datagrams of one length (UDP_SEGMENT, udp(7)). */
  private send(): void {
    const { ssl, messages, names, outbox } = this;
    for (;;) {
      while (this.next < this.count) {
        const size = this.lengthOf(this.next);
        const name = names.bytes.subarray(this.next * BIO_ADDR, this.next * BIO_ADDR + SIZEOF_SOCKADDR_IN6);
        let end = this.next + 1;
        for (let last = size; end < this.count && end < this.next + this.segments; end++) {
          const other = end * BIO_ADDR;
          if (last < DATAGRAM || names.bytes.compare(name, 0, name.length, other, other + name.length) !== 0)
            break;
          last = this.lengthOf(end);
        }
        const total = (end - 1 - this.next) * DATAGRAM + this.lengthOf(end - 1);
        const result = this.socket.send(this.remote(name), outbox, this.next * DATAGRAM, total, size);
        if (result === -EAGAIN) return this.watched?.want(true, true);
        // A card that cannot compute UDP's checksum: older kernels refuse runs.
        if (result === -EIO && this.segments > 1) this.segments = 1;
        else {
          this.next = end; // not sent: to QUIC it is lost
          if (result < 0 && result !== -ENOBUFS) this.onError(-result);
        }
      }
      for (let i = 0; i < BATCH; i++) messages.bytes.writeUInt32LE(DATAGRAM, i * BIO_MSG + 8);
      this.next = this.count = 0;
      const { address } = this.answer;
      if (ssl.BIO_recvmmsg(this.far, messages.address, BIO_MSG, BATCH, 0, address) !== 1) break;
      this.count = this.answer.bytes.readUInt32LE(0);
    }
    this.watched?.want(true, false);
  }

  private lengthOf(message: number): number {
    return this.messages.bytes.readUInt32LE(message * BIO_MSG + 8);
  }

  /** Whom a datagram is for. */
  private remote(name: Buffer): Remote {
    const to = new Remote(Buffer.from(name));
    return this.links.get(to.text)?.to ?? to;
  }

  /** POLLERR: an answer to a datagram of ours says that it was not delivered. The socket is well. */
  private failed(): void {
    const errno = socketError(this.socket.fd);
    this.socket.tellErrors(false); // forgets those that wait, too
    this.socket.tellErrors(true);
    this.start(this.onError);
    if (errno !== 0) this.onError(errno);
  }
}
