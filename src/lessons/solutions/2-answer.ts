/** Lesson 2, solved: an answer. The text is in starters/2-answer.ts. */
import * as c from "../kit.ts";

/** Makes the network interface `name`, and returns the fd that its packets come from. */
function openTun(name: string): number {
  const fd = c.check(c.open("/dev/net/tun", c.O_RDWR), "open /dev/net/tun");
  const request = Buffer.alloc(40);
  request.write(name, "latin1");
  request.writeUInt16LE(c.IFF_TUN | c.IFF_NO_PI, 16);
  c.check(c.ioctl(fd, c.TUNSETIFF, request), "ioctl TUNSETIFF");
  return fd;
}

/** The Internet checksum (RFC 1071): the 16-bit words added up, carries too, and every bit turned over. */
function checksum(bytes: Buffer): number {
  let sum = 0;
  for (let at = 0; at < bytes.length; at += 2) sum += bytes[at]! * 256 + (bytes[at + 1] ?? 0);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >> 16);
  return ~sum & 0xffff;
}

/** Makes an echo request its own answer. False: the packet is none, and is left as it was. */
function answer(packet: Buffer): boolean {
  if (packet[0] !== 0x45 || packet[9] !== 1 || packet[20] !== 8) return false;
  const source = packet.readUInt32BE(12);
  packet.writeUInt32BE(packet.readUInt32BE(16), 12);
  packet.writeUInt32BE(source, 16);
  packet[20] = 0;
  packet.writeUInt16BE(0, 22);
  packet.writeUInt16BE(checksum(packet.subarray(20)), 22);
  return true;
}

const tun = openTun("tun0");
const buffer = Buffer.alloc(2048);
for (;;) {
  const length = c.check(c.read(tun, buffer), "read tun0");
  const packet = buffer.subarray(0, length);
  console.log(`${length} bytes: ${c.hex(packet, 20)}`);
  if (answer(packet)) c.check(c.write(tun, packet), "write tun0");
}
