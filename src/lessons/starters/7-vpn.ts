/**
 * Lesson 7: your VPN
 *
 * WHAT   Client and server of your own, that speak the protocol of src/. So your client gets an address from
 *        the real server, and the real client gets one from yours.
 *
 * WHY    Three things are missing in lesson 6. Its keys are the same each time, so nonces come twice: a
 *        handshake makes new ones. Somebody else has set addresses and routes: now your program does. And
 *        whoever is behind the server does not know the way back to 10.8.0.2: NAT shows him the server's own
 *        address instead.
 *
 *     client                                                   server
 *     message 1, in a handshake frame  ─────────────────────▶  answer(): keys, and message 2
 *     finish(): keys, and an address   ◀─────────────────────  message 2, in a handshake frame
 *     KEEPALIVE, sealed: it proves us  ─────────────────────▶
 *     data, sealed                     ◀────────────────────▶  data, sealed
 *
 *        The two messages are those of Noise (walkthrough.md, "What the handshake adds").
 *        src/session/session.ts makes and reads them: a ClientHandshake has message1 and finish(message2,
 *        address); answer() is for the server.
 *
 * BYTES  A frame:                                    What is in it, if it is data, is a record, or several:
 *
 *     offset  bytes                                  offset  bytes
 *          0      1  type: HANDSHAKE, DATA, CONTROL       0      4  length of the next two together
 *          1      3  length of what follows               4     10  what the other kernel left undone
 *          4         text and tag; a handshake           14         the packet
 *                    frame has neither XOR nor tag                  zeros, up to a multiple of 4
 *
 *        The additional data of the tag are the 4 bytes of the header. Numbers have the high byte first.
 *
 *        Those 10 bytes (struct virtio_net_hdr) say which checksum is still to be computed, and where a large
 *        packet is to be cut. With the flag IFF_VNET_HDR, a TUN gives and takes each packet with them in
 *        front. Then our kernel does what the other one left undone. So a record is what read() gave, and its
 *        length.
 *
 *        A control frame says one word: I am here, goodbye, or one of two for fresh keys. That part is given.
 *
 * READ   draft/wire.md, which has all of it; src/session/session.ts; man 8 ip-route; man 8
 *        iptables-extensions, MASQUERADE; src/client.ts and src/server.ts, which you can read now.
 *
 * CHECK  make lesson N=7 runs your client against the real server, then the real client against your server,
 *        each with its default settings. It sets SIMPLE_VPN_SECRET.
 *
 * Below is lesson 6, solved, and seven gaps. Most of what is new is given. refuseOffload() looks at the ten
 * bytes in front of a packet, which come from a stranger: undefined means that they are sane.
 */
import { execSync } from "node:child_process";
import * as crypto from "node:crypto";
import { readFileSync } from "node:fs";
import { formatIPv4 } from "../../base/address.ts";
import { refuseOffload } from "../../core/offload.ts";
import { Handshake, REKEY_PROLOGUE } from "../../session/handshake.ts";
import { answer, ClientHandshake } from "../../session/session.ts";
import * as c from "../kit.ts";

const PORT = 5555;
const [HANDSHAKE, DATA, CONTROL] = [1, 2, 3]; // types of frames
const [KEEPALIVE, GOODBYE, REKEY, SWITCH] = [1, 2, 3, 4]; // what a control frame says
const LONGEST = 131_104; // bytes: the body of a frame
const VNET = 10; // bytes in front of each packet: what the other kernel left for ours to compute, or to cut
const XOR_KEY = 0x42;
const [HEADER, TAG] = [4, 16]; // bytes
const SECRET = Buffer.from(process.env.SIMPLE_VPN_SECRET ?? readFileSync("secret.key", "utf8").trim(), "hex");
if (SECRET.length !== 32) throw new Error("SIMPLE_VPN_SECRET or secret.key must be 64 hex digits");
const OURS = { address: 0x0a080002, prefix: 24, mtu: 1400 }; // what the server gives its client
const NOTHING: Buffer = Buffer.alloc(0);
const [role, address = "", ...routes] = process.argv.slice(2);

