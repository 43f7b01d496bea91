/**
 * The trace: what is shown of the walk. A person's traffic is shown step by step; a flood is folded into one
 * line a second, and unfolds when it is quiet again, so that tracing never is the bottleneck. Lines are
 * printed after the packet has gone on its way.
 */
import chalk from "chalk";
import { closeSync, writeSync } from "node:fs";
import type { Memory } from "./libc.ts";
import { openNew } from "./new-file.ts";
import { Counter, counters, rates } from "./counters.ts";
import { Fold, SHOWN_A_SECOND } from "./fold.ts";
import { describe } from "./packet.ts";
import { encode, Screen, type TraceEvent } from "./render.ts";
import type { Direction, Step } from "./walk.ts";

/** An event as it is recorded, in a hurry: hex and packet description are made when it is printed. */
interface Recorded extends Omit<TraceEvent, "hex"> {
  first: Buffer | undefined; // a copy of its first bytes
  packet: boolean; // they are a plain IP packet: describe it
}

export type TraceMode = "walk" | "summary" | "off";
const HEX_BYTES = 32;
const HEADERS = 80; // bytes that describe() may look at: the longest IPv4 header and a TCP header
const PRINT_DELAY = 20; // ms: by then the packet, and the answer to it, are on their way

type Totals = ReturnType<typeof totals>;
const NOTHING: Totals = { sent: new Counter(), received: new Counter(), drops: 0 };

class Trace {
  onEvents: ((events: TraceEvent[]) => void) | undefined; // besides the screen and the file: --status
  private host = "";
  private mode: TraceMode = "off";
  private file: number | undefined;
  private pending: Recorded[] = [];
  private readonly fold = new Fold();
  private mute = false;
  private stopped = false;
  private readonly screen = new Screen();
  private last = NOTHING; // what was counted a second ago

  start(host: string, mode: TraceMode, file: string | undefined): void {
    this.host = host;
    this.mode = mode;
    this.fold.isFolded = mode === "summary";
    if (file !== undefined) this.file = openNew(file); // its owner's alone: it shows plaintext
    // EPIPE: nobody reads what we print (client.ts | head)
    process.stdout.on("error", () => (this.mute = true));
    if (mode !== "off") setInterval(() => this.everySecond(), 1000).unref();
  }

  /** The steps of a frame, if its next packet may be shown step by step. Asked once a packet. */
  show(walk: Direction, frame: number): Steps | undefined {
    return this.mayShow() ? new Steps(walk, `${walk.name}${frame}`) : undefined;
  }

  /** One more packet: may it be shown? A no folds the trace until it is quiet. */
  mayShow(): boolean {
    if (this.mode !== "walk" || this.fold.isFolded) return false;
    if (this.fold.show()) return true;
    this.note(`more than ${SHOWN_A_SECOND} packets a second: one summary line a second until it is quiet`);
    return false;
  }

  /**
   * now(), for a step that may be shown. In a flood none is, and 0 costs neither a clock nor an allocation.
   */
  clock(): bigint {
    return this.mode === "walk" && !this.fold.isFolded ? this.now() : 0n;
  }

  /** CLOCK_MONOTONIC, ns. */
  now(): bigint {
    return process.hrtime.bigint();
  }

  /**
   * Records one step of a packet that is shown. The bytes are copied now; all else waits until the packet has
   * gone on.
   */
  step(
    step: Step,
    id: string,
    bytes: number,
    text: string,
    memory?: Memory,
    from = 0,
    time = this.now(),
  ): void {
    this.record({ time, step, id, bytes, text, first: copy(memory, from, bytes) });
  }

  /** The same for a step whose bytes are a plain IP packet: its description is added to the text. */
  packet(step: Step, id: string, bytes: number, text: string, memory: Memory, from: number): void {
    this.record({ step, id, bytes, text, first: copy(memory, from, bytes), packet: true });
  }

  /**
   * Counts a packet that goes no further, and shows it while packets are shown. `reason`: one of few;
   * `remote`: the peer whose it is.
   */
  drop(reason: string, remote: string, memory: Memory, from: number, bytes: number): void {
    counters.drop(reason);
    if (!this.mayShow()) return;
    const text = remote ? `${reason} (${remote})` : reason;
    this.record({ step: "drop", bytes, text, first: copy(memory, from, bytes), packet: true });
  }

  /** Something the user should know, whatever the trace mode. */
  note(text: string): void {
    this.record({ step: "note", text });
  }

  /** Prints what is pending and the totals; closes the trace file. */
  stop(): void {
    if (this.stopped) return;
    this.stopped = true;
    const { sent, received, drops } = totals();
    if (sent.packets + received.packets + drops > 0)
      this.note(`in all: ${sinceThen(NOTHING)}${dropReasons()}`);
    this.print();
    if (this.file !== undefined) closeSync(this.file);
    this.file = undefined;
  }

