/** What `make bench` prints, and the parts of bench.json and of the chart. */
import chalk from "chalk";
import type { Bar, Section } from "./chart.ts";
import { CONTENDERS } from "./contenders.ts";
import {
  type Measure,
  MEASURES,
  ratio,
  type Rows,
  show,
  type Spread,
  spread,
  type Verdict,
} from "./figures.ts";
import { CLIENTS } from "./measure.ts";
import { NETWORKS, type WireName, WIRES } from "./wires.ts";

export const TITLES: Record<string, string> = {
  ...Object.fromEntries(CONTENDERS.map(({ name, title }) => [name, title])),
  one: "this project, 1 client",
  clients: `this project, ${CLIENTS} clients`,
  curl: "curl through tun0",
  socks: "curl through --socks",
};
/** What each of our two transports is not set against. */
const OTHERWISE = ["curl", "socks"]; // measured by another program
const ALIKE = {
  ours: ["ours", "udp", ...OTHERWISE],
  udp: ["udp", "no-offload", "one", "clients", ...OTHERWISE],
};
const ROADS = ["ours", "udp", "quic", "raw"]; // our four transports
const OURS = [...ROADS, "no-offload", "one", "clients", ...OTHERWISE];
export const COLUMNS = Object.keys(MEASURES) as Measure[];
export const LABEL = 26; // widths of the table's columns
const CELL = 14;

/** Rows in the order of TITLES, whichever came first. */
const inOrder = (rows: Rows) =>
  Object.keys(TITLES).flatMap((name) => (rows[name] ? [[name, rows[name]] as const] : []));

/**
 * Three lines for each contender: the medians, the least and greatest of the repeats, and this project's
 * ratio to it. A column for each measure that any of them has.
 */
export function printTable(rows: Rows): void {
  const columns = COLUMNS.filter((measure) => Object.values(rows).some((values) => values[measure]));
  const line = (label: string, cell: (measure: Measure) => string) =>
    label.padEnd(LABEL) + columns.map((measure) => cell(measure).padStart(CELL)).join("");
  console.log(chalk.bold(line("", (measure) => MEASURES[measure].title)));
  console.log(chalk.dim(line("", (measure) => MEASURES[measure].unit)));
  for (const [name, values] of inOrder(rows)) {
    const cells =
      (tell: (spread: Spread) => string, of = (measure: Measure) => spread(values[measure])) =>
      (measure: Measure) => {
        const found = of(measure);
        return found ? tell(found) : "";
      };
    const medians = cells(({ median }) => show(median));
    const spreads = cells(({ min, max }) => `${show(min)}–${show(max)}`);
    console.log(chalk.bold(line(TITLES[name]!, medians)));
    console.log(chalk.dim(line("  min–max", spreads)));
    for (const [mine, label] of [
      ["ours", "  this project ÷ it"],
      ["udp", "  this project, UDP ÷ it"],
    ] as const) {
      if (ALIKE[mine].includes(name) || !rows[mine]) continue;
      const quotient = (measure: Measure) => ratio(rows[mine]![measure], values[measure]);
      console.log(
        line(
          label,
          cells(({ median }) => `${show(median)} ×`, quotient),
        ),
      );
    }
  }
}

export function printTargets(verdicts: Verdict[]): void {
  const WHAT = 78; // columns
  console.log(
    `\n${chalk.bold("Targets, as ratios".padEnd(WHAT) + "bound".padStart(16) + "measured".padStart(12))}`,
  );
  for (const { wire, measure, row, than, bound, ratio, reached } of verdicts) {
    if (ratio === undefined) continue;
    const { title, better } = MEASURES[measure];
    const named = (row: string) => TITLES[row] ?? row;
    const what = `${WIRES[wire].title}, ${title}: ${named(row)} vs ${named(than)}`.padEnd(WHAT);
    const target = `${better === "more" ? "at least" : "at most"} ${bound} ×`.padStart(16);
    const verdict = reached ? chalk.green("reached") : chalk.red("missed");
    console.log(`${what}${target}${`${show(ratio.median)} ×`.padStart(12)}  ${verdict}`);
  }
  const missing = verdicts.filter(({ ratio }) => ratio === undefined).length;
  if (missing > 0) console.log(chalk.dim(`${missing} more not measured: what they compare did not both run`));
}

export function bars(rows: Rows, measure: Measure): Bar[] {
  return inOrder(rows).flatMap(([name, values]) => {
    const found = spread(values[measure]);
    return found ? [{ ...found, title: TITLES[name]!, ours: OURS.includes(name) }] : [];
  });
}

/** Which road for which network: one section, a line of panels for each network, our four roads in it. */
export function roads(tables: Partial<Record<WireName, Rows>>): Section {
  const panels = NETWORKS.flatMap((network) => {
    const rows = Object.fromEntries(
      Object.entries(tables[network] ?? {}).filter(([name]) => ROADS.includes(name)),
    );
    return (["upLossy", "downLossy"] as const).map((measure) => ({
      measure,
      bars: bars(rows, measure),
      where: WIRES[network].title,
    }));
  });
  return {
    title: "which road for which network",
    explained: "far is 50 ms there and back; each panel has a scale of its own",
    panels: panels.filter(({ bars }) => bars.length > 0),
  };
}

/** For bench.json: each contender's measures, with all values and what follows from them. */
export function summary(rows: Rows) {
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
          udpToThis: ratio(rows.udp?.[measure], values[measure])?.median,
        },
      ]),
    ),
  }));
}