/** Makes the network interface `name`, and returns the fd that its packets come from. */
function openTun(name: string): number {
  const fd = c.check(c.open("/dev/net/tun", c.O_RDWR), "open /dev/net/tun");
  const request = Buffer.alloc(40);
  request.write(name, "latin1");
  request.writeUInt16LE(c.IFF_TUN | c.IFF_NO_PI, 16); // TODO 1: and IFF_VNET_HDR, 0x4000
  c.check(c.ioctl(fd, c.TUNSETIFF, request), "ioctl TUNSETIFF");
  return fd;
}

/** Turns over the same two bits of each byte. A second time brings the bytes back. */
function xor(bytes: Buffer): void {
  for (let at = 0; at < bytes.length; at++) bytes[at]! ^= XOR_KEY;
}

/** The key of one sender (with one for both, each nonce would come twice), and its next frame's number. */
const newKey = (bytes: Buffer) => ({ bytes, number: 0 });
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
const buffer = Buffer.alloc(65536 + VNET);
let connection = -1; // the fd of the TCP connection to the other end; -1: there is none
let stopWatching = () => {};
let stream = NOTHING; // what has come from the other end, and is no whole frame yet
let unsent = NOTHING; // the rest of a frame that the full socket has not taken
let sealer: Key | undefined; // of what we send; none before the handshake
let opener: Key | undefined; // of what we receive
let nextSealer: Key | undefined; // the server's, until a good frame has come: message 1 may be a replay
let nextOpener: Key | undefined; // of what comes behind the client's SWITCH
let owes = false; // data came, and nothing of ours went since: without an answer, the other end gives us up
const handshake = new ClientHandshake(SECRET); // the client's

/** tun0 is readable: each packet becomes a record, in a frame of its own. */
function onPacket(): void {
  for (;;) {
    const length = c.read(tun, buffer);
    if (length === -c.EAGAIN) return;
    c.check(length, "read tun0");
    if (!sealer || unsent.length > 0 || buffer[VNET]! >> 4 !== 4) continue; // dropped: no number was used
    // TODO 2: make a record: 4 bytes that say `length`, what was read, and zeros up to a multiple of 4.
    // Buffer.alloc() gives zeros, buffer.copy(record, 4, 0, length) puts `length` bytes at offset 4. Then
    // send(DATA, record)
  }
}

/** The connection is readable: the stream goes on. Each frame in it that is now whole is opened. */
function onStream(): void {
  const count = c.read(connection, buffer);
  if (count === -c.EAGAIN) return;
  if (count <= 0) return hangUp();
  stream = Buffer.concat([stream, buffer.subarray(0, count)]);
  try {
    while (stream.length >= HEADER) {
      const end = HEADER + stream.readUIntBE(1, 3);
      if (end > HEADER + LONGEST) throw new Error("a frame that is too long: not our protocol");
      if (stream.length < end) return;
      const [header, body] = [stream.subarray(0, HEADER), stream.subarray(HEADER, end)];
      stream = stream.subarray(end);
      if (opener) onFrame(header[0]!, unseal(opener, header, body));
      else (role === "server" ? welcome : begin)(body);
    }
  } catch (error) {
    hangUp((error as Error).message);
  }
}

/** A frame was opened. */
function onFrame(type: number, text: Buffer | undefined): void {
  if (!text) throw new Error("a frame was changed on its way: its tag is wrong");
  xor(text);
  sealer ??= nextSealer;
  if (type === CONTROL) return onControl(text.readUInt32BE(), text.subarray(4));
  owes = true;
  const packet = text.subarray(4); // TODO 4: one record may be followed by others, each behind the last one's
  // zeros. A loop takes them all. `packet` ends where its length says; one beyond the text is an Error. In
  // the loop, `return` becomes `continue`
  const isIPv4 = packet.length >= VNET + 20 && packet[VNET]! >> 4 === 4;
  if (!isIPv4 || refuseOffload(packet, 0, packet.length) !== undefined) return;
  if (role === "client" || packet.readUInt32BE(VNET + 12) === OURS.address) c.write(tun, packet);
}

