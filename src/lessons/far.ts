/**
 * What lessons 5 to 7 have at the other end of the wire, and on it: the real programs, the C program, a peer
 * of a few lines that shows what it gets, and a relay that sees and changes the stream.
 */
import { newFolder } from "../lab/tests/folder.ts";
import { compile, startSimple } from "../lab/bench/simplevpn.ts";
import { LAB_SECRET, ours, SERVER } from "../lab/lab.ts";
import { Running, startProgram } from "../lab/running.ts";
import { has } from "../lab/tools.ts";
import { hex } from "./kit.ts";
import { Miss, type Program, type Stage } from "./check.ts";

export const [FAR, NEAR] = ["10.8.0.1", "10.8.0.2"]; // the server's and the client's inner address
const STARTING = 10_000; // ms: what a program may take on a busy machine
const ESTABLISHED = "01"; // states in proc(5)'s /proc/net/tcp
const LISTENING = "0A";
const PORT = "15B3"; // 5555, as it is written there

const others = new WeakMap<Stage, Running[]>();

/** A program that is not the student's. It ends with clear(), or with the last check. */
function other(stage: Stage, running: Running): Running {
  others.set(stage, [...(others.get(stage) ?? []), running]);
  stage.atEnd(() => running.stop("SIGKILL"));
  return running;
}

/** Ends all programs, before a check that starts others. */
export async function clear(stage: Stage): Promise<void> {
  await stage.end();
  for (const running of others.get(stage) ?? []) await running.stop("SIGKILL");
  others.delete(stage);
}

/** Starts one of the real programs. */
function startReal(stage: Stage, program: "server" | "client", args: string[]): Running {
  const env = { ...process.env, SIMPLE_VPN_SECRET: LAB_SECRET };
  const words = ["--configure", "--transport", "tcp", ...args];
  return other(stage, startProgram(stage.lab, program, program, words, { env }));
}

/** Starts the real server, and waits until it listens. */
export async function startRealServer(stage: Stage, ...args: string[]): Promise<Running> {
  const real = startReal(stage, "server", args);
  await real.until(/listening on/, STARTING);
  return real;
}

/** Starts the real client. The student's server has 2 s to make a session with it. Throws the Miss if not. */
export async function startRealClient(stage: Stage, hint: string, ...args: string[]): Promise<Running> {
  const real = startReal(stage, "client", [SERVER, ...args]);
  const says = () => complaint(real) ?? "nothing";
  const miss = () => new Miss(`the real client has no session with your server, and says: ${says()}`, hint);
  const isOver = () => real.over || /connected to/.test(real.output);
  const isThere = () => stage.programs.some(isConnected);
  await stage.until(() => isThere() || isOver(), miss, STARTING);
  await stage.until(isOver, miss);
  if (!/connected to/.test(real.output)) throw await why(stage, miss());
  return real;
}

/** As Stage.why(), after half a second in which the programs are looked at: do they sleep, or spin? */
export async function why(stage: Stage, miss: Miss): Promise<Miss> {
  await Promise.all(stage.programs.map((program) => stage.rest(program)));
  return stage.why(miss);
}

/** The last thing of interest that a real program has said: why it closed, refused or dropped. */
export function complaint({ output }: Running): string | undefined {
  const all = output.match(
    /(error|refused|left:|Lost the server) .*|dropped [1-9].*|.*: (wrong tag|a record).*/g,
  );
  return all?.at(-1)?.replace(/ \(\d+ connected\)/, "");
}

/** Starts refs/simplevpn.c as server; undefined where no C compiler is. */
export async function startC(stage: Stage): Promise<Running | undefined> {
  if (!has("cc")) return undefined;
  return other(stage, await startSimple(stage.lab, "server", compile(newFolder(), "simplevpn")));
}

/** Starts the student's server, and waits until it listens. */
export async function startServer(stage: Stage, hint: string): Promise<Program> {
  const program = stage.start("server", "server");
  const miss = () => new Miss("your server does not listen on port 5555", hint);
  await stage.until(() => sockets(program, LISTENING), miss, STARTING);
  return program;
}

/** Starts the student's client, and waits until it is connected to `address`. */
export async function startClient(stage: Stage, hint: string, address = SERVER): Promise<Program> {
  const program = stage.start("client", "client", address);
  const miss = () => new Miss(`your client does not connect to ${address}, port 5555`, hint);
  await stage.until(() => isConnected(program), miss, STARTING);
  return program;
}

/** Has its host a TCP socket of port 5555 in this state? */
const sockets = (program: Program, state: string) =>
  program
    .net("tcp")
    .split("\n")
    .some((line) => {
      const [, local, remote, is] = line.trim().split(/\s+/);
      return is === state && (local?.endsWith(`:${PORT}`) || remote?.endsWith(`:${PORT}`));
    });

/** Has a program on this host a connection at port 5555? */
export const isConnected = (program: Program) => sockets(program, ESTABLISHED);

/** How many packets the student's program on that host has written into its tun0. */
export function injected(stage: Stage, on = "server"): number {
  const program = stage.programs.find(({ host }) => host === on);
  return Number(/tun0:\s*\d+\s+(\d+)/.exec(program?.net("dev") ?? "")?.[1] ?? 0);
}

export const THREE = "-c 3 -l 3"; // options of ping: three at once

/**
 * Pings from the client; ping's summary if all were answered. Throws the Miss that `miss` makes. What the
 * `real` program at the other end says explains more than how the student's one ended. `options` should send
 * all at once: after the last one, ping waits for late answers as long as its interval, which is a second.
 */
