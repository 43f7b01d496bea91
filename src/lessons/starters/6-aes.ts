/**
 * Lesson 6: AES-256-GCM
 *
 * WHAT   Each packet is encrypted, and has a tag: 16 bytes that only someone with the key can make. A frame
 *        that was changed on its way is refused.
 *
 * WHY    With XOR, who sits on the way reads each packet, and changes it: make experiment NAME=flip-a-bit
 *        turns 1 euro into 100. Encryption alone would hide the packet, but still let a flipped bit through.
 *        The tag does not. So no byte of a packet is used before its tag was compared.
 *
 *     tun0 ─▶ xor() ─▶ seal() ─▶ TCP ─▶ unseal() ─▶ xor() ─▶ tun0
 *                                          └▶ the tag is wrong: hang up
 *
 * BYTES  A frame, here of a ping (84 bytes):
 *
 *     offset  bytes
 *          0      2  length of what follows, text and tag: 84 + 16 = 100 = 00 64. It stays readable
 *          2     84  the text: the packet, XORed, then encrypted. As long as before
 *         86     16  the tag, over the text and the additional data: here the header 00 64. Nobody can change
 *                    that, either
 *
 *        What AES-256-GCM needs beside the text:
 *
 *     key         32 bytes. Each end has one to seal with and one to open with: newKey() makes them from the
 *                 secret, which both ends have
 *     nonce       12 bytes, which never come twice under one key. Else both texts are given away. Ours is the
 *                 number of the frame: 0, 1, 2 …, in 12 bytes, the high byte first. It is not sent, because
 *                 TCP loses nothing: both ends count. So a frame that comes twice, or not at all, is
 *                 noticed, too
 *
 *        Node's calls, to seal and to open. update() may be called before final() only, setAAD() before
 *        update():
 *
 *     cipher = crypto.createCipheriv("aes-256-gcm", key, nonce)     crypto.createDecipheriv(…, …, …, LENGTH)
 *     cipher.setAAD(header)                                         the same; and cipher.setAuthTag(tag)
 *     cipher.update(text), cipher.final()                           the same; final() throws: a wrong tag
 *     cipher.getAuthTag()                                           LENGTH is { authTagLength: TAG }
 *
 *        Without LENGTH a tag of 4 bytes would do, and that can be guessed.
 *        update() and final() each return a part of the result: Buffer.concat([…]) puts them together.
 *
 * READ   walkthrough.md, "What AES-256-GCM adds"; nodejs.org/api/crypto.html; src/core/aes.ts, which does the
 *        same without a new Buffer for each packet. Afterwards: make experiment NAME=reuse-nonce.
 *
 * CHECK  make lesson N=6 puts a relay between your client and your server. It looks at the frames, flips a
 *        bit in one, and sends one twice. It sets SIMPLE_VPN_SECRET; make secret makes one for other uses.
 *
 * STILL  wrong: each connection counts from 0 again, under the same keys. So a nonce does come twice. Lesson
 *        7's handshake gives each connection keys of its own.
 *
 * Below is lesson 5, solved, and five gaps. One more thing has changed, see flush(): a full socket makes
 * lesson 5 drop a frame. Here that would be a number less at the other end. So a packet is dropped before it
 * has a number.
 */
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
export function nonce(key: Key): Buffer {
  const bytes = Buffer.alloc(12);
  // TODO 1: put key.number into the last bytes, with writeUInt32BE(); the next frame's is one more
  return bytes;
}

/** A frame: the header, the encrypted text, and the tag that fits both and the frame's number. */
function seal(key: Key, header: Buffer, text: Buffer): Buffer {
  // TODO 2: encrypt `text`, with `header` as additional data: key.bytes, nonce(key). Behind it comes the tag
  return Buffer.concat([header, text]);
}

/** The text again; undefined if one bit of the header, the text or the tag has changed. */
function unseal(key: Key, header: Buffer, body: Buffer): Buffer | undefined {
  // TODO 3: the tag is body.subarray(-TAG), the last TAG bytes, the text body.subarray(0, -TAG). setAuthTag()
  // throws if `body` is too short for a tag, final() if the tag is wrong: try { … } catch { … } around both
  return body;
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
    buffer.writeUInt16BE(length, 0); // TODO 4: the length counts the tag, too
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
    const opened = unseal(opener, stream.subarray(0, 2), stream.subarray(2, end));
    // TODO 5: if it is undefined, the frame was changed on its way: hangUp(), and return
    const packet = opened ?? stream.subarray(2, end);
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