  private record(event: Partial<Recorded> & Pick<Recorded, "step" | "text">): void {
    const { step, id = "", bytes = 0, text, first, packet = false } = event;
    const time = event.time || this.now(); // 0: of clock(), in a flood
    if (this.pending.push({ time, host: this.host, step, id, bytes, text, first, packet }) === 1)
      setTimeout(() => this.print(), PRINT_DELAY);
  }

  private print(): void {
    const events = this.pending.map(finish);
    this.pending = [];
    if (events.length > 0) this.writeFile(events);
    if (events.length > 0) this.onEvents?.(events);
    for (const event of events) if (!this.mute) process.stdout.write(`${this.screen.render(event)}\n`);
  }

  private writeFile(events: TraceEvent[]): void {
    if (this.file === undefined) return;
    try {
      writeSync(this.file, events.map((event) => `${encode(event)}\n`).join(""));
    } catch (error) {
      this.file = undefined; // a full disk is no reason to end the tunnel
      this.note(
        chalk.red(`the trace file cannot be written any more: ${(error as NodeJS.ErrnoException).code}`),
      );
    }
  }

  private everySecond(): void {
    const { last } = this;
    const { sent, received, drops } = (this.last = totals());
    const packets =
      sent.packets - last.sent.packets + received.packets - last.received.packets + drops - last.drops;
    if (this.fold.isFolded && packets > 0)
      this.record({ step: "summary", text: `${sinceThen(last)}, dropped ${drops - last.drops}` });
    if (this.mode === "walk") this.fold.second(packets);
  }
}

export const XOR_WARNING = chalk.red.bold(
  "--cipher xor is NOT SECURE: anyone on the way can read and change every packet. Only to learn from.",
);

/** This program's trace. */
export const trace = new Trace();

/**
 * The steps of one frame, or of one packet in it, while the trace shows them: a method for each stage of
 * WALK. Each says what has just been done to `size` bytes at memory[at …]. `time`: ns, when it began, if that
 * was before the call.
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
  /** `ordered`: as in Framing. Else each frame is a datagram of its own. */
  frame(memory: Memory, at: number, size: number, header: number, ordered: boolean): void {
    const datagram = `, with number ${this.id.replace(/\D/g, "")}: a datagram of ${size} bytes`;
    const text = `header of ${header} bytes in front${ordered ? `: ${size} bytes` : datagram}`;
    trace.step(this.walk.frame, this.id, size, text, memory, at);
  }
  /** `first`: the number of the first frame written, if frames bear numbers: several may go at once. */
  write(memory: Memory, at: number, size: number, remote: string, time: bigint, first?: number): void {
    const id = first === undefined ? this.id : `${this.walk.name}${first}`;
    trace.step(this.walk.write, id, size, `wrote ${size} bytes to ${remote}`, memory, at, time);
  }
  receive(memory: Memory, at: number, size: number, remote: string, time: bigint): void {
    trace.step(this.walk.receive, this.id, size, `read ${size} bytes from ${remote}`, memory, at, time);
  }
  deframe(memory: Memory, at: number, size: number, header: number, ordered: boolean): void {
    const text = `${ordered ? "a whole frame" : "a datagram is a frame"}: body of ${size - header} bytes`;
    trace.step(this.walk.deframe, this.id, size, text, memory, at + header);
  }
  open(memory: Memory, at: number, size: number): void {
    trace.step(this.walk.open, this.id, size, "AES-256-GCM: tag good, decrypted", memory, at);
  }
  unxor(memory: Memory, at: number, size: number, large: string): void {
    trace.packet(this.walk.unxor, this.id, size, `${size} bytes ^ 0x42${large}`, memory, at);
  }
  inject(memory: Memory, at: number, size: number, tun: string, time: bigint): void {
    trace.step(
      this.walk.inject,
      this.id,
      size,
      `wrote ${size} bytes to ${tun}: the kernel takes over`,
      memory,
      at,
      time,
    );
  }

  /** Of the packet at this place in the frame. */
  packet(place: number): Steps {
    return new Steps(this.walk, `${this.id}.${place}`);
  }
}

function totals() {
  return { sent: counters.sum("sent"), received: counters.sum("received"), drops: counters.dropped };
}

/** "sent 3 packets …, received 3 packets …": since what was counted `before`. */
function sinceThen(before: Totals): string {
  const { sent, received } = totals();
  return `${rates(sent, before.sent, "sent")}, ${rates(received, before.received, "received")}`;
}

const dropReasons = () =>
  [...counters.drops].map(([reason, count]) => `, dropped ${count} (${reason})`).join("");

function copy(memory: Memory | undefined, from: number, bytes: number): Buffer | undefined {
  return memory && Buffer.from(memory.bytes.subarray(from, from + Math.min(bytes, HEADERS)));
}

function finish({ first, packet, ...event }: Recorded): TraceEvent {
  const text = packet && first ? `${event.text}: ${describe(first, 0, event.bytes)}` : event.text;
  return { ...event, text, hex: first?.toString("hex", 0, HEX_BYTES) ?? "" };
}