export async function pings(
  stage: Stage,
  address: string,
  options: string,
  miss: (answered: string) => Miss,
  real?: Running,
): Promise<string> {
  const ping = async () => {
    const said = await stage.run("client", `ping -q -W 2 ${options} ${address}`, 6_000);
    return /(\d+) packets transmitted, (\d+) received/.exec(said) ?? ["", "", "0"];
  };
  let [summary, sent, received] = await ping();
  // on a busy machine a socket may be full for a moment, and a frame be dropped; a mistake comes again
  if (sent !== received && received !== "0") [summary, sent, received] = await ping();
  // without the client's tun0, the default route leads to the server, too: an answer is none of the tunnel's
  const isOver = stage.programs.some(({ running }) => running.over);
  if (sent === received && !isOver) return `ping ${address}: ${summary}`;
  const made = miss(`ping ${options} ${address}: ${isOver ? 0 : received} of ${sent || "all"} answered`);
  throw real && complaint(real) ? made : await why(stage, made);
}

/** Both ends of the student's own tunnel, with addresses. `address`: where the client connects to. */
export async function startBoth(stage: Stage, hint: string, address = SERVER): Promise<void> {
  const server = await startServer(stage, hint);
  await stage.tun(server, hint);
  await stage.configure("server", `${FAR}/24`);
  const client = await startClient(stage, hint, address);
  await stage.tun(client, hint);
  await stage.configure("client", `${NEAR}/24`);
}

/**
 * A server of a few lines in the place of the real one, written from the wire format alone. It prints what it
 * gets, and answers each echo request. Nothing of ours is in it.
 */
const PEER = `
  const turn = (bytes) => bytes.map((byte) => byte ^ 0x42);
  require("node:net").createServer((socket) => {
    let rest = Buffer.alloc(0);
    socket.on("error", () => {}).on("data", (data) => {
      console.log("got " + data.toString("hex"));
      rest = Buffer.concat([rest, data]);
      while (rest.length >= 2 && rest.length >= 2 + rest.readUInt16BE(0)) {
        const packet = turn(rest.subarray(2, 2 + rest.readUInt16BE(0)));
        rest = rest.subarray(2 + packet.length);
        if (packet.length < 28 || packet[0] !== 0x45 || packet[9] !== 1 || packet[20] !== 8) continue;
        const to = Buffer.from(packet.subarray(12, 16));
        packet.copyWithin(12, 16, 20);
        to.copy(packet, 16);
        packet[20] = 0;
        const sum = packet.readUInt16BE(22) + 0x800; // the type is 8 less: RFC 1624
        packet.writeUInt16BE((sum & 0xffff) + (sum >> 16), 22);
        socket.write(Buffer.concat([Buffer.of(packet.length >> 8, packet.length & 255), turn(packet)]));
        console.log("answered");
      }
    });
  }).listen(5555, () => console.log("listening"));`;

/** The peer, on the server's host. */
export async function startPeer(stage: Stage): Promise<Running> {
  const running = other(stage, new Running(stage.lab.spawn("server", [process.execPath, "-e", PEER])));
  await running.until(/listening/);
  return running;
}

/** What a peer has got so far. */
export const got = ({ output }: Running) =>
  Buffer.from([...output.matchAll(/got (\w+)/g)].map(([, bytes]) => bytes).join(""), "hex");

/** The first bytes, as they are shown to a student. */
export const first = (bytes: Buffer, count = 6) => hex(bytes, count);

type Way = "up" | "down"; // up: from the client to the server

/** On the client's host, between the two ends: the client connects to 127.0.0.1. It knows no key. */
export class Relay {
  readonly frames = { up: [] as Buffer[], down: [] as Buffer[] }; // as they came: u16 length, body
  /** What goes on instead of a frame. */
  tamper: (frame: Buffer, way: Way) => Buffer[] = (frame) => [frame];
  private rest: Record<Way, Buffer> = { up: Buffer.alloc(0), down: Buffer.alloc(0) };

  static async start(stage: Stage): Promise<Relay> {
    const relay = new Relay();
    const command = [...ours("lab/experiments/relay-program"), "5555", SERVER];
    const child = stage.lab.spawn("client", command, {
      stdio: ["ignore", "pipe", "pipe", "ipc"],
      serialization: "advanced",
    });
    const running = other(stage, new Running(child));
    let listens = false;
    child.on("message", (message: "open" | "listening" | { way: Way; bytes: Uint8Array }) => {
      if (message === "listening") listens = true;
      else if (message === "open") relay.rest = { up: Buffer.alloc(0), down: Buffer.alloc(0) };
      else
        for (const bytes of relay.pass(message.way, Buffer.from(message.bytes)))
          child.send({ way: message.way, bytes }, () => {}); // after its end, to nobody
    });
    const miss = () => new Miss(`the relay does not start: ${running.output}`, "run it again");
    await stage.until(() => listens, miss, STARTING);
    return relay;
  }

  /** What goes on, once frames are whole. */
  private pass(way: Way, bytes: Buffer): Buffer[] {
    let rest = Buffer.concat([this.rest[way], bytes]);
    const on: Buffer[] = [];
    while (rest.length >= 2 && rest.length >= 2 + rest.readUInt16BE(0)) {
      const frame = rest.subarray(0, 2 + rest.readUInt16BE(0));
      rest = rest.subarray(frame.length);
      this.frames[way].push(Buffer.from(frame));
      on.push(...this.tamper(Buffer.from(frame), way));
    }
    this.rest[way] = rest;
    return on;
  }
}
