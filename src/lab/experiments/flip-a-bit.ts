/**
 * Someone on the way changes a packet without knowing any key. In xor mode a flipped bit stays a flipped bit,
 * and the destination believes it. In xor+aes mode the tag is wrong, and the connection ends.
 */
import { until } from "../tests/peers.ts";
import { TARGET } from "../lab.ts";
import { Relay, RELAY_PORT } from "./relay.ts";
import {
  type CipherName,
  heading,
  hex,
  measured,
  node,
  note,
  startClient,
  startServer,
  up,
} from "./stage.ts";

const MESSAGE = "pay Bob 0001 euro";
const FORGED = "pay Bob 0100 euro";
/**
 * Bit 0 of the digits 2 and 4: 0 becomes 1, and 1 becomes 0. Two, because UDP's checksum would notice one
 * alone: it is a sum of 16-bit words, and these two changes, 2 bytes apart, add and take away the same.
 */
const AMOUNT = 28 + MESSAGE.indexOf("0001"); // after the IP header (20) and the UDP header (8)
const FLIPPED = [AMOUNT + 1, AMOUNT + 3];

export const shows = "bits flipped on the way: xor takes the change, xor+aes refuses it";

export async function run(): Promise<string> {
  heading("1. --cipher xor: 1 euro becomes 100 on its way");
  const xor = await attack("xor");
  measured(xor.arrived === FORGED, `sent "${MESSAGE}", received "${xor.arrived}"`);

  heading("2. --cipher xor+aes: the same bits, flipped in the sealed frame");
  const aes = await attack("xor+aes");
  measured(aes.arrived === "", "nothing was received");
  measured(/wrong tag/.test(aes.reason), `the server closed the connection: ${aes.reason}`);

  return `Encryption alone stops no change. XOR lets each flipped bit through; AES in counter mode would, too.
Checksums do not help: they are made against accidents, and whoever changes the packet makes the sum fit.
Only the tag of AES-GCM helps: nobody makes one without the key. So no plaintext is used before its tag
was checked.`;
}

/**
 * Sends the message through a tunnel whose relay flips the bits; what arrived, and why the server closed, if
 * it did.
 */
async function attack(cipher: CipherName): Promise<{ arrived: string; reason: string }> {
  const lab = await up();
  const server = await startServer(lab, cipher);
  const relay = await Relay.start(lab, cipher);
  await startClient(lab, cipher, RELAY_PORT);
  const receiver = node(
    lab,
    "internet",
    "a UDP receiver on port 9000: it prints what it gets",
    'const socket = require("node:dgram").createSocket("udp4");',
    'socket.on("message", (data) => console.log("got: " + data));',
    'socket.bind(9000, () => console.log("listening"));',
  );
  await receiver.until(/listening/);

  relay.tamper = (frame, way) =>
    way === "up" ? [flip(frame, relay.framing.header + relay.framing.record)] : [frame];
  node(
    lab,
    "client",
    `sends "${MESSAGE}" to ${TARGET}, port 9000`,
    'const socket = require("node:dgram").createSocket("udp4");',
    `socket.send("${MESSAGE}", 9000, "${TARGET}", () => socket.close());`,
  );
  await until(() => receiver.output.includes("got: ") || server.output.includes("left: "), 10_000).catch(() =>
    note("neither arrived nor refused"),
  );
  await lab.down();
  return {
    arrived: /got: (.*)/.exec(receiver.output)?.[1] ?? "",
    reason: /left: (.*) \(0 connected\)/.exec(server.output)?.[1] ?? "",
  };
}

/** The frame with the bits flipped; `packet`: where the packet starts in it. */
function flip(frame: Buffer, packet: number): Buffer {
  const changed = Buffer.from(frame);
  for (const at of FLIPPED) changed[packet + at]! ^= 1;
  const from = packet + AMOUNT;
  const amount = (of: Buffer) => hex(of.subarray(from, from + 4));
  note(`relay: bytes ${from} to ${from + 3} of the frame: ${amount(frame)} become ${amount(changed)}`);
  return changed;
}
