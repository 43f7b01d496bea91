/** TCP sockets through libc: non-blocking, so that the loop can watch them beside the TUN fd. */
import { existsSync } from "node:fs";
import { endpoint, readSockaddr, sockaddr, SIZEOF_SOCKADDR_IN6 } from "./addresses.ts";
import { Failure } from "../base/failure.ts";
import {
  EACCES,
  EADDRINUSE,
  EADDRNOTAVAIL,
  EAFNOSUPPORT,
  EINPROGRESS,
  EINVAL,
  ETIMEDOUT,
  errnoName,
} from "../base/errno.ts";
import * as libc from "../base/libc.ts";
import { ready } from "../core/loop.ts";
import * as calls from "./socket-calls.ts";

export interface TcpSocket {
  readonly fd: number;
  readonly address: string; // of the other end: "192.168.1.100", "2001:db8::1", "fe80::1%eth0"
  readonly remote: string; // the same with its port: "192.168.1.100:40312", "[2001:db8::1]:40312"
}

/** What to try after EINVAL. */
export const LINK_LOCAL = "write a link-local address with this machine's interface: fe80::1%eth0";
const NEAR = 2_000; // µs there and back: a network of one's own
// bytes; the kernel doubles it for its own needs, up to net.core.wmem_max (socket(7))
const NEAR_BUFFER = 256 * 1024;

/** setsockopt(2) of one int after the other; 0, or the first negative errno. */
export function setOptions(fd: number, ...options: [level: number, name: number, value: number][]): number {
  const int = Buffer.alloc(4);
  for (const [level, name, value] of options) {
    int.writeInt32LE(value);
    const result = calls.setsockopt(fd, level, name, int, int.length);
    if (result < 0) return result;
  }
  return 0;
}

/** The round trip of a connection as the kernel measured it while connecting, µs. */
function roundTrip(fd: number): number {
  const info = Buffer.alloc(calls.TCPI_RTT + 4);
  const result = calls.getsockopt(fd, calls.IPPROTO_TCP, calls.TCP_INFO, info, [info.length]);
  return (result >= 0 && info.readUInt32LE(calls.TCPI_RTT)) || Infinity; // 0: not measured
}

/** A socket of the address's family; its fd, or a negative errno. */
function newSocket(address: Buffer): number {
  return calls.socket(
    address.readUInt16LE(0),
    calls.SOCK_STREAM | calls.SOCK_NONBLOCK | calls.SOCK_CLOEXEC,
    0,
  );
}

/**
 * For a socket that will carry frames: a packet must leave at once, must not wait behind megabytes of others,
 * and a peer that vanished without a word is noticed within 15 seconds, whether we wait for its bytes or it
 * for ours (tcp(7)). Returns 0, or a negative errno.
 */
function tune(fd: number): number {
  const result = setOptions(
    fd,
    [calls.SOL_SOCKET, calls.SO_KEEPALIVE, 1],
    [calls.IPPROTO_TCP, calls.TCP_KEEPIDLE, 5],
    [calls.IPPROTO_TCP, calls.TCP_KEEPINTVL, 5],
    [calls.IPPROTO_TCP, calls.TCP_KEEPCNT, 2],
    [calls.IPPROTO_TCP, calls.TCP_USER_TIMEOUT, 15_000],
    [calls.IPPROTO_TCP, calls.TCP_NODELAY, 1], // no Nagle: else each small frame waits for an ACK
    [calls.IPPROTO_TCP, calls.TCP_NOTSENT_LOWAT, 128 * 1024], // the socket is "full" at so many unsent bytes
  );
  // Left alone, the kernel lets megabytes be on their way, and each ping waits behind them. For a near peer
  // this is enough to keep the wire busy; for a far one the kernel's own choice is right.
  if (result < 0 || roundTrip(fd) >= NEAR) return result;
  return setOptions(fd, [calls.SOL_SOCKET, calls.SO_SNDBUF, NEAR_BUFFER]);
}

/**
 * Listens on `address`:`port`, "*" for all addresses; the listening fd. It becomes readable when a client can
 * be accepted.
 */
export function listenTcp(address: string, port: number): number {
  // proc(5): no such file where the kernel has no IPv6
  const any = existsSync("/proc/net/if_inet6") ? "::" : "0.0.0.0";
  const local = sockaddr(address === "*" ? any : address, port);
  const fd = newSocket(local);
  let result = fd;
  // Without it a restart fails while old connections are in TIME_WAIT.
  if (result >= 0) result = setOptions(fd, [calls.SOL_SOCKET, calls.SO_REUSEADDR, 1]);
  if (result >= 0 && local.length === SIZEOF_SOCKADDR_IN6)
    result = setOptions(fd, [calls.IPPROTO_IPV6, calls.IPV6_V6ONLY, 0]); // "::" takes IPv4 clients, too
  if (result >= 0) result = calls.bind(fd, local, local.length);
  if (result >= 0) result = calls.listen(fd, 128);
  if (result >= 0) return fd;
  libc.close(fd);
  throw bindFailure(address, port, result, "tcp");
}

/** Why a server cannot listen there. `errno`: negative. */
export function bindFailure(address: string, port: number, errno: number, protocol: "tcp" | "udp"): Failure {
  const list = `ss -l${protocol[0]}np sport = :${port}`;
  const hints: Record<number, string> = {
    [EADDRINUSE]: `a program listens there ('${list}'): stop it, or choose another --port`,
    [EADDRNOTAVAIL]: "this machine has no such address ('ip address' lists them): choose another --listen",
    [EAFNOSUPPORT]: "this machine's kernel has no IPv6: choose an IPv4 address",
    [EINVAL]: LINK_LOCAL,
    [EACCES]: "ports below 1024 need root: choose a higher --port",
  };
  return new Failure(
    `Cannot listen on ${endpoint(address, port)}: ${errnoName(errno)}`,
    hints[-errno] ?? "see bind(2)",
  );
}

/** Takes one waiting client; or a negative errno: -EAGAIN, none is left; or why this one is lost. */
export function acceptTcp(listener: number): TcpSocket | number {
  const sender = Buffer.alloc(SIZEOF_SOCKADDR_IN6);
  const fd = calls.accept4(listener, sender, [sender.length], calls.SOCK_NONBLOCK | calls.SOCK_CLOEXEC);
  if (fd < 0) return fd;
  const result = tune(fd);
  if (result < 0) {
    libc.close(fd);
    return result;
  }
  const [address, port] = readSockaddr(sender);
  return { fd, address, remote: endpoint(address, port) };
}

/** Connects to one address within `ms`; the socket, or a negative errno. */
export async function connectTcp(address: string, port: number, ms: number): Promise<TcpSocket | number> {
  const remote = sockaddr(address, port);
  const fd = newSocket(remote);
  let result = fd < 0 ? fd : calls.connect(fd, remote, remote.length);
  // A non-blocking connect() is finished when the socket is writable. SO_ERROR then tells how (connect(2)).
  if (result === -EINPROGRESS) result = (await ready(fd, "writable", ms)) ? -socketError(fd) : -ETIMEDOUT;
  if (result >= 0) result = tune(fd);
  if (result >= 0) return { fd, address, remote: endpoint(address, port) };
  libc.close(fd);
  return result;
}

/** The error waiting on a socket (getsockopt SO_ERROR), a positive errno or 0. */
export function socketError(fd: number): number {
  const int = Buffer.alloc(4);
  const result = calls.getsockopt(fd, calls.SOL_SOCKET, calls.SO_ERROR, int, [int.length]);
  return result < 0 ? -result : int.readInt32LE();
}
