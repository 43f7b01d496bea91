/**
 * `make fuzz`: every parser of the VPN gets input made to break it, a million cases. Nothing may escape but
 * the parser's own errors, nothing may reach the TUN that should not, and no case may take long. All comes
 * from one seed, which is printed: ARGS="--seed N" is the same run again, and a finding names the command
 * that repeats its case alone.
 */
import chalk from "chalk";
import { readdirSync } from "node:fs";
import { Failure } from "../../base/failure.ts";
import { CLIENT, flag, option, parse, whole } from "../../host/options.ts";
import { program } from "../../host/program.ts";
import { SEED } from "../tests/peers.ts";
import { CORPUS, keep } from "./corpus.ts";
import { type Parser, PARSERS } from "./parsers.ts";
import { Random } from "./random.ts";

const SLOW = 100; // ms of CPU time: more than any case may take, three times in a row
const MEMORY = 512; // MB that the whole run may take, Node and the compiler included
const TURN = 256; // cases between two turns of the event loop

/** One parser's part of a run. */
export interface Result {
  name: string;
  cases: number;
  seconds: number;
  slowest: number; // ms
}

/**
 * Runs `cases` cases, divided among the parsers by their shares. `one`: only this one of each. Throws a
 * Failure at the first finding, with the command that repeats it. `corpus`: the folder where it is kept.
 */
export async function fuzz(
  seed: number,
  cases: number,
  parsers: readonly Parser[] = PARSERS,
  one?: number,
  corpus?: string,
): Promise<Result[]> {
  const shares = parsers.reduce((sum, { share }) => sum + share, 0);
  const results: Result[] = [];
  for (const parser of parsers) {
    const { name, share } = parser;
    const result = {
      name,
      cases: one === undefined ? Math.ceil((cases * share) / shares) : 1,
      seconds: 0,
      slowest: 0,
    };
    const from = one ?? 0;
    for (let i = from; i < from + result.cases; i++) {
      const any = new Random(seedOf(seed, name, i));
      const input = parser.make(any);
      const chance = any.below(2 ** 31);
      let took: number;
      try {
        took = await checked(parser, input, chance);
      } catch (error) {
        if (process.env.SIMPLE_VPN_DEBUG) console.error(error);
        const what = String(error).split("\n").slice(0, 4).join(" ").slice(0, 300);
        const kept = { name: `seed-${seed}-case-${i}`, what, input, chance };
        throw finding(seed, name, i, what, corpus && keep(name, kept, corpus));
      }
      result.seconds += took / 1000;
      result.slowest = Math.max(result.slowest, took);
      if (i % TURN === 0) await new Promise(setImmediate);
    }
    parser.end?.();
    results.push(result);
  }
  return results;
}

/**
 * Checks one input: ms of CPU time that it took, the least of three if it is slow. A busy machine does not
 * count in it. Throws what is wrong.
 */
export async function checked(parser: Parser, input: Buffer, chance: number): Promise<number> {
  let took = Infinity;
  for (let attempt = 0; took > SLOW && attempt < 3; attempt++) {
    const start = process.cpuUsage();
    await parser.check(input, new Random(chance));
    const { user, system } = process.cpuUsage(start); // µs
    took = Math.min(took, (user + system) / 1000);
  }
  if (took > SLOW) throw new Error(`it takes ${took.toFixed()} ms`);
  return took;
}

/** Each case has a seed of its own, so that it can be repeated without those before it. */
const seedOf = (seed: number, name: string, i: number) =>
  [...name].reduce((sum, char) => Math.imul(sum, 31) + char.charCodeAt(0), Math.imul(seed, 0x9e3779b1)) +
  Math.imul(i, 0x85ebca6b);

function finding(seed: number, name: string, i: number, what: string, path?: string): Failure {
  const repeat = `SIMPLE_VPN_DEBUG=1 make fuzz ARGS="--seed ${seed} --only ${name} --case ${i}" repeats it`;
  const kept = path
    ? `${path} keeps its input: give it a name, and say there what it is`
    : "with --keep it is kept for make test";
  return new Failure(`Cannot pass case ${i} of ${name}, seed ${seed}: ${what}`, `${repeat}; ${kept}`);
}

/** Descriptors that this process has open. */
export const openFds = () => readdirSync("/proc/self/fd").length;

const OPTIONS = {
  seed: option("N", String(SEED), "where all chance comes from (random)", whole(0, 0xffffffff)),
  cases: option("N", "1000000", "in all, divided among the parsers", whole(1, 1e9)),
  only: option("NAME", undefined, `one parser: ${PARSERS.map(({ name }) => name).join(", ")}`, String),
  case: option("N", undefined, "one case of each parser", whole(0, 1e9)),
  keep: flag("keep what is found as a file of src/lab/fuzz/corpus"),
  help: CLIENT.help,
};

async function main(): Promise<void> {
  const { values } = parse(process.argv.slice(2), OPTIONS, "src/lab/fuzz/fuzz.ts");
  const [seed, cases, only] = [values.seed!.at(-1)!, values.cases!.at(-1)!, values.only?.at(-1)];
  const parsers = PARSERS.filter(({ name }) => only === undefined || only === name);
  if (parsers.length === 0)
    throw new Failure(`Cannot fuzz ${only}: there is no such parser`, "--help names them", 2);
  console.log(`seed ${seed}`);
  const fds = openFds();
  const results = await fuzz(seed, cases, parsers, values.case?.at(-1), values.keep && CORPUS);
  const row = (parser: string, cases: string, seconds: string, slowest: string) =>
    parser.padEnd(12) + cases.padStart(10) + seconds.padStart(10) + slowest.padStart(14);
  console.log(chalk.bold(row("parser", "cases", "seconds", "slowest, ms")));
  for (const { name, cases, seconds, slowest } of results)
    console.log(row(name, String(cases), seconds.toFixed(1), slowest.toFixed(1)));
  const total = results.reduce((sum, { cases }) => sum + cases, 0);
  const megabytes = process.resourceUsage().maxRSS / 1024;
  console.log(
    `${total} cases in ${process.uptime().toFixed()} s, seed ${seed}: nothing found. ` +
      `At most ${megabytes.toFixed()} MB of memory; ${fds} descriptors open before, ${openFds()} after.`,
  );
  if (megabytes > MEMORY)
    throw new Failure(
      `Cannot pass: the run took ${megabytes.toFixed()} MB of memory, more than ${MEMORY}`,
      "--only finds the parser",
    );
  if (openFds() > fds)
    throw new Failure(
      `Cannot pass: ${openFds() - fds} descriptors were left open`,
      "--only finds the parser",
    );
}

if (/\bfuzz\.[jt]s$/.test(process.argv[1] ?? "")) program(main);
