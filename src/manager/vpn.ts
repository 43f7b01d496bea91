/**
 * The VPN in the manager: servers and clients that it starts as processes of their own, and those started
 * elsewhere that it watches. Each tells its state by --status. A process that we have started ends when we
 * end, whatever ends us: the keeper sees to that.
 */
import { type ChildProcess, spawn, type SpawnOptions } from "node:child_process";
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";
import { setTimeout as sleep } from "node:timers/promises";
import { stripVTControlCharacters } from "node:util";
import { waitpid } from "../base/libc.ts";
import type { Status } from "../base/status.ts";
import { Keeper } from "../host/keeper.ts";
import { familiesOf } from "../host/metrics.ts";
import { hideMemory } from "../host/privileges.ts";
import { atExit } from "../host/program.ts";
import { takeFromEnvironment } from "../host/secret.ts";
import { present, publish } from "./events.ts";
import { measure } from "./metrics.ts";
import { Refusal } from "./route.ts";
import { readStatus } from "./status-reader.ts";
import { argumentsOf, isVpnName } from "./vpn-fields.ts";

const MOST = 16; // programs
const START = 20_000; // ms until the answer is "is starting"
const END = 10_000; // ms that a program has to end, until it is killed
const LAST_WORDS = 4096; // characters of its messages that are kept
const WNOHANG = 1; // waitpid(2)

// For those that we start. Nobody else is told.
const secret = takeFromEnvironment();
if (secret !== undefined) hideMemory();

/** A program that we watch. */
class Vpn {
  readonly name: string;
  status: Status | undefined; // the latest
  problem: string | undefined; // why it tells nothing now
  protected readonly close: () => void; // it is not read any more
  private clients = new Map<string, string>(); // of a server: inner address → where it is

  constructor(name: string, path: string) {
    this.name = name;
    this.close = readStatus(path, {
      status: (status) => this.take(status),
      step: (event) => publish("step", { ...event, name }),
      lost: (lines) => publish("client", { name, text: `${name}: ${lines} lines of its status were lost` }),
      silent: (why) => this.quiet(why),
    });
  }

  /** As GET /api/vpn tells it. */
  get shown(): object {
    const { name, status, problem } = this;
    return { name, started: false, running: problem === undefined, problem, status };
  }

  /** As GET /api/events tells it; none if there never was a status. */
  get event(): object[] {
    if (!this.status) return [];
    const gone = this.problem !== undefined && { state: "ended", peers: [], peerCount: 0 };
    return [{ ...this.status, ...gone, name: this.name }]; // whatever it calls itself
  }

  forget(): void {
    this.close();
    this.quiet("it is not watched any more");
    if (all.get(this.name) !== this) return; // another one has its name by now
    all.delete(this.name);
    publish("vpn", { name: this.name, state: "deleted" });
  }

  private take(status: Status): void {
    familiesOf([{ labels: {}, status }]); // throws if something is missing that its metrics need
    this.status = status;
    this.problem = undefined;
    this.tell(status.role === "server" ? status.peers : []);
  }

  protected quiet(why: string): void {
    const isNews = this.problem === undefined;
    this.problem = why;
    if (isNews) this.tell([]);
  }

  /** Tells its state; and of a server, who has come, and who has gone. */
  private tell(peers: Status["peers"]): void {
    const { name, clients } = this;
    this.clients = new Map(peers.map(({ inner, remote }) => [inner, remote]));
    const differ = (one: typeof clients, other: typeof clients, connected: boolean) => {
      for (const [inner, remote] of one) {
        const text = `client ${inner} ${connected ? "connected from" : "left:"} ${remote}`;
        if (!other.has(inner)) publish("client", { name, inner, remote, connected, text });
      }
    };
    differ(this.clients, clients, true);
    differ(clients, this.clients, false);
    for (const event of this.event) publish("vpn", event);
  }
}

/** One that we have started. */
class Started extends Vpn {
  readonly child: ChildProcess;
  readonly ended: Promise<void>;
  isOver = false;
  readonly undo: string; // what ends it

  constructor(name: string, path: string, main: string, args: string[]) {
    super(name, path);
    const env = { ...process.env, ...(secret !== undefined && { SIMPLE_VPN_SECRET: secret }) };
    const words = [...process.execArgv, main, `--status=${path}`, ...args];
    // A session of its own (setsid(2)): Ctrl-C is for us, and we end it.
    const options: SpawnOptions = { stdio: ["ignore", "ignore", "pipe"], env, detached: true };
    const child = spawn("setpriv", withParent(process.pid, words), options);
    this.child = child;
    this.undo = `kill -s KILL ${child.pid}`; // a stopped one has to end, too; its own keeper undoes
    let said = "";
    child.stderr?.setEncoding("utf8").on("data", (text: string) => (said = (said + text).slice(-LAST_WORDS)));
    this.ended = new Promise((resolve) => {
      const over = (why: string) => {
        if (this.isOver) return;
        this.isOver = true;
        keeper!.forget(this.undo);
        this.close();
        this.quiet(/^error (.*)$/m.exec(stripVTControlCharacters(said))?.[1] ?? why);
        resolve();
      };
      child.once("error", ({ message }) => over(message)); // it could not be started
      child.once("close", (code, signal) => over(`it has ended: ${signal ?? `exit code ${code}`}`));
    });
  }

