/** A program of ours that runs beside us. It ends when we end, whatever ends us: the keeper sees to that. */
import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";
import { stripVTControlCharacters } from "node:util";
import { Failure } from "../base/failure.ts";
import { waitpid } from "../base/libc.ts";
import { Keeper } from "../host/keeper.ts";
import { atExit, fail } from "../host/program.ts";

const END = 15_000; // ms that it has to end, until it is killed
const KEPT = 4096; // characters of what it says
const WNOHANG = 1; // waitpid(2)

/**
 * Starts src/NAME.ts, and waits until it says what `ready` matches. `say` gets what it prints, but for
 * errors. If it ends before, its own words are the Failure; if later, they end us, too.
 */
export async function start(
  name: string,
  args: string[],
  secrets: Record<string, string>,
  ready: RegExp,
  say: (text: string) => void = () => {},
): Promise<RegExpExecArray> {
  const keeper = await Keeper.start();
  const ending = import.meta.url.slice(-3); // .ts, or compiled .js
  const main = fileURLToPath(new URL(`../${name}${ending}`, import.meta.url));
  // What make was called with is for us: the code is in it.
  const env = { ...process.env, ...secrets, MAKEFLAGS: "", MAKEOVERRIDES: "", MFLAGS: "" };
  // A session of its own (setsid(2)): Ctrl-C is for us, and we end it.
  const options = { stdio: ["ignore", "pipe", "pipe"] as ["ignore", "pipe", "pipe"], detached: true, env };
  const child = spawn(process.execPath, [...process.execArgv, main, ...args], options);
  const undo = `kill ${child.pid}`;
  keeper.keep(undo);
  atExit(() => keeper.finish());
  atExit(() => {
    const status: [number] = [0];
    child.kill();
    for (const late = Date.now() + END; waitpid(child.pid!, status, WNOHANG) === 0;) {
      if (Date.now() > late) child.kill("SIGKILL");
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 20); // ms
    }
    keeper.forget(undo);
    const left = new Failure(`Cannot undo all: ${name}.ts has ended with an error`, "ip address; ip route");
    if ((status[0] & 0x7f) === 0 && status[0] > 0) throw left; // WIFEXITED
  });
  let [said, isReady] = ["", false];
  return new Promise((resolve, reject) => {
    for (const stream of [child.stdout, child.stderr])
      stream.setEncoding("utf8").on("data", (text: string) => {
        said = (said + stripVTControlCharacters(text)).slice(-KEPT);
        if (stream === child.stdout) say(text);
        const match = isReady ? null : ready.exec(said);
        if (!match) return;
        isReady = true;
        resolve(match);
      });
    child.once("close", () => {
      keeper.forget(undo);
      const [, why = `${name}.ts has ended`, hint = "again"] = /^error (.*)\. Try: (.*)$/m.exec(said) ?? [];
      const failure = new Failure(why, hint);
      if (isReady) fail(failure);
      else reject(failure);
    });
  });
}
