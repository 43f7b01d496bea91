/**
 * Lesson 4, the tunnel: what tun0 gives on one machine goes through a TCP connection, and into tun0 on the
 * other. TCP keeps bytes in order, but not their borders, so each packet gets its length in front:
 *
 *   offset 0   2   length of the packet, big-endian
 *   offset 2   …   the packet
 */
import * as c from "../kit.ts";

const PORT = 5555;
const HEADER = 2; // bytes
const FULL = 256 * 1024; // bytes that wait for the socket: then packets are dropped
const NOTHING: Buffer = Buffer.alloc(0);
const [role, address = ""] = process.argv.slice(2); // server; client ADDRESS
const buffer = Buffer.alloc(65_536); // for each read()

/** Lesson 1: the interface lives as long as its fd is open. */
function openTun(name: string): number {
  const fd = c.check(c.open("/dev/net/tun", c.O_RDWR), "open /dev/net/tun");
  const request = Buffer.alloc(40); // struct ifreq: the name at 0, the flags at 16
  request.write(name);
  request.writeUInt16LE(c.IFF_TUN | c.IFF_NO_PI, 16);
  c.check(c.ioctl(fd, c.TUNSETIFF, request), "ioctl TUNSETIFF");
  return fd;
}

class Connection {
  waiting = NOTHING; // what the socket has not taken yet
  rest = NOTHING; // the begin of a frame that has not come whole
  isFull = false; // the socket takes no more at the moment
  closed = false;
  stop: () => void;
  readonly fd: number;

  constructor(fd: number) {
    this.fd = fd;
    c.setsockopt(fd, c.IPPROTO_TCP, c.TCP_NODELAY, 1); // send each packet at once
    this.stop = c.watch(fd, () => this.receive());
  }

  /** One packet goes out, as a frame. */
  send(packet: Buffer): void {
    if (this.waiting.length > FULL) return;
    const header = Buffer.alloc(HEADER);
    header.writeUInt16BE(packet.length);
    this.waiting = Buffer.concat([this.waiting, header, packet]);
    this.flush();
  }

  /** As much as the socket takes now. While it is full, we are woken up when it is not. */
  flush(): void {
    if (this.closed) return;
    const count = c.write(this.fd, this.waiting);
    if (count < 0 && count !== -c.EAGAIN) return this.close(`write: ${c.errorName(count)}`);
    this.waiting = this.waiting.subarray(Math.max(count, 0));
    if (this.isFull === this.waiting.length > 0) return;
    this.isFull = !this.isFull;
    this.stop();
    this.stop = c.watch(this.fd, () => this.receive(), this.isFull ? () => this.flush() : undefined);
  }

  /** One read of the stream. It may end anywhere in a frame, and may bring many. */
  receive(): void {
    const count = c.read(this.fd, buffer);
    if (count === -c.EAGAIN) return;
    if (count <= 0) return this.close(count === 0 ? "it hung up" : `read: ${c.errorName(count)}`);
    this.rest = Buffer.concat([this.rest, buffer.subarray(0, count)]);
    while (this.rest.length >= HEADER) {
      const end = HEADER + this.rest.readUInt16BE(0);
      if (this.rest.length < end) break;
      const body = this.rest.subarray(HEADER, end);
      this.rest = this.rest.subarray(end);
      c.write(tun, body);
    }
  }

  close(reason: string): void {
    if (this.closed) return;
    this.closed = true;
    this.stop(); // always before close()
    c.close(this.fd);
    console.log(`the connection is over: ${reason}`);
    if (role === "client") process.exit(1);
  }
}

const tun = openTun("tun0");
let connection: Connection | undefined;
c.watch(tun, () => {
  const count = c.read(tun, buffer);
  if (count > 0) connection?.send(buffer.subarray(0, count));
});

const fd = c.check(c.socket(c.AF_INET, c.SOCK_STREAM, 0), "socket");
if (role === "server") {
  c.setsockopt(fd, c.SOL_SOCKET, c.SO_REUSEADDR, 1);
  c.check(c.bind(fd, c.sockaddr_in("0.0.0.0", PORT), 16), "bind");
  c.check(c.listen(fd, 1), "listen");
  c.watch(fd, () => {
    connection?.close("another client has come");
    connection = new Connection(c.check(c.accept(fd), "accept"));
  });
  console.log("listening");
} else {
  c.check(c.connect(fd, c.sockaddr_in(address, PORT), 16), `connect to ${address}`);
  connection = new Connection(fd);
  console.log("connected");
}
