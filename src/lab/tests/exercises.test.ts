/**
 * `make exercise`: cheap exercises in one lab, judged by what the run has shown; and the program, which asks,
 * judges, and keeps what was reached.
 */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { IN_TERMINALS } from "../../lessons/exercises/in-terminals.ts";
import { judge, read } from "../../lessons/exercises/judge.ts";
import { Terminals } from "../../lessons/exercises/terminals.ts";
import { ROOT, spawned } from "../lab.ts";
import { Running } from "../running.ts";
import { newFolder } from "./folder.ts";
import { labTest } from "./testing.ts";

const folder = newFolder();

/** Runs the program, with these lines typed; its output and its exit code. */
async function exercise(
  args: string[],
  ...lines: string[]
): Promise<[output: string, code: number | string]> {
  const env = { ...process.env, SIMPLE_VPN_LESSONS: folder, NO_COLOR: "1" };
  const running = new Running(spawn(...spawned("lessons/exercises/exercise", ...args), { cwd: ROOT, env }));
  running.child.stdin!.end(lines.map((line) => `${line}\n`).join(""));
  const code = await running.ended;
  return [running.output, code];
}

labTest("in one lab, exercises 1, 3, 4, 5 and 6 take right answers and refuse wrong ones", async (_, t) => {
  t.mock.method(console, "log", () => {});
  const terminals = await Terminals.up("tcp");
  for (const [number, right, wrong] of [
    [1, "8.8.8.8, 10.8.0.77", "8.8.8.8, 192.168.1.1"],
    [3, "the server; 8, R3, R4", "the internet; 8"],
    [4, "8.write, yes", "9, no"],
    [5, "it is dropped, for its source", "passed on, for its destination"],
    [6, "20, then a line a second", "300, every packet"], // the last: its flood folds the trace
  ] as const) {
    const { parts, measure } = IN_TERMINALS[number]!;
    const seen = await measure(async () => terminals);
    for (const [answer, expected] of [
      [right, true],
      [wrong, false],
    ] as const)
      for (const verdict of judge(parts, read(parts, answer), seen))
        assert.equal(verdict.right, expected, `${number}: ${answer}: ${JSON.stringify(verdict)}`);
  }
  await terminals.lab.down();
});

labTest("the program asks again, says which part is wrong and why, and keeps the best", async () => {
  const [output, code] = await exercise(["2"], "", "what?", "1000 and 1064");
  assert.equal(code, 3, output);
  assert.match(output, /2\. Count the bytes[^]*how many at 6\.read/);
  assert.match(
    output,
    /empty line\.\nAsked for is:\n {2}- bytes at 6\.read \(a number\)\n[^]*Nothing in it answers/,
  );
  assert.match(output, /terminal 3 .*6\.read .* 1028 bytes/);
  assert.match(
    output,
    /wrong {3}bytes at 6\.read: 1000\n.*ICMP has a header[^]*right {3}bytes at 6\.frame: 1064/,
  );
  assert.match(output, /1 of 2 right\. Once more: make exercise N=2\n$/);
  const kept = JSON.parse(readFileSync(join(folder, "progress.json"), "utf8"));
  assert.deepEqual([kept["exercise-2"].passed, kept["exercise-2"].total], [1, 2]);
  // by the name of its experiment; it needs no lab
  assert.equal((await exercise(["reuse-nonce"], "69 and none"))[1], 0);
  const [list] = await exercise([]);
  assert.match(list, /^ {2}1 of 2 {2}make exercise N=2 +Count the bytes$/m);
  assert.match(list, /^ {2}done {4}make exercise N=17 +The same nonce +or NAME=reuse-nonce$/m);
  assert.match(list, /\n1 of 18 done\./);
});

test("no answer, and no such exercise: one line that says what to try", async () => {
  const [silent, one] = await exercise(["4"], "");
  assert.equal(one, 1);
  assert.match(silent, /\nerror Cannot judge: there is no answer\. Try: .*echo "an answer"/);
  const [output, two] = await exercise(["no-such"]);
  assert.equal(two, 2);
  assert.match(
    output,
    /^error Cannot find the exercise 'no-such': .* N=18, .*break-xor.* Try: make exercises/,
  );
});
