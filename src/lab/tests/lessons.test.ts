/** make lesson and make lessons: the student's file, the screen, the progress. Each lesson has a test. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { join } from "node:path";
import { test } from "node:test";
import { LESSONS } from "../../lessons/lessons.ts";
import { report } from "../../lessons/progress.ts";
import { ours, ROOT } from "../lab.ts";
import { Running } from "../running.ts";
import { newFolder } from "./folder.ts";
import { labTest, runProgram } from "./testing.ts";

const UNPASSED = 3; // exit code: lesson.ts

labTest(
  "make lesson copies the starter, keeps what a student has written, and says how far that is",
  async () => {
    const folder = newFolder();
    const file = join(folder, "1-tun.ts");
    const lesson = (...args: string[]) =>
      runProgram("lessons/lesson", args, { ...process.env, SIMPLE_VPN_LESSONS: folder });

    const first = lesson("1");
    assert.equal(first.status, UNPASSED, first.stderr);
    assert.match(first.stdout, /Lesson 1: a TUN .*1-tun\.ts \(new/);
    assert.match(first.stdout, /✗ tun0 is there\n  saw   .*\n  hint  TODO 1/s);
    assert.match(first.stdout, /0 of 4 checks pass\..*make lesson N=1\n$/);
    assert.ok(first.stdout.split("\n").length <= 20, first.stdout);

    // that text is TypeScript, and its imports lead to the kit from wherever the folder is
    const starter = readFileSync(file, "utf8");
    const mistake = starter.replace("const fd = -1;", "const fd = c.open(;");
    writeFileSync(file, mistake);
    const second = lesson("1");
    assert.match(second.stdout, /1-tun\.ts \(yours, kept; rm it to start again\)/);
    assert.match(
      second.stdout,
      /saw   your program ended with exit code 1 on client at 1-tun\.ts:\d+: Unexpected\s+";"/,
    );
    assert.equal(readFileSync(file, "utf8"), mistake);

    const [kit] = /"[^"]*kit\.ts"/.exec(starter)!;
    const solution = readFileSync(join(ROOT, "src/lessons/solutions/1-tun.ts"), "utf8");
    writeFileSync(file, solution.replace('"../kit.ts"', kit));
    const third = lesson("1");
    assert.equal(third.status, 0, third.stdout + third.stderr);
    const lines = (second.stdout + third.stdout).split("\n");
    for (const line of lines) assert.ok(line.length <= 80 || line.includes("simple-vpn-test"), line);
    assert.match(third.stdout, /All 4 checks pass\. Next: make lesson N=2\n$/);
    assert.match(
      lesson().stdout,
      /✓ make lesson N=1 .* 4 of 4 checks\n  make lesson N=2 .*Next: make lesson N=2/s,
    );
    assert.ok(existsSync(join(folder, "progress.json")));

    const wrong = lesson("9");
    assert.match(wrong.stderr, /expected a number from 1 to \d\. Try: make lessons/);
    assert.equal(wrong.status, 2);
  },
);

test("a lesson that passes fits a screen: under 20 lines of 80 columns", () => {
  for (const { file, title, about, write, read, checks } of LESSONS) {
    const head = `Lesson 1: ${title}  lessons/${file}.ts (yours, kept; rm it to start again)`;
    for (const line of [head, ...about, ...write.map((what) => `Write  TODO 1: ${what}`)])
      assert.ok(line.length <= 80, line);
    assert.ok(`Read   ${read.join(" · ")}`.length <= 80, `${file}: ${read.join()}`);

    // the title, Read, an empty line, and the end are one each
    const lines = 4 + about.length + write.length + checks.length;
    assert.ok(lines < 20, `${file}: ${lines} lines`);
  }
});

test("a report reaches the manager as it wants it, and one that does not says why", async () => {
  const bodies: unknown[] = [];
  const server = createServer(async (request, response) => {
    bodies.push(JSON.parse((await request.toArray()).join("")));
    response.setHeader("Connection", "close").end("{}");
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const url = `http://127.0.0.1:${(server.address() as { port: number }).port}`;
  assert.match(await report(url, "Ada", "1-tun", { passed: 2, total: 4 }), /^Reported to .* as "Ada"/);
  assert.deepEqual(bodies, [{ student: "Ada", lesson: "1-tun", passed: 2, total: 4 }]);

  // make lessons tells all that was kept, before there was a manager, too
  const folder = newFolder();
  const progress = { "1-tun": { passed: 4, total: 4 }, "exercise-2": { passed: 1, total: 3 } };
  writeFileSync(join(folder, "progress.json"), JSON.stringify(progress));
  const [node, ...words] = [...ours("lessons/lesson"), "--report", url, "--student", "Bob"];
  const env = { ...process.env, SIMPLE_VPN_LESSONS: folder };
  const list = new Running(spawn(node!, words, { env }));
  await list.until(/Reported to .* as "Bob"/);
  assert.equal(await list.ended, 0);
  assert.deepEqual(
    new Set(bodies.slice(1)),
    new Set(Object.entries(progress).map(([lesson, reached]) => ({ student: "Bob", lesson, ...reached }))),
  );
  await new Promise((resolve) => server.close(resolve));
  assert.match(await report(url, "Ada", "1-tun", { passed: 2, total: 4 }), /^Not reported to .*ECONNREFUSED/);
});
