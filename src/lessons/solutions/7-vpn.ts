/**
 * The VPN on two pages: client and server in one file. It speaks draft/wire.md over TCP, so either end can be
 * the real program with its default settings. Without SIMPLE_VPN_SECRET it takes the secret from secret.key.
 *
 *   server          10.8.0.1, NAT to the internet, as many clients as there are addresses
 *   client ADDRESS [ROUTE …]          the routes that go into the tunnel: 8.8.8.8/32 if none is named
 *
 * What src/ has and this has not: connecting again, giving up an end that hangs, IPv6, UDP, the trace, limits
 * for strangers, several packets in a frame, cleaning up after SIGKILL.
 */
import { execSync } from "node:child_process";
import { createCipheriv, createDecipheriv } from "node:crypto";
import { readFileSync } from "node:fs";
import { formatIPv4 } from "../../base/address.ts";
import { refuseOffload } from "../../core/offload.ts";
import { Handshake, REKEY_PROLOGUE } from "../../session/handshake.ts";
import { answer, ClientHandshake } from "../../session/session.ts";
import * as c from "../kit.ts";

const PORT = 5555;
const MTU = 1400; // bytes
const XOR_KEY = 0x42;
const [HEADER, TAG] = [4, 16]; // bytes around a frame's body
const VNET = 10; // bytes in front of each packet, in the TUN and on the wire: struct virtio_net_hdr
const LONGEST = 131_104; // bytes: the body of a frame
const FULL = 256 * 1024; // bytes that wait for the socket: then packets are dropped
const [HANDSHAKE, DATA, CONTROL] = [1, 2, 3]; // types of frames
const [KEEPALIVE, GOODBYE, REKEY, SWITCH] = [1, 2, 3, 4]; // words of a control frame
const FIRST = 0x0a080002; // 10.8.0.2, the first client's; the last one has 10.8.0.254
const NOTHING: Buffer = Buffer.alloc(0);

const [role, address = "", ...routes] = process.argv.slice(2);
const SECRET = Buffer.from(process.env.SIMPLE_VPN_SECRET ?? readFileSync("secret.key", "utf8").trim(), "hex");
const buffer = Buffer.alloc(65_536); // for each read()

// ---- lesson 1: the TUN ----

const IFF_VNET_HDR = 0x4000; // linux/if_tun.h: our kernel cuts and completes what the other one left undone

function openTun(name: string): number {
  const fd = c.check(c.open("/dev/net/tun", c.O_RDWR), "open /dev/net/tun");
  const request = Buffer.alloc(40); // struct ifreq: the name at 0, the flags at 16
  request.write(name);
  request.writeUInt16LE(c.IFF_TUN | c.IFF_NO_PI | IFF_VNET_HDR, 16);
  c.check(c.ioctl(fd, c.TUNSETIFF, request), "ioctl TUNSETIFF");
  return fd;
}

// ---- lessons 5 and 6: XOR, AES-256-GCM ----

/** One direction's key, and the number of the next frame under it. */
class Key {
  readonly bytes: Buffer;
  private count = 0;

  constructor(bytes: Buffer) {
    this.bytes = bytes;
  }

  /** 4 zero bytes, then the frame's number in 8. No number comes twice under one key. */
  nonce(): Buffer {
    const nonce = Buffer.alloc(12);
    nonce.writeBigUInt64BE(BigInt(this.count++), 4);
    return nonce;
  }
}

const xor = (bytes: Buffer) => Buffer.from(bytes.map((byte) => byte ^ XOR_KEY));

/** A frame's body. The header stays readable, but the tag is good with no other header. */
function seal(key: Key, header: Buffer, text: Buffer): Buffer {
  const cipher = createCipheriv("aes-256-gcm", key.bytes, key.nonce()).setAAD(header);
  return Buffer.concat([cipher.update(xor(text)), cipher.final(), cipher.getAuthTag()]);
}

/** The text. Throws if one bit of the header, the text or the tag is not as it was sealed. */
function unseal(key: Key, header: Buffer, body: Buffer): Buffer {
  const end = Math.max(body.length - TAG, 0);
  const cipher = createDecipheriv("aes-256-gcm", key.bytes, key.nonce(), { authTagLength: TAG });
  cipher.setAAD(header).setAuthTag(body.subarray(end));
  return xor(Buffer.concat([cipher.update(body.subarray(0, end)), cipher.final()]));
}

// ---- lesson 4: a connection ----

const clients = new Map<number, Connection>(); // the server's, by their addresses in the tunnel
const seen = new Set<string>(); // public keys of message 1: one that comes again is a replay

