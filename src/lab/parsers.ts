/**
 * For fuzz.ts: each parser of the VPN, how input for it is made, and what must hold whatever the input. Where it is simple
 * enough, the parser is written here a second time, from its description, and both must say the same. Each assert.ok() has its
 * message: without one, Node reads this file to make it, and never ends where tsx has moved the lines (Node 20).
 */
import assert from "node:assert/strict";
import { createPrivateKey } from "node:crypto";
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { isIPv6 } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Clients } from "../clients.ts";
import { aesFraming, BrokenStream, Control, type Framing, FrameReader, FrameType, handshakeFraming, pad, xorFraming } from "../frame.ts";
import { decodeReply, decodeWish, encodeReply, encodeWish, Handshake, HandshakeError, Refused, type Wish } from "../handshake.ts";
import { close, Memory, read, thisProcess, write } from "../libc.ts";
import { describeOffload, OFFLOAD_HEADER, refuseOffload } from "../offload.ts";
import { clientOptions, serverOptions } from "../options.ts";
import { describe, embed, formatIPv4, formatIPv6, parseBlock6, parseIPv6, parsePrefix96 } from "../packet.ts";
import { Failure } from "../program.ts";
import { acceptSession, startSession } from "../session.ts";
import { endpoint, readSockaddr, sockaddr } from "../tcp.ts";
import { seal, SOCK_SEQPACKET, socketPair } from "../testing.ts";
import { DOWN, trace, UP } from "../trace.ts";
import { inbound, Peer } from "../tunnel.ts";
import type { Random } from "./fuzz.ts";
import { groupsAt, ipv4, ipv6, isToken, network6, OPTIONS, written } from "./models.ts";
import { runRekey } from "./rekeys.ts";

export interface Parser {
  name: string;
  share: number; // of the cases, in relation to the others
  run: (any: Random) => void | Promise<void>; // one case; throws what is wrong
  end?: () => void; // closes what the cases shared
}

const SECRET = Buffer.alloc(32, 0x5e);
const OWN = 0x0a080002; // 10.8.0.2, the hostile client's own inner address
const PREFIX6 = Buffer.from("fd56504e0000000000000000", "hex"); // of the inner IPv6 addresses: the default of --subnet6
const ADDRESSES = [OWN, 0, 0x0a080000, 0x0a080001, 0x0a080003, 0x0a080006, 0x0a080007, 0x0a080008, 0x08080808, 0x7f000001, 0xc0a80101, 0xe0000001, 0xffffffff];
const io = new Memory(1 << 18);
const shutdown = thisProcess.func("int shutdown(int fd, int how)"); // shutdown(2)
const SHUT_WR = 1;

/** Something like an IP packet: IPv4 in most cases, from its sender's own address in half of them. */
function packet(any: Random, most = 200): Buffer {
  const bytes = any.bytes(any.below(8) ? any.below(most) : any.one(0, 1, 19, 20, 21, 39, 40, 41, 60, 79, 80, 81, 1400, 65535));
  if (bytes.length > 0) bytes[0] = any.one(0x45, 0x45, 0x45, 0x45, 0x46, 0x4f, 0x44, 0x40, 0x60, 0x60, 0x05, 0xf5);
  if (bytes.length >= 20 && any.below(8)) bytes.writeUInt32BE(any.one(OWN, any.one(...ADDRESSES)), 12);
  if (bytes.length >= 20) bytes.writeUInt32BE(any.one(...ADDRESSES), 16);
  if (bytes.length >= 20) bytes[bytes[0]! >> 4 === 6 ? 6 : 9] = any.one(1, 6, 6, 17, 58, any.below(256));
  const isSix = bytes.length >= 40 && bytes[0]! >> 4 === 6;
  if (bytes.length >= 8 && !isSix && any.below(2)) bytes.writeUInt16BE(0x4000, 6); // no fragment
  for (const at of isSix && any.below(4) ? [8, 24] : []) {
    PREFIX6.copy(bytes, at);
    bytes.writeUInt32BE(any.one(OWN, any.one(...ADDRESSES)), at + 12);
    if (any.below(8) === 0) bytes[at + any.below(12)]! ^= 1 << any.below(8);
  }
  return bytes;
}

/** An offload header for an IP packet of `size` bytes: none needed; as the kernel writes it; at the packet's end; or anything. */
function offload(any: Random, size: number): Buffer {
  const bytes = Buffer.alloc(OFFLOAD_HEADER);
  if (any.below(3) === 0) return bytes;
  bytes.set([any.one(1, 1, 1, 0, 2, 3, any.below(256)), any.one(0, 1, 1, 4, 3, 5, 0x81, any.below(256))]);
  bytes.writeUInt16LE(any.one(1348, 1348, 48, 47, any.edge() & 0xffff), 4);
  bytes.writeUInt16LE(any.one(20, 20, 40, 60, 19, any.edge() & 0xffff), 6);
  const room = Math.max(0, size - bytes.readUInt16LE(6)); // for the checksum
  bytes.writeUInt16LE(any.one(16, 6, Math.max(0, room - 2), Math.max(0, room - 1), any.edge() & 0xffff), 8);
  return any.below(2) ? bytes : any.mutate(Buffer.concat([bytes, bytes])).subarray(0, OFFLOAD_HEADER);
}

