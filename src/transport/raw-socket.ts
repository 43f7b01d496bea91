/**
 * The sockets of raw.ts. Out: a raw socket of each family, to which we give whole IP packets (IP_HDRINCL,
 * raw(7)). In: a packet socket (packet(7)), which gets a copy of each packet before the firewall and before
 * TCP. A filter in the kernel, BPF, leaves us those of our port. All take root to open, and none to use.
 *
 * A raw socket takes one segment at a time. So, once something has come from the other end, what goes there
 * leaves by another packet socket, up to 64 KB at a time: one large segment, which the kernel cuts as it cuts
 * its own (PACKET_VNET_HDR; the ten bytes in front are those of core/offload.ts). That goes to whoever has
 * handed us the other end's latest packet, the router or the end itself: no route is looked up.
 */
import { EADDRNOTAVAIL, EAFNOSUPPORT, EPERM, errnoName } from "../base/errno.ts";
import { counters } from "../base/counters.ts";
import { Failure } from "../base/failure.ts";
import { close, ioctl, Memory, SIZEOF_IFREQ } from "../base/libc.ts";
import { OFFLOAD_HEADER } from "../core/offload.ts";
import { readSockaddr, SIZEOF_SOCKADDR_IN6, sockaddr } from "./addresses.ts";
import * as calls from "./socket-calls.ts";
import { CHECKSUM, type Flow, type Segment, TCP_HEADER } from "./tcp-segments.ts";

