/**
 * `make soak`: one server and many clients with traffic, and for minutes one thing after another goes wrong.
 * Then all must be where it was before: fds, memory, leases, rules, routes, settings, processes, files. Which
 * faults, whose and how long follows from the seed.
 */
import { mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync } from "node:fs";
import { cpus, tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import chalk from "chalk";
import { Failure } from "../../base/failure.ts";
import { option, parse } from "../../host/options.ts";
import { atExit, exit, program } from "../../host/program.ts";
import { random, SEED, until } from "../tests/peers.ts";
import { type Client, CLIENT_FAULTS, SERVER_FAULTS, Stage } from "./faults.ts";
import { spread } from "../bench/figures.ts";
import { Lab, ROOT } from "../lab.ts";
import { type Running, startProgram } from "../running.ts";
import { SECRET, snapshot } from "../tests/testing.ts";

const QUIET = 1000; // ms before memory is looked at
const SILENCE = 20_000; // ms: the server gives a client up after 15 s
const AT_ONCE = 8; // clients that have a fault
const BUSY = 4; // transfers under way when the server goes
const OUTAGE = 18; // s, at most: longer than the 15 s after which a dead peer is noticed
// MB, resident, that the server may have more at the end: compiled code, and holes in the heap
const MORE_MEMORY = 24;
// MB more for each client that is connected: its buffers, once they were full (Outbox, TcpLink)
const CLIENT_MEMORY = 0.9;
/**
 * Node runs this before a program: SIGUSR2 collects garbage, so that what is measured afterwards is in use.
 */
export const COLLECTOR = `
  import v8 from "node:v8";
  import vm from "node:vm";
  v8.setFlagsFromString("--expose-gc");
  const gc = vm.runInNewContext("gc");
  process.on("SIGUSR2", () => gc());`;

/** What must be at the end as it was before. */
export interface Row {
  what: string;
  before: number;
  after: number;
  slack: number; // so much more is well, too
  detail?: string[];
}
export const isWell = ({ before, after, slack }: Row) =>
  slack > 0 ? after <= before + slack : after === before;

/**
 * The server's open fds and memory (MB) as /proc tells them, without garbage, and its leases as its own words
 * do.
 */
async function serverFigures(server: Running): Promise<Record<"fds" | "memory" | "leases", number>> {
  server.child.kill("SIGUSR2");
  await sleep(QUIET);
  const proc = `/proc/${server.child.pid}`;
  const kilobytes = /VmRSS:\s+(\d+) kB/.exec(readFileSync(`${proc}/status`, "utf8"))![1];
  return {
    fds: readdirSync(`${proc}/fd`).length,
    memory: Math.round(Number(kilobytes) * 1.024e-3),
    leases: leases(server),
  };
}
const leases = ({ output }: Running) => Number([...output.matchAll(/\((\d+) connected\)/g)].at(-1)?.[1] ?? 0);

/**
 * The lab without the programs: what each host has, as text; processes; the files in `folder`, where they
 * would leave theirs, and of the project.
 */
function labState(lab: Lab, hosts: string[], folder: string) {
  const mount = readlinkSync(`/proc/${lab.holder}/ns/mnt`);
  const isHere = (pid: string) => {
    try {
      return Number(pid) !== lab.holder && readlinkSync(`/proc/${pid}/ns/mnt`) === mount;
    } catch {
      return false; // it has ended, or is not ours
    }
  };
  return {
    hosts: hosts.map((host) => snapshot(lab, host).replace(/^/gm, `${host}: `)),
    processes: readdirSync("/proc")
      .filter((name) => /^\d+$/.test(name) && isHere(name))
      .map((pid) => lab.try("lab", `ps -o pid=,args= ${pid}`).stdout.trim()),
    // tsx keeps what it has compiled
    files: [...readdirSync(folder).filter((name) => !name.startsWith("tsx-")), ...readdirSync(ROOT)],
  };
}
type LabState = ReturnType<typeof labState>;

function compare(before: LabState, after: LabState): Row[] {
  const count = (what: string, pattern: RegExp) => {
    const [a, b] = [before, after].map(({ hosts }) => [...hosts.join("").matchAll(pattern)].length);
    return { what, before: a!, after: b!, slack: 0 };
  };
  const list = (what: string, a: string[], b: string[]) => ({
    what,
    before: a.length,
    after: b.length,
    slack: 0,
    detail: [...less(a, b).map((one) => `- ${one}`), ...less(b, a).map((one) => `+ ${one}`)],
  });
  const differing = list("", before.hosts.join("").split("\n"), after.hosts.join("").split("\n")).detail;
  return [
    count("interfaces of all hosts", /: \d+: /g),
    count("addresses", /: {5}inet6? /g),
    count("routes", /: \S.* dev /g),
    count("rules of iptables and ip6tables", /: -A /g),
    {
      what: "lines of these, and settings, that differ",
      before: 0,
      after: differing.length,
      slack: 0,
      detail: differing,
    },
    list("processes", before.processes, after.processes),
    list("files", before.files, after.files),
  ];
}
const less = (a: string[], b: string[]) => a.filter((one) => !b.includes(one));

export interface Plan {
  clients: number;
  serverFaults: (stage: Stage) => Promise<void>;
  clientFaults: (stage: Stage) => Promise<void>; // one server lives through all of them
}

/** The whole of it. Errors: who has not recovered, or which bytes have not arrived. */
export async function soak(
  lab: Lab,
  { clients, serverFaults, clientFaults }: Plan,
  say: (line: string) => void = () => {},
): Promise<{ stage: Stage; rows: Row[] }> {
  const folder = mkdtempSync(join(tmpdir(), "simple-vpn-soak-"));
  atExit(() => rmSync(folder, { recursive: true, force: true }));
  Object.assign(SECRET.env, {
    TMPDIR: folder,
    NODE_OPTIONS: `--import data:text/javascript,${encodeURIComponent(COLLECTOR)}`,
  });
  try {
    const stage = new Stage(lab, clients, say);
    const hosts = ["server", "internet", ...stage.clients.map(({ host }) => host)];
    const outside = labState(lab, hosts, folder);

    // now tsx has compiled it: that is not to be measured
    await startProgram(lab, "server", "server", ["--help"], SECRET).ended;
    await stage.startServer();
    const fresh = await serverFigures(stage.server);
    await stage.joinAll();
    await serverFaults(stage);
    const before = await serverFigures(stage.server);
    await clientFaults(stage);
    // over UDP, only their silence tells the server that clients were killed; if it does not, `rows` says so
    await until(() => leases(stage.server) === clients, SILENCE).catch(() => {});
    const after = await serverFigures(stage.server);

    await stage.leaveAll();
    await stage.server.until(/\(0 connected\)(?![^]*connected\))/);
    const empty = await serverFigures(stage.server);
    await stage.server.stop();
    let rows = compare(outside, labState(lab, hosts, folder));
    for (const deadline = Date.now() + 20_000; !rows.every(isWell) && Date.now() < deadline; await sleep(500))
      rows = compare(outside, labState(lab, hosts, folder)); // keepers of the killed
    const all = `${clients} connected`;
    const figure = (what: "fds" | "memory" | "leases", name: string, slack = 0): Row[] => [
      {
        what: `${name}, ${all}`,
        before: before[what],
        after: after[what],
        slack: slack && slack + Math.ceil(clients * CLIENT_MEMORY),
      },
      { what: `${name}, none connected`, before: fresh[what], after: empty[what], slack },
    ];
    rows.unshift(
      ...figure("fds", "server's open fds"),
      ...figure("memory", "server's memory, MB", MORE_MEMORY),
      ...figure("leases", "leases"),
    );
    return { stage, rows };
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** Faults by turns on the server, then on clients, by the seed, each for a share of `seconds`. */
function byChance(seed: number, seconds: number): Pick<Plan, "serverFaults" | "clientFaults"> {
  const lasting = (share: number) => {
    const end = Date.now() + seconds * share * 1000;
    return () => Date.now() < end;
  };
  return {
    serverFaults: async (stage) => {
      const below = random(seed);
      const time = lasting(1 / 3);
      for (let i = 0; i === 0 || time(); i++) {
        const first = below(stage.clients.length);
        await stage.serverFault(
          SERVER_FAULTS[i % SERVER_FAULTS.length]!,
          stage.clients.slice(first, first + BUSY),
          below(5),
        );
      }
    },
    clientFaults: async (stage) => {
      const time = lasting(2 / 3);
      const some = async (clients: Client[], below: (n: number) => number) => {
        while (clients.length > 0 && time())
          await stage.clientFault(
            clients[below(clients.length)]!,
            CLIENT_FAULTS[below(CLIENT_FAULTS.length)]!,
            below(OUTAGE),
            below(2) === 0,
          );
      };
      await Promise.all(
        Array.from({ length: AT_ONCE }, (_, i) =>
          some(
            stage.clients.filter((_, j) => j % AT_ONCE === i),
            random(seed + i + 1),
          ),
        ),
      );
    },
  };
}

/**
 * The packets that a program counted as dropped: in its last words, or, if it was killed, second by second.
 */
function dropped({ output }: Running): number {
  const words = /in all: .*/.exec(output)?.[0] ?? output;
  return [...words.matchAll(/dropped (\d+)/g)].reduce((sum, [, count]) => sum + Number(count), 0);
}

function print({ stage, rows }: { stage: Stage; rows: Row[] }): void {
  const line = (label: string, cells: (string | number)[]) =>
    label.padEnd(46) + cells.map((cell) => `${cell}`.padStart(10)).join("");
  console.log(`\n${chalk.bold(line("back after", ["times", "median s", "worst s"]))}`);
  const recoveries = Object.entries(stage.recoveries);
  for (const [name, seconds] of [
    ...recoveries,
    ["all of these", recoveries.flatMap(([, seconds]) => seconds)] as const,
  ]) {
    const { median, max } = spread(seconds)!;
    console.log(line(name, [seconds.length, median.toFixed(1), max.toFixed(1)]));
  }
  const { servers, clients, programs } = stage;
  const serverEnds = servers.length - 1;
  const clientEnds = programs.length - servers.length - clients.length;
  console.log(`\nthe server ended ${serverEnds} times under ${clients.length} clients`);
  console.log(`clients ended ${clientEnds} times`);
  console.log(`${stage.transfers} transfers of 8 MB, all with the right hash`);
  const drops = programs.map(dropped).reduce((a, b) => a + b);
  console.log(`${drops} packets dropped, and counted, by the programs`);
  console.log(`\n${chalk.bold(line("", ["before", "after"]))}`);
  for (const row of rows) {
    console.log(
      line(row.what, [row.before, row.after]) +
        (isWell(row) ? "" : `  ${chalk.red.bold("not as it was")}`) +
        (row.slack ? chalk.dim(`  at most ${row.slack} more`) : ""),
    );
    if (!isWell(row)) for (const one of row.detail ?? []) console.log(`  ${one}`);
  }
}

function options() {
  const whole = (text: string) => {
    if (!/^[1-9]\d{0,5}$/.test(text)) throw new Error("is no whole number from 1 to 999999");
    return Number(text);
  };
  const table = {
    clients: option("N", "64", "on a host each, 8 to 200", whole),
    seconds: option("N", "240", "of faults", whole),
    seed: option("N", `${SEED || 1}`, "which faults, whose and how long", whole),
    help: option("", undefined, "print this", () => true),
  };
  const { values, positionals } = parse(process.argv.slice(2), table, "src/lab/soak/soak.ts");
  if (positionals.length > 0)
    throw new Failure(`Cannot start: unexpected argument ${positionals[0]}`, "--help", 2);
  const [clients, seconds, seed] = [values.clients!.at(-1)!, values.seconds!.at(-1)!, values.seed!.at(-1)!];
  if (clients < AT_ONCE || clients > 200)
    throw new Failure(`Cannot start: --clients ${clients} is not from ${AT_ONCE} to 200`, "--help", 2);
  return { clients, seconds, seed };
}

if (/\bsoak\.[jt]s$/.test(process.argv[1] ?? ""))
  program(async () => {
    const { clients, seconds, seed } = options();
    const where = `${new Date().toISOString().slice(0, 10)}, ${cpus().length} cores`;
    console.log(`${where}, ${clients} clients, ${seconds} s of faults, --seed ${seed}`);
    const start = Date.now();
    const say = (line: string) =>
      console.log(`${chalk.dim(`${Math.round((Date.now() - start) / 1000)} s`.padStart(6))}  ${line}`);
    const result = await soak(await Lab.up(), { clients, ...byChance(seed, seconds) }, say);
    print(result);
    exit(result.rows.every(isWell) ? 0 : 1);
  });
