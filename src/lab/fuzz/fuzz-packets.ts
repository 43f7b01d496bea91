/**
 * For fuzz.ts: packets, on their way out of a holder of the secret's frames into the server's TUN, and to
 * whom they are.
 */
import assert from "node:assert/strict";
import { formatIPv4 } from "../../base/address.ts";
import { Clients } from "../../server/clients.ts";
import { aesFraming, Control, FrameType, pad } from "../../core/frame.ts";
import { close, type Memory, write } from "../../base/libc.ts";
import { describeOffload, OFFLOAD_HEADER, refuseOffload } from "../../core/offload.ts";
import { serverOptions } from "../../host/options.ts";
import { describe } from "../../base/packet.ts";
import type { Peer } from "../../core/peer.ts";
import { type TcpLink, TcpPort } from "../../transport/tcp.ts";
import { seal, session, SOCK_SEQPACKET, socketPair } from "../tests/peers.ts";
import {
  drain,
  feed,
  harmless,
  io,
  isOwn,
  offload,
  OWN,
  packet,
  PREFIX6,
  SECRET,
  show,
  versionOf,
} from "./fuzz-inputs.ts";
import type { Random } from "./random.ts";
import { groupsAt, written } from "./models.ts";

// ---- sealed: what a holder of the secret sends in a session ----

function newSession() {
  const it = session("xor+aes", [SECRET, SECRET]);
  it.server.peer.events.refuse = (bytes, at, size) =>
    isOwn(bytes.subarray(at, at + size)) ? undefined : "test: its source is another's";
  return it;
}
let current: ReturnType<typeof newSession> | undefined;

export function endSession(): void {
  current?.end();
  current = undefined;
}

/** A packet of its own as large as there can be, or a byte larger. */
function largest(any: Random): Buffer {
  const bytes = any.bytes(any.one(65535, 65536));
  bytes[0] = 0x45;
  bytes.writeUInt32BE(OWN, 12);
  return bytes;
}

