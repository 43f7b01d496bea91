/**
 * Lesson 3: the loop
 *
 * WHAT   Your program waits for two things at once: packets, and keystrokes. Enter shows how many pings
 *        it has answered.
 *
 * WHY    A program that sleeps in read(tun) does not hear the keyboard, and the other way round. A VPN
 *        has the same trouble: its TUN and its socket. The classic answer is one place to sleep for all of
 *        them: select(2).
 *
 *        In C                                             here
 *
 *        for (;;) {                                       Node's own loop
 *            FD_ZERO(&readable);
 *            FD_SET(tun, &readable);                      c.watch(tun, onPacket)
 *            FD_SET(0, &readable);                        c.watch(0, onKey)          0 is the keyboard
 *            select(tun + 1, &readable, 0, 0, 0);         it sleeps in epoll_wait(2)
 *            if (FD_ISSET(tun, &readable)) on_packet();   … and calls onPacket()
 *            if (FD_ISSET(0, &readable)) on_key();        … and calls onKey()
 *        }
 *
 *        Node's loop runs when your file has come to its end. As long as a for (;;) goes on, it never does.
 *
 * EAGAIN c.watch() makes its fd non-blocking: read() never sleeps on it. Its result is one of these:
 *
 *        > 0          so many bytes. For a TUN that is one packet. There may be more: read again
 *        -c.EAGAIN    nothing there now. Not a mistake: return, and the loop sleeps until there is
 *        0            the end (never of a TUN): the keyboard's end is Ctrl-D. It stays readable for ever, so
 *                     select() would report it again and again. Take it out of the loop: c.watch() returns a
 *                     function that does so
 *        < 0          any other errno: a mistake. c.check() ends the program
 *
 * READ   man 2 select, man 2 read (EAGAIN); walkthrough.md, "The loop"; src/core/loop.ts.
 *
 * CHECK  make lesson N=3 pings while nobody types, types while nobody pings, does both, and ends the input.
 */
import * as c from "../kit.ts";

/** Makes the network interface `name`, and returns the fd that its packets come from. (Lesson 1.) */
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

/** Makes an echo request its own answer. False: the packet is none, and is left as it was. (Lesson 2.) */
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
let answered = 0; // pings

/** tun0 is readable. */
function onPacket(): void {
  // TODO 1: read and answer packets until read() gives -c.EAGAIN, and count what you answer
  const length = c.check(c.read(tun, buffer), "read tun0");
  const packet = buffer.subarray(0, length);
  if (answer(packet)) c.check(c.write(tun, packet), "write tun0");
}

/** The keyboard is readable: a line was typed. */
function onKey(): void {
  // TODO 2: read what was typed (a Buffer of its own); at the end, 0, stop watching the keyboard
  console.log(`answered: ${answered}`);
}

// TODO 3: instead of this loop, watch the two fds
for (;;) onPacket();
