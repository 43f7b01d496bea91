/**
 * The walk: the one vocabulary of steps that the code, its trace, the tests and walkthrough.md share, and how a step is
 * shown. A person's traffic is shown step by step; a flood is folded into one line a second, and unfolds when it is
 * quiet again, so that tracing never is the bottleneck. Lines are printed after the packet has gone on its way.
 */
import chalk from "chalk";
import { closeSync, openSync, writeSync } from "node:fs";
import type { Memory } from "./libc.ts";
import { describe } from "./packet.ts";
import { Failure } from "./program.ts";

/**
 * The steps of the walk that are our own code's, as stages of the two pumps, outbound() and inbound(). The same code
 * runs both ways: the request goes up from client to server, the reply comes down. Steps 1–4, 7, 9, 10, R1, R2 and
 * R7–R9 are the kernel's and ping's.
 */
const WALK = [
  // stage, request, reply, what happens
  ["wake", "5", "R3.wake", "the loop wakes: the TUN is readable"],
  ["read", "6.read", "R3.read", "read() takes the IP packet out of the TUN"],
  ["xor", "6.xor", "R4.xor", "every byte XOR 0x42"],
  ["seal", "6.seal", "R4.seal", "AES-256-GCM"],
  ["frame", "6.frame", "R4.frame", "a header in front"],
  ["write", "6.write", "R4.write", "write() into the TCP socket"],
  ["receive", "8.read", "R5.read", "read() from the TCP socket"],
  ["deframe", "8.deframe", "R5.deframe", "the frame found again in the stream"],
  ["open", "8.open", "R6.open", "tag checked, AES undone"],
  ["unxor", "8.xor", "R6.xor", "XOR undone"],
  ["inject", "8.write", "R6.write", "write() into the TUN: the kernel takes over"],
] as const;
export const STAGES = WALK.map(([stage]) => stage);
export type Stage = (typeof WALK)[number][0];
export type Step = (typeof WALK)[number][1 | 2];

/** The names of one way's steps, by stage. */
export type Direction = { name: "up" | "down" } & Record<Stage, Step>;
export const UP = { name: "up", ...Object.fromEntries(WALK.map(([stage, up]) => [stage, up])) } as Direction;
export const DOWN = { name: "down", ...Object.fromEntries(WALK.map(([stage, , down]) => [stage, down])) } as Direction;

/** One line of the trace, and one JSON object in the trace file. */
export interface TraceEvent {
  time: bigint; // ns, CLOCK_MONOTONIC: one clock for all processes of a machine
  host: string; // "client" or "server"
  step: Step | "drop" | "summary" | "note";
  id: string; // "up3": frame 3 on its way up; "up3.0": the first packet in it. The same on both ends. "": none
  bytes: number; // how many bytes this step handled
  text: string;
  hex: string; // the first bytes, as they are after this step
}

/** An event as it is recorded, in a hurry: hex and packet description are made when it is printed. */
interface Recorded extends Omit<TraceEvent, "hex"> {
  first: Buffer | undefined; // a copy of its first bytes
  packet: boolean; // they are a plain IP packet: describe it
}

export type TraceMode = "walk" | "summary" | "off";
const SHOWN_A_SECOND = 20; // packets: more is a flood
const SHOWN_BYTES = 8; // on the screen; the trace file has HEX_BYTES
const HEX_BYTES = 32;
const HEADERS = 80; // bytes that describe() may look at: the longest IPv4 header and a TCP header
const PRINT_DELAY = 20; // ms: by then the packet, and the answer to it, are on their way

/** What one direction carried: the packets, their bytes, and the frames they shared. */
class Counter {
  packets = 0;
  bytes = 0;
  frames = 0;
}

class Trace {
  readonly sent = new Counter();
  readonly received = new Counter();
  readonly drops = new Map<string, number>(); // by reason
  private host = "";
  private mode: TraceMode = "off";
  private file: number | undefined;
  private pending: Recorded[] = [];
  private shown = 0; // packets shown in this second
  private folded = false;
  private mute = false;
  private last = { sent: new Counter(), received: new Counter(), drops: 0 };

  start(host: string, mode: TraceMode, file: string | undefined): void {
    this.host = host;
    this.mode = mode;
    this.folded = mode === "summary";
    try {
      if (file !== undefined) this.file = openSync(file, "w", 0o600); // it shows plaintext
    } catch (error) {
      throw new Failure(`Cannot write the trace file ${file}: ${(error as NodeJS.ErrnoException).code}`, "choose another --trace-file");
    }
    process.stdout.on("error", () => (this.mute = true)); // EPIPE: nobody reads what we print (client.ts | head)
    if (mode !== "off") setInterval(() => this.everySecond(), 1000).unref();
  }

  /** The steps of a frame, if its next packet may be shown step by step. Asked once a packet. */
  show(walk: Direction, frame: number): Steps | undefined {
    return this.mayShow() ? new Steps(walk, `${walk.name}${frame}`) : undefined;
  }