/** May the kernel be handed this offload header with this packet? As offload.ts and linux/virtio_net.h describe it. */
function harmless(bytes: Buffer): boolean {
  const ip = bytes.subarray(OFFLOAD_HEADER);
  const version = versionOf(ip);
  const headers = version === 4 ? (ip[0]! % 16) * 4 : 40;
  if (version === 0 || headers < 20 || headers > ip.length) return false;
  const [flags, cut, piece, start, offset] = [bytes[0]!, bytes[1]!, bytes.readUInt16LE(4), bytes.readUInt16LE(6), bytes.readUInt16LE(8)];
  const checksum = flags === 1 || flags === 3;
  if (!checksum && flags !== 0 && flags !== 2) return false;
  if (checksum && (start < headers || start + offset + 2 > ip.length)) return false;
  if (cut === 0) return true;
  const whole = version === 6 || (ip.readUInt16BE(6) & 0x3fff) === 0;
  const tcp = ip[version === 4 ? 9 : 6] === 6 && ip.length > headers + 20 ? 4 * (ip[headers + 12]! >> 4) : 0;
  const cuttable = whole && tcp >= 20 && headers + tcp < ip.length;
  return cut === (version === 4 ? 1 : 4) && cuttable && checksum && start === headers && offset === 16 && piece >= 48 && piece < 65535;
}

/** 4 or 6; 0 for what is too short to have addresses, or has another version. */
const versionOf = (ip: Buffer) => (ip.length >= 20 && ip[0]! >> 4 === 4 ? 4 : ip.length >= 40 && ip[0]! >> 4 === 6 ? 6 : 0);

/** Is its source OWN, in a packet long enough to have one? */
const isOwn = (ip: Buffer) => ip.length >= 20 && ip[0]! >> 4 === 4 && ip.readUInt32BE(12) === OWN;

/** Writes `bytes` to `fd` in pieces of at most `piece()`, and calls `take` after each. */
function feed(fd: number, bytes: Buffer, piece: () => number, take: () => void): void {
  for (let at = 0; at < bytes.length; ) {
    const size = Math.min(piece(), bytes.length - at, 60_000);
    bytes.copy(io.bytes, 0, at, at + size);
    assert.equal(write(fd, io, 0, size), size);
    at += size;
    take();
  }
}

/** All that waits in `fd`, one read() after the other. */
function drain(fd: number): Buffer[] {
  const all: Buffer[] = [];
  for (let count = read(fd, io, 0, io.bytes.length); count > 0; count = read(fd, io, 0, io.bytes.length)) all.push(Buffer.from(io.bytes.subarray(0, count)));
  return all;
}

/** In half of the cases each packet is shown: the trace and describe() see the hostile bytes, too. Nothing is printed. */
function show(any: Random): void {
  Object.assign(trace, { mute: true, mode: any.one("walk", "off"), folded: false, shown: -1000 });
  trace["print"]();
}

// ---- frames: FrameReader ----

const FRAMINGS = [xorFraming, aesFraming, handshakeFraming];
const readers = new Map(FRAMINGS.map((framing) => [framing, new FrameReader(framing)]));
const pipe = socketPair();

/** The frames of a whole stream as [type, body], and whether it breaks off with a header that makes no sense. */
function deframe(framing: Framing, stream: Buffer): { frames: [number, Buffer][]; broken: boolean } {
  const frames: [number, Buffer][] = [];
  for (let at = 0; stream.length - at >= framing.header; ) {
    const isXor = framing.header === 2;
    const type = isXor ? 2 : stream[at]!;
    const length = isXor ? stream.readUInt16BE(at) : stream.readUIntBE(at + 1, 3);
    if (isXor ? length === 0 : type < 1 || type > 3 || length > framing.maxBody || (type > 1 && length % 4 > 0)) return { frames, broken: true };
    if (at + framing.header + length > stream.length) break;
    frames.push([type, stream.subarray(at + framing.header, at + framing.header + length)]);
    at += framing.header + length;
  }
  return { frames, broken: false };
}

