/** Lesson 4: the tunnel. What its checks see. First one end alone against OtherEnd, then both. */
import { complement, sumOf } from "../../base/checksum.ts";
import { SERVER } from "../../lab/lab.ts";
import { type Lesson, Miss, type Program, type Stage } from "../check.ts";
import { FAR, injected, pings } from "../far.ts";
import { OtherEnd } from "../other-end.ts";

const OPEN = "openTun() was not to change: it is lesson 1, solved";
const READER =
  "TODO 3: keep what comes in `stream`; while a whole frame is at its start, write the packet, cut it off";

const NEW =
  "TODO 3: only the first `count` bytes of `buffer` are new, behind them is what came before: " +
  "Buffer.concat([stream, buffer.subarray(0, count)])";

const FRAME =
  "TODO 2: the length of the packet alone in 2 bytes, the high byte first, then the packet: read() it into " +
  "buffer.subarray(2), and send() 2 + length bytes";

const BOTH = "both roles do both: onPacket() takes the packets out of tun0, onStream() puts them in";
const OTHER_SIDE = "203.0.113.1"; // an address of the server's, too
const OVER = "when a connection is over, read() gives 0: hangUp(), and accept() the next one";

/** Waits until proc(5)'s /proc/net/tcp of the program has a line like that; its groups. */
const socket = (stage: Stage, program: Program, pattern: RegExp, miss: () => Miss) =>
  stage.until(() => pattern.exec(program.net("tcp")) ?? undefined, miss, 5_000);

async function startServer(stage: Stage): Promise<Program> {
  const server = stage.start("server", "server");
  await stage.tun(server, OPEN);
  const hint = "TODO 4: socket(), bind() to port 5555, listen(); then watch it, and accept()";
  const miss = () => new Miss("no socket listens at port 5555 on server", hint);
  await socket(stage, server, / \w+:15B3 \w+:\w+ 0A /, miss); // 0x15b3 = 5555
  await stage.configure("server", "10.8.0.1/24");
  return server;
}

async function startClient(stage: Stage, address: string): Promise<Program> {
  const client = stage.start("client", "client", address);
  await stage.tun(client, OPEN);
  const hint = "TODO 1: socket(), then connect() to `address`, port 5555; then use(fd)";
  const miss = () => new Miss(`no socket is connected to ${address}, port 5555`, hint);
  const [, remote] = await socket(stage, client, / \w+:\w+ (\w+):15B3 01 /, miss);
  const is = [...Buffer.from(remote!, "hex").reverse()].join(".");
  if (is !== address)
    throw new Miss(`your client connects to ${is}, and the command line said ${address}`, hint);
  await stage.configure("client", "10.8.0.2/24");
  return client;
}

const got = ({ stream }: OtherEnd) => `the connection got ${stream.length} bytes, ${short(stream)} …`;
const short = (bytes: Buffer) => (bytes.toString("hex", 0, 8).match(/../g) ?? []).join(" ");

/** The frame at the start of `stream`, its two bytes of length included; undefined while it is not whole. */
function frameIn(stream: Buffer): Buffer | undefined {
  const length = stream.length < 2 ? Infinity : 2 + stream.readUInt16BE(0);
  return stream.length < length ? undefined : stream.subarray(0, length);
}

/** An echo reply, from whom the request asks. */
function reply(request: Buffer): Buffer {
  const packet = Buffer.from(request);
  request.copy(packet, 12, 16, 20);
  request.copy(packet, 16, 12, 16);
  packet[20] = 0;
  packet.writeUInt16BE(0, 22);
  packet.writeUInt16BE(complement(sumOf(packet, 20, packet.length)), 22);
  return packet;
}

const framed = (packet: Buffer) =>
  Buffer.concat([Buffer.from([packet.length >> 8, packet.length & 255]), packet]);

/**
 * Pings from the client's host through the student's client, and answers as the other end. Before that come
 * two frames which nobody has asked for. The first is long, and in it is what looks like five frames: they
 * are still in the buffer behind the second one, which is short.
 */
