/**
 * Attackers, for the tests and for class, in the lab: node --import tsx src/lab/fuzz/hostile.ts ATTACK SERVER
 * [COUNT], the secret in SIMPLE_VPN_SECRET. Strangers need no secret: flood, idle, occupy, drip; replay
 * has it only to have something to replay. Insiders have it, and misbehave. TRANSPORT=udp, raw or quic: all
 * of it goes over that.
 */
import { createSocket } from "node:dgram";
import { existsSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { networkInterfaces } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { embed, formatIPv4, parseIPv4, parseIPv6, type Prefix96 } from "../../base/address.ts";
import { EAGAIN } from "../../base/errno.ts";
import { Failure } from "../../base/failure.ts";
import { aesFraming, Control, FrameType, pad } from "../../core/frame.ts";
import { Handshake, REKEY_PROLOGUE } from "../../session/handshake.ts";
import { ClientHandshake } from "../../session/session.ts";
import { sockaddr } from "../../transport/addresses.ts";
import { FLAGS, RawPort } from "../../transport/raw.ts";
import { Flow } from "../../transport/tcp-segments.ts";
import { transports } from "../../transport/transports.ts";
import { Memory, write } from "../../base/libc.ts";
import { ready } from "../../core/loop.ts";
import { OFFLOAD_HEADER } from "../../core/offload.ts";
import { readSecrets } from "../../host/secret.ts";
import { program } from "../../host/program.ts";
import type { Peer } from "../../core/peer.ts";
import { dialIdle, random, seal, until } from "../tests/peers.ts";
import { NETNS } from "../lab.ts";
import { TRANSPORT } from "../running.ts";

const PORT = 5555;
const [SECRET = Buffer.alloc(0)] = readSecrets();
const [IS_TCP, IS_UDP, IS_QUIC] = ["tcp", "udp", "quic"].map((name) => name === TRANSPORT);
const AT_ONCE = 100; // connections of a flood that are open at the same time

// ---- strangers ----

/**
 * `count` connections, as fast as they come: silent ones, garbage, half a frame; each is closed by one side
 * or the other.
 */
async function flood(server: string, count: number): Promise<void> {
  if (TRANSPORT === "raw") return floodSegments(server, count);
  if (!IS_TCP) return floodDatagrams(server, count);
  const garbage = [
    Buffer.alloc(0),
    Buffer.from("GET / HTTP/1.1\r\n\r\n"),
    Buffer.from("01000400", "hex"),
    Buffer.alloc(2000, 1),
    Buffer.from("0100", "hex"),
  ];
  let started = 0;
  const one = async () => {
    while (started < count) {
      const i = started++;
      const socket = await opened(server);
      socket.end(garbage[i % garbage.length]!);
      await new Promise((resolve) => socket.once("close", resolve));
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, one));
}

/** Garbage for datagrams: `kinds` of messages, and 100 bytes of message 1, or of what is to look so. */
function noise(i: number, below: (below: number) => number, kinds: number): Buffer {
  const bytes = Buffer.from(Array.from({ length: [0, 1, 20, 600, 1400][i % 5]! }, () => below(256)));
  if (bytes.length > 0) bytes[0] = 1 + below(kinds);
  if (bytes.length > 500) bytes.writeUInt16BE(100, 2);
  return bytes;
}

/** The same in datagrams: garbage, first messages that prove nothing, frames of no session. */
async function floodDatagrams(server: string, count: number): Promise<void> {
  const below = random(3);
  let socket = createSocket("udp4");
  for (let i = 0; i < count; i++) {
    const bytes = noise(i, below, 6);
    // an Initial, from ever other ports: RFC 9000, section 17.2.2
    if (IS_QUIC && bytes.length > 16) Buffer.from("c00000000108", "hex").copy(bytes);
    if (IS_QUIC && i % 10 === 0) (socket.close(), (socket = createSocket("udp4")));
    await new Promise((resolve) => socket.send(bytes, PORT, server, resolve));
  }
  socket.close();
}

/** The same in crafted segments, from any port, with any flags. */
async function floodSegments(server: string, count: number): Promise<void> {
  const { socket } = new RawPort({ port: PORT, handshake: true });
  const [below, there] = [random(3), sockaddr(server, PORT)];
  for (let i = 0; i < count; i++) {
    const here = socket.own(there, 1 + below(65535)) as Buffer;
    const flags = i % 3 === 0 ? [below(256)] : FLAGS;
    const bytes = noise(i, below, 7);
    socket.put(new Flow(here, there, flags), bytes, 0, bytes.length);
    socket.flush();
    if (i % 10 === 0) await sleep(1);
  }
}

/** `count` connections that say nothing, until they are told to go. Not over TCP: first messages, no more. */
async function idle(server: string, count: number): Promise<void> {
  if (!IS_TCP) await Promise.all(Array.from({ length: count }, () => asked(server).catch(() => {})));
  if (!IS_TCP) return told();
  for (let i = 0; i < count; i++) await opened(server);
  await told();
}

/**
 * From each IPv4 address of this host `count` connections that say nothing; for each that ends a new one,
 * until they are told to go.
 */
async function occupy(server: string, count: number): Promise<void> {
  const again = async (address: string): Promise<never> => {
    for (;;) {
      const socket = await opened(server, address);
      await new Promise((resolve) => socket.once("close", resolve));
      await sleep(100);
    }
  };
  const addresses = networkInterfaces()
    .eth0!.filter(({ family }) => family === "IPv4")
    .map(({ address }) => address);
  for (const address of addresses) for (let i = 0; i < count; i++) void again(address);
  await told();
}

/** One recorded first message, sent on `count` connections, which stay open. */
const replay = (server: string, count: number) => firstMessages(server, Array(count).fill(firstMessage()));

/** As many new ones. What the server answers gets no sealed frame. */
const unproven = (server: string, count: number) =>
  IS_TCP ? firstMessages(server, Array.from({ length: count }, firstMessage)) : unanswered(server, count);

async function unanswered(server: string, count: number): Promise<void> {
  let answers = 0;
  const one = async () => (await asked(server), console.log(`answers: ${++answers}`));
  await Promise.all(Array.from({ length: count }, one));
  await told();
}

/** A first message, and the server's answer, if it gives one. */
async function asked(server: string): Promise<void> {
  const { message1, isGood } = new ClientHandshake(SECRET);
  await PORTS().dial(server, 5_000, message1, isGood);
}
const PORTS = () => transports[TRANSPORT].open({ port: PORT, handshake: true, secrets: [SECRET] });

function firstMessage(): Buffer {
  const message = new Handshake("client", SECRET).write(Buffer.alloc(0));
  const header = Buffer.alloc(aesFraming.header);
  aesFraming.putHeader(header, 0, FrameType.handshake, message.length);
  return Buffer.concat([header, message]);
}

async function firstMessages(server: string, messages: Buffer[]): Promise<void> {
  let answers = 0;
  for (const message of messages)
    (await opened(server)).once("data", () => console.log(`answers: ${++answers}`)).write(message);
  await told();
}

const opened = (server: string, localAddress?: string) =>
  new Promise<Socket>((resolve, reject) => {
    const socket = connect({ port: PORT, host: server, localAddress }, () => resolve(socket))
      .on("error", reject)
      .resume(); // once it is open: a reset, which is no news
  });

/** Waits for a line on standard input: the test has looked. */
function told(): Promise<void> {
  console.log("ready");
  return new Promise((resolve) => process.stdin.once("data", () => resolve()));
}

/** A first message that comes byte by byte, on `count` connections, and never to its end. */
async function drip(server: string, count: number): Promise<void> {
  const sockets = await Promise.all(Array.from({ length: count }, () => opened(server)));
  const message = firstMessage().subarray(0, -1);
  let at = 0;
  const next = () => sockets.forEach((socket) => socket.write(message.subarray(at, at + 1)));
  const timer = setInterval(() => (at < message.length ? (next(), at++) : clearInterval(timer)), 50);
  await told();
}

// ---- insiders ----

interface Insider {
  peer: Peer;
  fd: number; // of its link; -1: see dialIdle()
  receive: () => void; // one read() from it
  own: number; // its inner address
  subnet6?: Prefix96 | undefined;
}

/** A session like an honest client's. */
async function insider(server: string): Promise<Insider> {
  const { config, ...idle } = await dialIdle(server, PORT, SECRET, TRANSPORT);
  idle.peer.sendControl(Control.keepalive);
  return { ...idle, own: config.address, subnet6: config.subnet6 };
}

/** A frame with any body. False if the server has closed the connection. */
async function send({ peer, fd }: Insider, type: number, body: Buffer): Promise<boolean> {
  const frame = seal(peer, type, body);
  const memory = new Memory(pad(frame.length, 4));
  frame.copy(memory.bytes);
  for (let at = 0; at < frame.length && !peer.closed;) {
    const count = IS_TCP
      ? write(fd, memory, at, frame.length - at)
      : peer.link.send(memory, at, frame.length);
    if (count === -EAGAIN) await (fd < 0 ? sleep(1) : ready(fd, "writable", 30_000));
    else if (count < 0) return false;
    else at += count;
  }
  return true;
}

/** One record of a data frame. */
function record(header: Buffer, packet: Buffer, length = header.length + packet.length): Buffer {
  const bytes = Buffer.alloc(4 + pad(header.length + packet.length, 4));
  bytes.writeUInt32BE(length);
  header.copy(bytes, 4);
  packet.copy(bytes, 4 + header.length);
  return bytes;
}

const PLAIN = Buffer.alloc(OFFLOAD_HEADER);

/** An IPv4 packet with a right header checksum (RFC 791, 1071). */
function ipv4(source: number, destination: number, protocol: number, payload: Buffer): Buffer {
  const bytes = Buffer.concat([Buffer.from("450000000000400040000000", "hex"), Buffer.alloc(8), payload]);
  bytes.writeUInt16BE(bytes.length, 2);
  bytes[9] = protocol;
  bytes.writeUInt32BE(source, 12);
  bytes.writeUInt32BE(destination, 16);
  let sum = 0;
  for (let i = 0; i < 20; i += 2) sum += bytes.readUInt16BE(i);
  bytes.writeUInt16BE(~((sum & 0xffff) + (sum >>> 16)) & 0xffff, 10);
  return bytes;
}
const TARGET = parseIPv4("8.8.8.8")!;
const ping = Buffer.from("0800f7ff00000000", "hex");

/** An IPv6 packet that carries nothing (RFC 8200: next header 59). */
function ipv6(source: string, destination: string): Buffer {
  return Buffer.concat([Buffer.from("6000000000003b40", "hex"), parseIPv6(source)!, parseIPv6(destination)!]);
}

/**
 * Packets from everyone else's address, the server's, another client's, loopback, the internet; and one of
 * each family from its own.
 */
async function spoof(server: string): Promise<void> {
  const me = await insider(server);
  const { own, subnet6 } = me;
  const inner = (address: string) => embed(subnet6!, parseIPv4(address)!);
  const sources = [
    "10.8.0.1",
    "10.8.0.250",
    "127.0.0.1",
    "192.168.1.1",
    "8.8.8.8",
    "0.0.0.0",
    "255.255.255.255",
    "224.0.0.1",
  ].map((source) => parseIPv4(source)!);
  for (const source of [...sources, own + 1, own])
    await send(me, FrameType.data, record(PLAIN, ipv4(source, TARGET, 1, ping)));
  const sources6 = [
    inner("10.8.0.1"),
    inner("10.8.0.250"),
    inner("0.0.0.0"),
    "::",
    "::1",
    "::ffff:10.8.0.2",
    "fd56:504f::a08:2",
    "fd56:504e::1:a08:2",
    "fe80::a08:2",
    "ff02::1",
    "2001:4860:4860::8888",
  ];
  for (const source of [...sources6, embed(subnet6!, own)])
    await send(me, FrameType.data, record(PLAIN, ipv6(source, "2001:4860:4860::8888")));
  await told();
  me.peer.sendControl(Control.goodbye); // over UDP, the server would wait for more of it
}

/** Random bytes as packets, and as IPv4 packets from its own address. */
async function garbage(server: string, count: number): Promise<void> {
  const me = await insider(server);
  const { own } = me;
  const below = random(5);
  for (let i = 0; i < count; i++) {
    const bytes = Buffer.from(Array.from({ length: 1 + below(300) }, () => below(256)));
    await send(
      me,
      FrameType.data,
      record(PLAIN, below(2) ? bytes : ipv4(own, below(2) ? TARGET : below(2 ** 32), below(256), bytes)),
    );
  }
  await told();
}

/** A large TCP packet with each field of its offload header wrong in turn, then two fields at a time. */
async function offload(server: string): Promise<void> {
  const me = await insider(server);
  const { own } = me;
  const size = IS_UDP ? 1200 : 3000; // a datagram takes no more
  const tcp = Buffer.alloc(size);
  tcp.writeUInt32BE((1234 << 16) | 9, 0); // ports
  tcp[12] = 0x50; // its header: 20 bytes
  const packet = ipv4(own, TARGET, 6, tcp);
  const fields: [at: number, size: 1 | 2, right: number, wrong: number[]][] = [
    [0, 1, 1, [0, 2, 3, 4, 0x80, 0xff]], // flags
    [1, 1, 1, [0, 2, 3, 4, 5, 0x80, 0x81, 0x83, 0xff]], // gso_type: UDP, TCPv6, UDP_L4, ECN
    [2, 2, 40, [0, 1, 39, size + 21, 65535]], // hdr_len
    [4, 2, 1348, [0, 1, 47, 48, size - 1, 65535]], // gso_size
    [6, 2, 20, [0, 19, 21, size - 10, size + 19, size + 20, 65535]], // csum_start
    [8, 2, 16, [0, size - 2, 65535]], // csum_offset
  ];
  const cases = fields.flatMap(([at, size, , wrong]) => wrong.map((value) => ({ at, size, value })));
  for (const first of cases) {
    for (const second of cases) {
      const header = Buffer.alloc(OFFLOAD_HEADER);
      for (const [at, size, right] of fields) header.writeUIntLE(right, at, size);
      for (const { at, size, value } of [first, second]) header.writeUIntLE(value, at, size);
      if (!(await send(me, FrameType.data, record(header, packet))))
        throw new Error("the server has ended the session");
    }
  }
  await told();
}

/** Frames whose counts lie. Each costs a session; `count` of them. */
async function counts(server: string, count: number): Promise<void> {
  const below = random(7);
  for (let i = 0; i < count; i++) {
    const me = await insider(server);
    const { own } = me;
    const good = record(PLAIN, ipv4(own, TARGET, 1, ping));
    const lie = record(
      PLAIN,
      ipv4(own, TARGET, 1, ping),
      [0, OFFLOAD_HEADER, 39, 65546, 0x7fffffff, 0xffffffff][below(6)],
    );
    await send(me, FrameType.data, Buffer.concat([good, lie]));
    // it is closed, or answered; over UDP it lives, and over raw nobody tells
    const { peer, receive } = me;
    const isOver = () => peer.closed || peer.traffic.received.frames > 0;
    if (IS_TCP || IS_QUIC) await until(() => (isOver() || receive(), isOver()), 10_000);
  }
  await told();
}

/** `count` frames as fast as they go: tiny packets to nobody, empty frames, unknown control words. */
async function frames(server: string, count: number): Promise<void> {
  const me = await insider(server);
  const { own } = me;
  const packet = record(PLAIN, ipv4(own, parseIPv4("10.8.0.250")!, 17, Buffer.alloc(8)));
  const many = Buffer.concat(Array.from({ length: IS_UDP ? 20 : 100 }, () => packet));
  for (let i = 0; i < count; i++) {
    if (i % 3 === 0) await send(me, FrameType.data, many);
    else if (i % 3 === 1) await send(me, FrameType.data, Buffer.alloc(0));
    else await send(me, FrameType.control, Buffer.from([0, 0, 0, 99]));
  }
  await told();
}

/** Asks for fresh keys again as soon as it has some: this costs a session, too. `count` of them. */
async function rekeys(server: string, count: number): Promise<void> {
  const one = async () => {
    const { peer, receive } = await insider(server);
    let handshake: Handshake;
    const ask = () => {
      handshake = new Handshake("client", SECRET, REKEY_PROLOGUE);
      peer.sendControl(Control.rekey, handshake.write(Buffer.alloc(0)));
    };
    peer.events.onRekey = (_word, message) => {
      handshake.read(message);
      const { send, receive } = handshake.split();
      peer.keys!.receiveWith(receive);
      peer.sendControl(Control.switch);
      peer.keys!.sendWith(send);
      ask();
    };
    ask();
    if (IS_UDP)
      for (let again = 0; again < 3; again++) ask(); // it costs no session there
    else await until(() => (peer.closed || receive(), peer.closed), 30_000);
  };
  await Promise.all(Array.from({ length: count }, one)); // over raw, each waits for the end of its doubts
  await told();
}

/** Asks for large answers, and never reads them. */
async function deaf(server: string, count: number): Promise<void> {
  const me = await insider(server);
  const { own } = me;
  const request = Buffer.alloc(1300);
  request.set([8, 0, 0xf7, 0xff]);
  for (let i = 0; i < count; i++)
    await send(me, FrameType.data, record(PLAIN, ipv4(own, parseIPv4("10.8.0.1")!, 1, request)));
  await told();
}

/** What the document says is ignored: each must be followed by an answer to a ping. */
async function oddities(server: string): Promise<void> {
  const me = await insider(server);
  const packet = record(
    PLAIN,
    ipv4(me.own, parseIPv4("10.8.0.1")!, 1, Buffer.from("0800f7ff0000000000", "hex")),
  );
  const padded = Buffer.from(packet);
  padded.fill(0xff, 4 + OFFLOAD_HEADER + 29); // 29 bytes of packet, then padding
  const odd: [what: string, type: number, body: Buffer][] = [
    ["padding that is not zero", FrameType.data, padded],
    ["an empty data frame", FrameType.data, Buffer.alloc(0)],
    ["an empty control frame", FrameType.control, Buffer.alloc(0)],
    ["an unknown word", FrameType.control, Buffer.from([0, 0, 0, 99])],
    ["bytes behind a word", FrameType.control, Buffer.from([0, 0, 0, 1, 1, 2, 3, 4])],
  ];
  for (const [what, type, body] of odd) {
    await send(me, type, body);
    await send(me, FrameType.data, packet);
    const before = me.peer.traffic.received.frames;
    const answered = () => me.peer.closed || me.peer.traffic.received.frames > before;
    await until(() => (me.receive(), answered()), 10_000);
    if (me.peer.closed) throw new Error(`the session has ended after ${what}`);
  }
  await told();
}

/** Uses the wish of another client's message 1 in one of its own: any holder of the secret can read it. */
async function thief(server: string): Promise<void> {
  const { config } = await dialIdle(server, PORT, SECRET, TRANSPORT).then((victim) => {
    victim.peer.sendControl(Control.keepalive);
    return victim;
  });
  await sleep(500); // it is proven by then, or the next lines find its address free
  const { message1 } = new ClientHandshake(SECRET, config);
  const wish = new Handshake("server", SECRET).read(message1);
  const own = new Handshake("client", SECRET);
  const { message2, hangUp } = await PORTS().dial(server, 10_000, own.write(wish), (m) => m.length > 0);
  hangUp();
  const { address } = JSON.parse(own.read(message2).toString()) as { address: string };
  console.log(`wished for ${formatIPv4(config.address)}, got ${address}`);
  await told();
}

/** `count` honest sessions, all begun at once, from this one address: a class behind a NAT. */
async function crowd(server: string, count: number): Promise<void> {
  await Promise.all(Array.from({ length: count }, () => insider(server)));
  await told();
}

const ATTACKS: Record<string, (server: string, count: number) => Promise<void>> = {
  flood,
  idle,
  occupy,
  replay,
  unproven,
  drip,
  spoof,
  garbage,
  offload,
  counts,
  rekeys,
  frames,
  deaf,
  crowd,
  oddities,
  thief,
};

program(async () => {
  const [attack = "", server = "", count = "1"] = process.argv.slice(2);
  if (!ATTACKS[attack] || server === "")
    throw new Failure(
      "Cannot attack: expected ATTACK SERVER [COUNT]",
      `one of ${Object.keys(ATTACKS).join(", ")}`,
      2,
    );
  if (!existsSync(join(NETNS, "internet")))
    throw new Failure(
      "Cannot attack: this is no host of the lab",
      'make on HOST=internet CMD="node --import tsx src/lab/fuzz/hostile.ts flood 203.0.113.1 1000"',
    );
  await ATTACKS[attack](server, Number(count));
  console.log("done");
  process.exit(0);
});
