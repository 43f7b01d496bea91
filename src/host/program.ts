/**
 * What both programs share around their loop: start, stop, and failure. Every way out (a signal, an error,
 * the peer's goodbye) goes through exit(), which undoes in reverse order what atExit() was given.
 */
import { ON_TERMINAL } from "./environment.ts"; // first: the rest already sees what it has put right
import chalk from "chalk";
import { readFileSync } from "node:fs";
import { Failure } from "../base/failure.ts";
import { exitNow } from "../base/libc.ts";
import { hideMemory } from "./privileges.ts";

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

/** Prints an error in one line, with what to try. */
export function complain(error: unknown): void {
  const { message, stack } = error instanceof Error ? error : new Error(String(error));
  if (process.env.SIMPLE_VPN_DEBUG && !(error instanceof Failure)) return console.error(stack);
  const unexpected = new Failure(`unexpected: ${message}`, "SIMPLE_VPN_DEBUG=1 to see where, and tell us");
  const failure = error instanceof Failure ? error : (refused(error as NodeJS.ErrnoException) ?? unexpected);
  const text = failure.message.replace(/\.$/, "");
  console.error(`${chalk.red.bold("error")} ${text}. ${chalk.bold("Try:")} ${failure.hint}`);
}

const WITHOUT_RIGHT = "another file or folder, or check who may use it: 'ls -ld'";
const WITHOUT_ROOM = "free some disk space, 'df -h' shows where there is none";
const REFUSALS: Record<string, string> = {
  EACCES: WITHOUT_RIGHT,
  EPERM: WITHOUT_RIGHT,
  EROFS: WITHOUT_RIGHT,
  ENOSPC: WITHOUT_ROOM,
  EDQUOT: WITHOUT_ROOM,
  ENOENT: "check that it is there, or install it",
  ENOTDIR: "check the path",
  EMFILE: "ulimit -n 4096",
};

/**
 * An error of a system call, as a Failure: "Cannot open /tmp/x: EACCES". undefined: it is none that a user
 * can mend.
 */
function refused({ code = "", syscall = "", path = "" }: NodeJS.ErrnoException): Failure | undefined {
  const hint = REFUSALS[code];
  if (!hint || !syscall) return undefined;
  const what = syscall.endsWith(path) ? syscall : `${syscall} ${path}`; // "spawn ip" has it already
  return new Failure(`Cannot ${what}: ${code}`, hint);
}

/**
 * What we print cannot be written. If nobody reads it any more (make demo | head -3), only the cleaning up is
 * left.
 */
function unread(error: NodeJS.ErrnoException): void {
  if (process.stdout.listenerCount("error") > 1) return; // the VPN programs go on: trace.ts
  if (error.code === "EPIPE") exit(0);
  else fail(error);
}

/**
 * Runs a main function: signals end it with 0, errors with one line and their exit code, never with a stack
 * trace. SIGHUP says that the terminal was closed. A program that has none (nohup, cron, systemd) has lost
 * nothing, and goes on. `hangUp`: what it does instead.
 */
export function program(main: () => void | Promise<void>, hangUp = () => ON_TERMINAL && exit(0)): void {
  for (const signal of ["SIGINT", "SIGTERM", "SIGQUIT"] as const) process.on(signal, () => exit(0));
  process.on("SIGHUP", hangUp);
  process.stdout.on("error", unread);
  process.stderr.on("error", () => {}); // there is no other place to say so
  process.on("uncaughtException", fail);
  process.on("unhandledRejection", fail);
  Promise.resolve().then(checkNode).then(main).catch(fail);
}

/** The same for the client and the server, which have keys in their memory. */
export function vpnProgram(main: () => Promise<void>): void {
  hideMemory();
  program(main);
}

/** Throws a Failure where Node.js is older than package.json allows. */
function checkNode(): void {
  const { engines } = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8"));
  const needed: string = engines.node.replace(">=", "");
  const { node } = process.versions;
  const rank = (version: string) => {
    const [major, minor = "0"] = version.split(".");
    return Number(major) * 1000 + Number(minor);
  };
  if (rank(needed) <= rank(node)) return;
  throw new Failure(`Cannot start: Node.js ${needed} or later is needed, this is ${node}`, "nodejs.org");
}
