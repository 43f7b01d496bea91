/**
 * `make exercise N=4`, or by the experiment that it is about, NAME=replay: asks what the lab sheet asks, does
 * it for real in a lab of its own, and judges the answer by what the run has shown. `make exercises` lists
 * all. Exit code 0: right; 3: not yet.
 */
import { createInterface } from "node:readline";
import chalk from "chalk";
import { Failure } from "../../base/failure.ts";
import { CLIENT, option, parse } from "../../host/options.ts";
import { exit, program } from "../../host/program.ts";
import { COLUMNS, fill } from "../../lab/columns.ts";
import { heading } from "../../lab/experiments/stage.ts";
import { keep, readProgress, report } from "../progress.ts";
import { form, judge, type Part, read, type Verdict } from "./judge.ts";
import { readSheet, type Sheet, shown } from "./sheet.ts";
import { BY_EXPERIMENT } from "./by-experiment.ts";
import { IN_TERMINALS } from "./in-terminals.ts";
import { Terminals } from "./terminals.ts";

const EXERCISES = { ...IN_TERMINALS, ...BY_EXPERIMENT }; // by their number in the lab sheet
const NOT_YET = 3; // exit code
const MARGIN = 10; // columns in front of what is said of a part
const OPTIONS = {
  report: option("URL", undefined, "tell that manager how far you are", String),
  student: option("NAME", undefined, "by this name", String),
  help: CLIENT.help,
};
const progressName = (number: number) => `exercise-${number}`;

/** All exercises, and how far one is. */
function list(sheet: Sheet[]): void {
  const progress = readProgress();
  let done = 0;
  for (const { number, title, experiment } of sheet) {
    const { passed, total } = progress[progressName(number)] ?? { passed: 0, total: 0 };
    const isDone = total > 0 && passed === total;
    if (isDone) done++;
    const reached = total > 0 ? chalk.yellow(`${passed} of ${total}`) : " ".repeat(6);
    const state = isDone ? chalk.green("done  ") : reached;
    const other = experiment ? chalk.dim(`or NAME=${experiment}`) : "";
    console.log(
      `  ${state}  make exercise N=${`${number}`.padEnd(3)} ${title.padEnd(26)} ${other}`.trimEnd(),
    );
  }
  console.log(`\n${done} of ${sheet.length} done. lessons/progress.json keeps it.`);
}

/** The exercise of that number, or the one about that experiment. */
function named(sheet: Sheet[], name: string): Sheet {
  const found = sheet.find(({ number, experiment }) => `${number}` === name || experiment === name);
  if (found) return found;
  throw new Failure(
    `Cannot find the exercise '${name}': expected N=1 to N=${sheet.length}, or NAME= one of ` +
      sheet.flatMap(({ experiment }) => experiment ?? []).join(", "),
    "make exercises",
    2,
  );
}

function askedFor(parts: Part[]): void {
  console.log("Asked for is:");
  for (const part of parts) console.log(`  - ${fill(`${part.ask} (${form(part)})`, COLUMNS, "    ")}`);
}

/** Asks until something can be understood. Throws a Failure when the input ends before that. */
async function ask(parts: Part[], question: string): Promise<(string[] | undefined)[]> {
  const input = createInterface({ input: process.stdin });
  const prompt = () => process.stdout.write(chalk.bold("\nYour answer, in one line: "));
  prompt();
  for await (const line of input) {
    if (!process.stdin.isTTY) console.log(line);
    const given = read(parts, line, question);
    if (given.some((one) => one !== undefined)) {
      input.close();
      return given;
    }
    console.log(line.trim() === "" ? "That was an empty line." : "Nothing in it answers the question.");
    askedFor(parts);
    prompt();
  }
  console.log();
  throw new Failure(
    "Cannot judge: there is no answer",
    'one in a pipe: echo "an answer" | make exercise N=2',
  );
}

function print({ ask, given, right, why }: Verdict): void {
  const mark = right ? chalk.green.bold("right") : chalk.red.bold("wrong");
  const margin = " ".repeat(MARGIN);
  console.log(`  ${mark}   ${fill(`${ask}: ${given || "–"}`, COLUMNS, margin)}`);
  console.log(`${margin}${fill(why, COLUMNS, margin)}`);
}

program(async () => {
  const { values, positionals } = parse(process.argv.slice(2), OPTIONS, "src/lessons/exercises/exercise.ts");
  const [url, student] = [values.report?.at(-1), values.student?.at(-1)];
  const sheet = readSheet();
  const [name] = positionals;
  if (name === undefined) return list(sheet);
  const { number, title, question, answer } = named(sheet, name);
  const { parts, measure } = EXERCISES[number]!;
  const before = readProgress()[progressName(number)]?.passed ?? 0;

  console.log(`${chalk.bold.inverse(` ${number}. ${title} `)}\n\n${shown(question, COLUMNS)}\n`);
  console.log("Answer first. What the question says to check is then done for you:\ntype none of it.");
  askedFor(parts);
  const given = await ask(parts, question);

  heading("Now for real");
  let opened: Terminals | undefined;
  const seen = await measure(async (transport) => (opened = await Terminals.up(transport)));
  await opened?.lab.down();

  heading("Your answer");
  const verdicts = judge(parts, given, seen);
  verdicts.forEach(print);
  heading("In the words of the lab sheet");
  console.log(shown(answer, COLUMNS));

  const passed = verdicts.filter(({ right }) => right).length;
  const total = verdicts.length;
  if (passed >= before) keep(progressName(number), passed, total);
  if (url !== undefined) console.log(await report(url, student, progressName(number), { passed, total }));
  const next = number < sheet.length ? `make exercise N=${number + 1}` : "make exercises";
  const once = `${chalk.yellow.bold(`${passed} of ${total} right.`)} Once more: make exercise N=${number}`;
  console.log(`\n${passed === total ? `${chalk.green.bold("Right.")} Next: ${next}` : once}`);
  exit(passed === total ? 0 : NOT_YET);
});
