/**
 * What both programs share around their loop: start, stop, and failure. Every way out (a signal, an error, the
 * peer's goodbye) goes through exit(), which undoes in reverse order what atExit() was given.
 */
import "./environment.ts"; // first: the rest already sees what it has put right
import chalk from "chalk";
import { exitNow } from "./libc.ts";

/** A failure that the user can mend: what happened ("Cannot <action>: <state>"), and what to try. */
export class Failure extends Error {
  readonly hint: string;
  readonly exitCode: number;

  /** @param exitCode 2 for wrong usage, 1 for the rest */
  constructor(message: string, hint: string, exitCode = 1) {
    super(message.replace(/[\x00-\x1f\x7f-\x9f]/g, "?")); // it may repeat what was typed or received: one line, and no orders to the terminal
    this.hint = hint;
    this.exitCode = exitCode;
  }
}

const undos: (() => void)[] = [];
let exitCode: number | undefined; // once the program is ending

/** `undo` runs once when the program ends, whatever ends it (but SIGKILL); the newest first. */
export function atExit(undo: () => void): void {
  undos.push(undo);
}

/** Ends the program. A second call, while the first is still undoing, changes nothing. */
export function exit(code: number): void {
  if (exitCode !== undefined) return;
  exitCode = code;
  for (let undo = undos.pop(); undo; undo = undos.pop()) {
    try {
      undo();
    } catch (error) {
      complain(error);
      exitCode = 1;
    }
  }
  exitNow(exitCode); // process.exit() would wait, up to 10 s, for a thread of libuv that looks a name up
}

/** Prints an error in one line, then ends the program with its exit code. */
export function fail(error: unknown): void {
  if (exitCode !== undefined) return; // while ending, one more lost connection is no news
  complain(error);
  exit(error instanceof Failure ? error.exitCode : 1);
}

function complain(error: unknown): void {
  const { message: text, stack } = error instanceof Error ? error : new Error(String(error));
  const message = text.replace(/\.$/, "");
  if (error instanceof Failure) console.error(`${chalk.red.bold("error")} ${message}. ${chalk.bold("Try:")} ${error.hint}`);
  else if (process.env.SIMPLE_VPN_DEBUG) console.error(stack);
  else console.error(`${chalk.red.bold("error")} unexpected: ${message}. Try: SIMPLE_VPN_DEBUG=1 to see where, and tell us`);
}

/** Runs a main function: signals (SIGHUP: its terminal was closed) end it with 0, errors with one line and their exit code, never with a stack trace. */
export function program(main: () => void | Promise<void>): void {
  for (const signal of ["SIGINT", "SIGTERM", "SIGQUIT", "SIGHUP"] as const) process.on(signal, () => exit(0));
  process.on("uncaughtException", fail);
  process.on("unhandledRejection", fail);
  Promise.resolve().then(main).catch(fail);
}
