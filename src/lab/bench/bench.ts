/**
 * `make bench`: this project, other VPNs and no tunnel at all, side by side in the lab, a table for each
 * wire. All of them run once in every repeat, and each repeat begins with another one, so that a machine that
 * is slow for a while is slow for all. bench.json, bench.svg.
 */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { cpus, loadavg, release, tmpdir } from "node:os";
import { join } from "node:path";
import chalk from "chalk";
import { Failure } from "../../base/failure.ts";
import { option, parse } from "../../host/options.ts";
import { atExit, exit, program } from "../../host/program.ts";
import { chart } from "./chart.ts";
import { CONTENDERS, type Contender, lacks } from "./contenders.ts";
import { judge, MEASURES, type Measure, type Rows, show } from "./figures.ts";
import { Lab } from "../lab.ts";
import { measure, measureClients, measureLossy, measureSocks, TAKES } from "./measure.ts";
import { writeNew } from "../../base/new-file.ts";
import { checkOutput } from "../output.ts";
import { bars, COLUMNS, LABEL, printTable, printTargets, roads, summary, TITLES } from "./tables.ts";
import { provide } from "../tools.ts";
import { assertHonest, ROUTER_NEEDS } from "../wire/router.ts";
import { fetchWireGuard } from "./wireguard.ts";
import { NEAR, NETWORKS, type WireName, WIRES } from "./wires.ts";

const NAMES = [...CONTENDERS.map(({ name }) => name), "clients", "socks", "loss"];
const ON_NETWORKS = ["ours", "udp", "quic", "raw", "openvpn"];
const BOTH = "both";

/** What runs in one repeat: on one wire, a contender, or our server with many clients. */
interface Run {
  wire: WireName;
  name: string;
  takes: number; // seconds, about
  run: (lab: Lab, report: (row: string, measure: Measure, value: number) => void) => Promise<void>;
}
type Tables = Partial<Record<WireName, Rows>>;

