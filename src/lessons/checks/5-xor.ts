/** Lesson 5: XOR. What its checks see: the bytes on the wire, and whether other programs understand them. */
import type { Running } from "../../lab/running.ts";
import { type Lesson, Miss, type Stage } from "../check.ts";
import { clear, complaint, FAR, first, got, NEAR, pings, startC, startClient } from "../far.ts";
import { startPeer, startRealClient, startRealServer, startServer, THREE } from "../far.ts";

const OUT =
  "TODO 2: onPacket() calls xor() for the packet, before send(); TODO 1: xor() changes the bytes in place";
const IN = "TODO 3, in onStream(): xor() the packet, before it is written to tun0";
const ONE =
  "TODO 2 and 3, in both roles: xor() one packet, and nothing else. A read() may bring several, and a " +
  "part of the next";
const GIVEN = "the sockets are lesson 4's, solved: take the starter's again";
const HEADERS = 28; // bytes of IP and ICMP
const TIMES = 16; // bytes: ping puts the time in front of its data
const MANY = "-c 30 -l 30 -s 1300"; // 40 KB: more at once could fill a socket
const peers = new WeakMap<Stage, Running>();

/** The student's client, connected, with its address. */
async function client(stage: Stage): Promise<void> {
  await stage.tun(await startClient(stage, GIVEN), GIVEN);
  await stage.configure("client", `${NEAR}/24`);
}

/** What is wrong with the frame of a ping of `size` bytes, its data 61 61 61 …; undefined if nothing is. */
function mistake(frame: Buffer, size: number): Miss | undefined {
  const packet = frame.subarray(2);
  const length = Buffer.of(size >> 8, size & 255);
  const right = Buffer.concat([length, Buffer.of(0x07, 0x42), length.map((byte) => byte ^ 0x42)]);
  const miss = (saw: string, hint: string) =>
    new Miss(`on the wire: ${first(frame)} …: ${saw}`, `${hint}; ${first(right)} would be right`);
  if (frame.length < 2 + size)
    return miss(`${frame.length} bytes, and ${2 + size} are expected`, `2 of length, ${size} of packet`);
  if (frame.readUInt16BE(0) === (size ^ 0x4242))
    return miss(
      "the length is XORed, too",
      "it stays readable, or the other end cannot find the frame's end",
    );
  if (frame.readUInt16BE(0) !== size)
    return miss("the length is not that of the packet", `${size} bytes of ping are ${first(length)}`);
  const key = packet[0]! ^ 0x45;
  if (key === 0) return miss("the packet is as it was", OUT);
  if (key !== 0x42 && (packet[1]! ^ key) === 0)
    return miss(`each byte is XOR 0x${key.toString(16)}`, "the key is 0x42: hexadecimal");
  const plain = packet.map((byte) => byte ^ 0x42);
  const known = [0x45, 0, ...length]; // the begin of the IP header; and ping -p 61 fills its data with 61
  const wrong = plain.findIndex((byte, at) => byte !== (known[at] ?? (at < HEADERS + TIMES ? byte : 0x61)));
  if (wrong >= 0) return miss(`byte ${wrong} of the packet is not XORed`, "every byte, to the last one");
  return undefined;
}

export const lesson: Lesson = {
  file: "5-xor",
  title: "XOR",
  about: [
    "Every byte of a packet is XORed with 0x42. It is not secure.",
    "But now your tunnel speaks the protocol of the C programs, --cipher xor.",
  ],
  write: ["xor()", "onPacket(): XOR what goes out", "onStream(): XOR what comes in"],
  read: ["walkthrough.md, XOR is no encryption", "src/core/xor.ts", "refs/simplevpn.c"],
  crashes: [[/ECONNREFUSED|ECONNRESET/, GIVEN]],
  checks: [
    {
      name: "what goes out is XORed",
      async run(stage) {
        const peer = await startPeer(stage);
        peers.set(stage, peer);
        await client(stage);
        for (const size of [84, 1200]) {
          const before = got(peer).length;
          const frame = () => got(peer).subarray(before);
          const ping = stage.run("client", `ping -c 1 -W 1 -p 61 -s ${size - HEADERS} ${FAR}`);
          await stage.until(
            () => frame().length >= 2 + size,
            () => mistake(frame(), size) ?? new Miss("", ""),
          );
          const wrong = mistake(frame(), size);
          if (wrong) throw wrong;
          await ping;
        }
        return `on the wire: ${first(got(peer))} …, and 45 00 00 54 is what ping sent`;
      },
    },
    {
      name: "what comes in is XORed back",
      async run(stage) {
        const answered = () => peers.get(stage)!.output.split("answered").length - 1;
        const before = answered();
        const miss = (saw: string) => new Miss(`${saw}; ${answered() - before} answers came in`, IN);
        return pings(stage, FAR, THREE, miss);
      },
    },
    {
      name: "your client talks to the real server",
      async run(stage) {
        await clear(stage);
        const server = await startRealServer(stage, "--cipher", "xor");
        await client(stage);
        const said = () => complaint(server) ?? "nothing";
        return pings(stage, FAR, THREE, (saw) => new Miss(`${saw}; the server says: ${said()}`, ONE));
      },
    },
    {
      name: "the real client talks to your server",
      async run(stage) {
        await clear(stage);
        const server = await startServer(stage, GIVEN);
        await stage.tun(server, GIVEN);
        await stage.configure("server", `${FAR}/24`);
        const real = await startRealClient(stage, GIVEN, "--cipher", "xor");
        const said = () => complaint(real) ?? "nothing";
        return pings(stage, FAR, THREE, (saw) => new Miss(`${saw}; the client says: ${said()}`, ONE));
      },
    },
    {
      name: "your client talks to refs/simplevpn.c",
      async run(stage) {
        await clear(stage);
        if (!(await startC(stage))) return "not tried: no C compiler here (apt-get install gcc libc6-dev)";
        await client(stage);
        const miss = (saw: string) =>
          new Miss(saw, "one read() of a stream may bring a part of a frame, or two");
        for (let i = 1; i < 10; i++) await pings(stage, FAR, MANY, miss);
        return `10 times: ${await pings(stage, FAR, MANY, miss)}`;
      },
    },
  ],
};
