/**
 * The keeper: a small child process that undoes what --configure did, and removes what --status made,
 * whatever ends us. For each change we write the command that undoes it into a pipe. When we have ended or
 * were killed, nobody has the pipe open any more, and read(2) tells the keeper the end of the file. Then it
 * runs these commands, the newest first. It has a session of its own (setsid(2)), because Ctrl-C and a closed
 * terminal are our business. With --user it stays root when we do not: it is started before, and takes no
 * more commands once we have dropped root. No child of ours can then hold the pipe longer than we live:
 * sandbox.ts lets us make none.
 */
import { spawn } from "node:child_process";
import { readdirSync, readFileSync, readlinkSync, writeSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { errnoName } from "../base/errno.ts";
import { Failure } from "../base/failure.ts";
import { close, O_CLOEXEC, pipe2, waitpid } from "../base/libc.ts";

/**
 * Its arguments, "$@", are the commands that it was given, the newest first. `set -f`: the shell must not
 * take any of them for a pattern of file names.
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
    say\\ *) last=\${line#say } ;;
    enough) break ;;
    *) set -- "$line" "$@" ;;
  esac
done
while read -r line; do :; done
failures=$(for line; do $line 2>&1 > /dev/null || echo "failed: $line"; done)
# All is printed afterwards: whoever is slow to read it must not hold up the undoing.
for line; do echo "# $line"; done 2> /dev/null
[ -z "$last" ] || echo "$last"
[ -z "$failures" ] && exit 0
echo "$failures" >&2
exit 1`;

const NAME = "simple-vpn-keeper of "; // the pid of its program
const MAX_WAIT = 5_000; // ms, for the keepers of others

export class Keeper {
  readonly pipe: number; // the end that we write to. The undoing starts when every process has closed it
  readonly pid: number;
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
    // Our stdout and stderr are its fds 3 and 4. libuv makes a child's fds 0, 1 and 2 blocking, and with them
    // ours, which are the same open files. Then a slow reader of what we print would stop the tunnel.
    const shell = spawn("sh", ["-c", SCRIPT, NAME + process.pid], {
      stdio: [ends[0], "ignore", "ignore", 1, 2],
      detached: true,
    });
    shell.unref(); // it waits for us, not we for it
    this.pid = shell.pid!;
    close(ends[0]);
  }

  /**
   * `undo`, one command, will be run at our end. Call this before the change: we may be killed in between.
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

  /** Its last line, whatever ends us: what it does not undo. */
  say(text: string): void {
    this.tell(`say ${text}`);
  }

  /**
   * No more commands come from us. Somebody who breaks into this program, which is not root by now, must not
   * find a root shell behind a pipe.
   */
  enough(): void {
    this.tell("enough");
  }

  private tell(line: string): void {
    try {
      writeSync(this.pipe, `${line}\n`);
    } catch {
      const problem = "Cannot keep what is to be undone at the end: the keeper has ended";
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
    throw new Failure("Cannot undo everything that this program did", hint);
  }
}

/**
 * When a program was killed and is started again at once, its keeper may still be at work: it undoes what we
 * are about to do. We know such a keeper because it is no child of its program any more. It is root's, or of
 * our own user: others may call their processes what they like. Errors: none. After MAX_WAIT we go on all the
 * same.
 */
async function awaitOthers(): Promise<void> {
  const namespaces = (pid: string) =>
    ["net", "pid"].map((kind) => readlinkSync(`/proc/${pid}/ns/${kind}`)).join();
  const own = namespaces("self");
  // The real one: the effective one of sudo(8) and its like is 0, whoever calls them, and by whatever name.
  const realUid = (pid: string) => /^Uid:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))![1]!;
  const isBusy = (pid: string) => {
    try {
      const program = readFileSync(`/proc/${pid}/cmdline`, "utf8")
        .split("\0")
        .find((word) => word.startsWith(NAME))
        ?.slice(NAME.length);
      return (
        program !== undefined &&
        ["0", `${process.getuid!()}`].includes(realUid(pid)) &&
        readFileSync(`/proc/${pid}/stat`, "utf8").split(") ").at(-1)!.split(" ")[1] !== program &&
        namespaces(pid) === own
      ); // proc(5): state, ppid
    } catch {
      return false; // it has ended meanwhile
    }
  };
  for (const deadline = Date.now() + MAX_WAIT; Date.now() < deadline && readdirSync("/proc").some(isBusy);)
    await sleep(20);
}
