/**
 * The shape of a check, and what checks are made of: the student's file, run on hosts of a lab, and Miss,
 * which says what a failed check saw. The file is a program of its own. What becomes of it, a crash or an
 * endless loop, must not become ours.
 */
import { readFileSync, readlinkSync } from "node:fs";
import { relative } from "node:path";
import { stripVTControlCharacters } from "node:util";
import { type Lab, LAB_SECRET, ROOT } from "../lab/lab.ts";
import { Running } from "../lab/running.ts";

/** A lesson: its head, and its checks in the order in which a student gets there. */
export interface Lesson {
  file: string; // "1-tun", in starters/ and solutions/
  title: string;
  about: string[]; // at most three lines
  write: string[]; // a line for each TODO
  read: string[]; // a man page, a chapter of walkthrough.md, a file
  crashes?: [said: RegExp, hint: string][]; // what a program's last words mean
  checks: Check[];
}

export interface Check {
  name: string; // a sentence that is true once it passes
  /** What was seen, shown behind the name. Throws a Miss. */
  run(stage: Stage): Promise<string>;
}

/** A check that failed: what was seen, and what may help. */
export class Miss extends Error {
  readonly hint: string;

  constructor(saw: string, hint: string) {
    super(saw);
    this.hint = hint;
  }
}

/** What a run of the checks shares: a lab, and the student's programs in it. */
export class Stage {
  readonly lab: Lab;
  readonly file: string; // the student's, an absolute path
  readonly programs: Program[] = []; // those that were started, and not ended by the check
  private readonly endings: (() => unknown)[] = [];
  private readonly crashes: [said: RegExp, hint: string][];

  constructor(lab: Lab, file: string, { crashes = [] }: Lesson) {
    this.lab = lab;
    this.file = file;
    this.crashes = crashes;
  }

  /** `ending` is done when all checks are over. */
  atEnd(ending: () => unknown): void {
    this.endings.push(ending);
  }

  /** Ends all. */
  async over(): Promise<void> {
    await this.end();
    for (const ending of this.endings) await ending();
  }

  /** Starts the student's file on a host. */
  start(host: string, ...args: string[]): Program {
    const words = this.file.endsWith(".js") ? ["--enable-source-maps"] : ["--import", "tsx"];
    const command = [process.execPath, ...words, this.file, ...args];
    const env = { ...process.env, SIMPLE_VPN_SECRET: LAB_SECRET }; // lessons 6 and 7 take it
    const program = new Program(new Running(this.lab.spawn(host, command, { env })), host, this.file);
    this.programs.push(program);
    return program;
  }

  /** Runs a command on a host, at most `ms`; what it printed, whatever comes of it. */
  async run(host: string, command: string | string[], ms = 4_000): Promise<string> {
    const running = new Running(
      this.lab.spawn(host, typeof command === "string" ? command.split(" ") : command),
    );
    const deadline = setTimeout(() => running.child.kill("SIGKILL"), ms);
    await running.ended;
    clearTimeout(deadline);
    return running.output;
  }

  /** Waits until tun0 is there on the host of `program`. */
  async tun(program: Program, hint: string): Promise<void> {
    await this.until(
      () => /^ *tun0:/m.test(program.net("dev")),
      () => new Miss(`there is no tun0 on ${program.host}`, hint),
      STARTING,
    );
  }

  /** Gives tun0 its address, and waits until the program has seen that. */
  async configure(host: string, cidr: string): Promise<void> {
    await this.run(host, ["sh", "-c", `ip addr add ${cidr} dev tun0; ip link set tun0 mtu 1400 up`]);
  }

  /** Ends one program, or all of them. */
  async end(...ending: Program[]): Promise<void> {
    for (const program of ending.length ? ending : [...this.programs]) {
      this.programs.splice(this.programs.indexOf(program), 1);
      await program.running.stop("SIGKILL");
    }
  }

  /**
   * Waits until `condition` gives something (not undefined, false or ""), and returns it. After `ms`, or when
   * a program of the student's has ended: throws what `miss` makes, or says how the program ended.
   */
  async until<T>(condition: () => T | undefined | false | "", miss: () => Miss, ms = 2_000): Promise<T> {
    for (const program of this.programs) program.looks = [];
    for (const deadline = Date.now() + ms; ; await new Promise((resolve) => setTimeout(resolve, TURN))) {
      for (const program of this.programs) program.look();
      const over = Date.now() > deadline || this.programs.some((program) => program.running.over);
      const found = condition();
      if (found !== undefined && found !== false && found !== "") return found;
      if (over) throw this.why(miss());
    }
  }

