/**
 * `make bench`: this project, other VPNs and no tunnel at all, side by side in the lab. All of them run once
 * in every repeat, and each repeat begins with another one, so that a machine that is slow for a while is
 * slow for all. bench.json, bench.svg.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { cpus, loadavg, release, tmpdir } from "node:os";
import { join } from "node:path";
import chalk from "chalk";
import { Failure } from "../../base/failure.ts";
import { option, parse } from "../../host/options.ts";
import { atExit, exit, program } from "../../host/program.ts";
import { type Bar, chart } from "./chart.ts";
import { CONTENDERS, lacks, versionOf } from "./contenders.ts";
import {
  judge,
  type Measure,
  MEASURES,
  ratio,
  show,
  type Spread,
  spread,
  type Values,
  type Verdict,
} from "./figures.ts";
import { Lab } from "../lab.ts";
import { CLIENTS, measure, measureClients, type Report } from "./measure.ts";
import { writeNew } from "../../base/new-file.ts";
import { checkOutput } from "../output.ts";
import { provide } from "../tools.ts";

const NAMES = [...CONTENDERS.map(({ name }) => name), "clients"];
const TITLES: Record<string, string> = {
  ...Object.fromEntries(CONTENDERS.map(({ name, title }) => [name, title])),
  one: "this project, 1 client",
  clients: `this project, ${CLIENTS} clients`,
};
const OURS = ["ours", "no-offload", "one", "clients"];
const COLUMNS = Object.keys(MEASURES) as Measure[];
const [LABEL, CELL] = [26, 14]; // widths of the table's columns

/** What runs in one repeat: a contender, or our server with many clients. */
interface Run {
  name: string;
  run: (lab: Lab, report: Report) => Promise<void>;
}

program(async () => {
  const { seconds, repeats, only, out } = options();
  checkOutput(out, ["bench.json", "bench.svg"], 'make bench ARGS="--out FOLDER"');
  provide({ iperf3: "iperf3" }, "measure");
  const folder = mkdtempSync(join(tmpdir(), "simple-vpn-bench-"));
  atExit(() => rmSync(folder, { recursive: true }));

  const chosen = CONTENDERS.filter(({ name }) => only.includes(name));
  for (const one of chosen)
    if (lacks(one)) console.log(`${chalk.yellow("left out")} ${one.title}: ${lacks(one)}`);
  const present = chosen.filter((one) => !lacks(one));
  const versions = [
    `Linux ${release()}`,
    `Node ${process.version}`,
    ...present.filter((one) => one.version).map(versionOf),
  ];
  const machine = `${cpus().length} × ${cpus()[0]?.model}`;
  const day = new Date().toISOString().slice(0, 10);
  const caption = `${day}, ${machine}, ${versions.join(", ")}; ${repeats} × ${seconds} s`;
  const load = loadavg()[0]!;
  console.log(
    `${caption}\nload average before: ${show(load)} (other work on this machine shows in the figures)`,
  );
  const runs: Run[] = present.map(({ name, address, start }) => ({
    name,
    run: async (lab, report) =>
      measure(lab, address, await start(lab, folder), seconds, (what, value) => report(name, what, value)),
  }));
  if (only.includes("clients"))
    runs.push({ name: "clients", run: (lab, report) => measureClients(lab, seconds, report) });
  console.log(`about ${Math.ceil((repeats * runs.length * (5 * seconds + 10)) / 60)} min\n`);

  const { rows, failures } = await repeat(runs, repeats);
  const verdicts = judge(rows);
  printTable(rows);
  printTargets(verdicts);
  const how = { date: new Date(), machine, versions, load, seconds, repeats };
  const results = { ...how, contenders: summary(rows), targets: verdicts };
  writeNew(join(out, "bench.json"), `${JSON.stringify(results, null, 2)}\n`, 0o644);
  const columns = COLUMNS.map((measure): [Measure, Bar[]] => [measure, bars(rows, measure)]);
  writeNew(join(out, "bench.svg"), chart(columns, caption), 0o644);
  console.log(`\nwrote ${join(out, "bench.json")} and ${join(out, "bench.svg")}`);
  exit(failures === 0 ? 0 : 1);
});

/** The command line. Errors: a Failure with exit code 2. */
function options() {
  const whole = (text: string) => {
    if (!/^[1-9]\d{0,3}$/.test(text)) throw new Error("is no whole number from 1 to 9999");
    return Number(text);
  };
  const names = (text: string) => {
    const unknown = text.split(",").find((name) => !NAMES.includes(name));
    if (unknown !== undefined) throw new Error(`has '${unknown}', which is not one of ${NAMES.join(", ")}`);
    return text.split(",");
  };
  const table = {
    seconds: option("N", "4", "of each measurement", whole),
    repeats: option("N", "3", "of everything", whole),
    only: option("NAME,NAME", NAMES.join(","), "which contenders", names),
    out: option("DIR", ".", "where bench.json and bench.svg go", String),
    help: option("", undefined, "print this", () => true),
  };
  const { values, positionals } = parse(process.argv.slice(2), table, "src/lab/bench/bench.ts");
  if (positionals.length > 0)
    throw new Failure(`Cannot start: unexpected argument ${positionals[0]}`, "--help", 2);
  return {
    seconds: values.seconds!.at(-1)!,
    repeats: values.repeats!.at(-1)!,
    only: values.only!.at(-1)!,
    out: values.out!.at(-1)!,
  };
}

