/** Lesson 2: an answer. What its checks see, and what is wrong with an answer that ping does not take. */
import { createRequire } from "node:module";
import { complement, sumOf } from "../../base/checksum.ts";
import { formatIPv4 } from "../../base/address.ts";
import { type Lesson, Miss, type Program, type Stage } from "../check.ts";
import { Tap } from "../tap.ts";

const [OWN, NOBODY] = ["10.8.0.2", "10.8.0.99"]; // the host's address on tun0, and one that no machine has
const LOOP = "TODO 3: read, answer and write in a loop: for (;;) { … }";
const taps = new WeakMap<Stage, Tap>();

/** A program: sends the IP packets that it is given in hex. For node -e: so koffi's path is absolute. */
const SEND = `
  const koffi = require(${JSON.stringify(createRequire(import.meta.url).resolve("koffi"))});
  const libc = koffi.load(null);
  const socket = libc.func("int socket(int domain, int type, int protocol)");
  const sendto = libc.func("int64_t sendto(int, void *bytes, size_t, int flags, void *to, uint32_t)");
  const raw = socket(2, 3, 255); // AF_INET, SOCK_RAW, IPPROTO_RAW
  for (const packet of process.argv.slice(1).map((hex) => Buffer.from(hex, "hex"))) {
    const to = Buffer.concat([Buffer.of(2, 0, 0, 0), packet.subarray(16, 20), Buffer.alloc(8)]);
    sendto(raw, packet, packet.length, 0, to, 16);
  }`;
export const send = (stage: Stage, ...packets: Buffer[]) =>
  stage.run("client", [process.execPath, "-e", SEND, ...packets.map((packet) => packet.toString("hex"))]);

/** An IP packet to the address that nobody has. The kernel fills in its length and the header's checksum. */
function packet(protocol: number, body: number[], options: number[] = []): Buffer {
  const words = 5 + options.length / 4;
  const header = [0x40 + words, 0, 0, 0, 0, 1, 0, 0, 64, protocol, 0, 0];
  const addresses = [OWN, NOBODY].flatMap((address) => address.split(".").map(Number));
  return Buffer.from([...header, ...addresses, ...options, ...body]);
}

/** ICMP of that type, with these words behind its checksum. */
function icmp(type: number, ...words: number[]): number[] {
  const bytes = Buffer.from([type, 0, 0, 0, ...words.flatMap((word) => [word >> 8, word & 255])]);
  bytes.writeUInt16BE(complement(sumOf(bytes, 0, bytes.length)), 2);
  return [...bytes];
}

/** 8 is the type of an echo request, and the first byte of a UDP packet from port 0x0808. */
export const UDP = packet(17, [8, 8, 0, 9, 0, 16, 0, 0, ...Array<number>(8).fill(8)]); // no checksum
/** Added up, with type 0: 0x1ffff. Folded once, 0x10000 */
const CARRIES = packet(1, icmp(8, 0xffff, 0xffff, 1));
/** Its checksum is above 0xf800: so 0x800 more, for a type that is 8 less, has a carry. */
const ABOVE = packet(1, icmp(8, 1, 0xfff0, 0xfff0));
/** What is left alone: its name, and it. */
const OTHERS: [string, Buffer][] = [
  ["a UDP packet: byte 9 is 17", UDP],
  ["an echo reply: byte 20 is 0", packet(1, icmp(0, 1, 1))],
  ["a packet with IP options: byte 0 is 46", packet(1, icmp(8, 1, 1), [8, 4, 0, 0])],
];

const isPing = (bytes: Buffer) => bytes[9] === 1 && bytes[20] === 8;
/** Have two packets of ICMP the same id, number and data? */
const isSame = (one: Buffer, other: Buffer) => one.subarray(24).equals(other.subarray(24));

/** Starts the program, taps tun0 and gives it its address. */
export async function started(stage: Stage): Promise<Program> {
  const program = stage.start("client");
  await stage.tun(program, "nothing was to change in openTun(): it is lesson 1, solved");
  await stage.configure("client", `${OWN}/24`);
  taps.set(stage, await Tap.start(stage.lab, "client", "tun0")); // of an interface that is up
  stage.atEnd(() => taps.get(stage)!.stop());
  return program;
}