class Connection {
  readonly fd: number;
  private stop: () => void;
  private waiting = NOTHING; // bytes that the socket has not taken yet
  private rest = NOTHING; // the begin of a frame that has not come whole
  private isFull = false; // the socket takes no more at the moment
  private closed = false;
  // lesson 7
  inner = 0; // the client's address in the tunnel
  proven = false; // a frame of the other end was good
  private readonly handshake = role === "client" ? new ClientHandshake(SECRET) : undefined;
  private sealer: Key | undefined;
  private opener: Key | undefined;
  private next: Buffer | undefined; // the server's: it opens what comes behind the client's SWITCH
  private rekey: Handshake | undefined; // the client's: its message 1 is on its way
  private owes = false; // data came, and no frame of ours has followed it
  private readonly timers = [
    setTimeout(() => this.proven || this.close("it did not prove itself within 10 s"), 10_000),
    setInterval(() => this.owes && this.control(KEEPALIVE), 3_000), // else the other end gives us up
    setInterval(() => role === "client" && this.askForKeys(), 120_000),
  ];

  constructor(fd: number) {
    this.fd = fd;
    c.setsockopt(fd, c.IPPROTO_TCP, c.TCP_NODELAY, 1);
    this.stop = c.watch(fd, () => this.receive());
    if (this.handshake) this.send(HANDSHAKE, this.handshake.message1);
  }

  /** One packet, with its VNET bytes in front, goes out. */
  packet(bytes: Buffer): void {
    if (!this.sealer || this.waiting.length > FULL || bytes[VNET]! >> 4 !== 4) return;
    const record = Buffer.alloc(4 + Math.ceil(bytes.length / 4) * 4);
    record.writeUInt32BE(bytes.length);
    bytes.copy(record, 4);
    this.send(DATA, record);
  }

  control(word: number, message = NOTHING): void {
    if (this.sealer) this.send(CONTROL, Buffer.concat([Buffer.from([0, 0, 0, word]), message]));
  }

  private send(type: number, text: Buffer): void {
    const header = Buffer.alloc(HEADER);
    header.writeUInt32BE(type * 2 ** 24 + text.length + (this.sealer ? TAG : 0));
    const body = this.sealer ? seal(this.sealer, header, text) : text;
    this.waiting = Buffer.concat([this.waiting, header, body]);
    this.owes = false;
    this.flush();
  }

  /** As much as the socket takes now. While it is full, we are woken up when it is not. */
  private flush(): void {
    if (this.closed) return;
    const count = c.write(this.fd, this.waiting);
    if (count < 0 && count !== -c.EAGAIN) return this.close(`write: ${c.errorName(count)}`);
    this.waiting = this.waiting.subarray(Math.max(count, 0));
    if (this.isFull === this.waiting.length > 0) return;
    this.isFull = !this.isFull;
    this.stop();
    this.stop = c.watch(this.fd, () => this.receive(), this.isFull ? () => this.flush() : undefined);
  }

  /** One read of the stream: it may end anywhere in a frame. */
  private receive(): void {
    const count = c.read(this.fd, buffer);
    if (count === -c.EAGAIN) return;
    if (count <= 0) return this.close(count === 0 ? "it hung up" : `read: ${c.errorName(count)}`);
    this.rest = Buffer.concat([this.rest, buffer.subarray(0, count)]);
    try {
      while (!this.closed && this.rest.length >= HEADER) {
        const end = HEADER + this.rest.readUIntBE(1, 3);
        if (end > HEADER + LONGEST) throw new Error("a frame that is too long: not our protocol");
        if (this.rest.length < end) break;
        const [header, body] = [this.rest.subarray(0, HEADER), this.rest.subarray(HEADER, end)];
        this.rest = this.rest.subarray(end);
        this.frame(header, body);
      }
    } catch (error) {
      this.close((error as Error).message);
    }
  }

  private frame(header: Buffer, body: Buffer): void {
    if (!this.opener) return role === "client" ? this.begin(body) : this.welcome(body);
    const text = unseal(this.opener, header, body);
    if (role === "server" && !this.proven && clients.has(this.inner)) throw new Error("its address is taken");
    if (role === "server") clients.set(this.inner, this);
    this.proven = true; // whoever replays another's message 1 cannot make a good frame
    if (header[0] === CONTROL) return this.hear(text.readUInt32BE(), text.subarray(4));
    if (header[0] !== DATA) throw new Error("a handshake inside a session");
    this.owes = true;
    for (let at = 0; at < text.length;) {
      const end = at + 4 + text.readUInt32BE(at);
      if (end > text.length) throw new Error("a record that does not fit its frame");
      this.deliver(text.subarray(at + 4, end));
      at = Math.ceil(end / 4) * 4;
    }
  }

  /** A packet that came in, for our kernel. A client's must be from the client's own address. */
  private deliver(bytes: Buffer): void {
    if (bytes.length < VNET + 20 || bytes[VNET]! >> 4 !== 4) return;
    if (role === "server" && bytes.readUInt32BE(VNET + 12) !== this.inner) return;
    if (refuseOffload(bytes, 0, bytes.length) === undefined) c.write(tun, bytes);
  }

