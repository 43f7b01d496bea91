/**
 * Datagrams between our socket and OpenSSL. OpenSSL could use the socket itself. But then a server could not
 * ask who has called (node does not export SSL_get_peer_addr), and OpenSSL would end all connections if the
 * kernel cannot send to one of them. So what OpenSSL sends waits in a pair of BIOs, a queue in memory.
 */
import { EAGAIN } from "../base/errno.ts";
import { Memory } from "../base/libc.ts";
import { type Watch, watch } from "../core/loop.ts";
import { trace } from "../base/trace.ts";
import { type DatagramSocket, MAX_RECEIVED, type Remote } from "./datagrams.ts";
import { must, openssl } from "./quic-tls.ts";
import { socketError } from "./sockets.ts";

const ROUNDS = 16; // in one turn of the loop
const ROUND = 4 * MAX_RECEIVED; // bytes received in one turn of the loop, at most
const LEAST = 64; // bytes that each recvmsg() counts as
const DATAGRAM = 1200; // bytes: OpenSSL's QUIC never sends more at once. Every path takes that
const BATCH = 64; // of them in one sendmmsg(2)
const ADDRESS = 112; // bytes of a BIO_ADDR: a sockaddr, with room for the longest of them
// bytes of a BIO_MSG: where its data is, how long, where its peer's address is, and ours, flags, each 8
const [MESSAGE, LENGTH, PEER, OURS] = [40, 8, 16, 24];
const INITIAL = 0b1100; // the first four bits of a connection's first datagram (RFC 9000, section 17.2.2)
const NO_BLOCK = 1; // of SSL_accept_connection(3ssl)
const [SET_CAPS, ALL_CAPS, LOCAL_ADDRESS] = [87, 15, 84]; // BIO_CTRL_DGRAM_… (openssl/bio.h)
const SYSTEM = 2 ** 31; // ERR_SYSTEM_FLAG (openssl/err.h): the rest of such an error is an errno

/** A connection, as the endpoint sees it. */
export interface Connection {
  readonly to: Remote;
  ssl: number; // OpenSSL's name for it, the address of an SSL; 0: it has none yet
  /** Does what can be done now. False: nothing. */
  progress(): boolean;
  fail(reason: string): void;
}

/** Our socket, and OpenSSL's end of it: a listener and its connections, or a client's connection. */
export class Endpoint<Link extends Connection> {
  readonly calls = openssl();
  readonly root: number; // an SSL
  readonly socket: DatagramSocket;
  readonly links = new Map<string, Link>(); // by the other end's address and port
  private readonly name = new Memory(ADDRESS); // the other end's, for OpenSSL
  private named: Remote | undefined; // whose name that is
  private readonly far: number; // a BIO: what OpenSSL sends waits there
  private readonly out: number; // a BIO: the socket
  private readonly inbox = new Memory(MAX_RECEIVED);
  private readonly outbox = new Memory(BATCH * DATAGRAM);
  private readonly names = new Memory(BATCH * ADDRESS); // where those in the outbox go
  private readonly got = new Memory(BATCH * MESSAGE); // each to one of them, as OpenSSL hands it over …
  private readonly sent = new Memory(BATCH * MESSAGE); // … and as the socket takes it
  private readonly answer = new Memory(24); // what OpenSSL writes its answers to
  private watched: Watch;
  private timer: NodeJS.Timeout | undefined;
  private readonly moving = new Set<Link>(); // those for whom something has come
  private readonly onError: (errno: number) => void;
  private greet: ((from: Remote) => Link | undefined) | undefined;
  private ended = false;

  /** @param greet of a server: somebody new has come. The link that he becomes, if he may */
  constructor(
    socket: DatagramSocket,
    root: number,
    onError: Endpoint<Link>["onError"],
    greet?: Endpoint<Link>["greet"],
  ) {
    const { calls, answer, got, sent } = this;
    this.socket = socket;
    this.root = root;
    this.onError = onError;
    this.greet = greet;
    this.watched = this.watch();
    const room = 8 * BATCH * (DATAGRAM + 2 * ADDRESS + 8); // when it is full, OpenSSL waits
    must(calls.BIO_new_bio_dgram_pair(answer.address, room, answer.address + 8, 0), "make a pair of BIOs");
    const [near, far] = [answer.bytes.readBigUInt64LE(0), answer.bytes.readBigUInt64LE(8)].map(Number);
    for (const bio of [near, far]) calls.BIO_ctrl(bio, SET_CAPS, ALL_CAPS, 0);
    must(calls.BIO_ctrl(far, LOCAL_ADDRESS, 1, 0), "be told where they go");
    calls.SSL_set_bio(root, near, near);
    this.far = far!;
    this.out = calls.BIO_new_dgram(socket.fd, 0);
    for (const { bytes } of [got, sent]) bytes.fill(0);
    for (let at = 0, i = 0; i < BATCH; i++, at += MESSAGE) {
      const [data, name] = [this.outbox.address + i * DATAGRAM, this.names.address + i * ADDRESS].map(BigInt);
      for (const { bytes } of [got, sent]) bytes.writeBigUInt64LE(data!, at);
      got.bytes.writeUInt32LE(DATAGRAM, at + LENGTH);
      got.bytes.writeBigUInt64LE(name!, at + OURS); // at this end of the pair, that is where it goes
      sent.bytes.writeBigUInt64LE(name!, at + PEER);
    }
  }

