/** For tests: a session over UDP on loopback, both ends in this process, and what is between them. */
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { createHash, randomBytes } from "node:crypto";
import type { SessionKeys } from "../../core/aes.ts";
import { Control } from "../../core/frame.ts";
import { close, Memory, read, write } from "../../base/libc.ts";
import { watch, type Watch } from "../../core/loop.ts";
import { OFFLOAD_HEADER } from "../../core/offload.ts";
import { Peer } from "../../core/peer.ts";
import { outbound } from "../../core/tunnel.ts";
import { type Direction, DOWN, UP } from "../../base/walk.ts";
import { sockaddr } from "../../transport/addresses.ts";
import { DatagramSocket, Remote } from "../../transport/datagrams.ts";
import type { Answer, Caller } from "../../transport/transport.ts";
import { UdpPort } from "../../transport/udp.ts";
import type { UdpLink } from "../../transport/udp-link.ts";
import { SOCK_SEQPACKET, socketPair, until } from "./peers.ts";

const HERE = "127.0.0.1";

/** As Noise's message 2: a public key, which names the session, and what proves both messages. */
export function message2For(message1: Buffer, publicKey: Buffer = randomBytes(32)): Buffer {
  return Buffer.concat([publicKey, createHash("sha256").update(message1).update(publicKey).digest()]);
}

/** A port of this machine that nobody has. */
export async function freePort(): Promise<number> {
  const socket = createSocket("udp4").bind(0, HERE);
  await once(socket, "listening");
  const { port } = socket.address();
  socket.close();
  return port;
}

/** One end: its peer, its TUN, and `kernel`, the other side of that TUN. */
export class DatagramEnd {
  readonly peer: Peer;
  readonly reasons: string[] = [];
  readonly kernel: number;
  private readonly tun;
  private readonly packet = new Memory(1 << 16);

  constructor(
    make: (build: (link: UdpLink) => Peer) => Peer,
    steps: [Direction, Direction],
    keys: SessionKeys,
  ) {
    const [fd, kernel] = socketPair(SOCK_SEQPACKET);
    this.kernel = kernel;
    this.tun = { fd, name: "tun0", header: OFFLOAD_HEADER };
    this.peer = make(
      (link) =>
        new Peer(link, this.tun, steps, keys, { onClose: (reason) => void this.reasons.push(reason) }),
    );
  }

  /** A packet, behind its offload header or none, through the whole of outbound(). */
  send(packet: Buffer, offload: Buffer = Buffer.alloc(OFFLOAD_HEADER)): void {
    offload.copy(this.packet.bytes, 0, 0, OFFLOAD_HEADER);
    packet.copy(this.packet.bytes, OFFLOAD_HEADER);
    write(this.kernel, this.packet, 0, OFFLOAD_HEADER + packet.length);
    this.drain();
  }

  drain(): void {
    outbound(this.tun, () => this.peer);
  }

  /** What came out of the TUN since. */
  take(): Buffer[] {
    const all: Buffer[] = [];
    for (;;) {
      const count = read(this.kernel, this.packet, 0, this.packet.bytes.length);
      if (count < 0) return all;
      all.push(Buffer.from(this.packet.bytes.subarray(OFFLOAD_HEADER, count)));
    }
  }

  get link(): UdpLink {
    return this.peer.link as UdpLink;
  }

  /** One turn of the loop. */
  receive(): void {
    this.link["hub"]["receive"]();
  }

  end(): void {
    this.peer.close("the test is over");
    for (const fd of [this.tun.fd, this.kernel]) close(fd);
  }
}

/** A server of UdpPort that takes everybody; each client has keys of its own, by its message 1. */
export class DatagramServer {
  readonly port: number;
  readonly ends: DatagramEnd[] = [];
  readonly hellos: Buffer[] = [];
  onHello: (caller: Caller, message1: Buffer) => void;
  mayCome = (_isProven: boolean): boolean => true;
  private readonly udp: UdpPort;

