/**
 * Lesson 4: the tunnel
 *
 * WHAT   Two hosts, one TCP connection between them. What goes into tun0 here comes out of tun0 there.
 *
 *     client                                                   server
 *     ping 10.8.0.1 ─▶ tun0 ─▶ onPacket() ═▶ TCP, port 5555 ═▶ onStream() ─▶ tun0 ─▶ kernel
 *          10.8.0.2 ◀─ tun0 ◀─ onStream() ◀═ ══════════════ ◀═ onPacket() ◀─ tun0 ◀─
 *
 * WHY    This is a whole VPN, but for its secrets. answer() and the keyboard are gone: the machine at the
 *        other end answers. Both ends do the same. Only who calls whom differs: the command line says
 *        `server`, or `client ADDRESS`.
 *
 * BYTES  TCP carries a stream of bytes. It has no packets in it: what you write in two calls may come in one
 *        read, and what you write in one call may come in three. So the length goes in front of each packet:
 *
 *     offset  bytes
 *          0      2  the packet's length, the high byte first: 00 54 = 84
 *          2         the packet: 45 00 00 54 …
 *
 *        Two frames as read() may give them:   00 54 45 00 … | 00 54 45    and later    00 00 54 …
 *        So keep what has come in `stream`. While a whole frame is at its start, take it off.
 *
 * CALLS  The client:  socket(AF_INET, SOCK_STREAM, 0) · connect(fd, c.sockaddr_in(address, PORT), 16)
 *        The server:  socket(AF_INET, SOCK_STREAM, 0) · bind(fd, c.sockaddr_in("0.0.0.0", PORT), 16) ·
 *                     listen(fd, 1) · and when fd is readable: accept(fd), the fd of one connection
 *        16 is the length of a sockaddr_in. Each call goes into c.check(), as in openTun().
 *        Before bind():  c.setsockopt(fd, c.SOL_SOCKET, c.SO_REUSEADDR, 1), else the port stays taken for a
 *                     minute after your program has ended.
 *
 * READ   man 7 ip, man 2 accept, man 7 tcp; walkthrough.md, "What is in a frame"; src/core/frame.ts.
 *
 * CHECK  make lesson N=4 first runs your client alone, against the other end of a check. When that works, it
 *        runs both, gives them 10.8.0.2 and 10.8.0.1, and pings: once, then 300 times as fast as it can.
 */
import * as c from "../kit.ts";

const PORT = 5555;
const [role, address = ""] = process.argv.slice(2); // `server`, or `client ADDRESS`

/** Makes the network interface `name`, and returns the fd that its packets come from. (Lesson 1.) */
function openTun(name: string): number {
  const fd = c.check(c.open("/dev/net/tun", c.O_RDWR), "open /dev/net/tun");
  const request = Buffer.alloc(40);
  request.write(name, "latin1");
  request.writeUInt16LE(c.IFF_TUN | c.IFF_NO_PI, 16);
  c.check(c.ioctl(fd, c.TUNSETIFF, request), "ioctl TUNSETIFF");
  return fd;
}

const tun = openTun("tun0");
const buffer = Buffer.alloc(65536);
let connection = -1; // the fd of the TCP connection to the other end; -1: there is none
let stopWatching = () => {};
let stream = Buffer.alloc(0); // what has come from the other end, and is no whole frame yet
let unsent = Buffer.alloc(0); // the rest of a frame that the full socket has not taken

/** tun0 is readable: each packet becomes a frame. */
function onPacket(): void {
  for (;;) {
    const length = c.read(tun, buffer); // TODO 2: leave 2 bytes free in front: buffer.subarray(2)
    if (length === -c.EAGAIN) return;
    c.check(length, "read tun0");
    // TODO 2: put the length into these 2 bytes, and send() the frame: subarray(0, 2 + length)
  }
}

/** The connection is readable: the stream goes on. */
function onStream(): void {
  const count = c.read(connection, buffer);
  if (count === -c.EAGAIN) return;
  if (count <= 0) return hangUp(); // 0: the other end has closed it
  // TODO 3: add these `count` bytes to the stream: stream = Buffer.concat([stream, …]). While a whole
  // frame is at its start: write the packet to `tun`, and let `stream` begin behind it. If write() fails,
  // print why, c.errorName(result), and go on.
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
  // TODO 4: socket, setsockopt, bind, listen. Watch that fd: when readable, accept(), and use() the new fd
}

/** Client: a socket that is connected to the server. */
function dial(): void {
  // TODO 1: socket and connect, each in c.check(); then use(fd)
}

c.watch(tun, onPacket);
if (role === "server") serve();
else dial();
