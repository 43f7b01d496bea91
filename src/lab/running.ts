/**
 * A program that runs on a host of the lab: what it has said so far, waiting for what it will say, and its
 * end.
 */
import type { ChildProcess, SpawnOptions } from "node:child_process";
import { stripVTControlCharacters } from "node:util";
import { Failure } from "../base/failure.ts";
import { type Lab, ours } from "./lab.ts";

export class Running {
  readonly child: ChildProcess;
  output = ""; // stdout and stderr
  readonly ended: Promise<number | string>; // exit code, or the signal that killed it
  over = false; // has it ended?
  private wake: () => void = () => {};

  constructor(child: ChildProcess) {
    this.child = child;
    for (const stream of [child.stdout, child.stderr]) {
      stream?.setEncoding("utf8").on("data", (text: string) => {
        this.output += text;
        this.wake();
      });
    }
    this.ended = new Promise((resolve) => {
      child.once("close", (code, signal) => {
        this.over = true;
        resolve(code ?? signal ?? 0);
        this.wake();
      });
    });
  }

  /**
   * Waits until the output matches. Throws if the program ends first, with its own Failure if it printed one,
   * or after `ms`; else with the output.
   */
  async until(pattern: RegExp, ms = 20_000): Promise<RegExpExecArray> {
    const deadline = Date.now() + ms;
    for (;;) {
      const match = pattern.exec(this.output);
      if (match) return match;
      const [, failure, hint] =
        (this.over && /^error (.*)\. Try: (.*)$/m.exec(stripVTControlCharacters(this.output))) || [];
      if (failure) throw new Failure(failure, hint!);
      if (this.over || Date.now() >= deadline)
        throw new Error(
          `${this.over ? "ended" : `${ms / 1000} s passed`} without ${pattern}; it said:\n${this.output}`,
        );
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, deadline - Date.now());
        this.wake = () => (clearTimeout(timer), resolve());
      });
    }
  }

  /** Sends a signal and waits for the end; the exit code, or the signal's name. */
  async stop(signal: NodeJS.Signals = "SIGTERM"): Promise<number | string> {
    if (!this.over) this.child.kill(signal);
    return this.ended;
  }
}

/**
 * What carries frames: TRANSPORT=udp in the environment, as `make walk TRANSPORT=udp` sets it; else tcp. The
 * programs refuse others.
 */
export const TRANSPORT = (process.env.TRANSPORT || "tcp") as "tcp" | "udp" | "quic" | "raw";

/** A program's arguments, with the transport, unless they name one. --cipher xor is for TCP alone. */
export function withTransport(args: string[]): string[] {
  const says = args.includes("--transport") || args.includes("xor") || args.includes("--help");
  return TRANSPORT === "tcp" || says ? args : [...args, "--transport", TRANSPORT];
}

/** Starts src/client.ts or src/server.ts on a host. */
export function startProgram(
  lab: Lab,
  host: string,
  program: "client" | "server",
  args: string[],
  options: SpawnOptions = {},
): Running {
  return new Running(lab.spawn(host, [...ours(program), ...withTransport(args)], options));
}

/** Tries until it does not throw, for 10 s. */
export async function retry(attempt: () => void, explain: () => string = () => ""): Promise<void> {
  for (const deadline = Date.now() + 10_000; ; await new Promise((resolve) => setTimeout(resolve, 50))) {
    try {
      return attempt();
    } catch (error) {
      if (Date.now() > deadline)
        throw new Failure(
          `${(error as Error).message} ${explain()}`.trim(),
          "run it by hand to see what it needs",
        );
    }
  }
}
