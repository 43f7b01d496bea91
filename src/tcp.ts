/**
 * The TCP socket between client and server: plain libc sockets, non-blocking, so that the loop can watch them beside
 * the TUN fd. TCP carries a stream of bytes and knows nothing of packets; frame.ts finds them again.
 */
import { promises as dns } from "node:dns";
import { isIPv4, isIPv6 } from "node:net";
import * as libc from "./libc.ts";
import { ready } from "./loop.ts";
import { formatIPv4, parseIPv4 } from "./packet.ts";
import { Failure } from "./program.ts";

export interface TcpSocket {
  readonly fd: number;
  readonly address: string; // of the other end: "192.168.1.100"
  readonly remote: string; // the same with its port: "192.168.1.100:40312"
}

const CONNECT_DEADLINE = 10_000; // ms
const SIZEOF_SOCKADDR_IN = 16;
const NEAR = 2_000; // µs there and back: a network of one's own
const NEAR_BUFFER = 256 * 1024; // bytes

/** struct sockaddr_in (ip(7)): family (host order) at 0, port (big-endian) at 2, address (big-endian) at 4. */
function sockaddrIn(address: string, port: number): Buffer {
  const bytes = Buffer.alloc(SIZEOF_SOCKADDR_IN);
  bytes.writeUInt16LE(libc.AF_INET, 0);
  bytes.writeUInt16BE(port, 2);
  const number = parseIPv4(address);
  if (number === undefined) throw new Error(`Cannot use ${address}: no IPv4 address`);
  bytes.writeUInt32BE(number, 4);
  return bytes;
}

function setOption(fd: number, level: number, name: number, value: number): void {
  const int = Buffer.alloc(4);
  int.writeInt32LE(value);
  const result = libc.setsockopt(fd, level, name, int, int.length);
  if (result < 0) throw new Error(`setsockopt ${level}/${name}: ${libc.errnoName(result)}`);
}

/** The round trip of a connection as the kernel measured it while connecting, µs. */
function roundTrip(fd: number): number {
  const info = Buffer.alloc(libc.TCPI_RTT + 4);
  const result = libc.getsockopt(fd, libc.IPPROTO_TCP, libc.TCP_INFO, info, [info.length]);
  return (result >= 0 && info.readUInt32LE(libc.TCPI_RTT)) || Infinity; // 0: not measured
}

function newSocket(): number {
  const fd = libc.socket(libc.AF_INET, libc.SOCK_STREAM | libc.SOCK_NONBLOCK | libc.SOCK_CLOEXEC, 0);
  if (fd < 0) throw new Failure(`Cannot make a TCP socket: ${libc.errnoName(fd)}`, "see socket(2) for this error");
  return fd;
}

/**
 * For a socket that will carry frames: a packet must leave at once, must not wait behind megabytes of others, and a peer that
 * vanished without a word is noticed within 15 seconds, whether we wait for its bytes or it for ours (tcp(7)).
 */
function tune(fd: number): void {
  setOption(fd, libc.SOL_SOCKET, libc.SO_KEEPALIVE, 1);
  setOption(fd, libc.IPPROTO_TCP, libc.TCP_KEEPIDLE, 5);
  setOption(fd, libc.IPPROTO_TCP, libc.TCP_KEEPINTVL, 5);
  setOption(fd, libc.IPPROTO_TCP, libc.TCP_KEEPCNT, 2);
  setOption(fd, libc.IPPROTO_TCP, libc.TCP_USER_TIMEOUT, 15_000);
  setOption(fd, libc.IPPROTO_TCP, libc.TCP_NODELAY, 1); // no Nagle: else each small frame waits for an ACK
  setOption(fd, libc.IPPROTO_TCP, libc.TCP_NOTSENT_LOWAT, 128 * 1024); // the socket is "full" at so many unsent bytes
  // Left alone, the kernel lets megabytes be on their way, and each ping waits behind them. For a near peer this is enough to
  // keep the wire busy; for a far one the kernel's own choice is right.
  if (roundTrip(fd) < NEAR) setOption(fd, libc.SOL_SOCKET, libc.SO_SNDBUF, NEAR_BUFFER);
}

