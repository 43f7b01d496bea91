/**
 * The man in the middle: a relay on the server's host, between client and server, one connection at a time.
 * It captures each read and each frame, and `tamper` decides what goes on instead of a frame. It knows no
 * key; frames it can find because their lengths are readable. Over UDP each datagram is one.
 */
import chalk from "chalk";
import { type Framing, aesFraming, xorFraming } from "../../core/frame.ts";
import { type Lab, ours, SERVER } from "../lab.ts";
import { Running } from "../running.ts";
import { type CipherName, note, typed } from "./stage.ts";

/** What one read() brought, or one write() takes. "up": from client to server. */
export interface Chunk {
  way: "up" | "down";
  bytes: Buffer;
}

export const RELAY_PORT = 5556;

export class Relay {
  readonly framing: Framing;
  readonly reads: Chunk[] = []; // as they came from the sockets
  readonly frames: Chunk[] = []; // the same bytes, cut into frames
  /** What goes on instead of this frame: itself, changed, twice, nothing. */
  tamper: (frame: Buffer, way: Chunk["way"]) => Buffer[] = (frame) => [frame];
  private rest = { up: Buffer.alloc(0), down: Buffer.alloc(0) };
  private readonly running: Running;
  private readonly datagrams: boolean;

  private constructor(running: Running, cipher: CipherName, datagrams: boolean) {
    this.running = running;
    this.datagrams = datagrams;
    this.framing = cipher === "xor" ? xorFraming : aesFraming;
  }

  /** A relay that listens on the server's host. */
  static async start(lab: Lab, cipher: CipherName, transport: "tcp" | "udp" = "tcp"): Promise<Relay> {
    const words = [`${RELAY_PORT}`, SERVER, ...(transport === "udp" ? ["udp"] : [])];
    typed("server", `npx tsx src/lab/experiments/relay-program.ts ${words.join(" ")}`);
    const command = [...ours("lab/experiments/relay-program"), ...words];
    const child = lab.spawn("server", command, {
      stdio: ["ignore", "pipe", "pipe", "ipc"],
      serialization: "advanced",
    });
    const relay = new Relay(new Running(child), cipher, transport === "udp");
    await new Promise<void>((resolve, reject) => {
      child.on("message", (message: Chunk | "open" | "listening") => {
        if (message === "listening") resolve();
        else if (message === "open") relay.rest = { up: Buffer.alloc(0), down: Buffer.alloc(0) };
        else relay.receive({ way: message.way, bytes: Buffer.from(message.bytes) });
      });
      child.once("exit", () => reject(new Error(`the relay ended: ${relay.running.output}`)));
    });
    note(
      chalk.dim(`the client will connect to ${SERVER}:${RELAY_PORT}, the relay from there to ${SERVER}:5555`),
    );
    return relay;
  }

  /** The packets' bytes as they are on the wire in --cipher xor: frames without their headers. */
  bodies(way: Chunk["way"]): Buffer[] {
    return this.frames
      .filter((frame) => frame.way === way)
      .map(({ bytes }) => bytes.subarray(this.framing.header));
  }

  private receive(chunk: Chunk): void {
    const { way, bytes } = chunk;
    this.reads.push(chunk);
    if (this.datagrams) return this.pass(chunk);
    const { header } = this.framing;
    let rest = Buffer.concat([this.rest[way], bytes]);
    while (rest.length >= header) {
      const length = this.framing.bodyLength(rest, 0);
      if (typeof length === "string") throw new Error(`the relay lost the stream: ${length}`);
      if (rest.length < header + length) break;
      const frame = rest.subarray(0, header + length);
      rest = rest.subarray(header + length);
      this.pass({ way, bytes: Buffer.from(frame) });
    }
    this.rest[way] = rest;
  }

  private pass({ way, bytes }: Chunk): void {
    this.frames.push({ way, bytes });
    for (const instead of this.tamper(bytes, way)) this.send(instead, way);
  }

  /** Sends a frame, whoever has made it. */
  send(frame: Buffer, way: Chunk["way"]): void {
    this.running.child.send({ way, bytes: frame }, () => {}); // after its end, to nobody
  }
}