  private watch(): Watch {
    return watch(this.socket.fd, { readable: () => this.receive(), error: () => this.failed() });
  }

  /** Nobody new is greeted. With the last connection, the endpoint ends. */
  deafen(): void {
    this.greet = undefined;
    if (this.links.size > 0 || this.ended) return;
    this.ended = true;
    clearTimeout(this.timer);
    this.watched.stop();
    this.socket.close();
    this.calls.SSL_free(this.root);
    for (const bio of [this.far, this.out]) this.calls.BIO_free(bio);
  }

  /** A connection has ended. */
  forget(link: Link): void {
    this.flush();
    this.links.delete(link.to.text);
    this.moving.delete(link);
    if (link.ssl !== this.root && link.ssl !== 0) this.calls.SSL_free(link.ssl); // before the listener
    link.ssl = 0;
    if (!this.greet) this.deafen();
  }

  /** An address as OpenSSL takes it. */
  nameOf(remote: Remote): number {
    if (remote !== this.named) remote.name.copy(this.name.bytes.fill(0));
    this.named = remote;
    return this.name.address;
  }

  private receive(): void {
    const { socket, inbox } = this;
    for (let left = ROUND; left > 0 && !this.ended;) {
      const count = socket.receive(inbox, 0);
      if (count < 0 && count !== -EAGAIN) this.onError(-count);
      if (count < 0) break;
      left -= Math.max(count, LEAST);
      for (let at = 0; at < count; at += socket.segment)
        this.take(at, Math.min(socket.segment, count - at), socket.from());
    }
    this.turn();
  }

  /** One datagram. A connection is known by the other end's address. */
  private take(at: number, size: number, from: Remote): void {
    const { calls, root, inbox } = this;
    const known = this.links.get(from.text);
    const link = known ?? (inbox.bytes[at]! >> 4 === INITIAL ? this.greet?.(from) : undefined);
    if (!link) return trace.drop("a datagram of no session here", from.text, inbox, at, size);
    calls.SSL_inject_net_dgram(root, inbox.address + at, size, this.nameOf(from), 0);
    this.moving.add(link);
    if (known) return;
    calls.SSL_handle_events(root);
    link.ssl = calls.SSL_accept_connection(root, NO_BLOCK);
    if (link.ssl === 0) link.fail("its first datagram is not of our QUIC");
  }

  /**
   * OpenSSL does its work, and the links theirs, until nothing moves any more: what was read has made room,
   * which OpenSSL must tell the other end, and no fd says so. The rest waits for the next turn of the loop.
   */
  turn(link?: Link): void {
    if (link) this.moving.add(link);
    for (let round = 0; round < ROUNDS && this.moving.size > 0; round++) {
      this.work();
      for (const one of this.moving) if (!one.progress()) this.moving.delete(one);
    }
    this.flush();
    if (this.moving.size > 0) setImmediate(() => this.turn());
  }

  /** OpenSSL does its work, what it sends leaves, and it says when it must be called again. */
  flush(): void {
    const { calls, root, answer } = this;
    if (this.ended) return;
    this.work();
    must(calls.SSL_get_event_timeout(root, answer.address, answer.address + 16), "ask for the time-out");
    clearTimeout(this.timer);
    if (answer.bytes[16] !== 0) return; // never
    const ms = Number(answer.bytes.readBigInt64LE(0)) * 1000 + Number(answer.bytes.readBigInt64LE(8)) / 1000;
    this.timer = setTimeout(() => {
      for (const link of this.links.values()) this.moving.add(link);
      this.turn();
    }, Math.ceil(ms)).unref();
  }

  /**
   * OpenSSL does its work, and what it sends leaves. What the kernel refuses (its buffer is full, or there is
   * no way there) is, to QUIC, a datagram that was lost on its way.
   */
  private work(): void {
    const { calls, got, sent, answer } = this;
    if (this.ended) return;
    calls.SSL_handle_events(this.root);
    while (calls.BIO_recvmmsg(this.far, got.address, MESSAGE, BATCH, 0, answer.address) === 1) {
      const count = answer.bytes.readUInt32LE(0);
      for (let at = LENGTH, i = 0; i < count; i++, at += MESSAGE) {
        sent.words[at / 4] = got.words[at / 4]!;
        got.words[at / 4] = DATAGRAM; // again, as much as there is room for
      }
      for (let next = 0; next < count;) {
        const from = sent.address + next * MESSAGE;
        calls.ERR_clear_error();
        if (calls.BIO_sendmmsg(this.out, from, MESSAGE, count - next, 0, answer.address) === 1)
          next += answer.bytes.readUInt32LE(0);
        else {
          next++;
          this.onError(calls.ERR_get_error() % SYSTEM);
        }
      }
    }
  }

  /** POLLERR: an answer to a datagram of ours says that it was not delivered. The socket itself is well. */
  private failed(): void {
    const errno = socketError(this.socket.fd);
    this.socket.tellErrors(false); // forgets those that wait, too
    this.socket.tellErrors(true);
    this.watched = this.watch();
    if (errno !== 0) this.onError(errno);
  }
}
