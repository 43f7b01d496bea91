/**
 * For fuzz.ts: each parser of the VPN, how input for it is made, and what must hold whatever the input. Where it is simple
 * enough, the parser is written here a second time, from its description, and both must say the same. Each assert.ok() has its
 * message: without one, Node reads this file to make it, and never ends where tsx has moved the lines (Node 20).
 */
import assert from "node:assert/strict";
import { createPrivateKey } from "node:crypto";
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { isIPv4 } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Clients } from "../clients.ts";
import { aesFraming, BrokenStream, Control, type Framing, FrameReader, FrameType, handshakeFraming, pad, xorFraming } from "../frame.ts";
import { decodeReply, encodeReply, Handshake, HandshakeError, Refused } from "../handshake.ts";
import { close, Memory, read, thisProcess, write } from "../libc.ts";
import { describeOffload, OFFLOAD_HEADER, refuseOffload } from "../offload.ts";
import { clientOptions, serverOptions } from "../options.ts";
import { describe, formatIPv4, parseCidr } from "../packet.ts";
import { Failure } from "../program.ts";
import { acceptSession, startSession } from "../session.ts";
import { seal, SOCK_SEQPACKET, socketPair } from "../testing.ts";
import { DOWN, trace, UP } from "../trace.ts";
import { inbound, Peer } from "../tunnel.ts";
import type { Random } from "./fuzz.ts";

export interface Parser {
  name: string;
  share: number; // of the cases, in relation to the others
  run: (any: Random) => void | Promise<void>; // one case; throws what is wrong
  end?: () => void; // closes what the cases shared
}

const SECRET = Buffer.alloc(32, 0x5e);
const OWN = 0x0a080002; // 10.8.0.2, the hostile client's own inner address
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
  if (bytes.length >= 8 && any.below(2)) bytes.writeUInt16BE(0x4000, 6); // no fragment
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
  const version = ip.length >= 20 && ip[0]! >> 4 === 4 ? 4 : ip.length >= 40 && ip[0]! >> 4 === 6 ? 6 : 0;
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
function message1(any: Random): Buffer {
  const handshake = new Handshake("client", SECRET, undefined, any.one(...KEYS));
  const payload = any.bytes(any.below(4) ? 0 : any.below(900));
  if (any.below(4)) return handshake.write(payload);
  const e = any.below(2) ? any.one(...LOW_ORDER) : any.bytes(32);
  handshake["mixHash"](e);
  handshake["mixKey"](e);
  return Buffer.concat([e, handshake["encryptAndHash"](payload)]);
}

async function runServerHandshake(any: Random): Promise<void> {
  const valid = framed(1, message1(any));
  const sent = any.mutate(valid);
  const [near, far] = socketPair();
  feed(far, sent, () => 1 + any.below(400), () => {});
  shutdown(far, SHUT_WR);
  let asked = 0;
  try {
    const peer = await acceptSession({ fd: near, address: "", remote: "client" }, SECRET, () => (asked++, any.below(4) ? { address: OWN, prefix: 24, mtu: 1400 } : { refused: "full" }));
    assert.deepEqual(sent, valid, "only what was made with the secret opens a session");
    peer.close("");
  } catch (error) {
    assert.ok(error instanceof HandshakeError || error instanceof BrokenStream, `${error}`);
  } finally {
    close(near);
    close(far);
  }
  assert.ok(asked === 0 || sent.equals(valid), "an address is offered to holders of the secret only");
}

