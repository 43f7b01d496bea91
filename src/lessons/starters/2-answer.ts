/**
 * Lesson 2: an answer
 *
 * WHAT   Your program answers pings, for 10.8.0.99. No machine has that address.
 *
 * WHY    read() takes a packet out of the kernel, and write() puts one into it. To the kernel, what you write
 *        has come in through tun0, from wherever you say. So a program can be a whole network.
 *
 *     ping 10.8.0.99 ─▶ kernel ─▶ tun0 ─▶ read()  ─▶ ┐
 *                                                    answer(): turns the packet around
 *     64 bytes from… ◀─ kernel ◀─ tun0 ◀─ write() ◀─ ┘
 *
 * BYTES  The packet of ping, an echo request (RFC 791, RFC 792):
 *
 *     offset  bytes                             in your answer
 *          0      1  45: IPv4, header 20 bytes  the same
 *          9      1  protocol, 1: ICMP          the same
 *         10      2  the IP header's checksum   the same: turned around, the addresses add up to the same sum
 *         12      4  source, 10.8.0.2           the old destination
 *         16      4  destination, 10.8.0.99     the old source
 *         20      1  type, 8: echo request      0: echo reply
 *         21      1  code, 0                    the same
 *         22      2  the ICMP checksum          a new one: over bytes 20 to the end, with 0 in these two
 *         24         id, number, data           the same, byte for byte: ping compares them
 *
 *        The checksum (RFC 1071) takes the bytes by two, the high byte first: 08 00 is 0x0800.
 *        1. Add all of them. An odd last byte counts as if a 0 followed.
 *        2. What is above 16 bits is a carry. Add it to the lower 16 bits, until there is none:
 *           0x2b3c5 → 0xb3c5 + 0x2 = 0xb3c7
 *        3. Turn every bit over, and keep 16 of them: ~sum & 0xffff. 0xb3c7 → 0x4c38
 *
 *        A Buffer has readUInt16BE(at), writeUInt16BE(value, at), and the same with 32. BE is "big-endian":
 *        the high byte first, as all numbers in packets are. packet.subarray(20) is the rest from byte 20 on:
 *        the same memory, no copy.
 *
 * READ   man 2 write; RFC 792 page 14, RFC 1071 section 1; walkthrough.md, "Step 10".
 *
 * CHECK  make lesson N=2 gives tun0 the address 10.8.0.2/24, and pings 10.8.0.99: once, three times, in
 *        odd sizes; then another address. It also sends what is none of your business: UDP, an echo reply,
 *        and a packet with IP options, whose header has 24 bytes.
 */
import * as c from "../kit.ts";

/** Makes the network interface `name`, and returns the fd that its packets come from. (Lesson 1, solved.) */
function openTun(name: string): number {
  const fd = c.check(c.open("/dev/net/tun", c.O_RDWR), "open /dev/net/tun");
  const request = Buffer.alloc(40);
  request.write(name, "latin1");
  request.writeUInt16LE(c.IFF_TUN | c.IFF_NO_PI, 16);
  c.check(c.ioctl(fd, c.TUNSETIFF, request), "ioctl TUNSETIFF");
  return fd;
}

/** The Internet checksum of `bytes`, a number of 16 bits. */
function checksum(bytes: Buffer): number {
  return 0; // TODO 1: the three steps from above
}

/** Makes an echo request its own answer. False: the packet is none, and is left as it was. */
function answer(packet: Buffer): boolean {
  // TODO 2: look at bytes 0, 9 and 20; then change what the table says
  return false;
}

const tun = openTun("tun0");
const buffer = Buffer.alloc(2048);
// TODO 3: a loop around these lines, for (;;) { … }, that also writes the packet to `tun`,
// if answer() has made it one.
const length = c.check(c.read(tun, buffer), "read tun0");
const packet = buffer.subarray(0, length);
console.log(`${length} bytes: ${c.hex(packet, 20)}`);
answer(packet);