async function pinged(stage: Stage): Promise<string> {
  const far = ends.get(stage)!;
  const from = far.stream.length;
  const before = injected(stage, "client");
  const packets = () => injected(stage, "client") - before;
  let said = "";
  void stage.run("client", "ping -c 1 -W 9 10.8.0.1", 10_000).then((all) => (said = all));
  const frame = await stage.until(
    () => frameIn(far.stream.subarray(from)),
    () =>
      new Miss(
        "the ping did not come out of the tunnel as a whole frame",
        "does onPacket() send each packet?",
      ),
  );
  const other = reply(echoRequest());
  const long = Buffer.concat([other, ...Array<Buffer>(5).fill(framed(other))]);
  const miss = () => new Miss("a frame was sent into the connection, and no packet came out of tun0", READER);
  far.send(framed(long));
  await stage.until(() => packets() >= 1, miss);
  far.send(framed(other)); // whoever takes the whole buffer is still busy with the rest of it
  await stage.until(() => packets() >= 2, miss, 10_000);
  far.send(framed(reply(frame.subarray(2))));
  const lost = new Miss("the answer was sent into the connection, and did not reach ping", READER);
  await stage.until(
    () => said || packets() > 3,
    () => lost,
    10_000,
  );
  if (packets() > 3) throw new Miss(`3 frames came in, and ${packets()} packets out of them`, NEW);
  const [shown] = /\d+ bytes from.*/.exec(said) ?? [];
  if (!shown) throw stage.why(lost);
  return shown;
}

/** Feeds an echo request to the student's server, in these pieces, and waits for its host's reply. */
async function replied(stage: Stage, pieces: Buffer[], hint: string): Promise<string> {
  const far = ends.get(stage)!;
  const from = far.stream.length;
  far.send(...pieces);
  const frame = await stage.until(
    () => frameIn(far.stream.subarray(from)),
    () => new Miss("an echo request of 84 bytes came to your server, and no reply out of its tun0", hint),
  );
  return `the reply: ${short(frame)} …`;
}

/** A ping from 10.8.0.2 to 10.8.0.1, as the kernel would make it. */
function echoRequest(): Buffer {
  const packet = Buffer.alloc(84);
  packet.set([
    0x45,
    0,
    0,
    packet.length,
    0,
    1,
    0,
    0,
    64,
    1,
    0,
    0,
    10,
    8,
    0,
    2,
    10,
    8,
    0,
    1,
    8,
    0,
    0,
    0,
    0,
    1,
    0,
    1,
  ]);
  packet.writeUInt16BE(complement(sumOf(packet, 0, 20)), 10);
  packet.writeUInt16BE(complement(sumOf(packet, 20, packet.length)), 22);
  return packet;
}

const ends = new WeakMap<Stage, OtherEnd>();

