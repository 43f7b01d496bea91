/**
 * A UDP socket through libc, for many datagrams in one system call. Out: datagrams of one length lie one
 * behind the other in memory. One sendmsg() takes them all, and the kernel cuts them apart (UDP_SEGMENT). In:
 * one recvmsg() gives up to 64 KB of one sender, and the kernel says how long each is (UDP_GRO). See udp(7),
 * and refs/linux/net/ipv4/udp.c.md.
 *
 *   struct msghdr (recvmsg(2))               struct cmsghdr (cmsg(3)): what stands beside the data
 *   offset size                              offset size
 *   0      8    name: a sockaddr's address   0      8    length, of this header and its value
 *   8      4    its length                   8      4    level, as in setsockopt()
 *   16     8    iov: a struct iovec's        12     4    type
 *   24     8    how many: 1                  16     …    value; the next one begins at a multiple of 8
 *   32     8    control: the cmsghdrs'
 *   40     8    their length                 struct iovec: 8 bytes of address, 8 bytes of length
 *   48     4    flags
 */
import { existsSync } from "node:fs";
import { Memory, close } from "../base/libc.ts";
import { endpoint, readSockaddr, SIZEOF_SOCKADDR_IN6, sockaddr } from "./addresses.ts";
import { bindFailure } from "./sockets.ts";
import * as calls from "./socket-calls.ts";

export const MAX_SEGMENTS = 64; // datagrams in one sendmsg(): UDP_MAX_SEGMENTS of older kernels (linux/udp.h)
export const MAX_RUN = 65_507; // bytes of them: what one UDP datagram over IPv4 could have
export const MAX_RECEIVED = 65_536; // bytes that one recvmsg() may give
const SEND_BUFFER = 1024 * 1024; // bytes; the kernel doubles both
const RECEIVE_BUFFER = 4 * 1024 * 1024;
const CONTROL = 128; // bytes
const GRO = calls.IPPROTO_UDP * 256 + calls.UDP_GRO;
const OVERFLOW = calls.SOL_SOCKET * 256 + calls.SO_RXQ_OVFL;
const INFO = calls.IPPROTO_IP * 256 + calls.IP_PKTINFO;
const INFO6 = calls.IPPROTO_IPV6 * 256 + calls.IPV6_PKTINFO;
const INFO6_SIZE = 40; // bytes of such a cmsghdr

/** Where datagrams go to, or come from. */
export class Remote {
  readonly address: string;
  readonly text: string; // with its port
  readonly name: Buffer; // as a sockaddr
  /** Our own address that it writes to, as a cmsghdr; undefined: the kernel chooses one. */
  readonly local: Buffer | undefined;

  constructor(name: Buffer, local?: Buffer) {
    const [address, port] = readSockaddr(name);
    this.address = address;
    this.text = endpoint(address, port);
    this.name = name;
    this.local = local;
  }

  /** The same, from whichever address of ours the kernel chooses. */
  fromAny(): Remote {
    return new Remote(this.name);
  }
}

/** The three structs of one sendmsg() or recvmsg(), and what they point to. */
class Message {
  readonly header = new Memory(56);
  readonly vector = new Memory(16);
  readonly name = new Memory(SIZEOF_SOCKADDR_IN6);
  readonly control = new Memory(CONTROL);

  constructor() {
    const { header, vector, name, control } = this;
    for (const { bytes } of [header, vector, name, control]) bytes.fill(0);
    putAddress(header.bytes, 0, name.address);
    putAddress(header.bytes, 16, vector.address);
    header.bytes.writeUInt32LE(1, 24);
    putAddress(header.bytes, 32, control.address);
  }

  /** The data: `size` bytes of memory[at …]. */
  data(memory: Memory, at: number, size: number): void {
    memory.check(at, size);
    putAddress(this.vector.bytes, 0, memory.address + at);
    this.vector.bytes.writeUInt32LE(size, 8);
  }
}

function putAddress(bytes: Buffer, at: number, address: number): void {
  bytes.writeUInt32LE(address % 2 ** 32, at);
  bytes.writeUInt32LE(Math.floor(address / 2 ** 32), at + 4);
}

export class DatagramSocket {
  readonly fd: number;
  readonly isIPv6: boolean;
  segment = 0; // bytes of each datagram that the last receive() gave, but for the last one
  /**
   * What the kernel had to drop: it came while the socket had no room, or its UDP checksum was wrong
   * (SO_RXQ_OVFL tells sk_drops, which counts both). A run that GRO had joined counts as one.
   */
  overflowed = 0;
  received = 0; // how often has receive() given something?
  private readonly out = new Message();
  private readonly in = new Message();
  private latest: Remote | undefined; // what from() has said
  private info = -1; // where in.control tells the address of ours that they were sent to; -1: it does not