function runFrames(any: Random): void {
  const framing = any.one(...FRAMINGS);
  const valid = Array.from({ length: 1 + any.below(4) }, () => {
    const size = any.below(30) ? 1 + any.below(100) : any.one(any.below(framing.maxBody), framing.maxBody, framing.maxBody + framing.align);
    const body = any.bytes(Math.min(pad(size, framing.align), framing.header === 2 ? 0xffff : 0xffffff));
    const header = Buffer.alloc(framing.header);
    framing.putHeader(header, 0, any.one(1, 2, 3), body.length);
    return Buffer.concat([header, body]);
  });
  const stream = any.mutate(Buffer.concat(valid));
  const reader = readers.get(framing)!;
  [reader["head"], reader["tail"]] = [0, 0];
  const got: [number, Buffer][] = [];
  let broken = false;
  const take = () => {
    while (!broken && reader.fill(pipe[1]) > 0) {
      try {
        while (reader.next()) got.push([reader.type, Buffer.from(reader.memory.bytes.subarray(reader.start, reader.end))]);
      } catch (error) {
        assert.ok(error instanceof BrokenStream, String(error));
        broken = true;
      }
    }
    if (broken) drain(pipe[1]);
  };
  feed(pipe[0], stream, () => (any.below(2) ? 1 + any.below(20) : 1 + any.below(60_000)), take);
  assert.deepEqual({ frames: got, broken }, deframe(framing, stream));
}

// ---- handshake: acceptSession() and startSession(), the messages and what carries them ----

/** A private key that is always the same: the messages are those of the seed. RFC 8410, section 7. */
const ephemeral = (byte: number) => createPrivateKey({ key: Buffer.concat([Buffer.from("302e020100300506032b656e04220420", "hex"), Buffer.alloc(32, byte)]), format: "der", type: "pkcs8" });
const KEYS = [ephemeral(1), ephemeral(2)];
const LOW_ORDER = ["00".repeat(32), `01${"00".repeat(31)}`, `ec${"ff".repeat(30)}7f`, `ed${"ff".repeat(30)}7f`, "ff".repeat(32)].map((hex) => Buffer.from(hex, "hex")); // RFC 7748, section 6.1, and beyond p

const framed = (type: number, message: Buffer) => {
  const header = Buffer.alloc(4);
  aesFraming.putHeader(header, 0, type as FrameType, message.length);
  return Buffer.concat([header, message]);
};

/** Message 1 as a holder of the secret could make it: with any public key, and any payload. */
function message1(any: Random, payload: Buffer): { message: Buffer; isLowOrder: boolean } {
  const handshake = new Handshake("client", SECRET, undefined, any.one(...KEYS));
  if (any.below(4)) return { message: handshake.write(payload), isLowOrder: false };
  const e = any.below(2) ? any.one(...LOW_ORDER) : any.bytes(32);
  handshake["mixHash"](e);
  handshake["mixKey"](e);
  return { message: Buffer.concat([e, handshake["encryptAndHash"](payload)]), isLowOrder: LOW_ORDER.slice(0, 4).some((one) => one.equals(e)) };
}

/** Values that JSON can have where something else is expected. */
const odd = (any: Random) => any.one<unknown>("10.8.0.2", "10.8.0.2; reboot", "10.8.0.02", "", null, true, -1, 24.5, 1e309, any.edge(), [], ["10.8.0.2"], {}, "1.2.3", "\u001b[2J", { toString: 1 }, "ab".repeat(16), "AB".repeat(16), "ab".repeat(17), "fd00::/96", "fd00::1/96", "FD00:0::/096", "off");
const json = (any: Random, value: unknown): Buffer => any.mutate(Buffer.from(any.below(20) ? (JSON.stringify(value) ?? "") : any.one("[", '{"a":').repeat(any.below(450))));

/** Message 1's payload: none, JSON that is right or nearly right, or anything. */
function wish(any: Random): Buffer {
  const good = { address: "10.8.0.2", token: "ab".repeat(16) };
  const value = any.one<unknown>(good, { address: "200.8.0.6" }, { ...good, address: odd(any) }, { ...good, token: odd(any) }, { token: good.token }, odd(any), [good], { ["__proto__"]: good });
  return any.one(Buffer.alloc(0), any.bytes(any.below(900)), json(any, value), json(any, value), json(any, value));
}

/** What it means; undefined: nothing. */
function wishIn(payload: Buffer): Wish | undefined {
  if (payload.length === 0) return {};
  const { address: text, token } = parsed(payload);
  const address = typeof text === "string" ? ipv4(text) : undefined;
  return address === undefined || (token !== undefined && !isToken(token)) ? undefined : { address, token: token as string };
}

function parsed(payload: Buffer): Record<string, unknown> {
  try {
    return Object(JSON.parse(payload.toString()));
  } catch {
    return {};
  }
}

function runWish(any: Random): void {
  const payload = wish(any);
  const expected = wishIn(payload);
  try {
    const got = decodeWish(payload);
    assert.deepEqual(got, expected);
    assert.deepEqual({ ...decodeWish(encodeWish(got)) }, got);
  } catch (error) {
    assert.ok(error instanceof HandshakeError, String(error));
    assert.equal(expected, undefined, "it makes sense");
  }
}

