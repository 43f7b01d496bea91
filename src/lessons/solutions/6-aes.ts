/** Lesson 6, solved: AES-256-GCM. The text is in starters/6-aes.ts. */
import * as crypto from "node:crypto";
import * as c from "../kit.ts";

const PORT = 5555;
const XOR_KEY = 0x42;
const TAG = 16; // bytes
const SECRET = Buffer.from(process.env.SIMPLE_VPN_SECRET ?? "", "hex"); // the same on both ends
if (SECRET.length !== 32) throw new Error("SIMPLE_VPN_SECRET must be 64 hex digits");
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
function xor(bytes: Buffer): void {
  for (let at = 0; at < bytes.length; at++) bytes[at]! ^= XOR_KEY;
}

/** The key of one sender (with one for both, each nonce would come twice), and its next frame's number. */
const newKey = (who: string) => ({
  bytes: Buffer.from(crypto.hkdfSync("sha256", SECRET, "", who, 32)),
  number: 0,
});
type Key = ReturnType<typeof newKey>;

/** The next frame's number in 12 bytes. It is not sent: both ends count. */
const nonce = (key: Key) => Buffer.from((key.number++).toString(16).padStart(24, "0"), "hex");

/** A frame: the header, the encrypted text, and the tag that fits both and the frame's number. */
function seal(key: Key, header: Buffer, text: Buffer): Buffer {
  const cipher = crypto.createCipheriv("aes-256-gcm", key.bytes, nonce(key)).setAAD(header);
  return Buffer.concat([header, cipher.update(text), cipher.final(), cipher.getAuthTag()]);
}

/** The text again; undefined if one bit of the header, the text or the tag has changed. */
function unseal(key: Key, header: Buffer, body: Buffer): Buffer | undefined {
  const cipher = crypto.createDecipheriv("aes-256-gcm", key.bytes, nonce(key), { authTagLength: TAG });
  try {
    cipher.setAAD(header).setAuthTag(body.subarray(-TAG));
    return Buffer.concat([cipher.update(body.subarray(0, -TAG)), cipher.final()]);
  } catch {
    return undefined; // from final(), which compares the tags; or there is no room for one
  }
}

const tun = openTun("tun0");
const buffer = Buffer.alloc(65536);
let connection = -1; // the fd of the TCP connection to the other end; -1: there is none
let stopWatching = () => {};
let stream = Buffer.alloc(0); // what has come from the other end, and is no whole frame yet
let unsent: Buffer = Buffer.alloc(0); // the rest of a frame that the full socket has not taken
let sealer: Key, opener: Key; // of what we send, and of what we receive

/** tun0 is readable: each packet becomes a frame. Its length goes in front, 2 bytes, the high byte first. */
function onPacket(): void {
  for (;;) {
    const length = c.read(tun, buffer.subarray(2));
    if (length === -c.EAGAIN) return;
    c.check(length, "read tun0");
    buffer.writeUInt16BE(length + TAG, 0);
    xor(buffer.subarray(2, 2 + length));
    if (connection < 0 || unsent.length > 0) continue; // dropped, before it is a frame with a number
    unsent = seal(sealer, buffer.subarray(0, 2), buffer.subarray(2, 2 + length));
    flush();
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
    const packet = unseal(opener, stream.subarray(0, 2), stream.subarray(2, end));
    if (!packet) return hangUp("a frame was changed on its way: its tag is wrong");
    xor(packet);
    const result = c.write(tun, packet);
    if (result < 0) console.log(`dropped a packet: write tun0: ${c.errorName(result)}`);
    stream = stream.subarray(end);
  }
}

/** Writes what waits. The socket may take a part: the rest goes out when it is writable. */
function flush(wasFull = false): void {
  const count = c.write(connection, unsent);
  if (count < 0 && count !== -c.EAGAIN) return hangUp();
  unsent = unsent.subarray(Math.max(count, 0));
  if (wasFull || unsent.length > 0) watchConnection();
}

/** Watches the connection for reading, and for writing while a rest waits. */
function watchConnection(): void {
  stopWatching();
  stopWatching = c.watch(connection, onStream, unsent.length > 0 ? () => flush(true) : undefined);
}

/** From now on `fd` is the connection. */
function use(fd: number): void {
  if (connection >= 0) hangUp();
  connection = fd;
  sealer = newKey(role === "server" ? "server" : "client");
  opener = newKey(role === "server" ? "client" : "server");
  c.setsockopt(fd, c.IPPROTO_TCP, c.TCP_NODELAY, 1); // small frames go out at once
  console.log("connected");
  watchConnection();
}

/** The connection is over. */
function hangUp(why = "the connection is over"): void {
  console.log(why);
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
