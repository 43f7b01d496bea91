/**
 * The test vectors of draft/wire.md: a whole session, byte by byte, over TCP and over UDP. node --import tsx
 * src/lab/docs/vectors.ts prints them; wire-vectors.test.ts holds that the document has the same.
 */
import { createHash } from "node:crypto";
import { parseIPv4, parsePrefix96 } from "../../base/address.ts";
import { aesFraming, Control, FrameType } from "../../core/frame.ts";
import { Handshake, REKEY_PROLOGUE } from "../../session/handshake.ts";
import { encodeReply, encodeWish, proofOf } from "../../session/payloads.ts";
import { KeyPair } from "../../session/primitives.ts";
import { Memory } from "../../base/libc.ts";
import { xor } from "../../core/xor.ts";
import { DatagramKeys } from "../../transport/datagram-keys.ts";
import { type End, seal, session } from "../tests/peers.ts";

const SECRET = createHash("sha256").update("Simple VPN's test vectors").digest();
const NOTHING = Buffer.alloc(0);
const TOKENS = ["00112233445566778899aabbccddeeff", "ffeeddccbbaa99887766554433221100"];
// From 10.8.0.2 to 8.8.8.8: an echo request of 36 bytes, and UDP of 29 bytes. The answer to the first.
const PING = Buffer.from("4500002400004000400120c00a0800020808080808008e8b1234000173696d706c650a00", "hex");
const UDP = Buffer.from("4500001d00004000401120b70a0800020808080813880035000993053f", "hex");
const ANSWER = Buffer.from("4500002400004000400120c0080808080a0800020000968b1234000173696d706c650a00", "hex");

/** `name  hex`, the hex in lines of 32 bytes. */
function vector(name: string, bytes: Buffer): string {
  const lines = bytes.toString("hex").match(/.{1,64}/g) ?? ["(nothing)"];
  return lines.map((line, i) => `${(i === 0 ? name : "").padEnd(25)} ${line}`).join("\n");
}

const privateKey = (byte: number) => Buffer.alloc(32, byte);
const framed = (message: Buffer) => {
  const header = Buffer.alloc(aesFraming.header);
  aesFraming.putHeader(header, 0, FrameType.handshake, message.length);
  return Buffer.concat([header, message]);
};

/** A record of a data frame: its length, the offload header, the packet, the padding. */
function record(packet: Buffer): Buffer {
  const bytes = Buffer.alloc(4 + Math.ceil((10 + packet.length) / 4) * 4);
  bytes.writeUInt32BE(10 + packet.length);
  packet.copy(bytes, 14);
  return bytes;
}

const word = (number: number, message: Buffer = NOTHING) =>
  Buffer.concat([Buffer.from([0, 0, 0, number]), message]);

export function vectors(): string {
  const lines: string[] = [];
  const add = (name: string, bytes: Buffer | string) =>
    lines.push(typeof bytes === "string" ? `${name.padEnd(25)} ${bytes}` : vector(name, bytes));

  add("secret", SECRET);
  add("client's private key", privateKey(1));
  add("server's private key", privateKey(2));
  const client = new Handshake("client", SECRET, undefined, new KeyPair(privateKey(1)));
  const server = new Handshake("server", SECRET, undefined, new KeyPair(privateKey(2)));
  add("token of before", TOKENS[0]!);
  const wish = encodeWish({
    address: parseIPv4("10.8.0.2")!,
    proof: proofOf(TOKENS[0]!, client.publicKey),
  });
  add("payload 1", wish.toString());
  const message1 = client.write(wish);
  add("frame of message 1", framed(message1));
  const reply = encodeReply({
    address: parseIPv4("10.8.0.2")!,
    prefix: 24,
    mtu: 1400,
    subnet6: parsePrefix96("fd56:504e::/96")!,
    token: TOKENS[1]!,
  });
  add("payload 2", reply.toString());
  server.read(message1);
  const message2 = server.write(reply);
  add("frame of message 2", framed(message2));
  client.read(message2);
  const [up, down] = [client.split(), server.split()];
  add("client to server, key", up.send);
  add("server to client, key", up.receive);

  const it = session("xor+aes", undefined, [up, down]);
  const counts = new Map<End, number>();
  const frame = (from: End, name: string, type: number, body: Buffer) => {
    const count = counts.get(from) ?? 0;
    counts.set(from, count + 1);
    const arrow = from === it.client ? "up" : "down";
    add(`${arrow} ${count}, ${name}`, body);
    add(`${arrow} ${count}, sealed`, seal(from.peer, type, body));
  };
  frame(it.client, "keepalive", FrameType.control, word(Control.keepalive));
  frame(it.client, "one packet", FrameType.data, record(PING));
  frame(it.client, "two packets", FrameType.data, Buffer.concat([record(PING), record(UDP)]));
  frame(it.server, "one packet", FrameType.data, record(ANSWER));
  frame(it.server, "nothing", FrameType.data, NOTHING);
  frame(it.server, "keepalive", FrameType.control, word(Control.keepalive));

  add("client's private key", privateKey(3));
  add("server's private key", privateKey(4));
  const again = new Handshake("client", SECRET, REKEY_PROLOGUE, new KeyPair(privateKey(3)));
  const answer = new Handshake("server", SECRET, REKEY_PROLOGUE, new KeyPair(privateKey(4)));
  const rekey1 = again.write(NOTHING);
  frame(it.client, "rekey", FrameType.control, word(Control.rekey, rekey1));
  answer.read(rekey1);
  const rekey2 = answer.write(NOTHING);
  frame(it.server, "rekey", FrameType.control, word(Control.rekey, rekey2));
  again.read(rekey2);
  frame(it.client, "switch", FrameType.control, word(Control.switch));
  const [fresh, same] = [again.split(), answer.split()];
  add("client to server, key", fresh.send);
  add("server to client, key", fresh.receive);
  it.client.peer.keys!.sendWith(fresh.send);
  it.server.peer.keys!.sendWith(same.send);
  frame(it.client, "keepalive", FrameType.control, word(Control.keepalive));
  frame(it.server, "goodbye", FrameType.control, word(Control.goodbye));
  it.end();
  return lines.join("\n");
}