async function runServerHandshake(any: Random): Promise<void> {
  const payload = wish(any);
  const expected = wishIn(payload);
  const { message, isLowOrder } = message1(any, payload);
  const valid = framed(1, message);
  const sent = any.mutate(valid);
  const [near, far] = socketPair();
  feed(far, sent, () => 1 + any.below(400), () => {});
  shutdown(far, SHUT_WR);
  const wishes: Wish[] = [];
  const isFull = any.below(4) === 0;
  let opened = false;
  try {
    const peer = await acceptSession({ fd: near, address: "", remote: "client" }, SECRET, (asked) => (wishes.push(asked), isFull ? { refused: "full" } : { address: OWN, prefix: 24, mtu: 1400 }));
    peer.close("");
    opened = true;
  } catch (error) {
    assert.ok(error instanceof BrokenStream, `${error}`);
  } finally {
    close(near);
    close(far);
  }
  const isGood = sent.equals(valid) && message.length <= 1024 && expected !== undefined;
  assert.deepEqual(wishes, isGood ? [expected] : [], "an address is offered to holders of the secret only, once");
  assert.equal(opened, isGood && !isLowOrder && !isFull);
}

async function runClientHandshake(any: Random): Promise<void> {
  const [near, far] = socketPair();
  const starting = startSession({ fd: near, address: "", remote: "server" }, SECRET, any.one<Wish>({}, { address: OWN, token: "ab".repeat(16) }));
  const server = new Handshake("server", SECRET, undefined, any.one(...KEYS));
  server.read(drain(far)[0]!.subarray(4));
  const payload = reply(any);
  const valid = framed(1, server.write(payload));
  const sent = any.mutate(valid);
  feed(far, sent, () => 1 + any.below(400), () => {});
  shutdown(far, SHUT_WR);
  try {
    const { peer, config } = await starting;
    assert.ok(sent.equals(valid), "only what was made with the secret opens a session");
    assert.equal(formatIPv4(config.address), configIn(payload)?.address);
    peer.close("");
  } catch (error) {
    checkFailure(error);
  } finally {
    close(near);
    close(far);
  }
}

/** Message 2's payload: JSON that is right, nearly right, or anything. */
function reply(any: Random): Buffer {
  const good = { address: "10.8.0.2", prefix: 24, mtu: 1400, ...(any.below(2) && { token: "ab".repeat(16) }), ...(any.below(2) && { subnet6: "fd56:504e::/96" }) };
  const value = any.one<unknown>(good, ...["address", "prefix", "token", "subnet6"].map((name) => ({ ...good, [name]: odd(any) })), { ...good, mtu: any.edge() }, { refused: odd(any) }, { refused: any.bytes(20).toString("latin1") }, odd(any), [good]);
  return json(any, value);
}

/** What it means, as what goes into commands and into the next wish; undefined: nothing. */
function configIn(payload: Buffer) {
  const { address, prefix, mtu, token, subnet6 } = parsed(payload);
  const whole = (value: unknown, least: number, most: number) => typeof value === "number" && value % 1 === 0 && value >= least && value <= most;
  const net = typeof subnet6 === "string" ? network6(subnet6) : undefined;
  if (typeof address !== "string" || ipv4(address) === undefined || !whole(prefix, 8, 30) || !whole(mtu, 68, 65535)) return undefined;
  if ((token !== undefined && !isToken(token)) || (subnet6 !== undefined && net?.prefix !== 96)) return undefined;
  return { address, prefix, mtu, token, subnet6: net && `${written(net.groups)}/96` };
}

function runReply(any: Random): void {
  const payload = reply(any);
  const isRefusal = typeof parsed(payload).refused === "string";
  try {
    const config = decodeReply(payload);
    const { address, prefix, mtu, token, subnet6 } = config;
    assert.deepEqual({ address: formatIPv4(address), prefix, mtu, token, subnet6: subnet6 && `${embed(subnet6, 0)}/96` }, configIn(payload));
    assert.ok(!isRefusal, "no refusal is taken for a session");
    assert.deepEqual(decodeReply(encodeReply(config)), config);
  } catch (error) {
    assert.ok(error instanceof HandshakeError, String(error));
    assert.equal(error instanceof Refused, isRefusal);
    if (isRefusal) assert.match(error.message, /^[ -~]*$/, "it goes to the terminal");
    else assert.equal(configIn(payload), undefined, "it makes sense");
  }
}

// ---- sealed: what a holder of the secret sends in a session ----