/** The plaintext of a data frame: records with any lengths, offload headers and packets. */
export function records(any: Random): Buffer {
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

/**
 * What of a data frame's plaintext must reach the TUN, as frame.ts describes it; the rest of a frame that
 * lies is lost.
 */
export function accepted(plaintext: Buffer): Buffer[] {
  const all: Buffer[] = [];
  for (let at = 0; at < plaintext.length;) {
    if (plaintext.length - at < 4) break;
    const length = plaintext.readUInt32BE(at);
    if (length <= OFFLOAD_HEADER || length > OFFLOAD_HEADER + 65535 || at + 4 + length > plaintext.length)
      break;
    const record = plaintext.subarray(at + 4, at + 4 + length);
    if (isOwn(record.subarray(OFFLOAD_HEADER)) && harmless(record)) all.push(record);
    at += 4 + pad(length, 4);
  }
  return all;
}

/** A row of frames as they are before they are sealed: a type, three bytes of length, a plaintext. */
export function makeSealed(any: Random): Buffer {
  const frames = Array.from({ length: 1 + any.below(3) }, () => {
    const type = any.below(20)
      ? FrameType.data
      : any.one(FrameType.control, FrameType.handshake, any.below(256));
    const body =
      type === FrameType.control
        ? any.one(
            Buffer.alloc(0),
            Buffer.from([0, 0, 0, any.one(Control.keepalive, Control.goodbye, 77)]),
            any.bytes(4 * any.below(4)),
          )
        : records(any);
    const header = Buffer.alloc(4);
    aesFraming.putHeader(header, 0, type as FrameType, body.length);
    return Buffer.concat([header, body]);
  });
  return Buffer.concat(frames);
}

/** Seals them, and sends them to a server that has a session with us. */
export function checkSealed(input: Buffer, any: Random): void {
  show(any);
  current ??= newSession();
  const { client } = current;
  const { peer: server, kernel } = current.server;
  const sent: Buffer[] = [];
  const expected: [number, Buffer][] = []; // where in the stream it is whole, and what must come out
  let reason = "";
  server.events.onClose = (why) => (reason = why);
  let sound = true; // up to here
  for (let size = 0, at = 0, length = 0; at < input.length; at += 4 + length) {
    const type = input[at] as FrameType;
    length = input.readUIntBE(at + 1, 3);
    const body = input.subarray(at + 4, at + 4 + length);
    const frame = seal(client.peer, type, body);
    sent.push(frame);
    size += frame.length;
    if (sound && type === FrameType.data && body.length % 4 === 0)
      expected.push(...accepted(body).map((one): [number, Buffer] => [size, one]));
    sound &&=
      (type === FrameType.data && isSound(body)) ||
      (type === FrameType.control &&
        body.length % 4 === 0 &&
        !(body.length >= 4 && body.readUInt32BE(0) === Control.goodbye));
  }
  const stream = Buffer.concat(sent);
  const arriving = any.below(6) ? stream : any.mutate(stream);
  let same = 0; // bytes that arrive as they were sent
  while (same < stream.length && stream[same] === arriving[same]) same++;
  const written: Buffer[] = [];
  feed(
    client.fd,
    arriving,
    () => (any.below(2) ? 60_000 : 1 + any.below(300)),
    () => {
      current!.server.receive();
      written.push(...drain(kernel));
    },
  );
  assert.deepEqual(
    written,
    expected.filter(([end]) => end <= same).map(([, one]) => one),
  );
  if (sound && same === stream.length && arriving.length === same)
    assert.ok(!server.closed, `honest frames end no session: ${reason}`);
  if (server.closed || !arriving.equals(stream)) {
    current.end();
    current = undefined;
  }
}

/** Does every record fit, so that the session goes on? */
function isSound(plaintext: Buffer): boolean {
  for (let at = 0; at < plaintext.length;) {
    if (plaintext.length - at < 4) return false;
    const length = plaintext.readUInt32BE(at);
    if (length <= OFFLOAD_HEADER || length > OFFLOAD_HEADER + 65535 || at + 4 + length > plaintext.length)
      return false;
    at += 4 + pad(length, 4);
  }
  return plaintext.length % 4 === 0;
}

// ---- offload and describe: one packet's bytes ----

export function makeOffload(any: Random): Buffer {
  const ip = packet(any);
  return Buffer.concat([offload(any, ip.length), ip]);
}

export function checkOffload(bytes: Buffer, any: Random): void {
  const at = any.below(8);
  const inMemory = Buffer.concat([any.bytes(at), bytes, any.bytes(100)]);
  const refusal = refuseOffload(inMemory, at, bytes.length);
  assert.equal(refusal === undefined, harmless(bytes), refusal ?? "let through");
  describeOffload(inMemory, at);
}

export const makeDescribe = (any: Random) => any.mutate(packet(any));

export function checkDescribe(bytes: Buffer, any: Random): void {
  const line = describe(bytes, 0, bytes.length);
  assert.match(line, /^[ -~→]{1,150}$/);
  assert.doesNotMatch(line, /NaN|undefined| -\d/);
  const address = (at: number) =>
    bytes[0]! >> 4 === 6 ? written(groupsAt(bytes, at)) : [...bytes.subarray(at, at + 4)].join(".");
  const ends = versionOf(bytes) === 4 ? [12, 16] : [8, 24];
  assert.ok(
    versionOf(bytes) === 0
      ? line === "not an IP packet"
      : line.startsWith(`${ends.map(address).join(" → ")} `),
    line,
  );
  assert.equal(
    describe(Buffer.concat([bytes.subarray(0, 80), any.bytes(80)]), 0, bytes.length),
    line,
    "80 bytes are all that it looks at",
  );
}

// ---- addresses: what the server lets a client send, and whom a packet is for. Clients, Router ----

const PORT = new TcpPort(0, false);
const [tunFd, kernelFd] = socketPair(SOCK_SEQPACKET);
/**
 * Two servers with a resident client: one with inner IPv6, one without, and where an address as a signed
 * number is below zero.
 */
const NETS = [
  { base: 0x0a080000, subnet6: "fd56:504e::/96" },
  { base: 0xc8080000, subnet6: "off" },
].map((net) => ({ ...net, server: undefined as Clients | undefined }));

function started(net: (typeof NETS)[number]): Clients {
  if (net.server) return net.server;
  const options = serverOptions([
    "--cipher",
    "xor",
    "--subnet",
    `${formatIPv4(net.base)}/29`,
    "--subnet6",
    net.subnet6,
  ]);
  // nobody connects to it: PORT is handed its clients
  net.server = new Clients({ ...options, secrets: undefined }, { fd: tunFd, name: "tun0", header: 0 });
  net.server.router.lease(net.base + 3, { peer: {}, isFor: () => false } as never);
  return net.server;
}

export function stopServers(): void {
  for (const net of NETS) {
    if (!net.server) continue;
    net.server.end();
    net.server = undefined;
  }
}

/** A row of packets, each behind its length in 2 bytes. In turn: one that the client sends, one to route. */
export function makeAddresses(any: Random): Buffer {
  const packets = Array.from({ length: 2 * (1 + any.below(4)) }, () => {
    const bytes = any.mutate(packet(any)).subarray(0, 60_000);
    const length = Buffer.alloc(2);
    length.writeUInt16BE(bytes.length);
    return Buffer.concat([length, bytes]);
  });
  return Buffer.concat(packets);
}

export async function checkAddresses(input: Buffer, any: Random): Promise<void> {
  show(any);
  const net = any.one(...NETS);
  const server = started(net);
  const [near, far] = socketPair();
  // an address each: no rate limit
  await PORT.answer({ fd: near, address: String(any.below(2 ** 31)), remote: "client" }, server);
  const { peer } = [...server.all].at(-1)!;
  const link = peer.link as TcpLink;
  let at = 0;
  const next = () => {
    const bytes = Buffer.from(input.subarray(at + 2, at + 2 + input.readUInt16BE(at)));
    at += 2 + bytes.length;
    for (const at of versionOf(bytes) === 4 ? [12, 16] : [])
      if (bytes[at] === 10) bytes[at] = net.base >>> 24;
    return bytes;
  };
  /** A packet's source or destination as the number of an inner address. */
  const inner = (ip: Buffer, at4: number, at6: number) => {
    const version = versionOf(ip);
    if (version === 4) return ip.readUInt32BE(at4);
    return version === 6 && net.subnet6 !== "off" && PREFIX6.equals(ip.subarray(at6, at6 + 12))
      ? ip.readUInt32BE(at6 + 12)
      : undefined;
  };
  let held: number | undefined;
  while (at < input.length) {
    const one = next();
    const down = next();
    if (one.length === 0) continue;
    const frame = seal(peer, FrameType.data, one);
    write(far, frameMemory(frame), 0, frame.length);
    link.receive(peer);
    const source = inner(one, 12, 8);
    if (
      held === undefined &&
      source !== undefined &&
      source > net.base + 1 &&
      source < net.base + 7 &&
      source !== net.base + 3
    )
      held = source;
    assert.deepEqual(drain(kernelFd), source !== undefined && source === held ? [one] : []);
    const destination = inner(down, 16, 24);
    const target: Peer | string = server.peerFor(down, 0, down.length);
    if (destination === net.base + 3) assert.equal(typeof target, "object");
    else
      assert.equal(
        target === peer ? "its own" : target,
        destination !== undefined && destination === held
          ? "its own"
          : "no client holds its destination address",
      );
  }
  close(far);
  link.receive(peer);
  assert.equal(server.router.size, 1, "its address is free again");
}

function frameMemory(frame: Buffer): Memory {
  frame.copy(io.bytes);
  return io;
}
