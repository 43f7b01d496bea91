/** What unit tests share. Nothing here is part of the VPN. */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { constants, openSync } from "node:fs";
import type { SessionKeys } from "../../core/aes.ts";
import { aesFraming, type Framing, FrameType, pad, wholeFrame, xorFraming } from "../../core/frame.ts";
import type { Receiver } from "../../core/link.ts";
import { close, Memory, O_CLOEXEC, O_RDWR, read, write } from "../../base/libc.ts";
import { thisProcess } from "../../base/libc.ts";
import { OFFLOAD_HEADER } from "../../core/offload.ts";
import { Peer } from "../../core/peer.ts";
import { type Before, ClientHandshake } from "../../session/session.ts";
import { SOCK_NONBLOCK, SOCK_STREAM } from "../../transport/socket-calls.ts";
import { QuicLink } from "../../transport/quic.ts";
import { RawLink } from "../../transport/raw-link.ts";
import { TcpLink } from "../../transport/tcp.ts";
import { transports } from "../../transport/transports.ts";
import { UdpLink } from "../../transport/udp-link.ts";
import type { Tun } from "../../core/tun.ts";
import { outbound } from "../../core/tunnel.ts";
import { type Direction, DOWN, UP } from "../../base/walk.ts";
import { xor } from "../../core/xor.ts";

const cSocketpair = thisProcess.func("int socketpair(int domain, int type, int protocol, _Out_ int *fds)");
const AF_UNIX = 1;
export const SOCK_SEQPACKET = 5; // keeps the borders of messages: in tests it stands in for a TUN's fd

/** Two connected non-blocking fds. */
export function socketPair(type = SOCK_STREAM): [number, number] {
  const fds: [number, number] = [0, 0];
  if (cSocketpair(AF_UNIX, type | SOCK_NONBLOCK, 0, fds) !== 0) throw new Error("socketpair failed");
  return fds;
}

export const memory = new Memory(1 << 18);

/** One end of a session: its peer, its link, its TUN; and `kernel`, the other side of that TUN. */
export class End {
  readonly peer: Peer;
  readonly tun: Tun;
  readonly fd: number; // the link's
  readonly reasons: string[] = []; // why it was closed; told once
  readonly kernel: number;
  private readonly link: TcpLink;

  constructor(name: string, steps: [Direction, Direction], fd: number, keys?: SessionKeys) {
    const [tun, kernel] = socketPair(SOCK_SEQPACKET); // it keeps the borders of messages, as a TUN does
    this.fd = fd;
    this.kernel = kernel;
    this.tun = { fd: tun, name: "tun0", header: keys ? OFFLOAD_HEADER : 0 };
    this.link = new TcpLink({ fd, address: "", remote: name }, keys ? aesFraming : xorFraming);
    this.peer = new Peer(this.link, this.tun, steps, keys, {
      onClose: (reason) => this.reasons.push(reason),
    });
  }

  /** The kernel routes a packet into the TUN. */
  put(packet: Buffer): void {
    put(this.kernel, Buffer.concat([Buffer.alloc(this.tun.header), packet]));
  }
  /** What the TUN has given the kernel. */
  take(): Buffer | undefined {
    return take(this.kernel)?.subarray(this.tun.header);
  }
  /** A packet through the whole of outbound(). */
  send(packet: Buffer): void {
    this.put(packet);
    outbound(this.tun, () => this.peer);
  }
  /** The link is readable. */
  receive(): void {
    if (!this.peer.closed) this.link.receive(this.peer);
  }
  get reason(): string {
    return this.reasons.join();
  }
  end(): void {
    this.peer.close("the test is over");
    for (const fd of [this.tun.fd, this.kernel]) close(fd);
  }
}

/**
 * A client's and a server's end of one session. No loop runs them: the test says which end does what, and
 * when.
 */
export function session(
  cipher: "xor" | "xor+aes" = "xor+aes",
  [up, down] = [randomBytes(32), randomBytes(32)],
  given?: [client: SessionKeys, server: SessionKeys], // of a handshake
) {
  const [near, far] = socketPair();
  const aes = cipher === "xor+aes";
  const keys = (send: Buffer, receive: Buffer) =>
    aes ? { send: Buffer.from(send), receive: Buffer.from(receive) } : undefined; // each end wipes its own
  const client = new End("server", [UP, DOWN], near, given?.[0] ?? keys(up!, down!));
  const server = new End("client", [DOWN, UP], far, given?.[1] ?? keys(down!, up!));
  const reasons = () => [...client.reasons, ...server.reasons];
  return { client, server, reasons, end: () => [client, server].forEach((one) => one.end()) };
}

/**
 * A session with a server on this machine or in the lab, whose client's end no loop runs. Over raw and QUIC
 * what acknowledges is ours, and above the socket: there it goes on, and only the stream is not read.
 */