/** A client's and a server's end; the server has a TUN, whose other end is `kernel`. */
class Session {
  private readonly fds = [...socketPair(), ...socketPair(SOCK_SEQPACKET)];
  readonly wire = this.fds[0]!;
  readonly kernel = this.fds[3]!;
  readonly tun = { fd: this.fds[2]!, name: "tun0", header: OFFLOAD_HEADER };
  readonly client = new Peer({ fd: this.wire, address: "", remote: "server" }, UP, DOWN, { send: SECRET, receive: SECRET });
  readonly server = new Peer({ fd: this.fds[1]!, address: "", remote: "client" }, DOWN, UP, { send: SECRET, receive: SECRET });

  constructor() {
    this.server.admit = (bytes, at, length) => (isOwn(bytes.subarray(at, at + length)) ? undefined : "test: its source is another's");
  }

  end(): void {
    this.client.close("");
    this.server.close("");
    for (const fd of this.fds) close(fd);
  }
}
let session: Session | undefined;

/** A packet of its own as large as there can be, or a byte larger. */
function largest(any: Random): Buffer {
  const bytes = any.bytes(any.one(65535, 65536));
  bytes[0] = 0x45;
  bytes.writeUInt32BE(OWN, 12);
  return bytes;
}

/** The plaintext of a data frame: records with any lengths, offload headers and packets. */
function records(any: Random): Buffer {
  const many = any.below(1000) === 0 ? 2000 : any.below(5);
  const parts = Array.from({ length: many }, () => {
    const ip = any.below(300) || many !== 1 ? packet(any).subarray(0, many > 5 ? 20 : 30_000) : largest(any);
    const content = Buffer.concat([offload(any, ip.length), ip]);
    const length = Buffer.alloc(4);
    length.writeUInt32BE(any.below(20) ? content.length : any.edge());
    return Buffer.concat([length, content, Buffer.alloc(pad(content.length, 4) - content.length)]);
  });
  const all = any.below(3) ? Buffer.concat(parts) : any.mutate(Buffer.concat(parts));
  return any.below(50) ? all.subarray(0, all.length & ~3) : all;
}

/** What of a data frame's plaintext must reach the TUN, as frame.ts describes it; the rest of a frame that lies is lost. */
function accepted(plaintext: Buffer): Buffer[] {
  const all: Buffer[] = [];
  for (let at = 0; at < plaintext.length; ) {
    if (plaintext.length - at < 4) break;
    const length = plaintext.readUInt32BE(at);
    if (length <= OFFLOAD_HEADER || length > OFFLOAD_HEADER + 65535 || at + 4 + length > plaintext.length) break;
    const record = plaintext.subarray(at + 4, at + 4 + length);
    if (isOwn(record.subarray(OFFLOAD_HEADER)) && harmless(record)) all.push(record);
    at += 4 + pad(length, 4);
  }
  return all;
}

function runSealed(any: Random): void {
  show(any);
  session ??= new Session();
  const { client, server, tun, kernel, wire } = session;
  const sent: Buffer[] = [];
  const expected: [number, Buffer][] = []; // where in the stream it is whole, and what must come out
  let reason = "";
  server.onClose = (why) => (reason = why);
  let sound = true; // up to here
  for (let size = 0, frames = 1 + any.below(3); frames > 0; frames--) {
    const type = any.below(20) ? FrameType.data : any.one(FrameType.control, FrameType.handshake, any.below(256));
    const body = type === FrameType.control ? any.one(Buffer.alloc(0), Buffer.from([0, 0, 0, any.one(Control.keepalive, Control.goodbye, 77)]), any.bytes(4 * any.below(4))) : records(any);
    const frame = seal(client, type, body);
    sent.push(frame);
    size += frame.length;
    if (sound && type === FrameType.data && body.length % 4 === 0) expected.push(...accepted(body).map((one): [number, Buffer] => [size, one]));
    sound &&= (type === FrameType.data && isSound(body)) || (type === FrameType.control && body.length % 4 === 0 && !(body.length >= 4 && body.readUInt32BE(0) === Control.goodbye));
  }
  const stream = Buffer.concat(sent);
  const arriving = any.below(6) ? stream : any.mutate(stream);
  let same = 0; // bytes that arrive as they were sent
  while (same < stream.length && stream[same] === arriving[same]) same++;
  const written: Buffer[] = [];
  feed(wire, arriving, () => (any.below(2) ? 60_000 : 1 + any.below(300)), () => {
    if (!server.closed) inbound(server, tun);
    written.push(...drain(kernel));
  });
  assert.deepEqual(written, expected.filter(([end]) => end <= same).map(([, one]) => one));
  if (sound && same === stream.length && arriving.length === same) assert.ok(!server.closed, `honest frames end no session: ${reason}`);
  if (server.closed || !arriving.equals(stream)) {
    session.end();
    session = undefined;
  }
}

/** Does every record fit, so that the session goes on? */
function isSound(plaintext: Buffer): boolean {
  for (let at = 0; at < plaintext.length; ) {
    if (plaintext.length - at < 4) return false;
    const length = plaintext.readUInt32BE(at);
    if (length <= OFFLOAD_HEADER || length > OFFLOAD_HEADER + 65535 || at + 4 + length > plaintext.length) return false;
    at += 4 + pad(length, 4);
  }
  return plaintext.length % 4 === 0;
}