/** On each packet of ours, for the rules that keep it out of the tunnel (SO_MARK, socket(7)): "vpn". */
export const MARK = 0x76706e;
const BUFFER = 8 * 1024 * 1024; // bytes
const MAX_RECEIVED = 0x10000; // bytes
const RUN = 0xffff; // bytes of an IP packet that the kernel is to cut
const NAME = 20; // bytes of a struct sockaddr_ll (packet(7))
const [ETHERNET, LOOPBACK, NONE] = [1, 772, 65534]; // kinds of links (linux/if_arp.h); a TUN is of the last
const SIOCGIFHWADDR = 0x8927; // linux/sockios.h: an interface's own address (netdevice(7))
const [NEEDS_CSUM, TCPV4, TCPV6] = [1, 1, 4]; // linux/virtio_net.h
const IP_AT = 24; // where a packet begins in `run`: behind the ten bytes and Ethernet's header

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
  private readonly cutter: number; // the one whose large segments the kernel cuts
  private readonly memory = new Memory(MAX_RECEIVED);
  private readonly from = new Memory(NAME + 4); // who has handed us the latest packet; how long that name is
  private readonly run = new Memory(IP_AT + RUN + 1);
  private runner: Flow | undefined; // whose segments are in it
  private size = 0; // bytes of their payloads
  private segment = 0; // bytes of each, but for the last one
  private result = 0; // of the latest flush()

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
    this.cutter = calls.socket(calls.AF_PACKET, calls.SOCK_RAW | calls.SOCK_CLOEXEC | calls.SOCK_NONBLOCK, 0);
    const result = Math.min(this.fd, this.senders[0]!, this.cutter);
    if (result < 0) {
      this.close();
      const hint = result === -EPERM ? "start as root (sudo)" : "see packet(7) and raw(7)";
      throw new Failure(`Cannot open a raw socket: ${errnoName(result)}`, hint);
    }
    for (const fd of [...this.senders, ...this.askers]) set(fd, calls.SOL_SOCKET, calls.SO_MARK, MARK);
    for (const fd of this.senders) set(fd, calls.SOL_SOCKET, calls.SO_SNDBUFFORCE, BUFFER);
    set(this.cutter, calls.SOL_SOCKET, calls.SO_SNDBUFFORCE, BUFFER);
    set(this.cutter, calls.SOL_PACKET, calls.PACKET_VNET_HDR, 1);
  }

  /** One packet into `segment`; false: it is none for us. Undefined: there is none, or a negative errno. */
  receive(segment: Segment): boolean | undefined {
    const { memory, from } = this;
    from.bytes.writeUInt32LE(NAME, NAME);
    const count = calls.recvfromTo(this.fd, memory, from.address, from.address + NAME);
    return count < 0 ? undefined : segment.read(memory.bytes, 0, count);
  }

  /** The latest packet was the other end's: from now on, what goes there goes back that way. */
  learn(flow: Flow): void {
    const { bytes } = this.from;
    if (flow.hop && bytes.compare(flow.hop.name, 4, NAME, 4, NAME) === 0) return;
    const name = Buffer.from(bytes.subarray(0, NAME));
    const header = this.linkHeader(name, flow.isIPv6 ? calls.ETH_P_IPV6 : calls.ETH_P_IP);
    if (this.runner === flow) this.flush();
    flow.hop = header && { name, header };
  }

  /** What stands before each packet that goes to that sockaddr_ll; undefined: its link is of another kind. */
  private linkHeader(name: Buffer, protocol: number): Buffer | undefined {
    const kind = name.readUInt16LE(8);
    if (kind === NONE) return Buffer.alloc(0);
    const request = Buffer.alloc(SIZEOF_IFREQ);
    if (kind !== ETHERNET && kind !== LOOPBACK) return undefined;
    if (!calls.if_indextoname(name.readUInt32LE(4), request)) return undefined; // it is gone
    if (ioctl(this.cutter, SIOCGIFHWADDR, request) < 0) return undefined;
    const header = Buffer.alloc(14); // of Ethernet: to, from, protocol
    name.copy(header, 0, 12, 18);
    request.copy(header, 6, 18, 24);
    header.writeUInt16BE(protocol, 12);
    return header;
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

  /** One more segment: bytes[from, to). It leaves with the next flush(), at the latest. */
  put(flow: Flow, bytes: Buffer, from: number, to: number): void {
    const count = to - from;
    const isFull =
      this.size % this.segment > 0 || count > this.segment || this.size + count > RUN - flow.header;
    if (this.size > 0 && (this.runner !== flow || isFull)) this.flush();
    if (this.size === 0) [this.runner, this.segment] = [flow, count];
    bytes.copy(this.run.bytes, IP_AT + flow.header + this.size, from, to);
    this.size += count;
    if (!flow.hop) this.flush();
  }

  /**
   * Sends what waits. What the network does not take is lost, and counted: KCP sends it again. Negative: the
   * latest errno.
   */
  flush(): number {
    const { run, runner: flow, size, segment, cutter } = this;
    if (!flow || size === 0) return this.result;
    this.size = 0;
    const { hop, to, isIPv6 } = flow;
    const count = flow.write(run, IP_AT, size, hop ? segment : 0);
    let result;
    if (hop) {
      const { bytes } = run;
      const isLarge = size > segment;
      const link = hop.header.length;
      const at = IP_AT - link - OFFLOAD_HEADER;
      bytes[at] = NEEDS_CSUM;
      bytes[at + 1] = isLarge ? (isIPv6 ? TCPV6 : TCPV4) : 0;
      bytes.writeUInt16LE(link + flow.header, at + 2); // hdr_len
      bytes.writeUInt16LE(isLarge ? segment : 0, at + 4); // gso_size
      bytes.writeUInt16LE(link + flow.header - TCP_HEADER, at + 6); // csum_start
      bytes.writeUInt16LE(CHECKSUM, at + 8); // csum_offset
      hop.header.copy(bytes, at + OFFLOAD_HEADER);
      result = calls.sendto(cutter, run.address + at, IP_AT - at + count, 0, hop.name, hop.name.length);
    } else result = calls.sendto(this.senders[isIPv6 ? 1 : 0]!, run.address + IP_AT, count, 0, to, to.length);
    if (result < 0) counters.drop(`the network does not take it: ${errnoName(result)}`, 1);
    return (this.result = result);
  }

  /** Packets that came while the socket had no room, since the last call. */
  missed(): number {
    const counts = Buffer.alloc(8); // struct tpacket_stats: packets, drops
    calls.getsockopt(this.fd, calls.SOL_PACKET, calls.PACKET_STATISTICS, counts, [counts.length]);
    return counts.readUInt32LE(4);
  }

  close(): void {
    for (const fd of [this.fd, this.cutter, ...this.senders, ...this.askers]) if (fd >= 0) close(fd);
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

/** Is that sockaddr's address one of this machine's? */
export function isOwn(name: Buffer): boolean {
  const taken = reserve(readSockaddr(name)[0], 0);
  if (typeof taken !== "number") close(taken.fd);
  return taken !== -EADDRNOTAVAIL; // a link's own address needs more to be taken
}
