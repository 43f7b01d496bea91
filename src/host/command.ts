/**
 * Running the system's own tools: ip, sysctl, iptables. The loop goes on meanwhile: packets, keepalives and
 * signals do not wait.
 */
import { spawn } from "node:child_process";
import { accessSync, constants } from "node:fs";
import { delimiter, join } from "node:path";

export interface Result {
  // exit code; or the signal that ended it; or why it could not be started, such as "ENOENT"
  code: number | string;
  stdout: string;
  stderr: string;
}

/**
 * Runs one command, given as words with one space between them: no shell reads it. `input` is its standard
 * input. `pipe` is an fd that it holds open until it has ended. It has a session of its own (setsid(2)):
 * Ctrl-C is for us, not for the command. Its messages are in English, for we read them.
 */
export function run(line: string, input = "", pipe?: number): Promise<Result> {
  const [program = "", ...args] = line.split(" ");
  const env = { ...process.env, LC_ALL: "C" };
  const child = spawn(program, args, {
    detached: true,
    env,
    stdio: ["pipe", "pipe", "pipe", ...(pipe === undefined ? [] : [pipe])],
  });
  const result: Result = { code: "", stdout: "", stderr: "" };
  child.stdin!.on("error", () => {}); // it has ended without reading all: its exit code tells
  child.stdin!.end(input);
  for (const name of ["stdout", "stderr"] as const)
    child[name]!.setEncoding("utf8").on("data", (text) => (result[name] += text));
  return new Promise((resolve) => {
    child.once("error", (error: NodeJS.ErrnoException) =>
      resolve({ ...result, code: error.code ?? error.message }),
    );
    child.once("close", (code, signal) => resolve({ ...result, code: code ?? signal ?? "" }));
  });
}

/** Is this program installed? */
export function inPath(program: string): boolean {
  return (process.env.PATH ?? "").split(delimiter).some((folder) => {
    try {
      accessSync(join(folder, program), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}