export async function dialIdle(
  address: string,
  number: number,
  secret: Buffer,
  transport: keyof typeof transports = "tcp",
  before?: Before,
) {
  const handshake = new ClientHandshake(secret, before);
  const port = transports[transport].open({ port: number, handshake: true, secrets: [secret] });
  const { message1, isGood } = handshake;
  const { message2, remote, attach } = await port.dial(address, 10_000, message1, isGood);
  const { keys, config } = handshake.finish(message2, remote);
  const peer = attach(
    (link) => new Peer(link, { fd: -1, name: "none", header: OFFLOAD_HEADER }, [UP, DOWN], keys),
  );
  const { link } = peer;
  if (link instanceof RawLink) {
    const settle = link.settle.bind(link);
    link.settle = () => link["flush"]();
    return { config, peer, fd: -1, receive: () => settle(0n) };
  }
  if (link instanceof QuicLink) {
    const read = link["receive"].bind(link);
    link["receive"] = () => false;
    return { config, peer, fd: -1, receive: () => (read(), link["at"].turn(link)) };
  }
  if (link instanceof UdpLink) {
    const hub = link["hub"];
    hub["watched"]!.stop();
    return { config, peer, fd: hub.socket.fd, receive: () => hub["receive"]() };
  }
  const tcp = link as TcpLink;
  tcp["watched"]!.stop();
  return { config, peer, fd: tcp["fd"], receive: () => tcp.receive(peer) };
}

/**
 * Feeds a stream to a TcpLink in pieces of so many bytes, and collects the frames that come out; `body`: in
 * hex.
 */
export function deframe(
  framing: Framing,
  stream: Buffer,
  pieces: (rest: number) => number,
): { type: number; body: string }[] {
  const [near, far] = socketPair();
  const link = new TcpLink({ fd: near, address: "", remote: "" }, framing);
  const memory = new Memory(Math.ceil(stream.length / 4) * 4 + 4);
  stream.copy(memory.bytes);
  const frames: { type: number; body: string }[] = [];
  let waiting = 0; // bytes that the link has not read
  let rest = 0; // of a frame that has not come whole
  const receiver: Receiver = {
    received({ bytes }, from, to) {
      waiting -= to - from - rest;
      for (
        let size = wholeFrame(framing, bytes, from, to);
        size > 0;
        size = wholeFrame(framing, bytes, from, to)
      ) {
        const type = framing.typed ? bytes[from]! : FrameType.data;
        frames.push({ type, body: bytes.toString("hex", from + framing.header, (from += size)) });
      }
      rest = to - from;
      return from;
    },
    flush() {},
    sendControl: () => false,
    lost: (reason) => assert.fail(reason),
  };
  try {
    for (let at = 0; at < stream.length; at += waiting) {
      waiting = Math.min(pieces(stream.length - at), stream.length - at, 100_000);
      assert.equal(write(far, memory, at, waiting), waiting);
      for (at += waiting; waiting > 0;) link.receive(receiver);
    }
  } finally {
    close(near);
    close(far);
  }
  return frames;
}

export function put(fd: number, bytes: Buffer): void {
  bytes.copy(memory.bytes);
  assert.equal(write(fd, memory, 0, bytes.length), bytes.length);
}

export function take(fd: number): Buffer | undefined {
  const count = read(fd, memory, 0, memory.bytes.length);
  return count >= 0 ? Buffer.from(memory.bytes.subarray(0, count)) : undefined;
}

/** An IPv4 packet of `length` bytes with random content. */
export function packet(length: number): Buffer {
  const bytes = randomBytes(length);
  bytes[0] = 0x45;
  return bytes;
}

/**
 * A whole frame with any body at all, XORed and sealed with the peer's own key: what a hostile holder of the
 * secret can send.
 */
export function seal(peer: Peer, type: number, body: Buffer): Buffer {
  const { framing } = peer.link;
  const size = framing.header + body.length + framing.tag;
  const frame = new Memory(pad(size, 4));
  body.copy(frame.bytes, framing.header);
  xor(frame, framing.header, frame, framing.header, body.length);
  framing.putHeader(frame.bytes, 0, type as FrameType, body.length + framing.tag);
  peer.keys?.seal(frame, framing.header, body.length, framing.header);
  return frame.bytes.subarray(0, size);
}

/** Waits, with a deadline, until `condition` holds. */
export async function until(condition: () => boolean, ms = 5000): Promise<void> {
  for (const end = Date.now() + ms; !condition(); await new Promise((resolve) => setTimeout(resolve, 2))) {
    if (Date.now() > end) throw new Error(`${ms} ms passed without: ${condition}`);
  }
}

/**
 * A small generator of random numbers (mulberry32): a failing test prints its seed, and can be run again with
 * it.
 */
export function random(seed: number): (below: number) => number {
  return (below) => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) % below;
  };
}
export const SEED = Number(process.env.SEED ?? Date.now() % 1_000_000);

/** Both ends of a pseudo terminal: posix_openpt(3), pts(4). */
export function openTerminal(): [master: number, terminal: number] {
  const master = thisProcess.func("int posix_openpt(int flags)")(O_RDWR | O_CLOEXEC);
  thisProcess.func("int unlockpt(int fd)")(master);
  const name: string = thisProcess.func("str ptsname(int fd)")(master);
  return [master, openSync(name, constants.O_RDWR | constants.O_NOCTTY)];
}
