/**
 * `make lesson N=1` and `make lessons`: the starter, what it is about, the checks, and the next command. It
 * never overwrites a student's file.
 */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import { parseArgs } from "node:util";
import chalk from "chalk";
import { Failure } from "../base/failure.ts";
import { exit, program } from "../host/program.ts";
import { fill } from "../lab/columns.ts";
import { Lab, ROOT } from "../lab/lab.ts";
import { type Lesson, Miss } from "./check.ts";
import { LESSONS } from "./lessons.ts";
import { FOLDER, keep, readProgress, report } from "./progress.ts";
import { runChecks } from "./run.ts";

const STARTERS = join(ROOT, "src/lessons/starters");
const UNPASSED = 3; // exit code: a check failed. The Makefile lets it pass: it is no error of make's
const HERE = relative(process.cwd(), FOLDER) || "."; // as a student types it

/** For editors, and for tsc -p lessons: as the project is checked, but what is not used yet is no error. */
const SETTINGS = {
  extends: relative(FOLDER, join(ROOT, "tsconfig.json")),
  compilerOptions: { rootDir: relative(FOLDER, ROOT), noUnusedLocals: false, noUnusedParameters: false },
  include: ["*.ts"],
};

/** Copies a starter, unless the student has begun. Its imports lead from there to the same files. */
function begin({ file }: Lesson): string {
  const path = join(FOLDER, `${file}.ts`);
  if (existsSync(path)) return path;
  const text = readFileSync(join(STARTERS, `${file}.ts`), "utf8").replace(
    /from "(\.\.\/[^"]+)"/g,
    (_, there: string) => `from "${relative(dirname(path), resolve(STARTERS, there))}"`,
  );
  try {
    mkdirSync(FOLDER, { recursive: true });
    writeFileSync(path, text, { flag: "wx" });
    writeFileSync(join(FOLDER, "tsconfig.json"), JSON.stringify(SETTINGS, null, 2));
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw new Failure(`Cannot write ${path}: ${code}`, "SIMPLE_VPN_LESSONS=FOLDER names another folder");
  }
  return path;
}

/** The lines above the checks. */
function head(lesson: Lesson, number: number, isNew: boolean): string[] {
  const path = `${HERE}/${lesson.file}.ts`;
  const state = isNew ? "new: open it, its head tells all" : "yours, kept; rm it to start again";
  return [
    `${chalk.bold(`Lesson ${number}: ${lesson.title}`)}  ${chalk.cyan(path)} (${state})`,
    ...lesson.about,
    ...lesson.write.map((what, i) => `${i === 0 ? "Write" : "     "}  TODO ${i + 1}: ${what}`),
    `Read   ${lesson.read.join(" · ")}`,
    "",
  ];
}

const wrap = (text: string, indent: string) => fill(text, undefined, indent);

async function take(number: number, url: string | undefined, student: string | undefined): Promise<void> {
  const lesson = LESSONS[number - 1]!;
  const isNew = !existsSync(join(FOLDER, `${lesson.file}.ts`));
  const file = begin(lesson);
  for (const line of head(lesson, number, isNew)) console.log(line);
  const lab = await Lab.up();
  const { passed, failed } = await runChecks(lab, file, lesson, ({ name }, result) => {
    if (!(result instanceof Miss))
      return console.log(`${chalk.green("✓")} ${wrap(`${name}: ${result}`, "  ")}`);
    console.log(`${chalk.red("✗")} ${chalk.bold(name)}`);
    console.log(`  saw   ${wrap(result.message, "        ")}`);
    console.log(`  hint  ${wrap(result.hint, "        ")}`);
  });
  await lab.down();
  const [done, total] = [passed.length, lesson.checks.length];
  keep(lesson.file, done, total);
  if (url) console.log(await report(url, student, lesson.file, { passed: done, total }));
  if (failed)
    console.log(
      `${done} of ${total} checks pass. Change ${HERE}/${lesson.file}.ts, then: ${command(number)}`,
    );
  else
    console.log(`All ${total} checks pass. Next: ${LESSONS[number] ? command(number + 1) : "make lessons"}`);
  exit(failed ? UNPASSED : 0);
}

const command = (number: number) => chalk.bold(`make lesson N=${number}`);

/** All lessons, and how far one is. With a `url`, all that was kept is told to the manager there. */
async function list(url: string | undefined, student: string | undefined): Promise<void> {
  const progress = readProgress();
  const isDone = ({ file, checks }: Lesson) => progress[file]?.passed === checks.length;
  for (const [i, lesson] of LESSONS.entries()) {
    const { passed = 0, total = lesson.checks.length } = progress[lesson.file] ?? {};
    const mark = isDone(lesson) ? chalk.green("✓") : " ";
    const state = lesson.file in progress ? `${passed} of ${total} checks` : "";
    console.log(`${mark} make lesson N=${i + 1}   ${lesson.title.padEnd(20)} ${state}`.trimEnd());
  }
  const next = LESSONS.findIndex((lesson) => !isDone(lesson));
  console.log(next < 0 ? "All of them pass: you have built a VPN." : `Next: ${command(next + 1)}`);
  if (!url) return;
  const told = Object.entries(progress).map(([name, reached]) => report(url, student, name, reached));
  for (const line of new Set(await Promise.all(told))) console.log(line);
}

program(async () => {
  const { values, positionals } = parseArgs({
    options: { report: { type: "string" }, student: { type: "string" } },
    allowPositionals: true,
  });
  const [number, ...more] = positionals;
  if (number === undefined) return list(values.report, values.student);
  if (!LESSONS[Number(number) - 1] || more.length > 0)
    throw new Failure(
      `Cannot run lesson '${positionals.join(" ")}': expected a number from 1 to ${LESSONS.length}`,
      "make lessons",
      2,
    );
  await take(Number(number), values.report, values.student);
});
