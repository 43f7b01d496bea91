/**
 * The TCP socket between client and server: plain libc sockets, non-blocking, so that the loop can watch them beside
 * the TUN fd. TCP carries a stream of bytes and knows nothing of packets; frame.ts finds them again.
 */
import { promises as dns } from "node:dns";
import { existsSync } from "node:fs";
import { isIPv4, isIPv6 } from "node:net";
import * as libc from "./libc.ts";
import { ready } from "./loop.ts";
import { formatIPv4, formatIPv6, parseIPv4, parseIPv6 } from "./packet.ts";
import { Failure } from "./program.ts";

export interface TcpSocket {
  readonly fd: number;
  readonly address: string; // of the other end: "192.168.1.100", "2001:db8::1", "fe80::1%eth0"
  readonly remote: string; // the same with its port: "192.168.1.100:40312", "[2001:db8::1]:40312"
}

const CONNECT_DEADLINE = 10_000; // ms, for all addresses of a name together
const SIZEOF_SOCKADDR_IN = 16;
const SIZEOF_SOCKADDR_IN6 = 28;
const MAPPED = "00000000000000000000ffff"; // ::ffff:0:0/96, then the IPv4 address of an IPv6 socket's IPv4 client (ipv6(7))
const LINK_LOCAL = "write a link-local address with this machine's interface: fe80::1%eth0"; // else: EINVAL
const NEAR = 2_000; // µs there and back: a network of one's own
const NEAR_BUFFER = 256 * 1024; // bytes; the kernel doubles it for its own needs, up to net.core.wmem_max (socket(7))

/**
 * What connect() and bind() take: an address of either family, "fe80::1%eth0" with its scope, and a port.
 *
 *   struct sockaddr_in (ip(7))                      struct sockaddr_in6 (ipv6(7))
 *   offset size                                     offset size
 *   0      2    AF_INET, host order                 0      2    AF_INET6, host order
 *   2      2    port, big-endian                    2      2    port, big-endian
 *   4      4    address, big-endian                 4      4    flow information: 0
 *   8      8    zeros                               8      16   address
 *                                                   24     4    scope, host order: of a link-local address, the interface's index
 */
export function sockaddr(address: string, port: number): Buffer {
  const ipv4 = parseIPv4(address);
  const bytes = Buffer.alloc(ipv4 === undefined ? SIZEOF_SOCKADDR_IN6 : SIZEOF_SOCKADDR_IN);
  bytes.writeUInt16LE(ipv4 === undefined ? libc.AF_INET6 : libc.AF_INET, 0);
  bytes.writeUInt16BE(port, 2);
  if (ipv4 !== undefined) bytes.writeUInt32BE(ipv4, 4);
  else {
    const scope = address.split("%")[1] ?? "";
    parseIPv6(address)!.copy(bytes, 8);
    bytes.writeUInt32LE(/^\d{1,9}$/.test(scope) ? Number(scope) : libc.if_nametoindex(scope), 24);
  }
  return bytes;
}

/** The address and port in a sockaddr that the kernel wrote. */
export function readSockaddr(bytes: Buffer): [address: string, port: number] {
  const port = bytes.readUInt16BE(2);
  if (bytes.readUInt16LE(0) === libc.AF_INET) return [formatIPv4(bytes.readUInt32BE(4)), port];
  if (bytes.toString("hex", 8, 20) === MAPPED) return [formatIPv4(bytes.readUInt32BE(20)), port];
  const scope = bytes.readUInt32LE(24);
  return [`${formatIPv6(bytes, 8)}${scope ? `%${scope}` : ""}`, port];
}

/** An address as it is written before a ":", "192.168.1.1" or "[2001:db8::1]"; and with its port. */
export const bracketed = (address: string) => (isIPv6(address) ? `[${address}]` : address);
export const endpoint = (address: string, port: number) => `${bracketed(address)}:${port}`;

