/** Lesson 1, solved: a TUN. The text is in starters/1-tun.ts. */
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

const tun = openTun("tun0");
const packet = Buffer.alloc(2048);
const length = c.check(c.read(tun, packet), "read tun0");
console.log(`${length} bytes: ${c.hex(packet, 20)}`);
