/**
 * The commands of changes.ts and routes.ts, printed for the next terminal, or run with --configure and undone at the end, whatever that is: keeper.ts.
 * And the end of root.
 */
import { spawnSync, type SpawnSyncOptionsWithStringEncoding } from "node:child_process";
import chalk from "chalk";
import type { Change } from "./changes.ts";
import { Keeper } from "./keeper.ts";
import type { Account } from "./options.ts";
import { atExit, Failure } from "./program.ts";

/** The host of the lab that this program is on, if terminal.ts has started it. There, commands are typed with make, for they are that host's. */
export const LAB_HOST = process.env.SIMPLE_VPN_HOST;

/**
 * What we add to the rules that we make: a name, to tell them from the user's own, and patience (-w) with others who change rules
 * meanwhile. What is printed to be typed does without: those rules are the user's own, and short.
 */
const MARK = " -m comment --comment simple-vpn -w";
const marked = (line: string) => (/^ip6?tables /.test(line) ? line + MARK : line);

let keeper: Keeper | undefined; // from the first change on
let dropped = false; // have we given up root? Then what is still to do is the user's

/**
 * Runs the changes and says so; returns "". Or, without `configure`, returns the lines that tell the user to do it. `changes` is
 * called after other keepers have finished, for what is to be undone depends on what is there then. Errors: a Failure with the command's own words.
 */
export function setUp(changes: () => Change[], configure: boolean): string {
  const what = LAB_HOST ? `${nextTerminal(`make configure-${LAB_HOST}`)}, which runs on the ${LAB_HOST}:` : "Type in the next terminal, as root:";
  if (!configure || dropped) return ["", what, ...changes().map(({ run }) => `  ${run}`)].join("\n");
  if (!keeper) {
    keeper = new Keeper();
    atExit(() => keeper!.finish());
  }
  for (const { run, undo, unless, same } of changes()) {
    console.log(`# ${marked(run)}`);
    if (undo !== undefined) keeper.keep(marked(undo));
    if (unless !== undefined && execute(marked(unless)).status === 0) continue;
    try {
      command(marked(run));
      keeper.forget(run); // an undoing that is done now
    } catch (error) {
      if (same && / File exists$/.test((error as Failure).message)) continue;
      if (undo !== undefined) keeper.forget(marked(undo));
      throw error;
    }
  }
  return "";
}

export const nextTerminal = (command: string) => `${chalk.bold.inverse(" next terminal ")} ${chalk.bold(command)}`;

/** A device that does not exist would be accepted by iptables, and never match. */
export function checkDevice(device: string | undefined): void {
  if (device !== undefined && execute(`ip link show dev ${device}`).status !== 0) throw new Failure(`Cannot use --nat ${device}: there is no such interface`, "'ip -br link' lists them");
}

/**
 * From here on open fds are enough: root was for making the TUN and for the commands. Undoing these needs root again, and is done
 * by the keeper, which stays root. Throws a Failure if root could be had back.
 */
export function dropRoot(user: Account | undefined): void {
  if (user === undefined) return;
  keeper?.enough();
  try {
    process.setgroups!([]); // in this order: each of them takes root
    process.setgid!(user.gid);
    process.setuid!(user.uid); // for root: all its user ids, and its capabilities with them (capabilities(7))
  } catch (error) {
    throw new Failure(`Cannot become ${user.name}: ${(error as Error).message}`, "start as root (sudo), or leave --user out");
  }
  try {
    process.seteuid!(0);
  } catch {
    dropped = true; // as it should be
    return;
  }
  throw new Failure(`Cannot drop root: as ${user.name}, this process can still have it back`, "name another user with --user");
}

/**
 * In a session of its own: Ctrl-C is for us, not for the command. It holds the keeper's pipe, so that the undoing of a command does
 * not begin before the command has ended, even if we are killed meanwhile.
 */
export function execute(line: string) {
  const [program, ...args] = line.split(" ");
  const stdio = ["ignore", "pipe", "pipe", ...(keeper ? [keeper.pipe] : [])];
  return spawnSync(program!, args, { encoding: "utf8", detached: true, stdio } as SpawnSyncOptionsWithStringEncoding);
}

/** A command's output. Errors: a Failure with its own words. */
function command(line: string): string {
  const { error, status, signal, stdout, stderr } = execute(line);
  const code = (error as NodeJS.ErrnoException | undefined)?.code;
  if (code !== undefined) throw new Failure(`Cannot run '${line}': ${code}`, code === "ENOENT" ? "apt-get install iproute2 iptables procps" : "run it by hand to see what it needs");
  if (status !== 0) throw new Failure(`Cannot run '${line}': ${stderr.trim().replace(/\s*\n\s*/g, "; ") || signal}`, "run it by hand to see what it needs");
  return stdout;
}
