/**
 * Sockets of `--socks`: ordinary ones of the kernel, but bound to the TUN. Their packets leave by it, or not
 * at all, whatever the routes say. Node cannot bind to an interface, so libc makes them.
 */
import { createSocket, type Socket as UdpSocket } from "node:dgram";
import { BlockList, isIPv6 } from "node:net";
import { EADDRNOTAVAIL, EINPROGRESS, ETIMEDOUT } from "../base/errno.ts";
import { prefixOf } from "../base/block.ts";
import { close } from "../base/libc.ts";
import { ready } from "../core/loop.ts";
import { readSockaddr, sockaddr, SIZEOF_SOCKADDR_IN6 } from "../transport/addresses.ts";
import * as calls from "../transport/socket-calls.ts";
import { setOptions, socketError } from "../transport/sockets.ts";

const KEEPALIVE = 60; // s without a byte, then the kernel asks whether the other end is there

/** The way through the tunnel, as it is now. */
export interface Way {
  readonly tun: string;
  readonly own: () => string[]; // our inner addresses; none before the first session
  readonly nameServers: () => string[];
}

/** What is not beyond the tunnel: this machine, a link, groups of hosts; and IPv4 in another form. */
const NOT_BEYOND = {
  ipv4: listOf("ipv4", "0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3"),
  ipv6: listOf("ipv6", "::/127", "::ffff:0:0/96", "fe80::/10", "ff00::/8"),
};
function listOf(family: "ipv4" | "ipv6", ...blocks: string[]): BlockList {
  const list = new BlockList();
  for (const block of blocks) list.addSubnet(block.split("/")[0]!, prefixOf(block), family);
  return list;
}

/** May a program reach it? Not ourselves by our inner address either: for that, nobody needs a tunnel. */
export function isBeyond(address: string, own: string[]): boolean {
  // Each family has its list: for a BlockList, 8.8.8.8 is in ::ffff:0:0/96.
  const family = isIPv6(address) ? "ipv6" : "ipv4";
  return !own.includes(address) && !NOT_BEYOND[family].check(address, family);
}

/** Which of our addresses goes with that one? */
const sourceFor = ({ own }: Way, address: string) => own().find((one) => isIPv6(one) === isIPv6(address));

/** A socket of the TUN, from our inner address; its fd, or a negative errno. */
function openBound(way: Way, type: number, address: string): number {
  const source = sourceFor(way, address);
  if (source === undefined) return -EADDRNOTAVAIL; // no session yet, or no IPv6 in the tunnel
  const local = sockaddr(source, 0);
  const flags = calls.SOCK_NONBLOCK | calls.SOCK_CLOEXEC;
  const fd = calls.socket(local.readUInt16LE(0), type | flags, 0);
  if (fd < 0) return fd;
  const device = Buffer.from(`${way.tun}\0`);
  // Since Linux 5.7 this takes no root, if the socket is bound to none yet (socket(7))
  let result = calls.setsockopt(fd, calls.SOL_SOCKET, calls.SO_BINDTODEVICE, device, device.length);
  if (result >= 0) result = calls.bind(fd, local, local.length);
  if (result >= 0) return fd;
  close(fd);
  return result;
}

/** Connects through the tunnel within `ms`; the fd, or a negative errno. */
export async function connectThrough(way: Way, address: string, port: number, ms: number): Promise<number> {
  const remote = sockaddr(address, port);
  const fd = openBound(way, calls.SOCK_STREAM, address);
  if (fd < 0) return fd;
  let result = calls.connect(fd, remote, remote.length);
  if (result === -EINPROGRESS) result = (await ready(fd, "writable", ms)) ? -socketError(fd) : -ETIMEDOUT;
  if (result >= 0)
    result = setOptions(
      fd,
      [calls.IPPROTO_TCP, calls.TCP_NODELAY, 1], // the program waits, if it wants to
      [calls.SOL_SOCKET, calls.SO_KEEPALIVE, 1],
      [calls.IPPROTO_TCP, calls.TCP_KEEPIDLE, KEEPALIVE],
    );
  if (result >= 0) return fd;
  close(fd);
  return result;
}

/** The address and port of our end. */
export function localOf(fd: number): [address: string, port: number] {
  const local = Buffer.alloc(SIZEOF_SOCKADDR_IN6);
  calls.getsockname(fd, local, [local.length]);
  return readSockaddr(local);
}

/** A socket for datagrams to addresses of that one's family, or a negative errno. */
export function udpThrough(way: Way, address: string): UdpSocket | number {
  const fd = openBound(way, calls.SOCK_DGRAM, address);
  return fd < 0 ? fd : createSocket(isIPv6(address) ? "udp6" : "udp4").bind({ fd });
}
