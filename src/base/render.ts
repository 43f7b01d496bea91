/** How the trace's events look: as a line on the screen, and as a line of the trace file. */
import chalk from "chalk";
import type { Step } from "./walk.ts";

const SHOWN_BYTES = 8; // on the screen; the trace file has more

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

  /** Microseconds since the walk began, host, step, id, bytes, and what happened. */
  render(event: TraceEvent): string {
    const host = (HOST_COLOUR[event.host] ?? String)(event.host);
    if (event.step === "note") return `${host} ${event.text}`;
    if (event.step === "summary") return `${host} ${chalk.dim("1 s:")} ${event.text}`;
    if (event.step === "drop") return `${host} ${chalk.red("drop")} ${event.bytes} bytes: ${event.text}`;
    if (this.starts.includes(event.step)) this.wake = event.time;
    const micros = `+${(event.time - this.wake) / 1000n}`.padStart(6);
    const bytes = (event.hex.slice(0, SHOWN_BYTES * 2).match(/../g) ?? []).join(" ").padEnd(SHOWN_BYTES * 3);
    const name = `${chalk.bold(event.step.padEnd(10))} ${event.id.padEnd(7)}`;
    return `${chalk.dim(`${micros} µs`)} ${host} ${name} ${colourBytes(event.step, bytes)} ${event.text}`;
  }
}

/** Plain bytes green, XORed ones yellow, sealed ones red: the colours of the traffic light. */
function colourBytes(step: Step, bytes: string): string {
  if (/seal|frame|deframe|6.write|R4.write|8.read|R5.read/.test(step)) return chalk.red(bytes);
  return /6.xor|R4.xor|open/.test(step) ? chalk.yellow(bytes) : chalk.green(bytes);
}
