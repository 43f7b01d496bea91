/**
 * The sockets of raw.ts. Out: a raw socket of each family, to which we give whole IP packets (IP_HDRINCL,
 * raw(7)). In: a packet socket (packet(7)), which gets a copy of each packet before the firewall and before
 * TCP. A filter in the kernel, BPF, leaves us those of our port. All take root to open, and none to use.
 */
import { EAFNOSUPPORT, EPERM, errnoName } from "../base/errno.ts";
import { counters } from "../base/counters.ts";
import { Failure } from "../base/failure.ts";
import { close, Memory } from "../base/libc.ts";
import { SIZEOF_SOCKADDR_IN6, sockaddr } from "./addresses.ts";
import * as calls from "./socket-calls.ts";
import type { Flow } from "./tcp-segments.ts";

/** On each packet of ours, for the rules that keep it out of the tunnel (SO_MARK, socket(7)): "vpn". */
export const MARK = 0x76706e;
const BATCH = 64; // packets in one sendmmsg()
const LARGEST = 1536; // bytes of a packet, and of the place that it has
const BUFFER = 8 * 1024 * 1024; // bytes
const [MSGHDR, IOVEC] = [64, 16]; // bytes of a struct mmsghdr (sendmmsg(2)), and of a struct iovec

// One instruction of BPF: code, lines to skip if it holds, and if not, operand (linux/filter.h).
type Instruction = [code: number, yes: number, no: number, operand: number];
const [LD_WORD, LD_HALF, LD_BYTE] = [0x20, 0x28, 0x30];
const LD_HALF_X = 0x48; // at x + …
const [LDX_NUMBER, LDX_HEADER] = [0x01, 0xb1]; // x = a number; x = 4 × (the byte's lower half)
const [GO, EQUAL, BITS, RETURN] = [0x05, 0x15, 0x45, 0x06];
const [PROTOCOL, PACKET_TYPE] = [0xfffff000, 0xfffff004]; // SKF_AD_OFF + SKF_AD_…

/** Whole packets of TCP to this machine with that port at TCP's byte `at`: 0, source; 2, destination. */
function filterFor(port: number, at: 0 | 2): Instruction[] {
  return [
    [LD_WORD, 0, 0, PACKET_TYPE],
    [EQUAL, 0, 14, 0], // PACKET_HOST: to this machine
    [LD_WORD, 0, 0, PROTOCOL],
    [EQUAL, 7, 0, 0x86dd],
    [EQUAL, 0, 11, 0x0800],
    [LD_BYTE, 0, 0, 9], // IPv4
    [EQUAL, 0, 9, calls.IPPROTO_TCP],
    [LD_HALF, 0, 0, 6],
    [BITS, 7, 0, 0x3fff], // a fragment
    [LDX_HEADER, 0, 0, 0],
    [GO, 0, 0, 3],
    [LD_BYTE, 0, 0, 6], // IPv6
    [EQUAL, 0, 3, calls.IPPROTO_TCP],
    [LDX_NUMBER, 0, 0, 40],
    [LD_HALF_X, 0, 0, at],
    [EQUAL, 1, 0, port],
    [RETURN, 0, 0, 0],
    [RETURN, 0, 0, 0xffffffff],
  ];
}

/**
 * Copies of the packets that `filter` lets through, from the IP header on; without one, of all. The fd, or a
 * negative errno.
 */
export function openPacketSocket(filter?: Instruction[]): number {
  const fd = calls.socket(calls.AF_PACKET, calls.SOCK_DGRAM | calls.SOCK_CLOEXEC | calls.SOCK_NONBLOCK, 0);
  const result = fd < 0 ? fd : listen(fd, filter);
  if (result >= 0) return fd;
  if (fd >= 0) close(fd);
  return result;
}

/** Until bind() names a protocol, nothing comes: so nothing that the filter would not let through. */
function listen(fd: number, filter?: Instruction[]): number {
  if (filter) {
    const [code, program] = [new Memory(8 * filter.length), Buffer.alloc(16)];
    filter.forEach(([operation, yes, no, operand], i) => {
      code.bytes.set([operation, 0, yes, no], 8 * i);
      code.bytes.writeUInt32LE(operand, 8 * i + 4);
    });
    program.writeUInt16LE(filter.length); // struct sock_fprog
    program.writeBigUInt64LE(BigInt(code.address), 8);
    set(fd, calls.SOL_PACKET, calls.PACKET_IGNORE_OUTGOING, 1); // Linux 4.20; the filter does it, too
    const result = calls.setsockopt(fd, calls.SOL_SOCKET, calls.SO_ATTACH_FILTER, program, program.length);
    if (result < 0) return result;
  }
  set(fd, calls.SOL_SOCKET, calls.SO_RCVBUFFORCE, BUFFER);
  const name = Buffer.alloc(20); // struct sockaddr_ll (packet(7)): all interfaces
  name.writeUInt16LE(calls.AF_PACKET);
  name.writeUInt16BE(calls.ETH_P_ALL, 2);
  return calls.bind(fd, name, name.length);
}

function set(fd: number, level: number, name: number, value: number): void {
  const int = Buffer.alloc(4);
  int.writeInt32LE(value);
  if (fd >= 0) calls.setsockopt(fd, level, name, int, int.length);
}

export class RawSocket {
  /** The one that receives. */
  readonly fd: number;
  private readonly senders: number[]; // of IPv4, of IPv6: a negative errno where there is none
  private readonly askers: number[]; // UDP sockets that never send: they tell our address on a way
  private readonly vectors = new Memory(BATCH * (MSGHDR + IOVEC));
  private readonly data = new Memory(BATCH * LARGEST);
  private readonly names = new Memory(2 * BATCH * SIZEOF_SOCKADDR_IN6);
  private waiting = 0; // packets
  private waitsIPv6 = false; // of which family