program(async () => {
  const { seconds, repeats, only, wire, out } = options();
  checkOutput(out, ["bench.json", "bench.svg"], 'make bench ARGS="--out FOLDER"');
  provide(
    {
      iperf3: "iperf3",
      ...(only.includes("socks") && { curl: "curl" }),
      ...(wire === "plain" ? {} : ROUTER_NEEDS),
    },
    "measure",
  );
  const folder = mkdtempSync(join(tmpdir(), "simple-vpn-bench-"));
  atExit(() => rmSync(folder, { recursive: true }));

  const present = installed(only, folder);
  const runs = allRuns(only, wire, present, seconds, folder);
  const versions = [
    `Linux ${release()}`,
    `TCP by ${readFileSync("/proc/sys/net/ipv4/tcp_congestion_control", "utf8").trim()}`,
    `Node ${process.version}`,
    ...present.flatMap(({ title, version }) => (version ? [`${title} ${version()}`] : [])),
  ];
  const machine = `${cpus().length} × ${cpus()[0]?.model}`;
  const day = new Date().toISOString().slice(0, 10);
  const caption = `${day}, ${machine}, ${versions.join(", ")}; ${repeats} × ${seconds} s`;
  const load = loadavg()[0]!;
  console.log(
    `${caption}\nload average before: ${show(load)} (other work on this machine shows in the figures)`,
  );
  const takes = runs.reduce((sum, run) => sum + run.takes, 0);
  console.log(`about ${Math.ceil((repeats * takes) / 60)} min\n`);

  const { tables, failures } = await repeat(runs, repeats);
  const measured = Object.entries(tables) as [WireName, Rows][];
  for (const [name, rows] of measured) {
    console.log(`\n${chalk.bold.inverse(` ${WIRES[name].title} `)} ${WIRES[name].explained}`);
    printTable(rows);
  }
  const verdicts = judge(tables).filter(({ wire }) => tables[wire]);
  printTargets(verdicts);
  const how = { date: new Date(), machine, versions, load, seconds, repeats };
  const wires = measured.map(([name, rows]) => {
    const { title, explained } = WIRES[name];
    return { name, title, explained, contenders: summary(rows) };
  });
  const results = { ...how, wires, targets: verdicts };
  writeNew(join(out, "bench.json"), `${JSON.stringify(results, null, 2)}\n`, 0o644);
  const charts = NEAR.flatMap((name) => {
    const { title, explained } = WIRES[name];
    const rows = tables[name];
    const panels = COLUMNS.map((one) => ({ measure: one, bars: bars(rows ?? {}, one) }));
    return rows ? [{ title, explained, panels }] : [];
  });
  const road = roads(tables);
  const sections = road.panels.length > 0 ? [road, ...charts] : charts;
  writeNew(join(out, "bench.svg"), chart(sections, caption), 0o644);
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
  const wire = (text: string) => {
    const found = [...NEAR, BOTH].find((name) => name === text);
    if (!found) throw new Error(`is not one of ${[...NEAR, BOTH].join(", ")}`);
    return found;
  };
  const table = {
    seconds: option("N", "4", "of each measurement", whole),
    repeats: option("N", "3", "of everything", whole),
    only: option(
      "NAME,NAME",
      NAMES.join(","),
      "which contenders; clients: 16 of ours; socks: curl by both ways; loss: near and far networks",
      names,
    ),
    wire: option("NAME", BOTH, "plain, honest (with the loss rows), or both", wire),
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
    wire: values.wire!.at(-1)!,
    out: values.out!.at(-1)!,
  };
}

/** The contenders that were asked for and can run here. Says which cannot. */
function installed(only: string[], folder: string): Contender[] {
  const chosen = CONTENDERS.filter(
    ({ name }) => only.includes(name) || (only.includes("loss") && ON_NETWORKS.includes(name)),
  );
  if (chosen.some(({ name }) => name === "wireguard-go")) {
    const why = fetchWireGuard(folder);
    if (why) console.log(`${chalk.yellow("not the newest")} wireguard-go: ${why}`);
  }
  for (const one of chosen)
    if (lacks(one)) console.log(`${chalk.yellow("left out")} ${one.title}: ${lacks(one)}`);
  return chosen.filter((one) => !lacks(one));
}

/** All that one repeat consists of: wire after wire. */
function allRuns(only: string[], wire: string, present: Contender[], seconds: number, folder: string): Run[] {
  const runs: Run[] = [];
  for (const near of NEAR.filter((name) => wire === name || wire === BOTH)) {
    for (const { name, address, start } of present.filter(({ name }) => only.includes(name)))
      runs.push({
        wire: near,
        name,
        takes: TAKES.near(seconds),
        run: async (lab, report) => {
          const check = () => near === "honest" && assertHonest(lab);
          const programs = await start(lab, folder);
          await measure(lab, address, programs, seconds, (...what) => report(name, ...what), check);
        },
      });
    if (near === "plain" && only.includes("clients"))
      runs.push({
        wire: near,
        name: "clients",
        takes: TAKES.clients(seconds),
        run: (lab, report) => measureClients(lab, seconds, report),
      });
    if (near === "plain" && only.includes("socks"))
      runs.push({
        wire: near,
        name: "socks",
        takes: TAKES.socks(seconds),
        run: (lab, report) => measureSocks(lab, seconds, report),
      });
  }
  for (const network of NETWORKS.filter(() => wire !== "plain" && only.includes("loss")))
    for (const { name, address, start } of present.filter(({ name }) => ON_NETWORKS.includes(name)))
      runs.push({
        wire: network,
        name,
        takes: TAKES.lossy(seconds),
        run: async (lab, report) => {
          await start(lab, folder);
          await measureLossy(lab, address, seconds, (...what) => report(name, ...what));
        },
      });
  if (runs.length === 0)
    throw new Failure(
      `Cannot measure ${only.join(", ")} on ${wire === BOTH ? "any wire" : `the ${wire} wire`}`,
      wire === BOTH
        ? "another --only"
        : `another --wire: clients and socks run on the plain one, loss on the honest`,
      2,
    );
  return runs;
}

/**
 * Round and round, each run in a fresh lab; a line for each figure as it comes. One that fails is told of,
 * and the others go on.
 */
async function repeat(runs: Run[], repeats: number): Promise<{ tables: Tables; failures: number }> {
  const tables: Tables = {};
  let failures = 0;
  for (let round = 0; round < repeats; round++) {
    for (let i = 0; i < runs.length; i++) {
      const { wire, name, run } = runs[(i + round) % runs.length]!;
      const where = WIRES[wire].title;
      const lab = await Lab.up();
      try {
        const emulator = await WIRES[wire].lay(lab, round + 1);
        if (emulator) console.log(chalk.dim(`the emulator's seed: ${emulator.seed}`));
        await run(lab, (row, measure, value) => {
          (((tables[wire] ??= {})[row] ??= {})[measure] ??= [])[round] = value;
          const { title, unit } = MEASURES[measure];
          const figure = `${title.padEnd(14)} ${show(value).padStart(6)} ${unit}`;
          const when = chalk.dim(`${round + 1}/${repeats} ${where.padEnd(13)}`);
          console.log(`${when} ${TITLES[row]!.padEnd(LABEL)} ${figure}`);
        });
        const { up, down } = (await emulator?.stop()) ?? {};
        const dropped = (up?.dropped ?? 0) + (down?.dropped ?? 0);
        if (dropped > 0)
          console.log(
            `${chalk.yellow("too slow")} the emulator dropped ${dropped} more packets than it should`,
          );
      } catch (error) {
        failures++;
        console.error(`${chalk.red.bold("failed")} ${TITLES[name]}, ${where}: ${(error as Error).message}`);
      } finally {
        await lab.down();
      }
    }
  }
  return { tables, failures };
}
