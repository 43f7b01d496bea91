/**
 * Lesson 1: a TUN
 *
 * WHAT   You make a network interface of your own, and read the first packet that the kernel sends into it.
 *
 * WHY    It is the door of every VPN. The cable of eth0 ends in a switch. The cable of tun0 ends in a
 *        program: what the kernel sends into tun0, the program reads, and does with it what it likes.
 *
 *     ping 10.8.0.1 ─▶ the kernel: "10.8.0.0/24 is behind tun0" ─▶ tun0 ─▶ c.read(tun, packet) in this file
 *
 * CALLS  Three, in this order. `c` is the kit: C's calls by their names, and C's constants.
 *
 *     fd = c.open("/dev/net/tun", c.O_RDWR)   a file descriptor; there is no interface yet
 *     c.ioctl(fd, c.TUNSETIFF, request)       now there is tun0. It lives as long as the fd is open
 *     c.read(fd, packet)                      sleeps until there is a packet, and gives that one
 *
 *        Each returns a number >= 0, or a negative errno. c.check(result, "open /dev/net/tun") returns the
 *        result, but ends the program if it is negative, with a line that says why.
 *
 * BYTES  `request` is C's struct ifreq: 40 bytes. Two fields matter, the rest stays 0.
 *
 *     offset  bytes
 *          0     16  the name: "tun0", then zeros
 *         16      2  the flags, the low byte first: request.writeUInt16LE(flags, 16). They are
 *                    c.IFF_TUN | c.IFF_NO_PI: whole IP packets, and nothing stands in front of them
 *
 *        What you will read is a packet of ping: an IP header of 20 bytes (RFC 791), then ICMP.
 *
 *     offset  bytes
 *          0      1  45: version 4, and a header of 5 words of 4 bytes
 *          2      2  how long the packet is, the high byte first: 00 54 = 84 bytes
 *          9      1  what is in it: 01 = ICMP
 *         12      4  from: 0a 08 00 02 = 10.8.0.2
 *         16      4  to:   0a 08 00 01 = 10.8.0.1
 *
 * READ   man 2 open, man 2 ioctl, man 7 netdevice (struct ifreq); walkthrough.md, "Making a TUN".
 *
 * CHECK  make lesson N=1 runs this file on a host of the lab. When tun0 is there, it gives tun0 the address
 *        10.8.0.2 and pings 10.8.0.1. Nobody answers that ping yet: that is lesson 2.
 */
import * as c from "../kit.ts";

/** Makes the network interface `name`, and returns the fd that its packets come from. */
function openTun(name: string): number {
  const fd = -1; // TODO 1: open /dev/net/tun instead

  const request = Buffer.alloc(40);
  request.write(name, "latin1"); // from offset 0 on
  // TODO 2: put the flags into `request`, and hand it to ioctl

  return fd;
}

const tun = openTun("tun0");
const packet = Buffer.alloc(2048);
// TODO 3: read one packet from `tun`, and print its first 20 bytes: console.log(c.hex(packet, 20))
console.log(`tun0 is fd ${tun}, and the buffer begins ${c.hex(packet, 2)}`);