  /**
   * @param port the server's
   * @param isServer do we want what goes to that port, or what comes from it?
   * Errors: a Failure
   */
  constructor(port: number, isServer: boolean) {
    const families = [calls.AF_INET, calls.AF_INET6];
    const open = (type: number, protocol: number) =>
      families.map((family) =>
        calls.socket(family, type | calls.SOCK_CLOEXEC | calls.SOCK_NONBLOCK, protocol),
      );
    this.senders = open(calls.SOCK_RAW, calls.IPPROTO_RAW); // which has IP_HDRINCL, of both families
    this.askers = open(calls.SOCK_DGRAM, 0);
    this.fd = openPacketSocket(filterFor(port, isServer ? 2 : 0));
    const result = Math.min(this.fd, this.senders[0]!);
    if (result < 0) {
      this.close();
      const hint = result === -EPERM ? "start as root (sudo)" : "see packet(7) and raw(7)";
      throw new Failure(`Cannot open a raw socket: ${errnoName(result)}`, hint);
    }
    for (const fd of [...this.senders, ...this.askers]) set(fd, calls.SOL_SOCKET, calls.SO_MARK, MARK);
    for (const fd of this.senders) set(fd, calls.SOL_SOCKET, calls.SO_SNDBUFFORCE, BUFFER);
    this.vectors.bytes.fill(0);
    for (let i = 0; i < BATCH; i++) {
      this.putAddress(i * MSGHDR, this.names.address + i * SIZEOF_SOCKADDR_IN6);
      this.putAddress(i * MSGHDR + 16, this.vectors.address + BATCH * MSGHDR + i * IOVEC);
      this.vectors.bytes.writeUInt32LE(1, i * MSGHDR + 24);
      this.putAddress(BATCH * MSGHDR + i * IOVEC, this.data.address + i * LARGEST);
    }
  }

  private putAddress(at: number, address: number): void {
    this.vectors.bytes.writeBigUInt64LE(BigInt(address), at);
  }

  /** Our address on the way there, as a sockaddr with that port; or a negative errno. */
  own(to: Buffer, port: number): Buffer | number {
    const fd = this.askers[to.length === SIZEOF_SOCKADDR_IN6 ? 1 : 0]!;
    const name = Buffer.alloc(to.length);
    const forget = Buffer.alloc(16); // AF_UNSPEC: an earlier connect() (connect(2))
    let result = fd < 0 ? -EAFNOSUPPORT : calls.connect(fd, forget, forget.length);
    if (result >= 0) result = calls.connect(fd, to, to.length);
    if (result >= 0) result = calls.getsockname(fd, name, [name.length]);
    if (result < 0) return result;
    name.writeUInt16BE(port, 2);
    return name;
  }

  /** One more segment for the next flush(): bytes[from, to). */
  put(flow: Flow, bytes: Buffer, from: number, to: number): void {
    if (this.waiting === BATCH || (this.waiting > 0 && this.waitsIPv6 !== flow.isIPv6)) this.flush();
    const i = this.waiting++;
    this.waitsIPv6 = flow.isIPv6;
    bytes.copy(this.data.bytes, i * LARGEST + flow.header, from, to);
    const size = flow.write(this.data, i * LARGEST, to - from);
    flow.to.copy(this.names.bytes, i * SIZEOF_SOCKADDR_IN6);
    this.vectors.bytes.writeUInt32LE(flow.to.length, i * MSGHDR + 8);
    this.vectors.bytes.writeUInt32LE(size, BATCH * MSGHDR + i * IOVEC + 8);
  }

  /** Sends what waits. What the network does not take is lost, and counted: KCP sends it again. */
  flush(): void {
    const fd = this.senders[this.waitsIPv6 ? 1 : 0]!;
    let done = 0;
    while (done < this.waiting) {
      const count = calls.sendmmsg(fd, this.vectors.address + done * MSGHDR, this.waiting - done);
      if (count < 0) counters.drop(`the network does not take it: ${errnoName(count)}`, 1);
      done += Math.max(count, 1); // behind the one that was refused
    }
    this.waiting = 0;
  }

  /** Packets that came while the socket had no room, since the last call. */
  missed(): number {
    const counts = Buffer.alloc(8); // struct tpacket_stats: packets, drops
    calls.getsockopt(this.fd, calls.SOL_PACKET, calls.PACKET_STATISTICS, counts, [counts.length]);
    return counts.readUInt32LE(4);
  }

  close(): void {
    for (const fd of [this.fd, ...this.senders, ...this.askers]) if (fd >= 0) close(fd);
  }
}

/**
 * Takes a TCP port of this machine, so that the kernel gives it to nobody else. Nobody listens there. 0: any
 * that is free. Returns the fd and the port; or a negative errno.
 */
export function reserve(address: string, port: number): { fd: number; port: number } | number {
  const name = sockaddr(address, port);
  const type = calls.SOCK_STREAM | calls.SOCK_CLOEXEC;
  const fd = calls.socket(name.readUInt16LE(0), type, 0);
  let result = fd < 0 ? fd : calls.bind(fd, name, name.length);
  if (result >= 0) result = calls.getsockname(fd, name, [name.length]);
  if (result >= 0) return { fd, port: name.readUInt16BE(2) };
  if (fd >= 0) close(fd);
  return result;
}