/**
 * A datagram of `type` before there are keys; the zeros behind it are left out. `rest`: a cookie, or the
 * client's index. `message`: at most 255 bytes.
 */
export function first(type: number, rest: Buffer, message: Buffer): Buffer {
  return Buffer.concat([Buffer.from([type, 0, 0, message.length]), rest, message]);
}

export function udpVectors(): string {
  const lines: string[] = [];
  const add = (name: string, bytes: Buffer | string) =>
    lines.push(typeof bytes === "string" ? `${name.padEnd(25)} ${bytes}` : vector(name, bytes));
  const handshake = (prologue: Buffer | undefined, from: number): Handshake[] => [
    new Handshake("client", SECRET, prologue, new KeyPair(privateKey(from))),
    new Handshake("server", SECRET, prologue, new KeyPair(privateKey(from + 1))),
  ];
  const [client, server] = handshake(undefined, 1) as [Handshake, Handshake];
  const clientIndex = client.publicKey.subarray(0, 4);
  const serverIndex = server.publicKey.subarray(0, 4);
  const cookie = Buffer.alloc(16, 0xc0);
  const message1 = client.write(NOTHING);
  add("message 1", first(1, Buffer.alloc(16), message1));
  add("cookie", first(5, clientIndex, cookie));
  add("message 1 again", first(1, cookie, message1));
  server.read(message1);
  const reply = encodeReply({ address: parseIPv4("10.8.0.2")!, prefix: 24, mtu: 1424 });
  add("payload 2", reply.toString());
  const message2 = server.write(reply);
  add("message 2", first(4, clientIndex, message2));
  client.read(message2);

  const [up, down] = [client.split(), server.split()];
  add("client to server, key", up.send);
  add("server to client, key", up.receive);
  const ends = {
    up: { keys: new DatagramKeys(up), to: serverIndex, count: 0 },
    down: { keys: new DatagramKeys(down), to: clientIndex, count: 0 },
  };
  let sealed = NOTHING;
  const frame = (way: "up" | "down", name: string, type: number, body: Buffer) => {
    const end = ends[way];
    const memory = new Memory(16 + body.length + 16);
    memory.bytes.fill(0);
    memory.bytes[0] = type;
    memory.bytes.writeUInt16BE(body.length + 16, 2);
    end.to.copy(memory.bytes, 4);
    body.copy(memory.bytes, 16);
    xor(memory, 16, memory, 16, body.length);
    end.keys.seal(memory, 16, body.length, 16);
    add(`${way} ${end.count}, ${name}`, body);
    sealed = Buffer.from(memory.bytes);
    add(`${way} ${end.count++}, sealed`, sealed);
    ends[way === "up" ? "down" : "up"].keys.open(memory, 16, body.length, 16); // throws if it does not
  };
  frame("up", "keepalive", FrameType.control, word(Control.keepalive));
  frame("up", "one packet", FrameType.data, record(PING));
  frame("down", "one packet", FrameType.data, record(ANSWER));
  frame("up", "probe", FrameType.control, word(Control.probe, Buffer.alloc(4)));
  frame("down", "probed", FrameType.control, word(Control.probed, Buffer.alloc(4)));

  const [again, answer] = handshake(REKEY_PROLOGUE, 3) as [Handshake, Handshake];
  const rekey1 = again.write(NOTHING);
  frame("up", "rekey", FrameType.control, word(Control.rekey, rekey1));
  answer.read(rekey1);
  const rekey2 = answer.write(NOTHING);
  frame("down", "rekey", FrameType.control, word(Control.rekey, rekey2));
  again.read(rekey2);
  const [fresh, same] = [again.split(), answer.split()];
  add("client to server, key 1", fresh.send);
  add("server to client, key 1", fresh.receive);
  ends.down.keys.receiveWith(same.receive);
  ends.down.keys.sendWith(same.send, true); // once the client has been heard under its own
  ends.up.keys.receiveWith(fresh.receive);
  ends.up.keys.sendWith(fresh.send);
  frame("up", "keepalive", FrameType.control, word(Control.keepalive));
  frame("down", "keepalive", FrameType.control, word(Control.keepalive));
  frame("up", "goodbye", FrameType.control, word(Control.goodbye));
  for (const { keys } of Object.values(ends)) keys.free();
  add("no such session", Buffer.concat([Buffer.from([6]), sealed.subarray(1, 16)]));
  return lines.join("\n");
}

if (process.argv[1]?.endsWith("vectors.ts")) console.log(`${vectors()}\n\n${udpVectors()}`);
