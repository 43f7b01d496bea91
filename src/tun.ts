/**
 * The TUN device: a network interface whose cable ends in this program. What the kernel routes to tun0 we read()
 * here, one IP packet a call; what we write() here, the kernel receives as if tun0 had received it.
 */
import * as libc from "./libc.ts";
import { Failure } from "./program.ts";

export const CLONE_DEVICE = "/dev/net/tun";
export const MAX_PACKET = 65535; // bytes: the IPv4 header's total length is 16 bits

export interface Tun {
  readonly fd: number;
  readonly name: string;
}

/**
 * Creates the interface `name`, or attaches to a persistent one, and returns its non-blocking fd. The interface lives as
 * long as the fd: close it and it is gone, with its addresses and routes.
 * Source: linux Documentation/networking/tuntap.rst, ioctl TUNSETIFF.
 * Errors: a Failure that says what to try.
 */
export function openTun(name: string): Tun {
  const fd = libc.open(CLONE_DEVICE, libc.O_RDWR | libc.O_NONBLOCK | libc.O_CLOEXEC);
  if (fd < 0) throw new Failure(`Cannot open ${CLONE_DEVICE}: ${libc.errnoName(fd)}`, openHint(-fd));

  // struct ifreq: name[16], then flags as a short in host byte order (every machine koffi runs us on is little-endian)
  const request = Buffer.alloc(libc.SIZEOF_IFREQ);
  request.write(name, "latin1");
  request.writeUInt16LE(libc.IFF_TUN | libc.IFF_NO_PI, libc.IFNAMSIZ);
  const result = libc.ioctl(fd, libc.TUNSETIFF, request);
  if (result < 0) {
    libc.close(fd);
    throw new Failure(`Cannot create the interface ${name}: ${libc.errnoName(result)}`, createHint(-result));
  }
  return { fd, name };
}

function openHint(errno: number): string {
  if (errno === libc.ENOENT || errno === libc.ENODEV || errno === libc.ENXIO)
    return "load the driver with 'modprobe tun'; in a container, pass the device: --device /dev/net/tun";
  if (errno === libc.EACCES || errno === libc.EPERM) return "run as root (sudo)";
  return "see open(2) for this error";
}

function createHint(errno: number): string {
  if (errno === libc.EPERM) return "run as root (sudo), or give the container --cap-add NET_ADMIN";
  if (errno === libc.EBUSY) return "another program holds this name: choose another with --tun, or stop that program";
  if (errno === libc.EINVAL) return "the name is taken by an interface that is no TUN device: choose another with --tun";
  return "see linux Documentation/networking/tuntap.rst";
}

/** write(2)s one IP packet into the kernel. Undefined if the kernel took it, else why it did not. */
export function writePacket(tun: Tun, address: number, length: number): string | undefined {
  const result = libc.write(tun.fd, address, length);
  if (result >= 0) return undefined;
  if (result === -libc.EIO) return `${tun.name} is down (ip link set ${tun.name} up)`;
  if (result === -libc.EINVAL) return "the kernel says it is no IP packet";
  return `write to ${tun.name}: ${libc.errnoName(result)}`;
}
