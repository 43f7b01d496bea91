/**
 * `make terminals`: the five terminals as five tmux panes, each with its command typed and waiting for Enter.
 * For a projector: what the two programs say has most of the room.
 */
import { spawnSync } from "node:child_process";
import { resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import chalk from "chalk";
import { Failure } from "../../base/failure.ts";
import { exit, program } from "../../host/program.ts";
import { ROOT } from "../lab.ts";
import { TRANSPORT } from "../running.ts";

const OVER = TRANSPORT === "tcp" ? "" : ` TRANSPORT=${TRANSPORT}`;
const COMMANDS = ["server", "configure-server", "client", "configure-client", "ping"].map(
  (what) => `make ${what}${what === "ping" ? "" : OVER}`,
);
// a tmux server of our own (-L): no other session is touched
const SESSION = process.env.SIMPLE_VPN_TMUX ?? "simple-vpn";
const PROMPT_DEADLINE = 5000; // ms, for the panes' shells to start
const STRIP = 30; // per cent of the height, for the three below
// each pane's make is a first one
const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^MAKE|^MFLAGS$/.test(name)));

function tmux(...args: string[]): string {
  const { status, stdout, stderr } = spawnSync("tmux", ["-L", SESSION, ...args], { encoding: "utf8", env });
  if (status !== 0)
    throw new Failure(
      `Cannot run 'tmux ${args.join(" ")}': ${stderr.trim()}`,
      `tmux -L ${SESSION} kill-server, then again`,
    );
  return stdout.trim();
}

/** Waits for the shells' prompts: what is typed before them is shown twice. */
async function prompted(panes: string[]): Promise<void> {
  const end = Date.now() + PROMPT_DEADLINE;
  const waits = () => panes.some((pane) => tmux("capture-pane", "-p", "-t", pane) === "");
  while (waits() && Date.now() < end) await sleep(50);
}

/** Server and client side by side, as the walk goes; in a strip below, the three that are typed once. */
async function openPanes(): Promise<void> {
  const { columns = 200, rows = 50 } = process.stdout;
  const id = ["-P", "-F", "#{pane_id}", "-c", resolve(ROOT)];
  const split = (pane: string, ...how: string[]) => tmux("split-window", ...id, "-t", pane, ...how);
  const server = tmux("new-session", "-d", ...id, "-x", `${columns}`, "-y", `${rows}`);
  const configureServer = split(server, "-v", "-p", `${STRIP}`);
  const client = split(server, "-h", "-p", "50");
  const configureClient = split(configureServer, "-h", "-p", "66");
  const ping = split(configureClient, "-h", "-p", "50");
  const panes = [server, configureServer, client, configureClient, ping];
  tmux("set-option", "-g", "mouse", "on");
  tmux("set-option", "-g", "status", "off"); // one line more
  tmux("set-option", "-g", "pane-border-status", "top");
  tmux("set-option", "-g", "pane-border-format", " #{pane_title} ");
  await prompted(panes);
  for (const [i, pane] of panes.entries()) {
    tmux("select-pane", "-t", pane, "-T", `terminal ${i + 1}: ${COMMANDS[i]}`);
    tmux("send-keys", "-t", pane, "-l", COMMANDS[i]!); // -l: as it is, and no Enter
  }
  tmux("select-pane", "-t", server);
}

/** What tmux lacks for this; "" if nothing. Titles of panes (select-pane -T) came with 2.6. */
function lacks(): string {
  const { stdout } = spawnSync("tmux", ["-V"], { encoding: "utf8" });
  const [, version] = /^tmux \D*(\d+\.\d+)/.exec(stdout ?? "") ?? [];
  if (version === undefined) return "tmux is not installed ('apt-get install tmux')";
  return Number(version) >= 2.6 ? "" : `tmux ${version} is too old, 2.6 or later is needed`;
}

program(async () => {
  const lacking = lacks();
  if (lacking) {
    console.log(`${lacking}. Open five terminals in this folder, and type in them, in order:\n`);
    COMMANDS.forEach((command, i) => console.log(`  ${i + 1}  ${chalk.bold(command)}`));
    return;
  }
  if (spawnSync("tmux", ["-L", SESSION, "has-session"]).status !== 0) {
    console.log("opening five panes …");
    await openPanes();
  }
  if (!process.stdout.isTTY) return console.log(`ready: tmux -L ${SESSION} attach`);
  // -u: our arrows and lines are UTF-8, also where LANG is not set
  const { status } = spawnSync("tmux", ["-u", "-L", SESSION, "attach"], { stdio: "inherit" });
  console.log(`The panes go on in the background. 'tmux -L ${SESSION} attach' shows them.`);
  console.log(`'tmux -L ${SESSION} kill-server' and 'make down' end them.`);
  exit(status ?? 1);
});