// ---- offload and describe: one packet's bytes ----

function runOffload(any: Random): void {
  const ip = packet(any);
  const bytes = Buffer.concat([offload(any, ip.length), ip]);
  const at = any.below(8);
  const inMemory = Buffer.concat([any.bytes(at), bytes, any.bytes(100)]);
  const refusal = refuseOffload(inMemory, at, bytes.length);
  assert.equal(refusal === undefined, harmless(bytes), refusal ?? "let through");
  describeOffload(inMemory, at);
}

function runDescribe(any: Random): void {
  const bytes = any.mutate(packet(any));
  const line = describe(bytes, 0, bytes.length);
  assert.match(line, /^[ -~→]{1,150}$/);
  assert.doesNotMatch(line, /NaN|undefined| -\d/);
  const address = (at: number) => (bytes[0]! >> 4 === 6 ? written(groupsAt(bytes, at)) : [...bytes.subarray(at, at + 4)].join("."));
  const ends = versionOf(bytes) === 4 ? [12, 16] : [8, 24];
  assert.ok(versionOf(bytes) === 0 ? line === "not an IP packet" : line.startsWith(`${ends.map(address).join(" → ")} `), line);
  assert.equal(describe(Buffer.concat([bytes.subarray(0, 80), any.bytes(80)]), 0, bytes.length), line, "80 bytes are all that it looks at");
}

// ---- addresses: what the server lets a client send, and whom a packet is for. Clients, Router ----

const [tunFd, kernelFd] = socketPair(SOCK_SEQPACKET);
/** Two servers with a resident client: one with inner IPv6, one without, and where an address as a signed number is below zero. */
const NETS = [{ base: 0x0a080000, subnet6: "fd56:504e::/96" }, { base: 0xc8080000, subnet6: "off" }].map((net) => ({ ...net, fds: [-1, -1], server: undefined as Clients | undefined }));

function started(net: (typeof NETS)[number]): Clients {
  if (net.server) return net.server;
  const options = serverOptions(["--cipher", "xor", "--subnet", `${formatIPv4(net.base)}/29`, "--subnet6", net.subnet6]);
  net.fds = socketPair();
  net.server = new Clients({ ...options, secret: undefined }, { fd: tunFd, name: "tun0", header: 0 }, net.fds[0]!); // nobody connects to it: serve() is handed its clients
  net.server.router.claim(net.base + 3, { peer: {}, isFor: () => false } as never);
  return net.server;
}

function stopServers(): void {
  for (const net of NETS) {
    if (!net.server) continue;
    net.server.end();
    close(net.fds[1]!);
    net.server = undefined;
  }
}

async function runAddresses(any: Random): Promise<void> {
  show(any);
  const net = any.one(...NETS);
  const server = started(net);
  const [near, far] = socketPair();
  await server["serve"]({ fd: near, address: String(any.below(2 ** 31)), remote: "client" }); // an address each: no rate limit
  const peer = [...server["peers"]].at(-1)!;
  const made = () => {
    const bytes = any.mutate(packet(any)).subarray(0, 60_000);
    for (const at of versionOf(bytes) === 4 ? [12, 16] : []) if (bytes[at] === 10) bytes[at] = net.base >>> 24;
    return bytes;
  };
  /** A packet's source or destination as the number of an inner address. */
  const inner = (ip: Buffer, at4: number, at6: number) => {
    const version = versionOf(ip);
    if (version === 4) return ip.readUInt32BE(at4);
    return version === 6 && net.subnet6 !== "off" && PREFIX6.equals(ip.subarray(at6, at6 + 12)) ? ip.readUInt32BE(at6 + 12) : undefined;
  };
  let held: number | undefined;
  for (let packets = 1 + any.below(4); packets > 0; packets--) {
    const one = made();
    if (one.length === 0) continue;
    const frame = seal(peer, FrameType.data, one);
    write(far, frameMemory(frame), 0, frame.length);
    inbound(peer, { fd: tunFd, name: "tun0", header: 0 });
    const source = inner(one, 12, 8);
    if (held === undefined && source !== undefined && source > net.base + 1 && source < net.base + 7 && source !== net.base + 3) held = source;
    assert.deepEqual(drain(kernelFd), source !== undefined && source === held ? [one] : []);
    const down = made();
    const destination = inner(down, 16, 24);
    const target: Peer | string = server.peerFor(down, 0, down.length);
    if (destination === net.base + 3) assert.equal(typeof target, "object");
    else assert.equal(target === peer ? "its own" : target, destination !== undefined && destination === held ? "its own" : "no client holds its destination address");
  }
  close(far);
  inbound(peer, { fd: tunFd, name: "tun0", header: 0 });
  assert.equal(server.router.size, 1, "its address is free again");
}

