/**
 * Datagrams between our socket and OpenSSL. OpenSSL could use the socket itself. But then a server could not
 * ask who has called (node does not export SSL_get_peer_addr), its answer could leave from another address of
 * its own than the one that was called, and each datagram would cost a system call: see datagrams.ts.
 */
import { EAGAIN, EIO, ENOBUFS } from "../base/errno.ts";
import { Memory } from "../base/libc.ts";
import { type Watch, watch } from "../core/loop.ts";
import { trace } from "../base/trace.ts";
import { SIZEOF_SOCKADDR_IN6 } from "./addresses.ts";
import { type DatagramSocket, MAX_RECEIVED, Remote } from "./datagrams.ts";
import { must, openssl } from "./quic-tls.ts";
import { socketError } from "./sockets.ts";

const ROUNDS = 16; // in one turn of the loop
const ROUND = 4 * MAX_RECEIVED; // bytes received in one turn of the loop, at most
const LEAST = 64; // bytes that each recvmsg() counts as
const DATAGRAM = 1200; // bytes: OpenSSL's QUIC never sends more at once. Every path takes that
const BATCH = 54; // of them: one sendmsg() takes no more than 65,507 bytes
const ADDRESS = 112; // bytes of a BIO_ADDR: a sockaddr, with room for the longest of them
const MESSAGE = 40; // bytes of a BIO_MSG: data, its length, peer, local, flags, each 8 (BIO_sendmmsg(3ssl))
const INITIAL = 0b1100; // the first four bits of a connection's first datagram (RFC 9000, section 17.2.2)
const NO_BLOCK = 1; // of SSL_accept_connection(3ssl)
const [SET_CAPS, ALL_CAPS, LOCAL_ADDRESS] = [87, 15, 84]; // BIO_CTRL_DGRAM_… (openssl/bio.h)

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
  private readonly far: number; // a BIO: what OpenSSL sends waits there
  private readonly inbox = new Memory(MAX_RECEIVED);
  private readonly outbox = new Memory(BATCH * DATAGRAM);
  private readonly names = new Memory(BATCH * ADDRESS); // where those in the outbox go
  private readonly messages = new Memory(BATCH * MESSAGE);
  private readonly out = new Memory(24); // what OpenSSL writes its answers to
  private next = 0; // of those in the outbox: the first that is not sent
  private count = 0;
  private latest: Remote | undefined; // where the latest run went
  private segments = BATCH; // datagrams that one sendmsg() takes
  private watched: Watch | undefined;
  private timer: NodeJS.Timeout | undefined;
  private readonly moving = new Set<Link>(); // those for whom something has come
  private onError: (errno: number) => void = () => {};
  private greet: ((from: Remote) => Link | undefined) | undefined;
  private ended = false;

  constructor(socket: DatagramSocket, root: number) {
    const { calls, out, messages } = this;
    this.socket = socket;
    this.root = root;
    const room = 8 * BATCH * (DATAGRAM + 2 * ADDRESS + 8); // when it is full, OpenSSL waits
    must(calls.BIO_new_bio_dgram_pair(out.address, room, out.address + 8, 0), "make a pair of BIOs");
    const [near, far] = [out.bytes.readBigUInt64LE(0), out.bytes.readBigUInt64LE(8)].map(Number);
    for (const bio of [near, far]) calls.BIO_ctrl(bio, SET_CAPS, ALL_CAPS, 0);
    must(calls.BIO_ctrl(far, LOCAL_ADDRESS, 1, 0), "be told where they go");
    calls.SSL_set_bio(root, near, near);
    this.far = far!;
    messages.bytes.fill(0);
    for (let i = 0; i < BATCH; i++) {
      messages.bytes.writeBigUInt64LE(BigInt(this.outbox.address + i * DATAGRAM), i * MESSAGE);
      messages.bytes.writeBigUInt64LE(BigInt(this.names.address + i * ADDRESS), i * MESSAGE + 24);
    }
  }

  /** Puts the socket into the loop. `greet`, of a server: somebody new has come. */
  start(onError: Endpoint<Link>["onError"], greet: Endpoint<Link>["greet"] = this.greet): void {
    this.onError = onError;
    this.greet = greet;
    this.watched?.stop();
    this.watched = watch(this.socket.fd, {
      readable: () => this.receive(),
      writable: () => this.turn(),
      error: () => this.failed(),
    });
  }

  /** Nobody new is greeted. With the last connection, the endpoint ends. */
  deafen(): void {
    this.greet = undefined;
    if (this.links.size > 0 || this.ended) return;
    this.ended = true;
    clearTimeout(this.timer);
    this.watched?.stop();
    this.socket.close();
    this.calls.SSL_free(this.root);
    this.calls.BIO_free(this.far);
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
  nameOf({ name }: Remote): number {
    name.copy(this.name.bytes.fill(0));
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
      this.flush();
      for (const one of this.moving) if (!one.progress()) this.moving.delete(one);
    }
    this.flush();
    if (this.moving.size > 0) setImmediate(() => this.turn());
  }

  /** OpenSSL does its work, and what it sends leaves. It says when it must be called again. */
  flush(): void {
    const { calls, root, out } = this;
    if (this.ended) return;
    calls.SSL_handle_events(root);
    this.send();
    must(calls.SSL_get_event_timeout(root, out.address, out.address + 16), "ask for the time-out");
    clearTimeout(this.timer);
    if (out.bytes[16] !== 0) return; // never
    const ms = Number(out.bytes.readBigInt64LE(0)) * 1000 + Number(out.bytes.readBigInt64LE(8)) / 1000;
    const expired = () => (this.links.forEach((link) => this.moving.add(link)), this.turn());
    this.timer = setTimeout(expired, Math.ceil(ms)).unref();
  }

  /** Sends what OpenSSL has for the network. */
  private send(): void {
    const { calls, messages, out } = this;
    for (;;) {
      while (this.next < this.count) {
        const result = this.sendRun();
        if (result === -EAGAIN) return this.watched?.want(true, true);
        if (result < 0 && result !== -ENOBUFS) this.onError(-result); // either way, to QUIC it is lost
      }
      for (let i = 0; i < BATCH; i++) messages.bytes.writeUInt32LE(DATAGRAM, i * MESSAGE + 8);
      this.next = this.count = 0;
      if (calls.BIO_recvmmsg(this.far, messages.address, MESSAGE, BATCH, 0, out.address) !== 1) break;
      this.count = out.bytes.readUInt32LE(0);
    }
    this.watched?.want(true, false);
  }

  /** Those of one length and to one address, the last one perhaps shorter, leave as a run: datagrams.ts. */
  private sendRun(): number {
    const { messages, names, next, count, segments } = this;
    const lengthOf = (i: number) => messages.bytes.readUInt32LE(i * MESSAGE + 8);
    const nameOf = (i: number) => names.bytes.subarray(i * ADDRESS, i * ADDRESS + SIZEOF_SOCKADDR_IN6);
    let end = next + 1;
    while (end < Math.min(count, next + segments) && lengthOf(end - 1) === DATAGRAM) {
      if (nameOf(end).compare(nameOf(next)) !== 0) break;
      end++;
    }
    const size = (end - 1 - next) * DATAGRAM + lengthOf(end - 1);
    if (!this.latest?.name.equals(nameOf(next))) this.latest = new Remote(Buffer.from(nameOf(next)));
    const to = this.latest;
    const from = this.links.get(to.text)?.to ?? to; // it knows which address of ours was called
    const result = this.socket.send(from, this.outbox, next * DATAGRAM, size, lengthOf(next));
    // a card that cannot compute UDP's checksum: older kernels refuse runs
    if (result === -EIO && segments > 1) this.segments = 1;
    else if (result !== -EAGAIN) this.next = end;
    return result;
  }

  /** POLLERR: an answer to a datagram of ours says that it was not delivered. The socket itself is well. */
  private failed(): void {
    const errno = socketError(this.socket.fd);
    this.socket.tellErrors(false); // forgets those that wait, too
    this.socket.tellErrors(true);
    this.start(this.onError);
    if (errno !== 0) this.onError(errno);
  }
}
