/** How the trace's events look: as a line on the screen, and as a line of the trace file. */
import chalk from "chalk";
import type { Step } from "./walk.ts";

export const WIDE = 112; // columns: from there on, a step has all its words and eight of its bytes
const NARROW = 72; // below, it does without the host, which the terminal's title tells

/** The words of a step, and shorter ones where the screen is narrow. */
const SHORTER: [long: RegExp, short: string][] = [
  [/the loop wakes: the TUN is readable/, "TUN readable"],
  [/AES-256-GCM, nonce (\d+), tag of (\d+) bytes appended/, "nonce $1, tag of $2 B"],
  [/AES-256-GCM: tag good, decrypted/, "tag good, decrypted"],
  [
    /header of (\d+) bytes in front, with number (\d+): a datagram of (\d+) bytes/,
    "+$1 B, number $2: datagram $3 B",
  ],
  [/\(offload: TCP payload still to be cut into pieces of (\d+)\)/, "(offload, cut to $1)"],
  [/header of (\d+) bytes in front: (\d+) bytes/, "+$1 B header: $2 B"],
  [/a datagram is a frame: body of (\d+) bytes/, "datagram: body $1 B"],
  [/a whole frame: body of (\d+) bytes/, "frame: body $1 B"],
  [/: the kernel takes over/, ""],
  [/an IPv4 header of (\d+) bytes in front of (\d+),/, "IPv4 header $1 B + $2,"],
  [/ICMP(v6)? echo (request|reply) id \d+ seq (\d+)/, "echo $3"],
  [/ bytes \^ 0x42:/, " B ^0x42"],
  [/ bytes\b:?/g, " B"],
  [/ ([→←]) /g, "$1"],
];

/** One line of the trace, and one JSON object in the trace file. */
export interface TraceEvent {
  time: bigint; // ns, CLOCK_MONOTONIC: one clock for all processes of a machine
  host: string; // "client" or "server"
  step: Step | "drop" | "summary" | "note";
  // "up3": frame 3 on its way up; "up3.0": the first packet in it. The same on both ends. "": none
  id: string;
  bytes: number; // how many bytes this step handled
  text: string;
  hex: string; // the first bytes, as they are after this step
}

/** A line of a trace file, without its end. */
export function encode(event: TraceEvent): string {
  // JSON has no BigInt
  return JSON.stringify({ ...event, time: 0 }).replace('"time":0', `"time":${event.time}`);
}

/** A line of a trace file as the event it was. */
export function decode(line: string): TraceEvent {
  const time = /"time":(\d+)/.exec(line)?.[1] ?? "0";
  return { ...JSON.parse(line), time: BigInt(time) };
}

const HOST_COLOUR: Record<string, (text: string) => string> = { client: chalk.cyan, server: chalk.magenta };

/** A screen: what events look like there, one line each. */
export class Screen {
  private wake = 0n; // when the latest packet's walk began: the times shown count from here
  private readonly starts: readonly string[];

  /** @param starts the steps that begin a walk, where they are the first that is seen */
  constructor(starts: readonly string[] = ["5", "R3.wake", "8.read", "R5.read"]) {
    this.starts = starts;
  }

  /**
   * Microseconds since the walk began, host, step, id, bytes, and what happened. In a terminal a step is one
   * line: where it is narrower, with shorter words and fewer bytes; at last it is cut.
   */
  render(event: TraceEvent, columns = process.stdout.columns || Infinity): string {
    const host = (HOST_COLOUR[event.host] ?? String)(event.host);
    if (event.step === "note") return `${host} ${event.text}`;
    if (event.step === "summary") return `${host} ${chalk.dim("1 s:")} ${event.text}`;
    if (event.step === "drop") return `${host} ${chalk.red("drop")} ${event.bytes} bytes: ${event.text}`;
    if (this.starts.includes(event.step)) this.wake = event.time;
    const micros = `+${(event.time - this.wake) / 1000n}`;
    const isWide = columns >= WIDE;
    const shown = isWide ? 8 : 4; // bytes; the trace file has more
    const bytes = (event.hex.slice(0, shown * 2).match(/../g) ?? []).join(" ").padEnd(isWide ? 24 : 11);
    const time = isWide ? `${micros.padStart(6)} µs` : micros.padStart(5);
    const step = event.step.padEnd(10);
    const id = event.id.padEnd(7);
    const isNamed = columns >= NARROW;
    const before = [time, ...(isNamed ? [event.host] : []), step, id, bytes, ""].join(" ").length;
    const coloured = [
      chalk.bold(step),
      id,
      colourBytes(event.step, bytes),
      fitting(event.text, columns - before),
    ];
    return [chalk.dim(time), ...(isNamed ? [host] : []), ...coloured].join(" ");
  }
}

/** The text, if it has room (columns); else in shorter words; else cut. */
export function fitting(text: string, room: number): string {
  if (text.length <= room) return text;
  const short = SHORTER.reduce((words, [long, few]) => words.replace(long, few), text);
  return short.length <= room ? short : `${short.slice(0, Math.max(room - 1, 0))}…`;
}

/** Plain bytes green, XORed ones yellow, sealed ones red: the colours of the traffic light. */
function colourBytes(step: Step, bytes: string): string {
  if (/seal|frame|deframe|6.write|R4.write|8.read|R5.read/.test(step)) return chalk.red(bytes);
  return /6.xor|R4.xor|open/.test(step) ? chalk.yellow(bytes) : chalk.green(bytes);
}