  override get shown(): object {
    return { ...super.shown, started: true, running: !this.isOver, pid: this.child.pid };
  }

  /** Ends it, and waits. */
  async end(): Promise<void> {
    this.child.kill();
    const late = setTimeout(() => this.child.kill("SIGKILL"), END);
    await this.ended;
    clearTimeout(late);
  }

  /** Waits for its end at our own end, when no event comes any more. */
  awaitEnd(): void {
    const late = Date.now() + END;
    while (!this.isOver && waitpid(this.child.pid, [0], WNOHANG) === 0) {
      if (Date.now() > late) this.child.kill("SIGKILL");
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 20); // ms
    }
    keeper!.forget(this.undo);
  }
}

/**
 * The arguments of setpriv(1) that run Node.js with `words` while the process `parent` lives. When `parent`
 * ends, the kernel kills it (prctl(2), PR_SET_PDEATHSIG). If `parent` ended before that was set, the program
 * has another parent by now, and ends itself. With --user the kernel forgets this: then the keeper kills it.
 */
export function withParent(parent: number, words: string[]): string[] {
  const orphan = `data:text/javascript,if(process.ppid!==${parent})process.exit(1)`;
  return ["--pdeathsig", "KILL", process.execPath, "--import", orphan, ...words];
}

const all = new Map<string, Vpn>(); // by name
const watched = new Map<string, Vpn>(); // by path
let keeper: Keeper | undefined;
let folder: string | undefined; // of the sockets

present(async () => [...all.values()].flatMap(({ event }) => event).map((one) => ["vpn", one]));
measure(() => {
  const told = [...all.values()].filter(({ status, problem }) => status && problem === undefined);
  return familiesOf(
    told.map(({ name, status }) => ({ labels: { name, role: status!.role }, status: status! })),
  );
});

/** What the first start needs: a folder for the sockets, and what ends the programs when we end. */
async function prepare(): Promise<string> {
  if (folder !== undefined) return folder;
  const started = await Keeper.start();
  if (folder !== undefined) return (started.finish(), folder); // another request was quicker
  keeper = started;
  folder = mkdtempSync(join(/\s/.test(tmpdir()) ? "/tmp" : tmpdir(), `simple-vpn-${process.pid}-`));
  keeper.keep(`rm -rf -- ${folder}`);
  atExit(() => started.finish());
  atExit(() => {
    const running = [...all.values()].filter((one) => one instanceof Started);
    for (const one of running) one.child.kill();
    for (const one of running) one.awaitEnd();
  });
  return folder;
}

// ---- what the API does. Errors: a Refusal ----

/** Starts a program, and waits until it listens or is connected. If it ends, its own words are the error. */
export const start =
  (role: "server" | "client") =>
  async ({ name = role, ...options }: { name?: string }): Promise<string> => {
    const place = await prepare();
    const before = all.get(name);
    if (before && !(before instanceof Started && before.isOver))
      throw new Refusal(409, `name: there is a VPN ${name} already`);
    if (all.size >= MOST && !before) throw new Refusal(409, `name: there are ${MOST} already`);
    const main = new URL(`../${role}${import.meta.url.slice(-3)}`, import.meta.url); // .ts, or compiled .js
    const one = new Started(name, join(place, name), fileURLToPath(main), argumentsOf(options));
    all.set(name, one);
    if (!one.isOver) keeper!.keep(one.undo);
    const isUp = () => one.status !== undefined && one.status.state !== "connecting";
    for (const late = Date.now() + START; !isUp() && !one.isOver && Date.now() < late;)
      await Promise.race([one.ended, sleep(50)]);
    if (!one.isOver) return `VPN ${name} ${isUp() ? "started" : "is starting"}`;
    const { problem } = one;
    one.forget();
    throw new Refusal(400, problem!);
  };

/** Ends a program that we have started, and forgets it. */
export async function end({ name }: { name?: string }): Promise<string> {
  const one = find(name);
  if (!(one instanceof Started))
    throw new Refusal(409, `name: ${name} was started elsewhere, and has to be ended there`);
  await one.end();
  one.forget();
  return `VPN ${name} ended`;
}

export const list = () => ({ vpns: [...all.values()].map(({ shown }) => shown) });
export const show = ({ name }: { name?: string }) => find(name).shown;

function find(name = ""): Vpn {
  const one = all.get(name);
  if (!one) throw new Refusal(404, `name: there is no VPN ${name}`);
  return one;
}

/** From now on these status sockets are watched, and no others. Each is called what its file is called. */
export function watch(paths: string[]): void {
  for (const [path, one] of watched) {
    if (paths.includes(path)) continue;
    watched.delete(path);
    one.forget();
  }
  for (const path of paths.filter((path) => !watched.has(path))) {
    const isFree = (name: string) => isVpnName(name) && !all.has(name);
    let name = basename(path).replace(/\.\w+$/, "");
    for (let i = 1; !isFree(name); i++) name = `watched-${i}`;
    const one = new Vpn(name, path);
    watched.set(path, one);
    all.set(name, one);
  }
}
