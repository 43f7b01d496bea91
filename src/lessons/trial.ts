/**
 * For the tests: a lesson's solution, which passes, and solutions that are wrong as those of students are.
 * Each of these fails at the check and with the hint that it names.
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { ROOT } from "../lab/lab.ts";
import { newFolder } from "../lab/tests/folder.ts";
import { labTest } from "../lab/tests/testing.ts";
import type { Lesson } from "./check.ts";
import { runChecks } from "./run.ts";

/** A wrong solution: the starter, an empty file, or the solution with a part of its text replaced. */
export interface Wrong {
  what: string; // what is wrong with it
  text: "the starter" | "nothing" | [from: string, to: string];
  check: string | string[]; // the name of the one that fails; or of several, where it is chance which
  hint: RegExp; // of what it says
}

const SOURCES = join(ROOT, "src/lessons");
const isCompiled = import.meta.url.endsWith(".js");

/** The text of the wrong solution. */
function textOf({ file }: Lesson, { what, text }: Wrong): string {
  if (text === "nothing") return "";
  if (text === "the starter") return readFileSync(join(SOURCES, "starters", `${file}.ts`), "utf8");
  const solution = readFileSync(join(SOURCES, "solutions", `${file}.ts`), "utf8");
  const [from, to] = text;
  assert.equal(solution.split(from).length, 2, `${what}: "${from}" stands in the solution once`);
  return solution.replace(from, () => to);
}

/**
 * Writes programs into a folder, and returns their paths. If we are compiled, they are, too: tsx would take a
 * second for each.
 */
function write(texts: string[]): string[] {
  const folder = newFolder();
  mkdirSync(join(folder, "src"));
  const [from, ending] = isCompiled ? [join(ROOT, "build/lessons/x"), ".js"] : [join(SOURCES, "x"), ".ts"];
  const there = (path: string) => pathToFileURL(resolve(from, path).replace(/\.ts$/, ending)).href;
  const sources = texts.map((text, i) => {
    const path = join(folder, "src", `${i}.ts`);
    writeFileSync(
      path,
      text.replace(/from "(\.\.\/[^"]+)"/g, (_, path: string) => `from "${there(path)}"`),
    );
    return path;
  });
  if (!isCompiled) return sources;
  writeFileSync(join(folder, "package.json"), '{ "type": "module" }');
  const options = ["--noCheck", "--target", "es2022", "--module", "esnext", "--rootDir", join(folder, "src")];
  const tsc = join(ROOT, "node_modules/.bin/tsc");
  const { stdout } = spawnSync(tsc, ["--ignoreConfig", ...options, "--outDir", folder, ...sources], {
    encoding: "utf8",
    cwd: folder,
  });
  return texts.map((text, i) => {
    const path = join(folder, `${i}.js`);
    if (text === "") writeFileSync(path, ""); // tsc writes "export {}"
    assert.ok(readFileSync(path, "utf8") !== undefined, stdout);
    return path;
  });
}

const EVERY = Number(process.env.EVERY ?? 1); // CI has no time for all wrong ones: see .ci/run

const AT_A_TIME = 9; // wrong ones in one lab: a lab's test has two minutes, on a busy machine, too

/** The tests of a lesson. */
export function lessonTest(lesson: Lesson, all: Wrong[]): void {
  const wrong = all.filter((_, i) => i % EVERY === 0);
  labTest(`lesson ${lesson.file}: the solution passes`, async (lab) => {
    const [right] = write([readFileSync(join(SOURCES, "solutions", `${lesson.file}.ts`), "utf8")]);
    const { failed } = await runChecks(lab, right!, lesson);
    assert.equal(failed && `${failed.check}: ${failed.miss.message}`, undefined);
  });
  for (let from = 0; from < wrong.length; from += AT_A_TIME) {
    const some = wrong.slice(from, from + AT_A_TIME);
    labTest(`lesson ${lesson.file}: ${some.length} wrong ones get their hints`, async (lab) => {
      const files = write(some.map((one) => textOf(lesson, one)));
      for (const [i, { what, check, hint }] of some.entries()) {
        const outcome = await runChecks(lab, files[i]!, lesson);
        assert.ok(outcome.failed, `${what}: all checks pass`);
        const at = outcome.failed.check;
        assert.ok([check].flat().includes(at), `${what}: ${at}: ${outcome.failed.miss.message}`);
        const said = `${outcome.failed.miss.message}\n${outcome.failed.miss.hint}`;
        assert.match(said, hint, what);
        if (process.env.SHOW) console.log(`${what}\n  ✗ ${at}\n  ${said.replace("\n", "\n  ")}`);
      }
    });
  }
}