async function runClientHandshake(any: Random): Promise<void> {
  const [near, far] = socketPair();
  const starting = startSession({ fd: near, address: "", remote: "server" }, SECRET);
  const server = new Handshake("server", SECRET, undefined, any.one(...KEYS));
  server.read(drain(far)[0]!.subarray(4));
  feed(far, any.mutate(framed(1, server.write(reply(any)))), () => 1 + any.below(400), () => {});
  shutdown(far, SHUT_WR);
  try {
    const { peer, config } = await starting;
    checkConfig(config);
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
  const value = () => any.one<unknown>("10.8.0.2", "10.8.0.2; reboot", "", null, true, -1, 24.5, 1e309, any.edge(), [], {}, "1.2.3", "\u001b[2J", { toString: 1 });
  const good = { address: "10.8.0.2", prefix: 24, mtu: 1400 };
  const json = any.one<unknown>(good, { ...good, address: value() }, { ...good, prefix: value() }, { ...good, mtu: any.edge() }, { refused: value() }, { refused: any.bytes(20).toString("latin1") }, value(), [good]);
  return any.mutate(Buffer.from(any.below(20) ? (JSON.stringify(json) ?? "") : any.one("[", '{"a":').repeat(any.below(450))));
}

/** These values go into commands. */
function checkConfig({ address, prefix, mtu }: { address: number; prefix: number; mtu: number }): void {
  assert.ok(isIPv4(formatIPv4(address)) && Number.isInteger(prefix) && prefix >= 8 && prefix <= 30 && Number.isInteger(mtu) && mtu >= 68 && mtu <= 65535, JSON.stringify({ address, prefix, mtu }));
}

function runReply(any: Random): void {
  try {
    const config = decodeReply(reply(any));
    checkConfig(config);
    assert.deepEqual(decodeReply(encodeReply(config)), config);
  } catch (error) {
    assert.ok(error instanceof HandshakeError, String(error));
    if (error instanceof Refused) assert.match(error.message, /^[ -~]*$/, "it goes to the terminal");
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
  assert.equal(describe(Buffer.concat([bytes.subarray(0, 80), any.bytes(80)]), 0, bytes.length), line, "80 bytes are all that it looks at");
}

// ---- addresses: what the server lets a client send, and whom a packet is for. Clients, Router ----

const [tunFd, kernelFd] = socketPair(SOCK_SEQPACKET);
const [listenFd] = socketPair(); // that nobody connects to: serve() is handed its clients
let server: Clients | undefined;
const RESIDENT = 0x0a080003;

async function runAddresses(any: Random): Promise<void> {
  show(any);
  const tun = { fd: tunFd, name: "tun0", header: 0 };
  if (!server) {
    server = new Clients({ ...serverOptions(["--cipher", "xor", "--subnet", "10.8.0.0/29"]), secret: undefined }, tun, listenFd);
    server.router.claim(RESIDENT, { peer: {}, isFor: () => false } as never);
  }
  const [near, far] = socketPair();
  await server["serve"]({ fd: near, address: String(any.below(2 ** 31)), remote: "client" }); // an address each: no rate limit
  const peer = [...server["peers"]].at(-1)!;
  let held: number | undefined;
  for (let packets = 1 + any.below(4); packets > 0; packets--) {
    const one = any.mutate(packet(any)).subarray(0, 60_000);
    if (one.length === 0) continue;
    const frame = seal(peer, FrameType.data, one);
    write(far, frameMemory(frame), 0, frame.length);
    inbound(peer, tun);
    const source = one.length >= 20 && one[0]! >> 4 === 4 ? one.readUInt32BE(12) : undefined;
    if (held === undefined && source !== undefined && source > 0x0a080001 && source < 0x0a080007 && source !== RESIDENT) held = source;
    assert.deepEqual(drain(kernelFd), source !== undefined && source === held ? [one] : []);
    const down = any.mutate(packet(any));
    const destination = down.length >= 20 && down[0]! >> 4 === 4 ? down.readUInt32BE(16) : undefined;
    const target: Peer | string = server.peerFor(down, 0, down.length);
    if (destination !== RESIDENT) assert.equal(target === peer, destination !== undefined && destination === held);
  }
  close(far);
  inbound(peer, tun);
  assert.equal(server.router.size, 1, "its address is free again");
}

function frameMemory(frame: Buffer): Memory {
  frame.copy(io.bytes);
  return io;
}

// ---- options and secrets ----

const WORDS = ["5555", "0", "65536", "tun0", "fifteen-bytes-a", "sixteen-bytes-ab", "a/b", "xor", "xor+aes", "10.8.0.0/24", "10.8.0.5/24", "0.0.0.0/0", "1.2.3.4", "::1", "walk", "off", "-1", "1e3", "", "tünl", "\u001b[2J", "a\nb", "--", "-p"];
const NAMES = ["port", "tun", "cipher", "mtu", "offload", "trace", "trace-file", "configure", "route", "address", "listen", "subnet", "max-clients", "nat", "nonsense", "__proto__"];

function runOptions(any: Random): void {
  const word = () => (any.below(4) ? any.one(...WORDS) : any.mutateText(any.one(...WORDS)));
  const args = Array.from({ length: any.below(6) }, () => (any.below(2) ? [`--${any.below(20) ? any.one(...NAMES) : any.mutateText(any.one(...NAMES))}`, word()] : [any.below(3) ? `--${any.one(...NAMES)}=${word()}` : word()])).flat();
  if (args.some((arg) => /^--(help|version)/.test(arg))) return;
  process.env.SIMPLE_VPN_SECRET = "5e".repeat(32);
  try {
    const isClient = any.below(2) === 0;
    const options = isClient ? clientOptions(["server", ...args]) : serverOptions(args);
    assert.ok(options.port >= 1 && options.port <= 65535 && options.mtu >= 68 && options.mtu <= 65535, JSON.stringify(options));
    assert.match(options.tun, /^[!-~]{1,15}$/);
    if ("routes" in options) for (const route of options.routes) assert.match(route, /^[\d.]+\/\d+$/);
    if ("subnet" in options) assert.ok(isIPv4(options.listen) && parseCidr(`${formatIPv4(options.subnet.network)}/${options.subnet.prefix}`)!.size >= 4 && options.maxClients >= 1, JSON.stringify(options));
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
  { name: "frames", share: 250, run: runFrames },
  { name: "sealed", share: 200, run: runSealed, end: () => session?.end() },
  { name: "offload", share: 150, run: runOffload },
  { name: "describe", share: 150, run: runDescribe },
  { name: "reply", share: 100, run: runReply },
  { name: "addresses", share: 50, run: runAddresses, end: () => server?.end() },
  { name: "options", share: 50, run: runOptions },
  { name: "secret", share: 20, run: runSecret },
  { name: "message1", share: 15, run: runServerHandshake },
  { name: "message2", share: 15, run: runClientHandshake },
];
