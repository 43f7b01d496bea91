/**
 * Recovers the key of `--cipher xor` from captured traffic, knowing only what everybody knows: a packet
 * starts with 45 00, IPv4 with a header of five words. Then reads along.
 */
import { describe } from "../../base/packet.ts";
import { TARGET } from "../lab.ts";
import { Relay, RELAY_PORT } from "./relay.ts";
import { heading, hex, measured, note, startClient, startServer, type, up } from "./stage.ts";

const WORDS = "Attack at dawn!!"; // 16 bytes: as many as ping -p takes
const FILLED = 20 + 8 + 16; // where they begin: after the headers of IP and ICMP, and ping's own timestamp
const COUNT = 3;

export const shows = "the key of --cipher xor, found in captured traffic by known plaintext";

export async function run(): Promise<string> {
  heading("1. Someone sits on the wire");
  const lab = await up();
  await startServer(lab, "xor");
  const relay = await Relay.start(lab, "xor");
  await startClient(lab, "xor", RELAY_PORT);
  await type(lab, "client", `ping -c ${COUNT} -i 0.2 -p ${Buffer.from(WORDS).toString("hex")} ${TARGET}`);
  await lab.down();

  heading("2. What they captured");
  const bodies = [...relay.bodies("up"), ...relay.bodies("down")];
  for (const { way, bytes } of relay.frames)
    note(`${way.padEnd(4)} ${bytes.length} bytes: ${hex(bytes, 24)}`);
  measured(bodies.length === 2 * COUNT, `${COUNT} pings and ${COUNT} answers are ${bodies.length} frames`);
  measured(
    relay.frames.every(({ bytes }) => bytes.readUInt16BE(0) === bytes.length - 2),
    `the first two bytes of each are the length of the rest: ${bodies[0]!.length}`,
  );

  heading("3. Known plaintext: the first two bytes must have been 45 00");
  const guesses = bodies.map((body) => [body[0]! ^ 0x45, body[1]! ^ 0x00]);
  for (const [i, [first, second]] of guesses.entries())
    note(`${hex(bodies[i]!.subarray(0, 2))} ^ 45 00 = ${hex(Buffer.from([first!, second!]))}`);
  const key = guesses[0]![0]!;
  measured(
    guesses.flat().every((guess) => guess === key),
    `all ${2 * bodies.length} guesses agree: the key is 0x${key.toString(16)}`,
  );
  const fitting = Array.from({ length: 256 }, (_, candidate) => candidate).filter((candidate) =>
    bodies.every((body) => headerIsWhole(decode(body, candidate))),
  );
  measured(
    fitting.length === 1 && fitting[0] === key,
    `of all 256 keys, it alone gives ${bodies.length} headers with right lengths and checksums`,
  );

  heading("4. Reading along");
  const packets = bodies.map((body) => decode(body, key));
  for (const packet of packets) {
    const words = packet.toString("latin1", FILLED, FILLED + WORDS.length);
    note(`${hex(packet, 8)}  ${describe(packet, 0, packet.length)}: "${words}"`);
  }
  const read = packets.filter(
    (packet) => packet.includes(WORDS) && describe(packet, 0, packet.length).includes(TARGET),
  );
  measured(
    read.length === 2 * COUNT,
    `${read.length} of ${packets.length} packets read whole: addresses, sequence numbers, and the words`,
  );

  return `A fixed XOR key hides nothing from anyone who can guess a single byte. Of IP packets everyone can.
The key is the same for every byte, packet and user. So one guess opens all traffic, past and future.
AES with a key that is fresh in each session makes the known 45 00 worthless to the one who listens.`;
}

const decode = (body: Buffer, key: number) => Buffer.from(body.map((byte) => byte ^ key));

/** An IPv4 header whose total length is the packet's, and whose words add up to ffff (RFC 791's checksum). */
export function headerIsWhole(packet: Buffer): boolean {
  if (packet.length < 20 || packet[0] !== 0x45 || packet.readUInt16BE(2) !== packet.length) return false;
  let sum = 0;
  for (let at = 0; at < 20; at += 2) sum += packet.readUInt16BE(at);
  return (sum & 0xffff) + (sum >> 16) === 0xffff;
}
