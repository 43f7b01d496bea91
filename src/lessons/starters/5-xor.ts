/**
 * Lesson 5: XOR
 *
 * WHAT   Every byte of a packet is XORed with 0x42 on its way. Then your client talks to the real server, and
 *        to a program in C, because this is their protocol: --cipher xor.
 *
 * WHY    A VPN changes each packet before it goes over a network that others can read. XOR is the smallest
 *        change that can be taken back: twice XOR 0x42 is nothing. It keeps no secret. Everybody knows that
 *        an IP packet begins with 45, and 07 XOR 45 gives the key away. Lesson 6 mends that.
 *
 *     tun0 ─▶ read() ─▶ xor() ─▶ length in front ─▶ TCP ─▶ whole frame ─▶ xor() ─▶ write() ─▶ tun0
 *
 * BYTES  A frame, here of a ping (84 bytes = 00 54):
 *
 *     offset  bytes                                        before         on the wire
 *          0      2  length of the packet, as in lesson 4  00 54          00 54: not XORed, or the
 *                                                                         other end could not find the end
 *          2         the packet, each byte ^ 0x42          45 00 00 54 …  07 42 42 16 …
 *
 *        In TypeScript, a ^ b is a XOR b, for numbers. bytes[0]! ^= 0x42 changes the first byte in place.
 *        (The ! says to TypeScript that this byte is there.) buffer.subarray(2, 9) are the bytes 2 to 8: the
 *        same memory, so whoever changes them there changes `buffer`.
 *
 * READ   walkthrough.md, "XOR is no encryption"; src/core/xor.ts, which does four bytes at once;
 *        refs/simplevpn.c, xor_crypt(). Afterwards: make experiment NAME=break-xor reads a packet without the
 *        key.
 *
 * CHECK  make lesson N=5 looks at the bytes on the wire. Then your client meets the real server, the real
 *        client your server, and your client refs/simplevpn.c. Each gives tun0 the addresses of lesson 4.
 *
 * Below is lesson 4, solved, and three gaps.
 */
import * as c from "../kit.ts";

const PORT = 5555;
const XOR_KEY = 0x42;
const [role, address = ""] = process.argv.slice(2); // `server`, or `client ADDRESS`

/** Makes the network interface `name`, and returns the fd that its packets come from. */
function openTun(name: string): number {
  const fd = c.check(c.open("/dev/net/tun", c.O_RDWR), "open /dev/net/tun");
  const request = Buffer.alloc(40);
  request.write(name, "latin1");
  request.writeUInt16LE(c.IFF_TUN | c.IFF_NO_PI, 16);
  c.check(c.ioctl(fd, c.TUNSETIFF, request), "ioctl TUNSETIFF");
  return fd;
}

/** Turns over the same two bits of each byte. A second time brings the bytes back. */
export function xor(bytes: Buffer): void {
  // TODO 1: each byte of `bytes` becomes that byte ^ XOR_KEY
}

const tun = openTun("tun0");
const buffer = Buffer.alloc(65536);
let connection = -1; // the fd of the TCP connection to the other end; -1: there is none
let stopWatching = () => {};
let stream = Buffer.alloc(0); // what has come from the other end, and is no whole frame yet
let unsent = Buffer.alloc(0); // the rest of a frame that the full socket has not taken

/** tun0 is readable: each packet becomes a frame. Its length goes in front, 2 bytes, the high byte first. */
function onPacket(): void {
  for (;;) {
    const length = c.read(tun, buffer.subarray(2));
    if (length === -c.EAGAIN) return;
    c.check(length, "read tun0");
    buffer.writeUInt16BE(length, 0);
    // TODO 2: the packet lies in buffer, from byte 2 to 2 + length. Call xor() for it, not for the length
    send(buffer.subarray(0, 2 + length));
  }
}

/** The connection is readable: the stream goes on. Each frame in it that is now whole becomes a packet. */
function onStream(): void {
  const count = c.read(connection, buffer);
  if (count === -c.EAGAIN) return;
  if (count <= 0) return hangUp();
  stream = Buffer.concat([stream, buffer.subarray(0, count)]);
  while (stream.length >= 2) {
    const end = 2 + stream.readUInt16BE(0);
    if (stream.length < end) return;
    const packet = stream.subarray(2, end);
    // TODO 3: call xor() for the packet
    const result = c.write(tun, packet);
    if (result < 0) console.log(`dropped a packet: write tun0: ${c.errorName(result)}`);
    stream = stream.subarray(end);
  }
}

/** Writes a frame. If the socket is full, the frame is dropped, but never half of it: the rest waits. */
function send(frame: Buffer): void {
  if (connection < 0 || unsent.length > 0) return;
  const count = c.write(connection, frame);
  if (count === -c.EAGAIN || count === frame.length) return;
  if (count < 0) return hangUp();
  unsent = Buffer.from(frame.subarray(count));
  watchConnection();
}

/** The connection is writable: the rest goes out. */
function onWritable(): void {
  const count = c.write(connection, unsent);
  if (count === -c.EAGAIN) return;
  if (count < 0) return hangUp();
  unsent = unsent.subarray(count);
  watchConnection();
}

/** Watches the connection for reading, and for writing while a rest waits. */
function watchConnection(): void {
  stopWatching();
  stopWatching = c.watch(connection, onStream, unsent.length > 0 ? onWritable : undefined);
}

/** From now on `fd` is the connection. */
function use(fd: number): void {
  if (connection >= 0) hangUp();
  connection = fd;
  c.setsockopt(fd, c.IPPROTO_TCP, c.TCP_NODELAY, 1); // small frames go out at once
  console.log("connected");
  watchConnection();
}

/** The connection is over. */
function hangUp(): void {
  console.log("the connection is over");
  if (role === "client") process.exit(1);
  stopWatching();
  c.close(connection);
  connection = -1;
  stream = unsent = Buffer.alloc(0);
}

/** Server: a socket that waits for clients. The newest one is served. */
function serve(): void {
  const listener = c.check(c.socket(c.AF_INET, c.SOCK_STREAM, 0), "socket");
  c.setsockopt(listener, c.SOL_SOCKET, c.SO_REUSEADDR, 1); // else the port stays taken for a minute
  c.check(c.bind(listener, c.sockaddr_in("0.0.0.0", PORT), 16), "bind");
  c.check(c.listen(listener, 1), "listen");
  c.watch(listener, () => {
    const fd = c.accept(listener);
    if (fd >= 0) use(fd);
  });
}

/** Client: a socket that is connected to the server. */
function dial(): void {
  const fd = c.check(c.socket(c.AF_INET, c.SOCK_STREAM, 0), "socket");
  c.check(c.connect(fd, c.sockaddr_in(address, PORT), 16), "connect");
  use(fd);
}

c.watch(tun, onPacket);
if (role === "server") serve();
else dial();
