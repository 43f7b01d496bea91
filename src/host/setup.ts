/**
 * What becomes of the commands in changes.ts and routes.ts. They are printed for the next terminal. With
 * --configure they are run instead, and undone at the end, whatever that is (keeper.ts). With --user, this
 * file also gives up root.
 */
import { existsSync } from "node:fs";
import chalk from "chalk";
import type { Change } from "./changes.ts";
import { type Result, run } from "./command.ts";
import { Failure } from "../base/failure.ts";
import { trace } from "../base/trace.ts";
import { Keeper } from "./keeper.ts";
import { addressesAgain, type Machine, readAgain, readMachine } from "./machine.ts";
import type { Account } from "./options.ts";
import { become } from "./privileges.ts";
import { atExit } from "./program.ts";

/**
 * The lab's host that this program runs on, if terminal.ts has started it: there, commands are typed with
 * make.
 */
export const LAB_HOST = process.env.SIMPLE_VPN_HOST;

const BATCH = 200; // lines for one `ip -batch`: a signal waits for its end
const SHOWN = 20; // of them; of more, the first few are printed

export class Setup {
  private readonly configure: boolean;
  private readonly leaves: boolean;
  private readonly done = new Map<string, string>(); // what was set, and the command that set it
  private keeper: Keeper | undefined;
  private readonly poor = new Set<string>(); // tools that can only do what Change.otherwise asks
  private readonly missing = new Set<string>(); // parts that failed: they are not tried again
  private dropped = false; // have we given up root? Then the user does what is still to be done

  /** @param leaves is there something to be undone at the end? */
  constructor(configure: boolean, leaves = configure) {
    this.configure = configure;
    this.leaves = leaves;
  }

  /** Are changes run? Else they are the user's to type. */
  get runs(): boolean {
    return this.configure && !this.dropped;
  }

  /**
   * Waits for the keepers of killed programs, then reads what this machine has. `tun`: our interface. Errors:
   * a Failure.
   */
  async begin(tun: string): Promise<Machine> {
    if (this.configure) {
      const { stdout, stderr, code } = await run("ip -V");
      if (!stdout.includes("iproute2")) {
        const other = `is not iproute2's (${(stdout + stderr).trim().split("\n")[0]})`;
        const what = code === "ENOENT" ? "is missing" : other;
        const problem = `Cannot configure this machine: its ip command ${what}`;
        throw new Failure(problem, "apt-get install iproute2, or apk add iproute2");
      }
    }
    if (this.leaves) {
      this.keeper = await Keeper.start();
      atExit(() => this.keeper!.finish());
    }
    return readMachine(tun);
  }

  /**
   * At our end this file goes, even where by then we may not remove it: --user. `path`: without white space.
   */
  removeAtEnd(path: string): void {
    this.keeper!.keep(`rm -f -- ${path}`);
  }

  /**
   * Runs the changes that are not done yet, and says so; `toDo` is "". Without --configure, or without root
   * by now, `toDo` is the lines that tell the user to do it. `some`: was there anything to do? `missing`: the
   * parts that failed, and that the rest can do without. Errors: a Failure with the command's own words.
   */
  async make(changes: Change[]): Promise<{ toDo: string; some: boolean; missing: Set<string> }> {
    const { missing } = this;
    const isLeftOut = ({ part }: Change) => [...missing].some((whole) => belongs(part, whole));
    const then = new Map(this.done);
    const fresh = changes.filter((change) => !isLeftOut(change) && note(change, then));
    const some = fresh.length > 0;
    if (!this.runs) {
      for (const change of fresh) note(change, this.done);
      return { toDo: some ? toType(fresh, this.dropped) : "", some, missing };
    }
    for (let group = firstGroup(fresh); group.length > 0; group = firstGroup(fresh)) {
      fresh.splice(0, group.length);
      const { part } = group[0]!;
      if (isLeftOut(group[0]!)) continue;
      try {
        await (group.length > 1 ? this.runAll(group) : this.runOne(group[0]!));
        for (const change of group) note(change, this.done);
      } catch (error) {
        if (part === undefined) throw error;
        missing.add(part);
        console.log(`# ${chalk.yellow(`without ${part}`)}: ${(error as Error).message}`);
        await this.takeBack(changes.filter((change) => belongs(change.part, part)));
      }
    }
    return { toDo: "", some, missing };
  }

