/**
 * `make experiments` lists them, `make experiment NAME=break-xor` runs one: real programs, real TUNs, real
 * packets, in a lab of its own. Exit code 0 only if what was to be seen was seen.
 */
import chalk from "chalk";
import { Failure } from "../../base/failure.ts";
import { exit, program } from "../../host/program.ts";
import * as breakFraming from "./break-framing.ts";
import * as breakXor from "./break-xor.ts";
import * as flipABit from "./flip-a-bit.ts";
import * as longestPrefix from "./longest-prefix.ts";
import * as mtu from "./mtu.ts";
import * as reorder from "./reorder.ts";
import * as replay from "./replay.ts";
import * as reuseNonce from "./reuse-nonce.ts";
import { heading } from "./stage.ts";
import * as tcpInTcp from "./tcp-in-tcp.ts";

/**
 * What each file exports: a line for the list, and the experiment itself, which returns what was just
 * learned.
 */
interface Experiment {
  shows: string;
  run: () => Promise<string>;
}

const EXPERIMENTS: Record<string, Experiment> = {
  "break-xor": breakXor,
  "break-framing": breakFraming,
  "flip-a-bit": flipABit,
  replay,
  "reuse-nonce": reuseNonce,
  reorder,
  "longest-prefix": longestPrefix,
  mtu,
  "tcp-in-tcp": tcpInTcp,
};

program(async () => {
  const [name, ...more] = process.argv.slice(2);
  if (name === undefined) {
    for (const [each, { shows }] of Object.entries(EXPERIMENTS))
      console.log(`  make experiment NAME=${each.padEnd(14)} ${shows}`);
    return;
  }
  const experiment = Object.hasOwn(EXPERIMENTS, name) ? EXPERIMENTS[name] : undefined;
  if (!experiment || more.length > 0)
    throw new Failure(
      `Cannot run '${[name, ...more].join(" ")}': expected one of ${Object.keys(EXPERIMENTS).join(", ")}`,
      "make experiments",
      2,
    );
  console.log(`${chalk.bold(name)}: ${experiment.shows}`);
  const learned = await experiment.run();
  heading("What you just learned");
  console.log(`${learned}\n`);
  exit(0);
});