/** Pings, and returns ping's line about an answer. Throws a Miss that says what is wrong with it. */
export async function answered(stage: Stage, options: string, hint = LOOP, to = NOBODY): Promise<string> {
  const count = Number(/-c (\d+)/.exec(options)![1]);
  const command = `ping ${options} ${to}`;
  const said = await judged(stage, command, count, stage.run("client", `${command} -W 0.5`), hint);
  return /\d+ bytes from .*/.exec(said)?.[0] ?? `${command}: ${count} of ${count} answered`;
}

/** What `sending` prints. Throws a Miss unless its `count` requests are answered as they should be. */
async function judged(
  stage: Stage,
  command: string,
  count: number,
  sending: Promise<string>,
  hint: string,
): Promise<string> {
  const tap = taps.get(stage)!;
  const [asked, written] = [tap.sent.length, tap.written.length];
  // The tap is the judge: on a busy machine ping may leave before the last answer, and it takes one with a
  // wrong checksum
  const requests = () => tap.sent.slice(asked).filter(isPing);
  const answers = () => tap.written.slice(written);
  const wrong = () => {
    const sent = requests();
    return answers()
      .map((one, i, all) => (i > 0 && one.equals(all[i - 1]!) ? TWICE : sent[i] && mistake(sent[i], one)))
      .find(Boolean);
  };
  const isSeen = () => requests().length >= count && answers().length >= count;
  const miss = () => {
    if (requests().length === 0) return new Miss(`${command} sent nothing into tun0`, hint);
    const number = answers().length;
    return new Miss(`${command}: ${number} of ${count} answered; you wrote ${number} packets`, hint);
  };
  try {
    await stage.until(() => isSeen() || wrong(), miss, 4_000);
  } finally {
    await sending; // or the next program gets the rest of it
  }
  const first = wrong();
  if (first) throw first;
  return sending;
}

const TWICE = new Miss(
  "you wrote the same answer twice",
  "TODO 3: one write() for each packet that answer() has turned",
);

/** What keeps `answer` from being the echo reply to `request`; undefined if nothing does. */
export function mistake(request: Buffer, answer: Buffer): Miss | undefined {
  const address = (bytes: Buffer, at: number) => formatIPv4(bytes.readUInt32BE(at));
  const way = (bytes: Buffer) => `${address(bytes, 12)} → ${address(bytes, 16)}`;
  if (answer.length < 28)
    return new Miss(
      `you wrote ${answer.length} bytes: no IP and ICMP header`,
      "write the packet as long as it was",
    );
  if (answer.length !== request.length)
    return new Miss(
      `the request has ${request.length} bytes, your answer ${answer.length}`,
      "write as many bytes as read() gave: buffer.subarray(0, length)",
    );
  if (
    answer.readUInt32BE(12) !== request.readUInt32BE(16) ||
    answer.readUInt32BE(16) !== request.readUInt32BE(12)
  )
    return new Miss(
      `the request goes ${way(request)}, and your answer ${way(answer)}`,
      "bytes 12 to 15 are the source, 16 to 19 the destination: keep one in a copy while you write the other",
    );
  if (answer[20] === 8)
    return new Miss("your answer is an echo request: byte 20 is 08", "the type of an echo reply is 0");
  if (answer[20] !== 0)
    return new Miss(`byte 20, the ICMP type, is ${answer[20]}`, "the type of an echo reply is 0");
  const uncleared = Buffer.from(answer.subarray(20));
  uncleared.writeUInt16BE(request.readUInt16BE(22), 2);
  const cleared = Buffer.from(answer.subarray(20));
  cleared.writeUInt16BE(0, 2);
  const [is, right] = [answer.readUInt16BE(22), complement(sumOf(cleared, 0, cleared.length))];
  const word = (number: number) => number.toString(16).padStart(4, "0");
  if (is !== right) {
    const hint =
      is === request.readUInt16BE(22)
        ? "it is still the request's: the type has changed, so the sum has"
        : is === complement(sumOf(uncleared, 0, uncleared.length))
          ? "set the two bytes to 0 before you add up: they are in the sum, too"
          : is === (~right & 0xffff)
            ? "turn every bit over at the end: ~sum & 0xffff"
            : "words from byte 20 on, high byte first; an odd last byte times 256; carries until none left";
    return new Miss(
      `the ICMP checksum, bytes 22 and 23, is ${word(is)}; ${word(right)} would be right`,
      hint,
    );
  }
  if (complement(sumOf(answer, 0, 20)) !== 0)
    return new Miss(
      "the IP header's checksum is wrong",
      "change only the addresses in it: turned around, their sum stays the same",
    );
  if (!answer.subarray(24).equals(request.subarray(24)))
    return new Miss(
      "what stands behind the checksum has changed",
      "ping wants id, number and data back as they were",
    );
  return undefined;
}

