/**
 * The interface manager: network interfaces by HTTP, their packets live, and the page of the class. Its
 * three parts: interfaces (interfaces.ts, echo.ts), system (system.ts), api (api.ts, http.ts, events.ts).
 */
import { complain, exit, program } from "../host/program.ts"; // first: it puts the environment right
import { watchFile } from "node:fs";
import { isatty } from "node:tty";
import { isDeepStrictEqual } from "node:util";
import chalk from "chalk";
import { Failure } from "../base/failure.ts";
import { ON_TERMINAL } from "../host/environment.ts";
import { answer } from "./api.ts";
import { config, type Declared, load } from "./config.ts";
import { complete } from "./fields.ts";
import { serve } from "./http.ts";
import * as interfaces from "./interfaces.ts";
import { Refusal } from "./route.ts";
import { watch } from "./vpn.ts";

const ARGS = process.argv.slice(2);
const EACH = 500; // ms between two looks at the configuration file
const declared = new Map<string, Declared>(); // what the file wants, as far as it was followed

/** Watches the programs, and makes the interfaces, that the file wants. What it wants as before stays. */
async function follow(): Promise<void> {
  watch(config.watch);
  const entries = new Map(config.interfaces.map((one) => [one.name ?? config.create.name, one]));
  for (const name of new Set([...declared.keys(), ...entries.keys()])) {
    const [before, after] = [declared.get(name), entries.get(name)];
    if (isDeepStrictEqual(before, after)) continue;
    const { mode, ...asked } = after ?? {};
    const wanted = complete(config.create, asked);
    const now = interfaces.all().find(({ settings }) => settings.name === name)?.settings;
    if (before && (!after || wanted.type !== now?.type)) {
      if (now) await interfaces.remove({ name });
      declared.delete(name);
    }
    if (!after) continue;
    await (wanted.type === now?.type ? interfaces.configure(wanted) : interfaces.create(wanted));
    await (mode ? interfaces.start({ name, mode }) : interfaces.stop({ name }));
    declared.set(name, after);
  }
}

/** The same, when all changes before it are done. Errors: a Failure. */
const followInTurn = () =>
  interfaces.inTurn(follow).catch((error) => {
    const why = `Cannot follow ${config.file}: ${error.message}`;
    throw error instanceof Refusal ? new Failure(why, "mend the file, or what it meets") : error;
  });

/** Reads the configuration anew. A mistake in it changes nothing, and is told. */
async function reload(): Promise<void> {
  try {
    const { host, port } = config;
    load(ARGS);
    await followInTurn();
    const isElsewhere = host !== config.host || port !== config.port;
    console.log(
      `the configuration was read anew${isElsewhere ? "; --host and --port with the next start" : ""}`,
    );
  } catch (error) {
    complain(error);
  }
}

program(
  async () => {
    load(ARGS);
    if (config.shown) return console.log(config.shown);
    await followInTurn();
    const address = await serve((request, response) => void answer(request, response));
    console.log(`the interface manager: ${chalk.bold(address)}`);
    if (config.file !== undefined) watchFile(config.file, { interval: EACH }, () => void reload());
  },
  // Of a terminal that was closed; or `kill -HUP`
  () => (ON_TERMINAL && ![0, 1, 2].some((fd) => isatty(fd)) ? exit(0) : void reload()),
);