  /** One more packet: may it be shown? A no folds the trace until it is quiet. */
  mayShow(): boolean {
    if (this.mode !== "walk" || this.folded) return false;
    if (++this.shown <= SHOWN_A_SECOND) return true;
    this.folded = true;
    this.note(`more than ${SHOWN_A_SECOND} packets a second: one summary line a second until it is quiet`);
    return false;
  }

  /** now(), for a step that may be shown. In a flood none is, and 0 costs neither a clock nor an allocation. */
  clock(): bigint {
    return this.mode === "walk" && !this.folded ? this.now() : 0n;
  }

  /** CLOCK_MONOTONIC, ns. */
  now(): bigint {
    return process.hrtime.bigint();
  }

  /** Records one step of a packet that is shown. The bytes are copied now; all else waits until the packet has gone on. */
  step(step: Step, id: string, bytes: number, text: string, memory?: Memory, from = 0, time = this.now()): void {
    this.record({ time, host: this.host, step, id, bytes, text, first: copy(memory, from, bytes), packet: false });
  }

  /** The same for a step whose bytes are a plain IP packet: its description is added to the text. */
  packet(step: Step, id: string, bytes: number, text: string, memory: Memory, from: number): void {
    this.record({ time: this.now(), host: this.host, step, id, bytes, text, first: copy(memory, from, bytes), packet: true });
  }

  /** Counts a packet that goes no further, and shows it while packets are shown. `reason`: one of few; `remote`: the peer whose it is. */
  drop(reason: string, remote: string, memory: Memory, from: number, bytes: number): void {
    this.drops.set(reason, (this.drops.get(reason) ?? 0) + 1);
    if (!this.mayShow()) return;
    const text = remote ? `${reason} (${remote})` : reason;
    this.record({ time: this.now(), host: this.host, step: "drop", id: "", bytes, text, first: copy(memory, from, bytes), packet: true });
  }

  /** Something the user should know, whatever the trace mode. */
  note(text: string): void {
    this.say("note", text);
  }

  private say(step: "note" | "summary", text: string): void {
    this.record({ time: this.now(), host: this.host, step, id: "", bytes: 0, text, first: undefined, packet: false });
  }

  /** Prints what is pending and the totals; closes the trace file. */
  stop(): void {
    if (this.sent.packets + this.received.packets + this.dropped > 0)
      this.note(`in all: ${rates(this.sent, new Counter(), "sent")}, ${rates(this.received, new Counter(), "received")}${this.dropReasons()}`);
    this.print();
    if (this.file !== undefined) closeSync(this.file);
    this.file = undefined;
  }

  private get dropped(): number {
    return [...this.drops.values()].reduce((sum, count) => sum + count, 0);
  }

  private dropReasons(): string {
    return [...this.drops].map(([reason, count]) => `, dropped ${count} (${reason})`).join("");
  }

  private record(event: Recorded): void {
    if (this.pending.push(event) === 1) setTimeout(() => this.print(), PRINT_DELAY);
  }

  private print(): void {
    const events = this.pending.map(finish);
    this.pending = [];
    if (events.length > 0) this.writeFile(events);
    for (const event of events) if (!this.mute) process.stdout.write(`${render(event)}\n`);
  }

  private writeFile(events: TraceEvent[]): void {
    if (this.file === undefined) return;
    try {
      writeSync(this.file, events.map((event) => `${encode(event)}\n`).join(""));
    } catch (error) {
      this.file = undefined; // a full disk is no reason to end the tunnel
      this.note(chalk.red(`the trace file cannot be written any more: ${(error as NodeJS.ErrnoException).code}`));
    }
  }

  private everySecond(): void {
    const { sent, received, dropped, last } = this;
    const packets = sent.packets - last.sent.packets + received.packets - last.received.packets + dropped - last.drops;
    if (this.folded && packets > 0) {
      const text = `${rates(sent, last.sent, "sent")}, ${rates(received, last.received, "received")}, dropped ${dropped - last.drops}`;
      this.say("summary", text);
    }
    if (this.mode === "walk" && packets <= SHOWN_A_SECOND) this.folded = false;
    this.shown = 0;
    this.last = { sent: { ...sent }, received: { ...received }, drops: dropped };
  }
}

export const XOR_WARNING = chalk.red.bold("--cipher xor is NOT SECURE: anyone on the way can read and change every packet. For lesson one only.");

/** This program's trace. */
export const trace = new Trace();

/**
 * The steps of one frame, or of one packet in it, while the trace shows them: a method for each stage of WALK. Each says what has just
 * been done to `size` bytes at memory[at …]. `time`: ns, when it began, if that was before the call.
 */
export class Steps {
  private readonly walk: Direction;
  private readonly id: string;

  constructor(walk: Direction, id: string) {
    this.walk = walk;
    this.id = id;
  }