/** setsockopt(2) of one int after the other; 0, or the first negative errno. */
function setOptions(fd: number, ...options: [level: number, name: number, value: number][]): number {
  const int = Buffer.alloc(4);
  for (const [level, name, value] of options) {
    int.writeInt32LE(value);
    const result = libc.setsockopt(fd, level, name, int, int.length);
    if (result < 0) return result;
  }
  return 0;
}

/** The round trip of a connection as the kernel measured it while connecting, µs. */
function roundTrip(fd: number): number {
  const info = Buffer.alloc(libc.TCPI_RTT + 4);
  const result = libc.getsockopt(fd, libc.IPPROTO_TCP, libc.TCP_INFO, info, [info.length]);
  return (result >= 0 && info.readUInt32LE(libc.TCPI_RTT)) || Infinity; // 0: not measured
}

/** A socket of the address's family; its fd, or a negative errno. */
function newSocket(address: Buffer): number {
  return libc.socket(address.readUInt16LE(0), libc.SOCK_STREAM | libc.SOCK_NONBLOCK | libc.SOCK_CLOEXEC, 0);
}

/**
 * For a socket that will carry frames: a packet must leave at once, must not wait behind megabytes of others, and a peer that
 * vanished without a word is noticed within 15 seconds, whether we wait for its bytes or it for ours (tcp(7)).
 * Returns 0, or a negative errno.
 */
function tune(fd: number): number {
  const result = setOptions(
    fd,
    [libc.SOL_SOCKET, libc.SO_KEEPALIVE, 1],
    [libc.IPPROTO_TCP, libc.TCP_KEEPIDLE, 5],
    [libc.IPPROTO_TCP, libc.TCP_KEEPINTVL, 5],
    [libc.IPPROTO_TCP, libc.TCP_KEEPCNT, 2],
    [libc.IPPROTO_TCP, libc.TCP_USER_TIMEOUT, 15_000],
    [libc.IPPROTO_TCP, libc.TCP_NODELAY, 1], // no Nagle: else each small frame waits for an ACK
    [libc.IPPROTO_TCP, libc.TCP_NOTSENT_LOWAT, 128 * 1024], // the socket is "full" at so many unsent bytes
  );
  // Left alone, the kernel lets megabytes be on their way, and each ping waits behind them. For a near peer this is enough to
  // keep the wire busy; for a far one the kernel's own choice is right.
  if (result < 0 || roundTrip(fd) >= NEAR) return result;
  return setOptions(fd, [libc.SOL_SOCKET, libc.SO_SNDBUF, NEAR_BUFFER]);
}

/** Listens on `address`:`port`, "*" for all addresses; the listening fd. It becomes readable when a client can be accepted. */
export function listenTcp(address: string, port: number): number {
  const any = existsSync("/proc/net/if_inet6") ? "::" : "0.0.0.0"; // proc(5): no such file where the kernel has no IPv6
  const local = sockaddr(address === "*" ? any : address, port);
  const fd = newSocket(local);
  let result = fd;
  // Without it a restart fails while old connections are in TIME_WAIT.
  if (result >= 0) result = setOptions(fd, [libc.SOL_SOCKET, libc.SO_REUSEADDR, 1]);
  if (result >= 0 && local.length === SIZEOF_SOCKADDR_IN6)
    result = setOptions(fd, [libc.IPPROTO_IPV6, libc.IPV6_V6ONLY, 0]); // "::" takes IPv4 clients, too
  if (result >= 0) result = libc.bind(fd, local, local.length);
  if (result >= 0) result = libc.listen(fd, 128);
  if (result >= 0) return fd;
  libc.close(fd);
  const hints: Record<number, string> = {
    [libc.EADDRINUSE]: `another program listens there ('ss -ltnp sport = :${port}' shows it): stop it, or choose another --port`,
    [libc.EADDRNOTAVAIL]: "this machine has no such address ('ip address' lists them): choose another --listen",
    [libc.EAFNOSUPPORT]: "this machine's kernel has no IPv6: choose an IPv4 address",
    [libc.EINVAL]: LINK_LOCAL,
    [libc.EACCES]: "ports below 1024 need root: choose a higher --port",
  };
  throw new Failure(`Cannot listen on ${endpoint(address, port)}: ${libc.errnoName(result)}`, hints[-result] ?? "see bind(2)");
}