export const lesson: Lesson = {
  file: "4-tunnel",
  title: "the tunnel",
  about: [
    "Two hosts, one TCP connection: what goes into tun0 here comes out of tun0 there.",
    "One program plays both roles: `server`, or `client ADDRESS`.",
  ],
  write: [
    "dial(): connect to the server",
    "onPacket(): each packet with its length in front",
    "onStream(): find the packets again, wherever the stream was cut",
    "serve(): listen, and accept",
  ],
  read: ["man 7 tcp", "walkthrough.md, What is in a frame", "src/core/frame.ts"],
  crashes: [
    [
      /connect: ECONNREFUSED/,
      "nobody listens there: connect() to `address`, bind() to 0.0.0.0, both with port 5555",
    ],
    [
      /bind: EADDRINUSE/,
      "SO_REUSEADDR, before bind(): the port of an ended program stays taken for a minute",
    ],
    [/read tun0: EAGAIN/, "-EAGAIN is no mistake: there is no packet now. Return, the loop calls you again"],
    [/Error: write tun0: E/, "one bad packet must not end the tunnel: print it, and go on"],
    [/accept: EINVAL/, "listen() comes before accept()"],
    [
      /RangeError/,
      "a length that makes no sense, or not both its bytes: does your reader begin at a frame's first byte?",
    ],
    [
      /the connection is over\s*$/,
      "the server has hung up: does it use() the fd that accept() has returned?",
    ],
  ],
  checks: [
    {
      name: "the client connects",
      async run(stage) {
        const far = await OtherEnd.start(stage.lab, "server");
        ends.set(stage, far);
        stage.atEnd(() => far.stop());
        await startClient(stage, OTHER_SIDE);
        return `to ${OTHER_SIDE}, port 5555`;
      },
    },
    {
      name: "a packet leaves as a frame",
      async run(stage) {
        const far = ends.get(stage)!;
        await stage.run("client", "ping -c 1 -W 0.3 10.8.0.1");
        const frame = await stage.until(
          () => frameIn(far.stream),
          () => {
            if (far.stream.length === 0)
              return new Miss(
                "a ping went into tun0, and nothing into the connection",
                'TODO 1 ends with use(fd), which prints "connected"; TODO 2: send() each packet as a frame',
              );
            return new Miss(`${got(far)}; the frame of a packet of 84 begins 00 54 45 00`, FRAME);
          },
        );
        if (frame.length !== 86 || frame[2] !== 0x45 || far.stream.length !== 86)
          throw new Miss(`${got(far)}; 86 were right: 00 54 45 00 00 54 …`, FRAME);
        return `${short(frame)} …`;
      },
    },
    {
      name: "a frame comes, and is a packet again",
      run: pinged,
    },
    {
      name: "the server listens, and takes the client",
      async run(stage) {
        await ends.get(stage)!.stop();
        await stage.end();
        const server = await startServer(stage);
        await startClient(stage, SERVER);
        const hint = "TODO 4: accept() gives the connection's fd: use(fd)";
        const miss = () => new Miss("no socket is connected at port 5555 on server", hint);
        await socket(stage, server, / \w+:15B3 \w+:\w+ 01 /, miss);
        return "10.8.0.2 and 10.8.0.1 are joined";
      },
    },
    {
      name: "one ping, from host to host",
      async run(stage) {
        const miss = () =>
          injected(stage) > 0
            ? new Miss("the request came out of tun0 on the server, and no reply on the client", BOTH)
            : new Miss("10.8.0.1 does not answer: no request came out of tun0 on the server", READER);
        return pings(stage, FAR, "-c 1", miss);
      },
    },
    {
      name: "300 quick pings",
      async run(stage) {
        // 30 at once: more could fill a socket
        const hint =
          "one read() of the connection is not one packet: it may bring many, and end in one. " +
          "Cut each off the stream together with its 2 bytes of length";
        const miss = (saw: string) => new Miss(saw, hint);
        for (let i = 1; i < 10; i++) await pings(stage, FAR, "-c 30 -l 30", miss);
        return `10 times: ${await pings(stage, FAR, "-c 30 -l 30", miss)}`;
      },
    },
    {
      name: "the next client is served",
      async run(stage) {
        const [server, client] = stage.programs;
        await stage.end(client!);
        await stage.rest(server!);
        const trouble = server!.trouble();
        if (trouble) throw new Miss(`${trouble.message}; its client has just gone`, OVER);
        const far = await OtherEnd.start(stage.lab, "client", SERVER);
        ends.set(stage, far);
        stage.atEnd(() => far.stop());
        return replied(stage, [framed(echoRequest())], OVER);
      },
    },
    {
      name: "a stream that comes one byte at a time",
      async run(stage) {
        const bytes = [...framed(echoRequest())].map((byte) => Buffer.from([byte]));
        const hint = `${READER}; even the length may come in two reads, and a bad packet may come before`;
        const shown = await replied(stage, [framed(Buffer.of(0)), ...bytes], hint); // 0 is no IP version
        return `${bytes.length} writes, 1 packet; ${shown}`;
      },
    },
  ],
};
