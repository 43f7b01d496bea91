/** What unit tests share. Nothing here is part of the VPN. */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { constants, openSync } from "node:fs";
import { type FrameType, pad } from "./frame.ts";
import { close, Memory, O_CLOEXEC, O_RDWR, read, write } from "./libc.ts";
import { SOCK_NONBLOCK, SOCK_STREAM, thisProcess } from "./libc.ts";
import { OFFLOAD_HEADER } from "./offload.ts";
import { DOWN, UP } from "./trace.ts";
import { Peer } from "./tunnel.ts";
import { xor } from "./xor.ts";

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

/** A client's and a server's end of one connection, each with its TUN: a SOCK_SEQPACKET pair keeps borders as a TUN does; its other end is the "kernel". */
export function tunnel(cipher: "xor" | "xor+aes") {
  const [clientFd, serverFd] = socketPair();
  const [[clientTun, clientKernel], [serverTun, serverKernel]] = [socketPair(SOCK_SEQPACKET), socketPair(SOCK_SEQPACKET)];
  const [up, down] = [randomBytes(32), randomBytes(32)];
  const aes = cipher === "xor+aes";
  const client = new Peer({ fd: clientFd, address: "", remote: "server" }, UP, DOWN, aes ? { send: up, receive: down } : undefined);
  const server = new Peer({ fd: serverFd, address: "", remote: "client" }, DOWN, UP, aes ? { send: down, receive: up } : undefined);
  const header = aes ? OFFLOAD_HEADER : 0;
  const reasons: string[] = [];
  client.onClose = server.onClose = (reason) => reasons.push(reason);
  const fds = [clientFd, serverFd, clientTun, clientKernel, serverTun, serverKernel];
  return {
    client, server, reasons, clientKernel, serverKernel, clientFd, serverFd,
    tuns: { client: { fd: clientTun, name: "tun0", header }, server: { fd: serverTun, name: "tun0", header } },
    /** The kernel's side of a TUN: each packet behind the TUN's header. */
    put: (kernel: number, packet: Buffer) => put(kernel, Buffer.concat([Buffer.alloc(header), packet])),
    take: (kernel: number) => take(kernel)?.subarray(header),
    end: () => fds.forEach((fd) => close(fd)),
  };
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

/** A whole frame with any body at all, XORed and sealed with the peer's own key: what a hostile holder of the secret can send. */
export function seal(peer: Peer, type: number, body: Buffer): Buffer {
  const { framing, sealer } = peer;
  const size = framing.header + body.length + framing.tag;
  const frame = new Memory(pad(size, 4));
  body.copy(frame.bytes, framing.header);
  xor(frame, framing.header, frame, framing.header, body.length);
  framing.putHeader(frame.bytes, 0, type as FrameType, body.length + framing.tag);
  sealer?.seal(frame, framing.header, body.length, framing.header);
  return frame.bytes.subarray(0, size);
}

/** Waits, with a deadline, until `condition` holds. */
export async function until(condition: () => boolean, ms = 5000): Promise<void> {
  for (const end = Date.now() + ms; !condition(); await new Promise((resolve) => setTimeout(resolve, 2))) {
    if (Date.now() > end) throw new Error(`${ms} ms passed without: ${condition}`);
  }
}

/** A small generator of random numbers (mulberry32): a failing test prints its seed, and can be run again with it. */
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