  constructor(port: number, listen = HERE) {
    this.port = port;
    this.udp = new UdpPort(port, listen);
    this.onHello = (caller, message1) => {
      const { send, receive } = keysOf(message1);
      const make = (build: (link: UdpLink) => Peer) =>
        caller.attach(message2For(message1), (link) => build(link as UdpLink));
      this.ends.push(new DatagramEnd(make, [DOWN, UP], { send: receive, receive: send }));
    };
    this.udp.serve({
      onArrival: (_address, _remote, _end, isProven = true) =>
        this.mayCome(isProven) ? { lost() {} } : undefined,
      onHello: (caller, message1) => (this.hellos.push(message1), this.onHello(caller, message1)),
      onMissed() {},
    });
  }

  get hub() {
    return this.udp["hub"]!;
  }

  end(): void {
    for (const end of this.ends) end.end();
    this.udp.end();
    this.hub.close();
  }
}

/** The client's two keys of a session that began with that message 1. */
export const keysOf = (message1: Buffer): SessionKeys => ({
  send: Buffer.from(message1.subarray(0, 32)),
  receive: Buffer.concat([message1.subarray(16, 48)]),
});

/** Dials, as connect.ts does. */
export async function dial(port: number, ms = 10_000, message1 = randomBytes(48)): Promise<[Answer, Buffer]> {
  const isGood = (message2: Buffer) => message2.equals(message2For(message1, message2.subarray(0, 32)));
  return [await new UdpPort(port).dial(HERE, ms, message1, isGood), message1];
}

export async function dialEnd(port: number): Promise<DatagramEnd> {
  const [answer, message1] = await dial(port);
  const make = (build: (link: UdpLink) => Peer) => answer.attach((link) => build(link as UdpLink));
  return new DatagramEnd(make, [UP, DOWN], keysOf(message1));
}

type Pass = (datagram: Buffer) => Buffer[]; // what is passed on in its place

/** Between a client and the server: it may lose, change, repeat, hold back, and put in datagrams. */
export class Relay {
  readonly port: number;
  up: Pass = (datagram) => [datagram];
  down: Pass = (datagram) => [datagram];
  longest = { question: 0, answer: 0 }; // bytes, of first messages and of answers to them
  private readonly front: DatagramSocket; // to the client
  readonly back = DatagramSocket.open(false) as DatagramSocket; // to the server
  server: Remote;
  private client: Remote | undefined;
  private readonly watches: Watch[];
  private readonly memory = new Memory(1 << 16);
  private readonly out = new Memory(1 << 16);

  constructor(port: number, server: number) {
    this.port = port;
    this.front = DatagramSocket.listen(HERE, port);
    this.server = new Remote(sockaddr(HERE, server));
    const readable = (socket: DatagramSocket, pass: (datagram: Buffer) => void) =>
      watch(socket.fd, { readable: () => this.receive(socket, pass), error() {} });
    this.watches = [
      readable(this.front, (datagram) => {
        this.client = this.front.from();
        for (const one of this.up(datagram)) this.toServer(one);
      }),
      readable(this.back, (datagram) => {
        for (const one of this.down(datagram)) this.toClient(one);
      }),
    ];
  }

  toServer(datagram: Buffer): void {
    this.send(this.back, this.server, datagram);
  }

  toClient(datagram: Buffer): void {
    this.send(this.front, this.client!, datagram);
  }

  end(): void {
    for (const one of this.watches) one.stop();
    for (const one of [this.front, this.back]) one.close();
  }

  private send(socket: DatagramSocket, to: Remote, datagram: Buffer): void {
    datagram.copy(this.out.bytes);
    socket.send(to, this.out, 0, datagram.length, Math.max(1, datagram.length));
  }

  private receive(socket: DatagramSocket, pass: (datagram: Buffer) => void): void {
    for (;;) {
      const count = socket.receive(this.memory, 0);
      if (count < 0) return;
      const all = Buffer.from(this.memory.bytes.subarray(0, count)); // of one length, but for the last
      for (let at = 0; at < count; at += socket.segment) pass(all.subarray(at, at + socket.segment));
    }
  }
}

/** A server, a relay before it, and a client that has a session through it. */
export async function session() {
  const server = new DatagramServer(await freePort());
  const relay = new Relay(await freePort(), server.port);
  const client = await dialEnd(relay.port);
  const end = () => {
    client.end();
    server.end();
    relay.end();
  };
  const far = server.ends[0]!;
  client.peer.sendControl(Control.keepalive); // proves it: before, the server sends nothing
  await until(() => far.peer.traffic.received.frames > 0);
  return { server, relay, client, far, end };
}