function frameMemory(frame: Buffer): Memory {
  frame.copy(io.bytes);
  return io;
}

// ---- ipv6: addresses and blocks as text, and as the kernel has them ----

/** An IPv6 address in one of the forms that people type, or nearly. */
function text6(any: Random): string {
  const groups = Array.from({ length: 8 }, () => any.one(0, 0, any.below(0x10000), any.edge() % 0x10000));
  if (any.below(8) === 0) groups.splice(0, 6, 0, 0, 0, 0, 0, 0xffff);
  const hex = groups.map((group) => group.toString(16).padStart(any.one(1, 4), "0"));
  const dotted = [...hex.slice(0, 6), formatIPv4((groups[6]! * 65536 + groups[7]!) >>> 0)];
  const from = any.below(7);
  const cut = `${hex.slice(0, from).join(":")}::${hex.slice(from + 1 + any.below(7)).join(":")}`;
  const text = any.one(written(groups), hex.join(":"), hex.join(":").toUpperCase(), dotted.join(":"), cut, `::${dotted.slice(any.below(6) + 1).join(":")}`);
  return any.below(2) ? text : any.mutateText(text);
}

function runIPv6(any: Random): void {
  const text = text6(any);
  if (text.includes("%")) return;
  const scope = any.one("", "", "%lo", "%7", "%no-such-dev", "%-1", "%99999999999");
  const groups = ipv6(text);
  const bytes = parseIPv6(text + scope);
  assert.equal(bytes && written(groupsAt(bytes, 0)), groups && written(groups));
  if (bytes) assert.equal(formatIPv6(bytes), written(groups!));

  const slashed = any.below(8) ? `${text}/${any.one(0, 1, 32, 64, 96, 96, 96, 127, 128, 129, any.below(200))}` : any.mutateText(`${text}/96`);
  const net = network6(slashed);
  const block = parseBlock6(slashed);
  assert.equal(block?.text, net && `${written(net.groups)}/${net.prefix}`);
  const prefix = parsePrefix96(slashed);
  assert.equal(prefix !== undefined, net?.prefix === 96);
  const number = any.one(...ADDRESSES);
  if (prefix) assert.equal(embed(prefix, number), written([...net!.groups.slice(0, 6), number >>> 16, number & 0xffff]));

  const port = any.below(65536);
  const isOurs = bytes !== undefined && isIPv6(text + scope);
  const index = scope === "%7" ? 7 : scope === "%lo" ? 1 : 0;
  const raw = isOurs ? sockaddr(text + scope, port) : any.mutate(sockaddr(formatIPv4(number), port));
  const kernels = Buffer.concat([isOurs && any.below(2) ? any.mutate(raw) : raw, Buffer.alloc(28)]).subarray(0, 28);
  if (isOurs) assert.deepEqual([raw.length, groupsAt(raw, 8), raw[24], raw.readUInt16BE(2)], [28, groups, index, port]);
  const shown = (at: number) => [...kernels.subarray(at, at + 4)].join(".");
  const mapped = groupsAt(kernels, 8).slice(0, 6).join() === "0,0,0,0,0,65535";
  const at = kernels.readUInt32LE(24);
  const expected = kernels.readUInt16LE(0) === 2 ? shown(4) : mapped ? shown(20) : written(groupsAt(kernels, 8)) + (at ? `%${at}` : "");
  assert.deepEqual(readSockaddr(kernels), [expected, kernels.readUInt16BE(2)]);
  assert.match(endpoint(...readSockaddr(kernels)), /^(\[[\da-f:]+(%\d+)?\]|[\d.]+):\d+$/);
}

// ---- options and secrets ----

const WORDS = ["5555", "0", "65536", "86400", "tun0", "fifteen-bytes-a", "sixteen-bytes-ab", "a/b", "xor", "xor+aes", "10.8.0.0/24", "10.8.0.5/24", "0.0.0.0/0", "1.2.3.4", "*", "::", "::1", "fe80::1%eth0", "::/0", "2001:DB8::/32", "fd00::/96", "fd00::1/96", "walk", "off", "on", "-1", "1e3", "", "tünl", "\u001b[2J", "a\nb", "--", "-p"];
const NAMES = Object.keys(OPTIONS);