  /** Listens on `address`:`port`, "*" for all of this machine's. Errors: a Failure. */
  static listen(address: string, port: number): DatagramSocket {
    const any = existsSync("/proc/net/if_inet6") ? "::" : "0.0.0.0"; // proc(5): none without IPv6
    const local = sockaddr(address === "*" ? any : address, port);
    const socket = DatagramSocket.open(local.length === SIZEOF_SOCKADDR_IN6);
    let result = typeof socket === "number" ? socket : 0;
    if (typeof socket !== "number") {
      if (socket.isIPv6) result = socket.set(calls.IPPROTO_IPV6, calls.IPV6_V6ONLY, 0); // IPv4, too
      if (result >= 0)
        result = socket.isIPv6
          ? socket.set(calls.IPPROTO_IPV6, calls.IPV6_RECVPKTINFO, 1)
          : socket.set(calls.IPPROTO_IP, calls.IP_PKTINFO, 1);
      if (result >= 0) result = calls.bind(socket.fd, local, local.length);
      if (result >= 0) return socket;
      socket.close();
    }
    throw bindFailure(address, port, result, "udp");
  }

  /** A socket for a client; or a negative errno. */
  static open(isIPv6: boolean): DatagramSocket | number {
    const family = isIPv6 ? calls.AF_INET6 : calls.AF_INET;
    const type = calls.SOCK_DGRAM | calls.SOCK_NONBLOCK | calls.SOCK_CLOEXEC;
    const fd = calls.socket(family, type, 0);
    if (fd < 0) return fd;
    const socket = new DatagramSocket(fd, isIPv6);
    // Root may have larger buffers than others (SO_…FORCE); others get as much as the machine allows.
    if (socket.set(calls.SOL_SOCKET, calls.SO_SNDBUFFORCE, SEND_BUFFER) < 0)
      socket.set(calls.SOL_SOCKET, calls.SO_SNDBUF, SEND_BUFFER);
    if (socket.set(calls.SOL_SOCKET, calls.SO_RCVBUFFORCE, RECEIVE_BUFFER) < 0)
      socket.set(calls.SOL_SOCKET, calls.SO_RCVBUF, RECEIVE_BUFFER);
    socket.set(calls.IPPROTO_IP, calls.IP_MTU_DISCOVER, calls.PMTUDISC_DO);
    if (isIPv6) socket.set(calls.IPPROTO_IPV6, calls.IPV6_MTU_DISCOVER, calls.PMTUDISC_DO);
    socket.set(calls.SOL_SOCKET, calls.SO_RXQ_OVFL, 1);
    socket.set(calls.IPPROTO_UDP, calls.UDP_GRO, 1); // Linux 5.0; without it, one datagram a recvmsg()
    return socket;
  }

  private constructor(fd: number, isIPv6: boolean) {
    this.fd = fd;
    this.isIPv6 = isIPv6;
  }

  private set(level: number, name: number, value: number): number {
    const int = Buffer.alloc(4);
    int.writeInt32LE(value);
    return calls.setsockopt(this.fd, level, name, int, int.length);
  }

  /**
   * Shall an ICMP error, such as "nothing listens there", be told by receive()? A client wants it. On a
   * server the error would fail the next sendmsg(), which may be another client's, and anybody can forge it.
   * The price: that a network card's queue is full (ENOBUFS) is told only to who wants ICMP errors
   * (net/ipv4/udp.c, udp_send_skb()). So a server does not count what is lost there; `tc -s qdisc` does.
   */
  tellErrors(wanted: boolean): void {
    this.set(calls.IPPROTO_IP, calls.IP_RECVERR, Number(wanted));
    if (this.isIPv6) this.set(calls.IPPROTO_IPV6, calls.IPV6_RECVERR, Number(wanted));
  }