/** Takes one waiting client; or a negative errno: -EAGAIN, none is left; or why this one is lost. */
export function acceptTcp(listener: number): TcpSocket | number {
  const sender = Buffer.alloc(SIZEOF_SOCKADDR_IN6);
  const fd = libc.accept4(listener, sender, [sender.length], libc.SOCK_NONBLOCK | libc.SOCK_CLOEXEC);
  if (fd < 0) return fd;
  const result = tune(fd);
  if (result < 0) {
    libc.close(fd);
    return result;
  }
  const [address, port] = readSockaddr(sender);
  return { fd, address, remote: endpoint(address, port) };
}

/**
 * Connects to the first of `addresses` that takes us. `prepare` is called before each try.
 * Errors: a Failure that says what to try.
 */
export async function connectTcp(addresses: string[], port: number, prepare = async (_address: string): Promise<void> => {}): Promise<TcpSocket> {
  const failures: string[] = [];
  const results: number[] = [];
  for (const address of addresses) {
    await prepare(address);
    const remote = sockaddr(address, port);
    const fd = newSocket(remote);
    let result = fd < 0 ? fd : await connect(fd, remote, CONNECT_DEADLINE / addresses.length);
    if (result >= 0) result = tune(fd);
    if (result >= 0) return { fd, address, remote: endpoint(address, port) };
    libc.close(fd);
    results.push(result);
    failures.push(`${endpoint(address, port)}: ${libc.errnoName(result)}`);
  }
  const hints: [errno: number, hint: string][] = [
    [libc.ECONNREFUSED, "the machine answers, but nothing listens there: start the server, or check --port"],
    [libc.EINVAL, LINK_LOCAL],
  ];
  const [, hint] = hints.find(([errno]) => results.includes(-errno)) ?? [];
  throw new Failure(
    `Cannot connect to ${failures.join(", nor to ")}`,
    hint ?? "check the address with ping, and that no firewall blocks the port",
  );
}

/** A non-blocking connect() is finished when the socket is writable; SO_ERROR then tells how (connect(2)). 0, or a negative errno. */
async function connect(fd: number, address: Buffer, ms: number): Promise<number> {
  const result = libc.connect(fd, address, address.length);
  if (result !== -libc.EINPROGRESS) return result;
  return (await ready(fd, "writable", ms)) ? -socketError(fd) : -libc.ETIMEDOUT;
}

/** The addresses of a name, of both families, in the resolver's order; an address is its own only one. Errors: a Failure. */
export async function resolve(name: string): Promise<string[]> {
  const host = name.replace(/^\[(.*)\]$/, "$1");
  if (host === "") throw new Failure(`Cannot connect to "": no name and no address`, "give the server's name or address");
  const ipv6 = parseIPv6(host);
  if (ipv6?.toString("hex", 0, 12) === MAPPED) return [formatIPv4(ipv6.readUInt32BE(12))]; // its packets are IPv4
  if (isIPv4(host) || isIPv6(host)) return [host];
  try {
    return (await dns.lookup(host, { all: true })).map(({ address }) => address);
  } catch (error) {
    throw new Failure(`Cannot find ${host}: ${(error as NodeJS.ErrnoException).code}`, "check the name, or give the server's address");
  }
}

/** The error waiting on a socket (getsockopt SO_ERROR), a positive errno or 0. */
export function socketError(fd: number): number {
  const int = Buffer.alloc(4);
  const result = libc.getsockopt(fd, libc.SOL_SOCKET, libc.SO_ERROR, int, [int.length]);
  return result < 0 ? -result : int.readInt32LE();
}