export const lesson: Lesson = {
  file: "2-answer",
  title: "an answer",
  about: [
    "Your program answers pings, for an address that no machine has.",
    "The other end of a tunnel does no more: packets in, packets out.",
  ],
  write: ["checksum()", "answer(): turn an echo request around", "the loop: read, answer, write"],
  read: ["RFC 792, page 14", "RFC 1071, section 1", "walkthrough.md, Step 10"],
  crashes: [
    [
      /write tun0: EINVAL/,
      "EINVAL: what you write must begin with an IP header, 45: write the packet, not the buffer",
    ],
    [
      /"offset" is out of range|OUT_OF_BOUNDS/,
      "an odd last byte has no second one: it counts as if a 0 followed",
    ],
    [/"value" is out of range/, "the checksum has 16 bits: ~sum & 0xffff"],
    [/write tun0: EIO/, "EIO: tun0 is not up yet: write only what answers a packet"],
  ],
  checks: [
    {
      name: "a ping is answered",
      async run(stage) {
        await started(stage);
        return answered(
          stage,
          "-c 1",
          "TODO 1 to 3: checksum(), answer(), and the loop that writes the answer",
        );
      },
    },
    { name: "and so are the next three", run: (stage) => answered(stage, "-c 3 -i 0.1 -q") },
    {
      name: "of any size",
      async run(stage) {
        await answered(stage, "-c 1 -s 0");
        await answered(stage, "-c 1 -s 57");
        return answered(stage, "-c 1 -s 1311");
      },
    },
    {
      name: "to any address, with any checksum",
      async run(stage) {
        const to = `10.8.0.${100 + Math.floor(Math.random() * 100)}`;
        const shown = await answered(stage, "-c 1", LOOP, to);
        await judged(stage, "a program", 2, send(stage, CARRIES, ABOVE), LOOP);
        return shown;
      },
    },
    {
      name: "nothing else is answered",
      async run(stage) {
        const tap = taps.get(stage)!;
        const [asked, written] = [tap.sent.length, tap.written.length];
        await send(stage, ...OTHERS.map(([, bytes]) => bytes));
        const ping = stage.run("client", `ping -c 1 -W 2 ${NOBODY}`);
        // your program takes them in their order: what it writes about the others comes before this answer
        const answers = () => tap.written.slice(written);
        const pings = () => tap.sent.slice(asked + OTHERS.length).filter(isPing);
        const isAnswered = () => pings().some((bytes) => answers().some((one) => isSame(one, bytes)));
        await stage.until(isAnswered, () => new Miss("the ping after them is not answered", LOOP), 4_000);
        await ping;
        const [wrong] = answers();
        const other = OTHERS.find(([, { length }]) => length === wrong!.length)?.[0] ?? "another packet";
        const hint =
          "answer() looks first: byte 0 is 45, byte 9 is 1 (ICMP), byte 20 is 8 (request). " +
          "Else it returns false, and the loop writes nothing";
        if (answers().length > 1) throw new Miss(`you answered ${other}`, hint);
        return "UDP, an echo reply and IP options are left alone, and the next ping is answered";
      },
    },
  ],
};