  /** The last line, whatever ends us, is about what is not undone. Nothing of the trace comes behind it. */
  lastly(text: string): void {
    this.keeper!.say(text);
    atExit(() => trace.stop());
  }

  private async runOne({ run: line, input, undo, unless, otherwise }: Change): Promise<void> {
    const tool = line.split(" ")[0]!;
    if (otherwise && this.poor.has(tool)) return this.runEach(otherwise);
    console.log(`# ${line}`);
    if (undo !== undefined) this.keeper!.keep(undo);
    if (unless !== undefined && (await this.execute(unless)).code === 0) return;
    try {
      check(line, await this.execute(line, input));
      this.keeper!.forget(line); // it was an undoing, and is done now
    } catch (error) {
      if (undo !== undefined) this.keeper!.forget(undo);
      if (otherwise === undefined) throw error;
      console.log(`# ${(error as Error).message}; so, instead:`);
      await this.runEach(otherwise);
      this.poor.add(tool);
    }
  }

  private async runEach(changes: Change[]): Promise<void> {
    for (const change of changes) await this.runOne(change);
  }

  /** Many lines for `ip`, in one process. It stops at the first one that fails. */
  private async runAll(group: Change[]): Promise<void> {
    const lines = group.map((change) => change.run);
    for (const line of lines.length > SHOWN ? lines.slice(0, 3) : lines) console.log(`# ${line}`);
    if (lines.length > SHOWN) console.log(`# … and ${lines.length - 3} more of this kind`);
    for (const { undo } of group) if (undo !== undefined) this.keeper!.keep(undo);
    const ip = ipOf(lines[0]!)!;
    const result = await this.execute(
      `${ip} -batch -`,
      lines.map((line) => `${line.slice(ip.length + 1)}\n`).join(""),
    );
    // some were an undoing, and are done now
    if (result.code === 0) return lines.forEach((line) => this.keeper!.forget(line));
    const at = /Command failed -:(\d+)/.exec(result.stderr)?.[1];
    if (at === undefined) await this.undoAny(group);
    const failed = Number(at ?? 1) - 1;
    for (const change of group.slice(0, failed)) note(change, this.done); // a later try begins behind them
    for (const { undo } of group.slice(failed)) if (undo !== undefined) this.keeper!.forget(undo);
    const name = at === undefined ? `${ip} -batch -` : lines[failed]!;
    check(name, { ...result, stderr: result.stderr.replace(/Command failed.*/, "") });
  }

  /**
   * `ip` did not say how far it came: it was killed, or did not understand a word. What it has not done
   * cannot be undone, and that is no error.
   */
  private async undoAny(group: Change[]): Promise<void> {
    for (const { undo } of [...group].reverse()) if (undo !== undefined) await this.execute(undo);
  }

  /** Undoes at once what was done of these, the newest first. */
  private async takeBack(changes: Change[]): Promise<void> {
    for (const { undo, run, sets = run } of changes.reverse()) {
      if (this.done.get(sets) !== run) continue;
      this.done.delete(sets);
      if (undo !== undefined && this.keeper!.forget(undo)) check(undo, await this.execute(undo));
    }
  }

  /**
   * The command holds the keeper's pipe. So the undoing of a command does not begin before the command has
   * ended, even if we are killed meanwhile.
   */
  private execute(line: string, input = ""): Promise<Result> {
    return run(line, input, this.keeper!.pipe);
  }

  /** The machine now, as far as it can be read: once root is gone, no command can be run. */
  async readAgain(tun: string, before: Machine): Promise<Machine> {
    return this.dropped ? addressesAgain(tun, before) : readAgain(tun, before);
  }

  /**
   * From here on open fds are enough: root was for making the TUN and for the commands. Undoing these needs
   * root again, and is done by the keeper, which stays root. Throws a Failure if root could be had back.
   */
  dropRoot(user: Account | undefined): void {
    if (user === undefined || this.dropped) return;
    this.keeper?.enough();
    const warning = become(user, this.keeper?.pid);
    this.dropped = true;
    if (warning) trace.note(chalk.yellow(warning));
  }
}