/** One option with one value: taken if models.ts says so, refused if not. */
function runOption(any: Random): void {
  const [name, value, isClient] = [any.one(...NAMES), any.one(any.one(...WORDS), any.mutateText(any.one(...WORDS)), any.one(text6(any), `${text6(any)}/${any.one(0, 32, 96, 128)}`)), any.below(2) === 0];
  const { of, takes } = OPTIONS[name]!;
  const expected = of !== (isClient ? "server" : "client") && takes(value);
  try {
    const options = isClient ? clientOptions(["server", `--${name}=${value}`]) : serverOptions([`--${name}=${value}`]);
    assert.ok(expected, `taken: --${name}=${value}`);
    const all: Record<string, unknown> = { ...options };
    if (typeof all[name] === "number") assert.equal(all[name], Number(value));
    if ("routes" in options && name === "route") assert.deepEqual(options.routes, [value.includes(":") ? `${written(network6(value)!.groups)}/${network6(value)!.prefix}` : value]);
  } catch (error) {
    checkFailure(error, 2);
    assert.ok(!expected, `refused: --${name}=${value}`);
  }
}

function runOptions(any: Random): void {
  process.env.SIMPLE_VPN_SECRET = "5e".repeat(32);
  try {
    if (any.below(2)) return runOption(any);
    const word = () => (any.below(4) ? any.one(...WORDS) : any.mutateText(any.one(...WORDS)));
    const name = () => (any.below(100) ? any.one(...NAMES, "configure", "once", "nonsense", "__proto__") : "user"); // it starts id(1)
    const args = Array.from({ length: any.below(6) }, () => (any.below(2) ? [`--${any.below(20) ? name() : any.mutateText(name())}`, word()] : [any.below(3) ? `--${name()}=${word()}` : word()])).flat();
    if (args.some((arg) => /^--(help|version)/.test(arg))) return;
    const options = any.below(2) ? clientOptions(["server", ...args]) : serverOptions(args);
    assert.ok(options.port >= 1 && options.port <= 65535 && options.mtu >= 68 && options.mtu <= 65535, JSON.stringify(options));
    assert.match(options.tun, /^[!-~]{1,15}$/);
    assert.ok(options.user === undefined || options.user.uid > 0, "never root");
    if ("routes" in options) for (const route of options.routes) assert.match(route, /^[\d.]+\/\d+$|^[\da-f:]+\/\d+$/);
    if ("rekey" in options) assert.ok(options.rekey >= 1 && options.rekey <= 86_400, JSON.stringify(options));
    if ("subnet" in options) assert.ok(options.subnet.size >= 4 && options.maxClients >= 1 && (!options.subnet6 || options.subnet6.length === 3), JSON.stringify(options));
  } catch (error) {
    checkFailure(error, 2);
  } finally {
    delete process.env.SIMPLE_VPN_SECRET;
  }
}

/** What a program ends with is one line, and says what to try. */
function checkFailure(error: unknown, exitCode = 1): void {
  assert.ok(error instanceof Failure, String(error));
  assert.equal(error.exitCode, exitCode);
  assert.match(error.message, /^Cannot [^\x00-\x1f\x7f-\x9f]+$/, "one line, and nothing that a terminal would obey");
  assert.ok(error.hint.length > 0, "something to try");
}

let folder: string | undefined;

function runSecret(any: Random): void {
  folder ??= mkdtempSync(join(tmpdir(), "simple-vpn-fuzz-"));
  const path = join(folder, "secret");
  const bytes = any.mutate(Buffer.from(`${any.one("5e", "5E", "é", "  ").repeat(any.one(32, 31, 33, 32))}${any.one("\n", "\r\n", "", " ")}`));
  const mode = any.one(0o600, 0o600, 0o400, any.below(0o1000) | 0o400);
  writeFileSync(path, bytes);
  chmodSync(path, mode);
  const digits = bytes.toString().trim();
  const good = /^[0-9a-fA-F]{64}$/.test(digits) && mode % 0o100 === 0;
  try {
    const { secret } = clientOptions(["server", "--secret", path]);
    assert.ok(good && secret!.toString("hex") === digits.toLowerCase(), `taken: ${digits}, mode ${mode.toString(8)}`);
  } catch (error) {
    checkFailure(error);
    assert.ok(!good, "a good secret is taken");
    assert.ok(digits.length < 8 || !(error as Failure).message.includes(digits.slice(0, 8)), "no secret is ever printed");
  } finally {
    rmSync(path);
  }
}

export const PARSERS: readonly Parser[] = [
  { name: "frames", share: 230, run: runFrames },
  { name: "sealed", share: 180, run: runSealed, end: () => (session?.end(), (session = undefined)) },
  { name: "offload", share: 130, run: runOffload },
  { name: "describe", share: 120, run: runDescribe },
  { name: "reply", share: 90, run: runReply },
  { name: "wish", share: 60, run: runWish },
  { name: "ipv6", share: 60, run: runIPv6 },
  { name: "addresses", share: 45, run: runAddresses, end: stopServers },
  { name: "options", share: 40, run: runOptions },
  { name: "secret", share: 15, run: runSecret },
  { name: "message1", share: 12, run: runServerHandshake },
  { name: "message2", share: 12, run: runClientHandshake },
  { name: "rekey", share: 20, run: (any) => (show(any), runRekey(any)) },
];
