/**
 * Frames over TCP. TCP carries a stream of bytes: in order and whole, but it knows nothing of frames, and may
 * hand them over split anywhere. Each session has a connection of its own, so each has an fd in the loop.
 */
import { EAGAIN, EMFILE, ENFILE, ENOBUFS, ENOMEM, errnoName } from "../base/errno.ts";
import { BrokenStream, Failure } from "../base/failure.ts";
import {
  aesFraming,
  type Framing,
  FrameType,
  handshakeFraming,
  pad,
  wholeFrame,
  xorFraming,
} from "../core/frame.ts";
import { close, Memory, read, write } from "../base/libc.ts";
import type { Keys, SessionKeys } from "../core/aes.ts";
import type { Link, Receiver } from "../core/link.ts";
import { OrderedKeys } from "./ordered-keys.ts";
import { ready, type Watch, watch } from "../core/loop.ts";
import { endpoint } from "./addresses.ts";
import { SHUT_RDWR, shutdown } from "./socket-calls.ts";
import { acceptTcp, connectTcp, listenTcp, socketError, type TcpSocket } from "./sockets.ts";
import { MAX_PACKET } from "../base/packet.ts";
import { trace } from "../base/trace.ts";
import { type Answer, type Port, type PortEvents, type Transport, Unreachable } from "./transport.ts";

const DEADLINE = 10_000; // ms, for the other end's message
const ACCEPTS = 16; // in one turn of the loop: a flood of connections must not hold up the packets
// ms without accept() when fds or memory have run out: those who are connected go on
const ACCEPT_PAUSE = 1_000;
const NO_MESSAGE = Buffer.alloc(0);

export const tcp: Transport = {
  open: ({ listen, port, handshake }) => new TcpPort(port, handshake, listen),
};

export class TcpPort implements Port {
  private readonly port: number;
  private readonly handshake: boolean;
  private readonly listener: number | undefined;
  private listenerWatch: Watch | undefined;

  constructor(port: number, handshake: boolean, listen?: string) {
    this.port = port;
    this.handshake = handshake;
    this.listener = listen === undefined ? undefined : listenTcp(listen, port); // socket(), bind(), listen()
  }

  async dial(address: string, ms: number, message1: Buffer = NO_MESSAGE): Promise<Answer> {
    const socket = await connectTcp(address, this.port, ms);
    if (typeof socket === "number") throw new Unreachable(this.endpoint(address), socket);
    return this.ask(socket, message1);
  }

  /** Sends message 1, and waits for message 2. */
  async ask(socket: TcpSocket, message1: Buffer): Promise<Answer> {
    const { fd, remote } = socket;
    try {
      if (this.handshake) sendMessage(fd, message1);
      const message2 = this.handshake ? await receiveMessage(fd) : NO_MESSAGE;
      return {
        remote,
        message2,
        largest: MAX_PACKET,
        attach: (make) => this.attach(socket, make),
        hangUp: () => void close(fd),
      };
    } catch (error) {
      close(fd);
      throw error;
    }
  }

  serve(server: PortEvents): void {
    const listener = this.listener!;
    this.listenerWatch = watch(listener, {
      readable: () => this.acceptSome(server),
      error() {
        const why = errnoName(socketError(listener));
        throw new Failure(`Cannot accept clients any more: ${why}`, "start the server again");
      },
    });
  }

  end(): void {
    this.listenerWatch?.stop();
    if (this.listener !== undefined) close(this.listener);
  }

  endpoint(address: string): string {
    return endpoint(address, this.port);
  }

  private acceptSome(server: PortEvents): void {
    for (let i = 0; i < ACCEPTS; i++) {
      const socket = acceptTcp(this.listener!);
      if (socket === -EAGAIN) return;
      if (typeof socket !== "number") void this.answer(socket, server);
      else if ([EMFILE, ENFILE, ENOBUFS, ENOMEM].includes(-socket)) return this.pause(socket);
      // it is gone already (ECONNABORTED and the like, accept(2))
      else server.onMissed("a connection", errnoName(socket));
    }
  }

  private pause(errno: number): void {
    trace.note(`cannot accept a client: ${errnoName(errno)}; trying again in ${ACCEPT_PAUSE / 1000} s`);
    this.listenerWatch!.want(false, false);
    setTimeout(() => this.listenerWatch!.want(true, false), ACCEPT_PAUSE).unref();
  }

  /** Waits for a client's message 1, and lets the server answer it. */
  async answer(socket: TcpSocket, server: PortEvents): Promise<void> {
    const { fd, address, remote } = socket;
    const stranger = server.onArrival(address, remote, () => shutdown(fd, SHUT_RDWR)); // its read() will be 0
    let attached = false;
    try {
      if (!stranger) return;
      const message1 = this.handshake ? await receiveMessage(fd) : NO_MESSAGE;
      const refuse = (message2: Buffer) => sendMessage(fd, message2);
      const attach = <R extends Receiver>(message2: Buffer | undefined, make: (link: Link) => R) => {
        if (message2) sendMessage(fd, message2);
        const receiver = this.attach(socket, make);
        attached = true;
        return receiver;
      };
      server.onHello({ address, remote, stranger, attach, refuse }, message1);
    } catch (error) {
      if (!(error instanceof BrokenStream)) throw error;
      stranger!.lost(error.message);
    } finally {
      if (!attached) close(fd);
    }
  }