  close(reason: string): void {
    if (this.closed) return;
    this.closed = true;
    this.stop();
    c.close(this.fd);
    for (const timer of this.timers) clearInterval(timer);
    if (clients.get(this.inner) === this) clients.delete(this.inner);
    console.log(`${formatIPv4(this.inner)} left: ${reason}`);
    if (role === "client") process.exit(1);
  }

  // ---- lesson 7: the handshake of src/session/ ----

  /** The server, with message 1: a session, or an empty frame if the secret is another one. */
  private welcome(message1: Buffer): void {
    const isNew = (publicKey: Buffer) => !seen.has(publicKey.toString("hex"));
    const { message2, keys, refused } = answer([SECRET], message1, isNew, (wish, publicKey) => {
      seen.add(publicKey.toString("hex"));
      const pool = Array.from({ length: 253 }, (_, i) => FIRST + i).filter((one) => !clients.has(one));
      this.inner = pool.find((one) => one === wish.address) ?? pool[0] ?? 0;
      return this.inner ? { address: this.inner, prefix: 24, mtu: MTU } : { refused: "no address is free" };
    });
    if (message2) this.send(HANDSHAKE, message2);
    if (!keys) return this.close(refused!);
    [this.sealer, this.opener] = [new Key(keys.send), new Key(keys.receive)];
  }

  /** The client, with message 2: it has an address and keys now. */
  private begin(message2: Buffer): void {
    const { keys, config } = this.handshake!.finish(message2, address);
    [this.sealer, this.opener] = [new Key(keys.send), new Key(keys.receive)];
    this.inner = config.address;
    this.control(KEEPALIVE); // our first sealed frame: now the server knows that we are no replay
    run(`ip addr add ${formatIPv4(config.address)}/${config.prefix} dev tun0`);
    run(`ip link set tun0 mtu ${config.mtu} up`);
    for (const route of routes.length ? routes : ["8.8.8.8/32"]) run(`ip route add ${route} dev tun0`);
    console.log(`connected: this end of the tunnel is ${formatIPv4(config.address)}`);
  }

  private askForKeys(): void {
    this.rekey = new Handshake("client", SECRET, REKEY_PROLOGUE);
    this.control(REKEY, this.rekey.write(NOTHING));
  }

  /** A control frame. Fresh keys: each end's last frame under its old key says so. */
  private hear(word: number, message: Buffer): void {
    if (word === GOODBYE) this.close("it said goodbye");
    if (word === SWITCH && this.next) [this.opener, this.next] = [new Key(this.next), undefined];
    if (word !== REKEY) return;
    const handshake = role === "client" ? this.rekey! : new Handshake("server", SECRET, REKEY_PROLOGUE);
    handshake.read(message);
    if (role === "client") this.control(SWITCH);
    else this.control(REKEY, handshake.write(NOTHING));
    const { send, receive } = handshake.split();
    this.sealer = new Key(send);
    if (role === "client") this.opener = new Key(receive);
    else this.next = receive;
  }
}

// ---- the two mains ----

/** Runs a command, and shows it. */
function run(command: string): void {
  console.log(`# ${command}`);
  execSync(command);
}

function startServer(): void {
  run("ip addr add 10.8.0.1/24 dev tun0");
  run(`ip link set tun0 mtu ${MTU} up`);
  run("sysctl -qw net.ipv4.ip_forward=1"); // what is not for this machine goes on
  const nat = "POSTROUTING -s 10.8.0.0/24 ! -o tun0 -j MASQUERADE";
  run(`iptables -t nat -A ${nat}`); // out there, nobody knows the way to 10.8.0.2
  process.on("exit", () => run(`iptables -t nat -D ${nat}`));
  const listener = c.check(c.socket(c.AF_INET, c.SOCK_STREAM, 0), "socket");
  c.setsockopt(listener, c.SOL_SOCKET, c.SO_REUSEADDR, 1);
  c.check(c.bind(listener, c.sockaddr_in("0.0.0.0", PORT), 16), "bind");
  c.check(c.listen(listener, 16), "listen");
  c.watch(listener, () => {
    const fd = c.accept(listener);
    if (fd >= 0) new Connection(fd);
  });
  console.log(`listening on ${PORT}`);
}

function startClient(): Connection {
  const fd = c.check(c.socket(c.AF_INET, c.SOCK_STREAM, 0), "socket");
  c.check(c.connect(fd, c.sockaddr_in(address, PORT), 16), `connect to ${address}`);
  return new Connection(fd);
}

const tun = openTun("tun0");
const server = role === "client" ? startClient() : startServer();

/** One packet of the TUN: to the server, or to the client whose address it has. */
c.watch(tun, () => {
  const count = c.read(tun, buffer);
  if (count < VNET + 20) return;
  const packet = buffer.subarray(0, count);
  const to = server ?? clients.get(packet.readUInt32BE(VNET + 16));
  to?.packet(packet);
});

for (const signal of ["SIGINT", "SIGTERM"] as const)
  process.on(signal, () => {
    for (const one of server ? [server] : clients.values()) one.control(GOODBYE);
    process.exit(0);
  });