/** Listens on `address`:`port`; the listening fd. It becomes readable when a client can be accepted. */
export function listenTcp(address: string, port: number): number {
  const fd = newSocket();
  setOption(fd, libc.SOL_SOCKET, libc.SO_REUSEADDR, 1); // or a restart fails while old connections are in TIME_WAIT
  let result = libc.bind(fd, sockaddrIn(address, port), SIZEOF_SOCKADDR_IN);
  if (result >= 0) result = libc.listen(fd, 128);
  if (result >= 0) return fd;
  libc.close(fd);
  const hints: Record<number, string> = {
    [libc.EADDRINUSE]: `another program listens there ('ss -ltnp sport = :${port}' shows it): stop it, or choose another --port`,
    [libc.EADDRNOTAVAIL]: "this machine has no such address ('ip address' lists them): choose another --listen",
    [libc.EACCES]: "ports below 1024 need root: choose a higher --port",
  };
  throw new Failure(`Cannot listen on ${address}:${port}: ${libc.errnoName(result)}`, hints[-result] ?? "see bind(2)");
}

/** Takes one waiting client, or a negative errno (-EAGAIN: none is left). */
export function acceptTcp(listener: number): TcpSocket | number {
  const address = Buffer.alloc(SIZEOF_SOCKADDR_IN);
  const fd = libc.accept4(listener, address, [SIZEOF_SOCKADDR_IN], libc.SOCK_NONBLOCK | libc.SOCK_CLOEXEC);
  if (fd < 0) return fd;
  tune(fd);
  const host = formatIPv4(address.readUInt32BE(4));
  return { fd, address: host, remote: `${host}:${address.readUInt16BE(2)}` };
}

/** Connects to `host` (a name or an IPv4 address); `known`: its address, should nobody answer for its name. Errors: a Failure that says what to try. */
export async function connectTcp(host: string, port: number, known?: string): Promise<TcpSocket> {
  const address = isIPv4(host) ? host : await resolve(host, known);
  const fd = newSocket();
  let result = libc.connect(fd, sockaddrIn(address, port), SIZEOF_SOCKADDR_IN);
  if (result === -libc.EINPROGRESS) {
    // A non-blocking connect is finished when the socket is writable; SO_ERROR then tells how (connect(2)).
    result = (await ready(fd, "writable", CONNECT_DEADLINE)) ? -socketError(fd) : -libc.ETIMEDOUT;
  }
  if (result < 0) {
    libc.close(fd);
    const hint =
      result === -libc.ECONNREFUSED
        ? "the machine answers, but nothing listens on that port: start the server, or check --port"
        : "check the address with ping, and that no firewall blocks the port";
    throw new Failure(`Cannot connect to ${address}:${port}: ${libc.errnoName(result)}`, hint);
  }
  tune(fd);
  return { fd, address, remote: `${address}:${port}` };
}

async function resolve(host: string, known?: string): Promise<string> {
  if (host === "" || isIPv6(host)) throw new Failure(`Cannot connect to "${host}": no name and no IPv4 address`, "give the server's IPv4 address");
  try {
    return (await dns.lookup(host, { family: 4 })).address;
  } catch (error) {
    if (known !== undefined) return known; // the way to the name server may go through the tunnel
    throw new Failure(`Cannot find ${host}: ${(error as NodeJS.ErrnoException).code}`, "check the name, or give the server's IPv4 address");
  }
}

/** The error waiting on a socket (getsockopt SO_ERROR), a positive errno or 0. */
export function socketError(fd: number): number {
  const int = Buffer.alloc(4);
  const result = libc.getsockopt(fd, libc.SOL_SOCKET, libc.SO_ERROR, int, [int.length]);
  return result < 0 ? -result : int.readInt32LE();
}
