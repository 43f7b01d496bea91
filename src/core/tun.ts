/**
 * The TUN device: a network interface whose cable ends in this program. What the kernel routes to tun0 we
 * read() here, one IP packet a call; what we write() here, the kernel receives as if tun0 had received it.
 */
import { notCreated, notOpened } from "../base/tun-failure.ts";
import { EINVAL, EIO, errnoName } from "../base/errno.ts";
import * as libc from "../base/libc.ts";
import { OFFLOAD_HEADER, refuseOffload } from "./offload.ts";

export const CLONE_DEVICE = "/dev/net/tun";

const LARGE = libc.TUN_F_CSUM | libc.TUN_F_TSO4 | libc.TUN_F_TSO6;

export interface Tun {
  readonly fd: number;
  readonly name: string;
  readonly header: number; // bytes in front of each packet that is read or written: OFFLOAD_HEADER, or 0
}

/**
 * What --offload and --cipher ask of the TUN: plain packets; packets behind an offload header; large ones,
 * too.
 */
export type Offload = "none" | "off" | "on";

/**
 * Creates the interface `name`, or attaches to a persistent one, and returns its non-blocking fd. The
 * interface lives as long as the fd: close it and it is gone, with its addresses and routes. Source: linux
 * Documentation/networking/tuntap.rst, ioctls TUNSETIFF, TUNSETVNETHDRSZ and TUNSETOFFLOAD. Errors: a Failure
 * that says what to try. `kind`: IFF_TUN; the manager asks for other flags, too.
 */
export function openTun(name: string, offload: Offload, kind = libc.IFF_TUN): Tun {
  const fd = libc.open(CLONE_DEVICE, libc.O_RDWR | libc.O_NONBLOCK | libc.O_CLOEXEC);
  if (fd < 0) throw notOpened(CLONE_DEVICE, -fd);

  // struct ifreq: name[16], then flags as a short in host byte order (every machine koffi runs us on is
  // little-endian)
  const request = Buffer.alloc(libc.SIZEOF_IFREQ);
  request.write(name, "latin1");
  const header = offload === "none" ? 0 : OFFLOAD_HEADER;
  request.writeUInt16LE(kind | libc.IFF_NO_PI | (header ? libc.IFF_VNET_HDR : 0), libc.IFNAMSIZ);
  let result = libc.ioctl(fd, libc.TUNSETIFF, request);
  const int = Buffer.from([header, 0, 0, 0]);
  if (result >= 0 && header) result = libc.ioctl(fd, libc.TUNSETVNETHDRSZ, int);
  if (result < 0) {
    libc.close(fd);
    throw notCreated(name, -result);
  }
  // Always, for a persistent interface remembers what its last owner asked for. A kernel that refuses goes on
  // giving us packets of the MTU: slower, but all works.
  libc.ioctl(fd, libc.TUNSETOFFLOAD, offload === "on" ? LARGE : 0);
  return { fd, name, header };
}

/**
 * write(2)s one IP packet, behind its header, into the kernel. Undefined if the kernel took it, else why it
 * did not.
 */
export function writePacket(tun: Tun, memory: libc.Memory, at: number, length: number): string | undefined {
  const refusal = tun.header ? refuseOffload(memory.bytes, at, length) : undefined;
  if (refusal !== undefined) return refusal;
  const result = libc.write(tun.fd, memory, at, length);
  if (result >= 0) return undefined;
  if (result === -EIO) return `${tun.name} is down (the commands printed at the start set it up)`;
  if (result === -EINVAL) return "the kernel says it is no IP packet";
  return `write to ${tun.name}: ${errnoName(result)}`;
}
