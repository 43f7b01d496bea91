/**
 * The TUN device: a network interface whose cable ends in this program. What the kernel routes to tun0 we read()
 * here, one IP packet a call; what we write() here, the kernel receives as if tun0 had received it.
 */
import { spawnSync } from "node:child_process";
import * as libc from "./libc.ts";
import { OFFLOAD_HEADER, refuseOffload } from "./offload.ts";
import { Failure } from "./program.ts";

export const CLONE_DEVICE = "/dev/net/tun";
export const MAX_PACKET = 65535; // bytes: the IPv4 header's total length is 16 bits

const LARGE = libc.TUN_F_CSUM | libc.TUN_F_TSO4 | libc.TUN_F_TSO6;

export interface Tun {
  readonly fd: number;
  readonly name: string;
  readonly header: number; // bytes in front of each packet that is read or written: OFFLOAD_HEADER, or 0
}

/** What --offload and --cipher ask of the TUN: plain packets; packets behind an offload header; large ones, too. */
export type Offload = "none" | "off" | "on";

/**
 * Creates the interface `name`, or attaches to a persistent one, and returns its non-blocking fd. The interface lives as
 * long as the fd: close it and it is gone, with its addresses and routes.
 * Source: linux Documentation/networking/tuntap.rst, ioctls TUNSETIFF, TUNSETVNETHDRSZ and TUNSETOFFLOAD.
 * Errors: a Failure that says what to try.
 */
export function openTun(name: string, offload: Offload): Tun {
  const fd = libc.open(CLONE_DEVICE, libc.O_RDWR | libc.O_NONBLOCK | libc.O_CLOEXEC);
  if (fd < 0) throw new Failure(`Cannot open ${CLONE_DEVICE}: ${libc.errnoName(fd)}`, openHint(-fd));

  // struct ifreq: name[16], then flags as a short in host byte order (every machine koffi runs us on is little-endian)
  const request = Buffer.alloc(libc.SIZEOF_IFREQ);
  request.write(name, "latin1");
  const header = offload === "none" ? 0 : OFFLOAD_HEADER;
  request.writeUInt16LE(libc.IFF_TUN | libc.IFF_NO_PI | (header ? libc.IFF_VNET_HDR : 0), libc.IFNAMSIZ);
  let result = libc.ioctl(fd, libc.TUNSETIFF, request);
  if (result >= 0 && header) result = libc.ioctl(fd, libc.TUNSETVNETHDRSZ, Buffer.from([header, 0, 0, 0])); // an int
  if (result < 0) {
    libc.close(fd);
    throw notCreated(name, -result);
  }
  // Always, for a persistent interface remembers what its last owner asked for. A kernel that refuses goes on giving us packets of
  // the MTU: slower, but all works.
  libc.ioctl(fd, libc.TUNSETOFFLOAD, offload === "on" ? LARGE : 0);
  return { fd, name, header };
}

function openHint(errno: number): string {
  const container = "in a container, pass the device: --device /dev/net/tun";
  const missing = [libc.ENOENT, libc.ENODEV, libc.ENXIO].includes(errno);
  if (missing) return `load the driver with 'modprobe tun'; ${container}`;
  if (errno === libc.EACCES || errno === libc.EPERM) return `run as root (sudo); ${container}`;
  return "see open(2) for this error";
}

/**
 * Why TUNSETIFF failed: its errno, and what ip(8) says of an interface that has this name. (/sys shows
 * those of the network namespace that mounted it, which may be another one than ours.)
 */
function notCreated(name: string, errno: number): Failure {
  const { stdout } = spawnSync("ip", ["-d", "-o", "link", "show", "dev", name], { encoding: "utf8" });
  const found = stdout || ""; // none, or no ip
  const failed = `Cannot create the interface ${name}: ${libc.errnoName(errno)}`;
  if (errno === libc.EPERM) {
    const [, owner] = / persist \w+ ((?:user|group) \S+(?: group \S+)?)/.exec(found) ?? [];
    const container = "in a container, as root with --cap-add NET_ADMIN";
    if (!owner) return new Failure(failed, `run as root (sudo); ${container}`);
    const hint = `run as root (sudo), or as ${owner}; ${container}`;
    return new Failure(`${failed}, for it belongs to ${owner}`, hint);
  }
  const another = "choose another name with --tun";
  if (errno === libc.EBUSY) return new Failure(failed, `${another}, or stop the program that holds this one`);
  if (errno !== libc.EINVAL) return new Failure(failed, "see linux Documentation/networking/tuntap.rst");
  if (!found) return new Failure(failed, `${another}: this one's is no TUN, or was made with multi_queue`);
  const tun = / tun type tun .*multi_queue/.test(found) ? "a TUN made with multi_queue" : "what is no TUN";
  const kind = / tun type tap /.test(found) ? "a TAP" : tun;
  const removal = / persist on /.test(found) ? `, or remove this one: ip link del ${name}` : "";
  return new Failure(`${failed}, for ${kind} has this name`, another + removal);
}

/** write(2)s one IP packet, behind its header, into the kernel. Undefined if the kernel took it, else why it did not. */
export function writePacket(tun: Tun, memory: libc.Memory, at: number, length: number): string | undefined {
  const refusal = tun.header ? refuseOffload(memory.bytes, at, length) : undefined;
  if (refusal !== undefined) return refusal;
  const result = libc.write(tun.fd, memory, at, length);
  if (result >= 0) return undefined;
  if (result === -libc.EIO) return `${tun.name} is down (the commands printed at the start set it up)`;
  if (result === -libc.EINVAL) return "the kernel says it is no IP packet";
  return `write to ${tun.name}: ${libc.errnoName(result)}`;
}