/** What a change leaves as it is done; false if it was so before. */
function note({ run, sets = run, removes }: Change, done: Map<string, string>): boolean {
  if (done.get(sets) === run) return false;
  done.set(sets, run);
  if (removes !== undefined) done.delete(removes);
  return true;
}

/** Is it that part, or a part of it? "a limit (IPv6)" is one of "IPv6", and left out with it. */
const belongs = (part: string | undefined, whole: string) => part === whole || part?.endsWith(` (${whole})`);

/** "ip" or "ip -6", if the line is one of those. A batch of lines is of one kind. */
const ipOf = (line: string) => /^ip( -6)?(?= )/.exec(line)?.[0];

/** The first of the changes; with those that follow it, if all can go to one `ip -batch`. */
function firstGroup(changes: Change[]): Change[] {
  const [first] = changes;
  if (!first || ipOf(first.run) === undefined) return changes.slice(0, 1);
  const end = changes
    .slice(0, BATCH)
    .findIndex(
      ({ run, unless, otherwise, part }) =>
        ipOf(run) !== ipOf(first.run) || unless || otherwise || part !== first.part,
    );
  return changes.slice(0, end < 0 ? BATCH : Math.max(end, 1));
}

/**
 * What the user has to type, and what undoes it at the end. A server's rules and settings are the user's own:
 * their undoing is told only with `leaving`, when we have given up root.
 */
function toType(changes: Change[], leaving: boolean): string {
  const what = LAB_HOST
    ? `${nextTerminal(`make configure-${LAB_HOST}`)}, which runs on the ${LAB_HOST}:`
    : "Type in the next terminal, as root:";
  const typed = ({ run, input }: Change) =>
    input ? `printf '${input.replaceAll("\n", "\\n")}' | ${run}` : run.replace(/^nft (.*[{;].*)/, "nft '$1'");
  const undone = changes
    .filter(({ run, undo }) => undo !== undefined && (leaving || !/^(ip6?tables|nft|sysctl) /.test(run)))
    .map(({ undo }) => `  ${undo!.replaceAll(" ;", " \\;")}`)
    .reverse();
  return [
    "",
    what,
    ...changes.map((change) => `  ${typed(change)}`),
    ...(undone.length > 0 ? ["and, when this program has ended:", ...undone] : []),
  ].join("\n");
}

/** What to type in the lab's next terminal. `make server TRANSPORT=udp` is for all of them. */
export const nextTerminal = (command: string) =>
  `${chalk.bold.inverse(" next terminal ")} ${chalk.bold(command + OVER)}`;
const { TRANSPORT = "" } = process.env;
const OVER = /^(udp|quic|raw)$/.test(TRANSPORT) ? ` TRANSPORT=${TRANSPORT}` : "";

const PACKAGES: Record<string, string> = {
  ip: "iproute2",
  sysctl: "procps",
  mount: "mount",
  umount: "mount",
};

/** Errors: a Failure with the command's own words, if it failed. */
function check(line: string, { code, stderr }: Result): void {
  if (code === 0) return;
  const [program] = line.split(" ");
  if (code === "ENOENT")
    throw new Failure(
      `Cannot run '${line}': there is no ${program}`,
      `apt-get install ${PACKAGES[program!] ?? "iptables"}`,
    );
  const said = stderr.trim().replace(/\s*\n\s*/g, "; ");
  const setting = /^sysctl -w (\S+=\S+)/.exec(line)?.[1]?.replaceAll("/", ".");
  const inContainer = existsSync("/.dockerenv") || existsSync("/run/.containerenv");
  const orWithout = line.includes("resolv.conf") ? ", or leave --dns out" : "";
  const outside = `set ${setting} on the machine that this one runs on; for a container, --sysctl ${setting}`;
  const settingHint = inContainer ? `start the container with --sysctl ${setting}` : outside;
  const hint = setting === undefined ? `run it by hand to see what it needs${orWithout}` : settingHint;
  throw new Failure(`Cannot run '${line}': ${said.replace(/\.$/, "") || code}`, hint);
}