  private attach<R extends Receiver>(socket: TcpSocket, make: (link: Link) => R): R {
    const link = new TcpLink(socket, this.handshake ? aesFraming : xorFraming);
    const receiver = make(link);
    link.start(receiver);
    return receiver;
  }
}

/** A connected socket as a peer's link. */
export class TcpLink implements Link {
  readonly remote: string;
  readonly framing: Framing;
  private readonly fd: number;
  private readonly memory: Memory; // what was read
  private head = 0; // of it: first byte that the receiver has not taken
  private tail = 0; // of it: the end
  private watched: Watch | undefined;
  private full = false; // does the socket take nothing more for now?
  private closed = false;

  constructor({ fd, remote }: TcpSocket, framing: Framing) {
    this.fd = fd;
    this.remote = remote;
    this.framing = framing;
    this.memory = new Memory(2 * pad(framing.header + framing.maxBody, 4));
  }

  /** Puts the socket into the loop, unless the receiver has closed it already. */
  start(receiver: Receiver): void {
    if (this.closed) return;
    this.watched = watch(this.fd, {
      readable: () => this.receive(receiver),
      writable: () => this.drain(receiver),
      error: () => this.broken(receiver),
    });
    this.watched.want(true, this.full);
  }

  send(memory: Memory, from: number, to: number): number {
    const count = write(this.fd, memory, from, to - from);
    if (count !== -EAGAIN || this.full) return count;
    this.full = true;
    this.watched?.want(true, true);
    return count;
  }

  keys(keys: SessionKeys): Keys {
    return new OrderedKeys(keys);
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    this.watched?.stop();
    close(this.fd);
  }

  /** One read(). What it brought goes to the receiver. */
  receive(receiver: Receiver): void {
    const readAt = trace.clock();
    const count = this.fill(); // WALK 8.read R5.read
    if (count > 0) this.head = receiver.received(this.memory, this.head, this.tail, readAt);
    else if (count === 0) receiver.lost("the connection was closed without a goodbye");
    else if (count !== -EAGAIN) receiver.lost(`read: ${errnoName(count)}`);
  }

  /** One read() of as much as fits. Bytes read, 0 at the end of the stream, or a negative errno. */
  private fill(): number {
    const { bytes } = this.memory;
    if (this.head === this.tail) this.head = this.tail = 0;
    else if (this.head > bytes.length / 2) {
      bytes.copyWithin(0, this.head, this.tail); // less than one frame: the receiver took all whole ones
      this.tail -= this.head;
      this.head = 0;
    }
    const count = read(this.fd, this.memory, this.tail, bytes.length - this.tail);
    if (count > 0) this.tail += count;
    return count;
  }

  /** The connection is no more. What came before its end is still received: a goodbye, for one. */
  private broken(receiver: Receiver): void {
    const reason = errnoName(socketError(this.fd));
    while (!this.closed && this.fill() > 0)
      this.head = receiver.received(this.memory, this.head, this.tail, trace.clock());
    receiver.lost(reason);
  }

  /** There is room again. */
  private drain(receiver: Receiver): void {
    this.full = false;
    receiver.flush();
    if (!this.full) this.watched!.want(true, false);
  }
}

// ---- the handshake's messages, each in a frame ----

/** A message is at most a few hundred bytes, and the first thing on its socket: it always fits. */
function sendMessage(fd: number, message: Buffer): void {
  const { header } = handshakeFraming;
  const frame = new Memory(pad(header + message.length, 4));
  handshakeFraming.putHeader(frame.bytes, 0, FrameType.handshake, message.length);
  message.copy(frame.bytes, header);
  const count = write(fd, frame, 0, header + message.length);
  if (count < 0) throw new BrokenStream(`write: ${errnoName(count)}`);
}

async function receiveMessage(fd: number): Promise<Buffer> {
  const { header, maxBody } = handshakeFraming;
  const memory = new Memory(2 * pad(header + maxBody, 4));
  const deadline = performance.now() + DEADLINE;
  for (let have = 0; ;) {
    const message = takeMessage(memory.bytes, 0, have);
    if (message) return message;
    if (!(await ready(fd, "readable", Math.max(0, deadline - performance.now()))))
      throw new BrokenStream(`no handshake within ${DEADLINE / 1000} s`);
    const count = read(fd, memory, have, memory.bytes.length - have);
    if (count === 0) throw new BrokenStream("it closed the connection during the handshake");
    if (count < 0 && count !== -EAGAIN) throw new BrokenStream(`read: ${errnoName(count)}`);
    have += Math.max(count, 0);
  }
}

/** The message in bytes[from, to), if it has come whole. Throws BrokenStream. */
export function takeMessage(bytes: Buffer, from: number, to: number): Buffer | undefined {
  const size = wholeFrame(handshakeFraming, bytes, from, to);
  if (size === 0) return undefined;
  if (bytes[from] !== FrameType.handshake)
    throw new BrokenStream(`frame type ${bytes[from]} before the handshake`);
  const more = to - from - size;
  if (more > 0) throw new BrokenStream(`${more} bytes too many in the handshake`);
  return Buffer.from(bytes.subarray(from + handshakeFraming.header, from + size));
}