/**
 * Round and round, each run in a fresh lab; a line for each figure as it comes. One that fails is told of,
 * and the others go on.
 */
async function repeat(
  runs: Run[],
  repeats: number,
): Promise<{ rows: Record<string, Values>; failures: number }> {
  const rows: Record<string, Values> = {};
  let failures = 0;
  for (let round = 0; round < repeats; round++) {
    for (let i = 0; i < runs.length; i++) {
      const { name, run } = runs[(i + round) % runs.length]!;
      const lab = await Lab.up();
      try {
        await run(lab, (row, measure, value) => {
          ((rows[row] ??= {})[measure] ??= [])[round] = value;
          const { title, unit } = MEASURES[measure];
          const figure = `${title.padEnd(14)} ${show(value).padStart(6)} ${unit}`;
          console.log(`${chalk.dim(`${round + 1}/${repeats}`)} ${TITLES[row]!.padEnd(LABEL)} ${figure}`);
        });
      } catch (error) {
        failures++;
        console.error(`${chalk.red.bold("failed")} ${TITLES[name]}: ${(error as Error).message}`);
      } finally {
        await lab.down();
      }
    }
  }
  return { rows, failures };
}

/** Rows in the order of TITLES, whichever came first. */
const inOrder = (rows: Record<string, Values>) =>
  Object.keys(TITLES).flatMap((name) => (rows[name] ? [[name, rows[name]] as const] : []));

/**
 * Three lines for each contender: the medians, the least and greatest of the repeats, and this project's
 * ratio to it.
 */
function printTable(rows: Record<string, Values>): void {
  const line = (label: string, cell: (measure: Measure) => string) =>
    label.padEnd(LABEL) + COLUMNS.map((measure) => cell(measure).padStart(CELL)).join("");
  console.log(`\n${chalk.bold(line("", (measure) => MEASURES[measure].title))}`);
  console.log(chalk.dim(line("", (measure) => MEASURES[measure].unit)));
  for (const [name, values] of inOrder(rows)) {
    const cells =
      (tell: (spread: Spread) => string, of = (measure: Measure) => spread(values[measure])) =>
      (measure: Measure) => {
        const found = of(measure);
        return found ? tell(found) : "";
      };
    console.log(
      chalk.bold(
        line(
          TITLES[name]!,
          cells(({ median }) => show(median)),
        ),
      ),
    );
    console.log(
      chalk.dim(
        line(
          "  min–max",
          cells(({ min, max }) => `${show(min)}–${show(max)}`),
        ),
      ),
    );
    if (name !== "ours" && rows.ours)
      console.log(
        line(
          "  this project ÷ it",
          cells(
            ({ median }) => `${show(median)} ×`,
            (measure) => ratio(rows.ours![measure], values[measure]),
          ),
        ),
      );
  }
}

function printTargets(verdicts: Verdict[]): void {
  console.log(
    `\n${chalk.bold("Targets, as ratios".padEnd(64) + "bound".padStart(16) + "measured".padStart(12))}`,
  );
  for (const { measure, row, than, bound, ratio, reached } of verdicts) {
    const { title, better } = MEASURES[measure];
    const what = `${title}: ${TITLES[row]} vs ${TITLES[than]}`.padEnd(64);
    const target = `${better === "more" ? "at least" : "at most"} ${bound} ×`.padStart(16);
    const verdict = reached ? chalk.green("reached") : chalk.red("missed");
    const judged =
      ratio === undefined
        ? chalk.dim("  not measured")
        : `${`${show(ratio.median)} ×`.padStart(12)}  ${verdict}`;
    console.log(`${what}${target}${judged.padStart(12)}`);
  }
}

function bars(rows: Record<string, Values>, measure: Measure): Bar[] {
  return inOrder(rows).flatMap(([name, values]) => {
    const found = spread(values[measure]);
    return found ? [{ ...found, title: TITLES[name]!, ours: OURS.includes(name) }] : [];
  });
}

/** For bench.json: each contender's measures, with all values and what follows from them. */
function summary(rows: Record<string, Values>) {
  return inOrder(rows).map(([name, values]) => ({
    name,
    title: TITLES[name],
    measures: Object.fromEntries(
      COLUMNS.filter((measure) => values[measure]).map((measure) => [
        measure,
        {
          unit: MEASURES[measure].unit,
          ...spread(values[measure]),
          values: values[measure],
          oursToThis: ratio(rows.ours?.[measure], values[measure])?.median,
        },
      ]),
    ),
  }));
}