/** The server has message 1. If it was made with another secret, message 2 is empty. */
function welcome(message1: Buffer): void {
  const reply = () => OURS;
  const { message2, keys, refused } = answer([SECRET], message1, () => true, reply);
  // TODO 6: if there is a message 2, send it in a HANDSHAKE frame
  if (!keys) throw new Error(refused);
  // TODO 6: and set nextSealer, newKey(keys.send), and opener, newKey(keys.receive)
}

/** The client has message 2: keys and an address. The server waits for a sealed frame, which proves us. */
function begin(message2: Buffer): void {
  const { keys, config } = handshake.finish(message2, address);
  [sealer, opener] = [newKey(keys.send), newKey(keys.receive)];
  // TODO 5: control(KEEPALIVE). Then tun0 gets its address: run(`ip addr add … dev tun0`), where … is
  // ${formatIPv4(config.address)}/${config.prefix}
  run(`ip link set tun0 mtu ${config.mtu} up`);
  // TODO 5: and ip route add … dev tun0, for each of `routes`, or for 8.8.8.8/32 if there are none
  console.log(`this end of the tunnel is ${formatIPv4(config.address)}`);
}

/** What a control frame says. When the client asks for fresh keys, REKEY is our last frame under the old. */
function onControl(word: number, message: Buffer): void {
  if (word === GOODBYE) return hangUp("it said goodbye");
  if (word === SWITCH) opener = nextOpener ?? opener;
  if (word !== REKEY || role === "client") return;
  const second = new Handshake("server", SECRET, REKEY_PROLOGUE);
  second.read(message);
  control(REKEY, second.write(NOTHING));
  const { send, receive } = second.split();
  [sealer, nextOpener] = [newKey(send), newKey(receive)];
}

function control(word: number, message = NOTHING): void {
  if (sealer) send(CONTROL, Buffer.concat([Buffer.of(0, 0, 0, word), message]));
}

/** Sends a frame, sealed if there is a key. */
function send(type: number, text: Buffer): void {
  const header = Buffer.alloc(HEADER);
  // TODO 3: header[0], the type; and header.writeUIntBE(value, 1, 3), the length of what follows: the text
  // and, if there is a sealer, its tag
  if (sealer) xor(text);
  const isFull = unsent.length > 0;
  unsent = Buffer.concat([unsent, sealer ? seal(sealer, header, text) : Buffer.concat([header, text])]);
  owes = false;
  if (!isFull) flush();
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
  stream = unsent = NOTHING;
  sealer = opener = nextSealer = nextOpener = undefined;
}

/** Shows a command, and runs it. */
const run = (command: string) => (console.log(`# ${command}`), execSync(command));

/** Server: a socket that waits for clients. The newest one is served. */
function serve(): void {
  // TODO 7: tun0 gets 10.8.0.1/24 and the MTU OURS.mtu, and is up. net.ipv4.ip_forward is 1 (sysctl -qw).
  // iptables -t nat -A POSTROUTING -s … ! -o … -j MASQUERADE: what is from 10.8.0.0/24, and goes out of
  // another device than tun0, gets the server's own address. When this process ends, the rule goes:
  // process.on("exit", () => run(`iptables -t nat -D …`))
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
  send(HANDSHAKE, handshake.message1);
}

c.watch(tun, onPacket);
if (role === "server") serve();
else dial();
setInterval(() => owes && control(KEEPALIVE), 3_000);
const end = () => (control(GOODBYE), process.exit(0));
process.on("SIGINT", end).on("SIGTERM", end);