  wake(time: bigint): void {
    trace.step(this.walk.wake, this.id, 0, "the loop wakes: the TUN is readable", undefined, 0, time);
  }
  read(memory: Memory, at: number, size: number, large: string): void {
    trace.packet(this.walk.read, this.id, size, `read ${size} bytes${large}`, memory, at);
  }
  xor(memory: Memory, at: number, size: number): void {
    trace.step(this.walk.xor, this.id, size, `${size} bytes ^ 0x42`, memory, at);
  }
  seal(memory: Memory, at: number, size: number, nonce: number): void {
    const text = `AES-256-GCM, nonce ${nonce}, tag of 16 bytes appended`;
    trace.step(this.walk.seal, this.id, size, text, memory, at);
  }
  frame(memory: Memory, at: number, size: number, header: number): void {
    trace.step(this.walk.frame, this.id, size, `header of ${header} bytes in front: ${size} bytes`, memory, at);
  }
  write(memory: Memory, at: number, size: number, remote: string, time: bigint): void {
    trace.step(this.walk.write, this.id, size, `wrote ${size} bytes to ${remote}`, memory, at, time);
  }
  receive(memory: Memory, at: number, size: number, remote: string, time: bigint): void {
    trace.step(this.walk.receive, this.id, size, `read ${size} bytes from ${remote}`, memory, at, time);
  }
  deframe(memory: Memory, at: number, size: number, header: number): void {
    const text = `a whole frame: body of ${size - header} bytes`;
    trace.step(this.walk.deframe, this.id, size, text, memory, at + header);
  }
  open(memory: Memory, at: number, size: number): void {
    trace.step(this.walk.open, this.id, size, "AES-256-GCM: tag good, decrypted", memory, at);
  }
  unxor(memory: Memory, at: number, size: number, large: string): void {
    trace.packet(this.walk.unxor, this.id, size, `${size} bytes ^ 0x42${large}`, memory, at);
  }
  inject(memory: Memory, at: number, size: number, tun: string, time: bigint): void {
    trace.step(this.walk.inject, this.id, size, `wrote ${size} bytes to ${tun}: the kernel takes over`, memory, at, time);
  }

  /** Of the packet at this place in the frame. */
  packet(place: number): Steps {
    return new Steps(this.walk, `${this.id}.${place}`);
  }
}

function copy(memory: Memory | undefined, from: number, bytes: number): Buffer | undefined {
  return memory && Buffer.from(memory.bytes.subarray(from, from + Math.min(bytes, HEADERS)));
}

function finish({ first, packet, ...event }: Recorded): TraceEvent {
  const text = packet && first ? `${event.text}: ${describe(first, 0, event.bytes)}` : event.text;
  return { ...event, text, hex: first?.toString("hex", 0, HEX_BYTES) ?? "" };
}

function rates(now: Counter, before: Counter, verb: string): string {
  const [packets, frames, bytes] = [now.packets - before.packets, now.frames - before.frames, now.bytes - before.bytes];
  return `${verb} ${packets} packets (${bytes < 1e5 ? `${bytes} bytes` : `${(bytes / 1e6).toFixed(1)} MB`}) in ${frames} frames`;
}

function encode(event: TraceEvent): string {
  return JSON.stringify({ ...event, time: 0 }).replace('"time":0', `"time":${event.time}`); // JSON has no BigInt
}

/** A line of a trace file as the event it was. */
export function decode(line: string): TraceEvent {
  const time = /"time":(\d+)/.exec(line)?.[1] ?? "0";
  return { ...JSON.parse(line), time: BigInt(time) };
}

const HOST_COLOUR: Record<string, (text: string) => string> = { client: chalk.cyan, server: chalk.magenta };
let wake = 0n; // when the latest packet's walk began: the times shown count from here

/** One line for the screen: microseconds since step 5 (or R3, 8, R5 where that is the first seen), host, step, id, bytes. */
export function render(event: TraceEvent, walkStarts: readonly string[] = ["5", "R3.wake", "8.read", "R5.read"]): string {
  const host = (HOST_COLOUR[event.host] ?? String)(event.host);
  if (event.step === "note") return `${host} ${event.text}`;
  if (event.step === "summary") return `${host} ${chalk.dim("1 s:")} ${event.text}`;
  if (event.step === "drop") return `${host} ${chalk.red("drop")} ${event.bytes} bytes: ${event.text}`;
  if (walkStarts.includes(event.step)) wake = event.time;
  const micros = `+${(event.time - wake) / 1000n}`.padStart(6);
  const bytes = (event.hex.slice(0, SHOWN_BYTES * 2).match(/../g) ?? []).join(" ").padEnd(SHOWN_BYTES * 3);
  return `${chalk.dim(`${micros} µs`)} ${host} ${chalk.bold(event.step.padEnd(10))} ${event.id.padEnd(7)} ${colourBytes(event.step, bytes)} ${event.text}`;
}

/** Plain bytes green, XORed ones yellow, sealed ones red: the colours of the traffic light. */
function colourBytes(step: Step, bytes: string): string {
  if (/seal|frame|deframe|6.write|R4.write|8.read|R5.read/.test(step)) return chalk.red(bytes);
  return /6.xor|R4.xor|open/.test(step) ? chalk.yellow(bytes) : chalk.green(bytes);
}