  /**
   * Sends memory[at, at + size) as datagrams of `segment` bytes each, the last one perhaps shorter. Returns
   * `size`, or a negative errno.
   */
  send({ name, local }: Remote, memory: Memory, at: number, size: number, segment: number): number {
    const { header, control } = this.out;
    this.out.data(memory, at, size);
    name.copy(this.out.name.bytes);
    header.bytes.writeUInt32LE(name.length, 8);
    let used = 0;
    if (segment < size) {
      used = 24;
      control.bytes.writeUInt32LE(18, 0);
      control.bytes.writeUInt32LE(calls.IPPROTO_UDP, 8);
      control.bytes.writeUInt32LE(calls.UDP_SEGMENT, 12);
      control.bytes.writeUInt16LE(segment, 16);
    }
    if (local) used += local.copy(control.bytes, used);
    header.bytes.writeUInt32LE(used, 40);
    return calls.sendmsg(this.fd, header.address);
  }

  /**
   * Receives datagrams of one sender to memory[at …], where MAX_RECEIVED bytes are free. The bytes of all, or
   * a negative errno.
   */
  receive(memory: Memory, at: number): number {
    const { header, control, name } = this.in;
    this.in.data(memory, at, MAX_RECEIVED);
    header.bytes.writeUInt32LE(name.bytes.length, 8);
    header.bytes.writeUInt32LE(CONTROL, 40);
    const count = calls.recvmsg(this.fd, header.address);
    this.segment = count;
    if (count < 0) return count;
    this.received++;
    this.info = -1;
    const used = header.bytes.readUInt32LE(40);
    for (let i = 0; i + 16 <= used; i += (control.bytes.readUInt32LE(i) + 7) & ~7) {
      const kind = control.bytes[i + 8]! * 256 + control.bytes[i + 12]!; // level, type: both are small
      if (kind === GRO) this.segment = control.bytes.readUInt32LE(i + 16);
      if (kind === OVERFLOW) this.overflowed = control.bytes.readUInt32LE(i + 16);
      if (kind === INFO || kind === INFO6) this.info = i;
    }
    return count;
  }

  /** Have the datagrams of the last receive() come from there, and to the same address of ours? */
  isFrom({ name, local }: Remote): boolean {
    const { info } = this;
    if (this.in.name.bytes.compare(name, 0, name.length, 0, name.length) !== 0) return false;
    if (!local || info < 0) return true;
    const [start, end] = [ownStart(local), ownEnd(local)];
    return this.in.control.bytes.compare(local, start, end, info + start, info + end) === 0;
  }

  /** Where they came from. */
  from(): Remote {
    const { header, name, control } = this.in;
    if (this.latest && this.isFrom(this.latest)) return this.latest;
    const length = header.bytes.readUInt32LE(8);
    const local = this.info < 0 ? undefined : localOf(control.bytes.subarray(this.info));
    this.latest = new Remote(Buffer.from(name.bytes.subarray(0, length)), local);
    return this.latest;
  }

  close(): void {
    close(this.fd);
  }
}

/**
 * From a cmsghdr that tells where a datagram was sent to, one that sends from there: struct in_pktinfo
 * (ip(7)) is an interface, our address, and the one in the header; in6_pktinfo (ipv6(7)) our address, and an
 * interface. The interface is left to the routes.
 */
function localOf(cmsg: Buffer): Buffer {
  const local = Buffer.alloc(cmsg.readUInt32LE(8) === calls.IPPROTO_IPV6 ? INFO6_SIZE : 32);
  cmsg.copy(local, 0, 0, 16); // its own header
  cmsg.copy(local, ownStart(local), ownStart(local), ownEnd(local));
  return local;
}

const ownStart = (local: Buffer) => (local.length === INFO6_SIZE ? 16 : 20);
const ownEnd = (local: Buffer) => (local.length === INFO6_SIZE ? 32 : 24);

/**
 * Bytes of an IP packet that the way there takes, as far as the kernel knows it: IP_MTU (ip(7)). 0: no idea.
 */
export function pathMtu({ name, address }: Remote): number {
  // never ::ffff:192.0.2.1: with net.ipv6.bindv6only=1, that cannot be connected to
  const to = sockaddr(address, name.readUInt16BE(2));
  const isIPv6 = to.length === SIZEOF_SOCKADDR_IN6;
  const fd = calls.socket(isIPv6 ? calls.AF_INET6 : calls.AF_INET, calls.SOCK_DGRAM | calls.SOCK_CLOEXEC, 0);
  if (fd < 0) return 0;
  const int = Buffer.alloc(4);
  const [level, option] = isIPv6 ? [calls.IPPROTO_IPV6, calls.IPV6_MTU] : [calls.IPPROTO_IP, calls.IP_MTU];
  let result = calls.connect(fd, to, to.length);
  if (result >= 0) result = calls.getsockopt(fd, level, option, int, [int.length]);
  close(fd);
  return result < 0 ? 0 : int.readInt32LE();
}