  /** Looks at a program for half a second: does it sleep, or spin? */
  async rest(program: Program): Promise<void> {
    program.looks = [];
    while (program.looks.length < LOOKS && !program.running.over) {
      program.look();
      await new Promise((resolve) => setTimeout(resolve, TURN));
    }
  }

  /** What a program's crash or endless loop explains better than `miss` does; else `miss`. */
  why(miss: Miss): Miss {
    for (const program of this.programs) {
      const better = program.trouble();
      const [, hint] = (better && this.crashes.find(([said]) => said.test(program.said))) || [];
      if (better) return hint ? new Miss(better.message, hint) : better;
    }
    const said = this.programs.map(({ said }) => said.trim()).find((text) => text !== "");
    const ended = this.programs.find(({ running }) => running.over);
    const notes = [
      ended && "your program has ended",
      said && !miss.message.includes("printed") && `it printed: ${said.split("\n").at(-1)}`,
    ];
    return new Miss([miss.message, ...notes.filter(Boolean)].join("; "), miss.hint);
  }
}

const STARTING = 10_000; // ms: what a program may take on a busy machine
const TURN = 20; // ms between two looks
const LOOKS = 25; // the last half second

/** The student's file as it runs on one host. */
export class Program {
  readonly running: Running;
  readonly host: string;
  private readonly file: string;
  looks: boolean[] = []; // was it busy? the latest of them

  constructor(running: Running, host: string, file: string) {
    this.running = running;
    this.host = host;
    this.file = file;
  }

  /** What it has printed so far, without colours. */
  get said(): string {
    return stripVTControlCharacters(this.running.output);
  }

  /** proc(5)'s /proc/PID/net/`file` of its host; "" if it is not there yet, or has ended. */
  net(file: string): string {
    const { pid } = this.running.child;
    try {
      if (readlinkSync(`/proc/${pid}/ns/net`) === readlinkSync("/proc/self/ns/net")) return "";
      return readFileSync(`/proc/${pid}/net/${file}`, "utf8");
    } catch {
      return "";
    }
  }

  /** Notes whether it runs now, or sleeps: the state in proc(5)'s /proc/PID/stat. */
  look(): void {
    try {
      const [, state] = /\) (\w)/.exec(readFileSync(`/proc/${this.running.child.pid}/stat`, "utf8"))!;
      this.looks = [...this.looks, state !== "S"].slice(-LOOKS);
    } catch {
      // it has ended
    }
  }

  /** Has it been busy all the time lately? A program that waits for packets sleeps. */
  get spins(): boolean {
    return this.looks.length === LOOKS && this.looks.filter(Boolean).length > 0.8 * LOOKS;
  }

  /** How it crashed, or that it never comes to rest; undefined if neither. */
  trouble(): Miss | undefined {
    const { exitCode, signalCode } = this.running.child;
    const where = `on ${this.host}`;
    if (signalCode === "SIGSEGV" || signalCode === "SIGABRT" || signalCode === "SIGBUS")
      return new Miss(
        `your program was ended by ${signalCode} ${where}`,
        "a C call got something wrong: an fd that is watched twice, or was closed meanwhile, or no Buffer",
      );
    if (exitCode) return this.exception(exitCode, where);
    if (this.running.over || !this.spins) return undefined;
    return new Miss(
      `your program is busy all the time ${where}, and never waits`,
      "look for a loop that does not end: what does it do when read() gives -EAGAIN, or 0?",
    );
  }

  /** The first line of use that Node, tsx or the student's own code has printed. */
  private exception(exitCode: number, where: string): Miss {
    const lines = this.said.split("\n").map((line) => line.trim());
    const name = relative(ROOT, this.file);
    const place = lines
      .map((line) => /([\w.-]+\.[jt]s:\d+)/.exec(line))
      .find((found) => found && name.endsWith(found[1]!.split(":")[0]!));
    const syntax = lines.map((line) => /ERROR: (.*)/.exec(line)?.[1]).find(Boolean); // of tsx
    const thrown = syntax ?? lines.find((line) => /^\w*Error( \[\w+\])?: /.test(line));
    const error = thrown ?? lines.filter(Boolean).at(place ? 0 : -1);
    const at = place ? ` at ${place[1]}` : "";
    return new Miss(
      `your program ended with exit code ${exitCode} ${where}${at}: ${error ?? "it printed nothing"}`,
      syntax
        ? "it is no TypeScript yet: mend that line"
        : /^(Type|Reference)Error/.test(thrown ?? "")
          ? "read that line of your file; node_modules/.bin/tsc -p lessons finds more of the kind"
          : (thrown ?? place)
            ? "read that line of your file. After an errno as in EINVAL: the call's man page, section ERRORS"
            : "no error stopped it: it called process.exit() itself",
    );
  }
}
