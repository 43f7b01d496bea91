/**
 * The keeper: a small child process that undoes what --configure did, whatever ends us. It is handed the
 * undoing of each change through a pipe. When nobody holds the other end any more, because we have ended or
 * were killed, read(2) tells it the end of the file, and it undoes the newest change first. It has a session
 * of its own (setsid(2)), for Ctrl-C and a closed terminal are our business. It stays root when we do not
 * (--user): it is started before, and takes no more commands once we have dropped root.
 */
import { spawn } from "node:child_process";
import { readdirSync, readFileSync, readlinkSync, writeSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { errnoName } from "../base/errno.ts";
import { Failure } from "../base/failure.ts";
import { close, O_CLOEXEC, pipe2, waitpid } from "../base/libc.ts";

/**
 * Its arguments, "$@", are the undoing that it was handed, the newest first; `set -f`: none of it is a
 * pattern of file names.
 */
const SCRIPT = `
exec >&3 2>&4
trap '' HUP INT QUIT PIPE TERM
set -f
while IFS= read -r line; do
  case $line in
    forget\\ *)
      for kept; do
        shift
        if [ "forget $kept" = "$line" ]; then line=; else set -- "$@" "$kept"; fi
      done ;;
    enough) break ;;
    *) set -- "$line" "$@" ;;
  esac
done
while read -r line; do :; done
failures=$(for line; do $line 2>&1 > /dev/null || echo "failed: $line"; done)
# All is printed afterwards: whoever is slow to read it must not hold up the undoing.
for line; do echo "# $line"; done 2> /dev/null
[ -z "$failures" ] && exit 0
echo "$failures" >&2
exit 1`;

const NAME = "simple-vpn-keeper of "; // the pid of its program
const PATIENCE = 5_000; // ms, for the keepers of others

export class Keeper {
  // the end that we write to. The undoing starts only when every process has closed this pipe
  readonly pipe: number;
  private readonly pid: number;
  private readonly kept: string[] = [];

  /** A keeper of our own, once those of killed programs have finished. Errors: a Failure. */
  static async start(): Promise<Keeper> {
    await awaitOthers();
    return new Keeper();
  }

  private constructor() {
    const ends: [number, number] = [0, 0];
    const result = pipe2(ends, O_CLOEXEC);
    if (result < 0)
      throw new Failure(`Cannot make a pipe: ${errnoName(result)}`, "see pipe(2) for this error");
    this.pipe = ends[1];
    // Our stdout and stderr are its 3 and 4: libuv makes a child's 0, 1 and 2 blocking, and with them ours,
    // the same open files; then whoever is slow to read what we print would stop the tunnel.
    const shell = spawn("sh", ["-c", SCRIPT, NAME + process.pid], {
      stdio: [ends[0], "ignore", "ignore", 1, 2],
      detached: true,
    });
    shell.unref(); // it waits for us, not we for it
    this.pid = shell.pid!;
    close(ends[0]);
  }

  /**
   * `undo`, one command, will be run at our end. Say so before what it undoes is done: we may be killed in
   * between.
   */
  keep(undo: string): void {
    this.kept.unshift(undo);
    this.tell(undo);
  }

  /** `undo` is not needed: what it would undo has failed, or is undone already. False if it was not kept. */
  forget(undo: string): boolean {
    const at = this.kept.indexOf(undo);
    if (at < 0) return false;
    this.kept.splice(at, 1);
    this.tell(`forget ${undo}`);
    return true;
  }

  /**
   * No more commands from us: whoever breaks into this program, without root by now, must not find a root
   * shell at a pipe.
   */
  enough(): void {
    this.tell("enough");
  }

  private tell(line: string): void {
    try {
      writeSync(this.pipe, `${line}\n`);
    } catch {
      const problem = "Cannot keep what --configure does, to undo it: the keeper has ended";
      throw new Failure(problem, `at the end, by hand: ${this.byHand()}`);
    }
  }

  /** For a shell to read: find's own semicolons are escaped. */
  private byHand(): string {
    return this.kept.map((line) => line.replaceAll(" ;", " \\;")).join("; ");
  }

  /** Lets it undo everything, and waits until it has. Throws a Failure if it could not. */
  finish(): void {
    close(this.pipe);
    const status: [number] = [0];
    if (waitpid(this.pid, status, 0) >= 0 && status[0] === 0) return;
    const hint = `by hand, what is left of these: ${this.byHand()}`;
    throw new Failure("Cannot undo everything that --configure did", hint);
  }
}

/**
 * A program was killed, and is started again at once: its keeper may be at work still, and what it undoes is
 * what we are about to do. Such a keeper is no child of its program any more. Errors: none; after PATIENCE we
 * go on all the same.
 */
async function awaitOthers(): Promise<void> {
  const namespaces = (pid: string) =>
    ["net", "pid"].map((kind) => readlinkSync(`/proc/${pid}/ns/${kind}`)).join();
  const own = namespaces("self");
  const isBusy = (pid: string) => {
    try {
      const program = readFileSync(`/proc/${pid}/cmdline`, "utf8")
        .split("\0")
        .find((word) => word.startsWith(NAME))
        ?.slice(NAME.length);
      return (
        program !== undefined &&
        readFileSync(`/proc/${pid}/stat`, "utf8").split(") ").at(-1)!.split(" ")[1] !== program &&
        namespaces(pid) === own
      ); // proc(5): state, ppid
    } catch {
      return false; // it has ended meanwhile
    }
  };
  for (const deadline = Date.now() + PATIENCE; Date.now() < deadline && readdirSync("/proc").some(isBusy);)
    await sleep(20);
}
