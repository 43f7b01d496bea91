/**
 * TCP keeps bytes in order, but not their borders. A receiver that takes each read() for one packet works
 * with a slow ping, and fails as soon as there is traffic. Both receivers here get the same reads of a real
 * stream.
 */
import { xorFraming } from "../../core/frame.ts";
import { deframe, until } from "../tests/peers.ts";
import { XOR_KEY } from "../../core/xor.ts";
import { headerIsWhole } from "./break-xor.ts";
import { Relay, RELAY_PORT } from "./relay.ts";
import { heading, hex, measured, node, note, startClient, startServer, type, up } from "./stage.ts";

const PINGS = 5;
const DATAGRAMS = 300; // fewer than a TUN's queue holds
const SIZE = 1000; // bytes

export const shows = "one read() taken for one packet: a slow ping works, traffic does not";

export async function run(): Promise<string> {
  heading("1. The tunnel, with a relay that notes what each read() brings");
  const lab = await up();
  await startServer(lab, "xor");
  const relay = await Relay.start(lab, "xor");
  await startClient(lab, "xor", RELAY_PORT);
  const received = () => relay.reads.filter(({ way }) => way === "up").map(({ bytes }) => bytes);

  heading("2. A slow ping");
  await type(lab, "client", `ping -c ${PINGS} -i 0.3 10.8.0.1`);
  const slow = received();
  compare(slow, PINGS, (naive) => naive === PINGS);

  heading(`3. ${DATAGRAMS} datagrams of ${SIZE} bytes, as fast as they go`);
  const burst = node(
    lab,
    "client",
    `${DATAGRAMS} datagrams to 10.8.0.1, one behind the other`,
    `const socket = require("node:dgram").createSocket("udp4"), data = Buffer.alloc(${SIZE});`,
    `let left = ${DATAGRAMS};`,
    'for (let i = left; i--; ) socket.send(data, 9000, "10.8.0.1", () => --left || socket.close());',
  );
  await burst.ended;
  await until(() => relay.bodies("up").length >= DATAGRAMS + PINGS, 10_000);
  const fast = received().slice(slow.length);
  await lab.down();
  for (const bytes of fast.slice(0, 4)) note(`one read(): ${bytes.length} bytes: ${hex(bytes, 12)}`);
  note(`… ${fast.length} reads in all`);
  const right = compare(fast, DATAGRAMS, (naive) => naive < DATAGRAMS);

  return `A TCP stream has no packets in it. Here ${fast.length} reads brought ${DATAGRAMS} packets.
Each read began wherever the last one had ended. A receiver that takes each read for a packet passes every
test with a slow ping, and then loses ${DATAGRAMS - right} of ${DATAGRAMS} under load. Ours finds every one:
it reads the length in front of each frame, and keeps an unfinished rest for the next read.`;
}

/**
 * Gives the same reads to both receivers. The VPN's own must find all `sent` packets, and `expected` hold for
 * the naive one's, which are returned.
 */
function compare(reads: Buffer[], sent: number, expected: (naive: number) => boolean): number {
  // "the first two bytes are the length, the rest is the packet"
  const naive = reads.map((bytes) => decode(bytes.subarray(2)));
  const right = naive.filter(headerIsWhole).length;
  const sizes = reads.map(({ length }) => length);
  const frames = deframe(xorFraming, Buffer.concat(reads), () => sizes.shift()!);
  const found = frames.map(({ body }) => decode(Buffer.from(body, "hex")));
  const whole = found.filter(headerIsWhole).length;
  note(
    `one read() = one packet: ${right} right, ${naive.length - right} wrong, ${sent - right} of ${sent} lost`,
  );
  note(
    `our own link:            ${whole} right, ${found.length - whole} wrong, ${sent - whole} of ${sent} lost`,
  );
  measured(
    expected(right) && whole === sent && found.length === sent,
    `of ${sent} packets in ${reads.length} reads, the naive receiver found ${right}, our own link ${whole}`,
  );
  return right;
}

const decode = (body: Buffer) => Buffer.from(body.map((byte) => byte ^ XOR_KEY));
