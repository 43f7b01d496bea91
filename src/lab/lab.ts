/**
 * The lab: hosts as network namespaces inside one private mount, network (and, without root, user) namespace,
 * held by one process. Nothing of this machine is touched, and when the holder dies, even by SIGKILL, the
 * kernel removes everything.
 */
import { createHash } from "node:crypto";
import { type ChildProcess, spawn, type SpawnOptions } from "node:child_process";
import { spawnSync, type SpawnSyncReturns } from "node:child_process";
import { accessSync, constants, readFileSync } from "node:fs";
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";
import chalk from "chalk";
import { ON_TERMINAL } from "../host/environment.ts";
import { Failure } from "../base/failure.ts";
import { CLONE_DEVICE } from "../core/tun.ts";

export const TOPOLOGY = `
  client                      server                      internet
  eth0 192.168.1.100/24 ───── eth0 192.168.1.1/24
                              eth1 203.0.113.1/24 ─────── eth0 203.0.113.8/24
  tun0 10.8.0.2  ╌╌ tunnel ╌╌ tun0 10.8.0.1               lo   8.8.8.8/32
`;
export const SERVER = "192.168.1.1"; // the server's outer address
export const TARGET = "8.8.8.8"; // a host of the lab: nothing is sent outside it
// the same two, once addIPv6() was called
export const [SERVER6, TARGET6] = ["2001:db8:1::1", "2001:4860:4860::8888"];

/** The secret of programs in a lab that take it from the environment, and another one. */
export const [LAB_SECRET, OTHER_SECRET] = ["the lab's", "another"].map((whose) =>
  createHash("sha256").update(whose).digest("hex"),
) as [string, string];

export const NETNS = "/run/netns"; // ip-netns(8); on a private tmpfs, so also without root
export const ROOT = fileURLToPath(new URL("../..", import.meta.url)); // of the project

// `make test` compiles all, because tsx costs each program half a second
const isCompiled = import.meta.url.endsWith(".js");

/** The words that start a program of ours, "client" or "lab/internet": compiled, if we are. */
export const ours = (name: string) =>
  isCompiled
    ? [process.execPath, `${ROOT}build/${name}.js`]
    : [process.execPath, "--import", "tsx", `${ROOT}src/${name}.ts`];

/** The same for spawn(): the program, and its arguments. */
export const spawned = (name: string, ...args: string[]): [program: string, args: string[]] => {
  const [node, ...words] = ours(name);
  return [node!, [...words, ...args]];
};

/**
 * What the holder of a lab runs, in the project's folder, "$0". A /run of its own is put together on /tmp,
 * then moved. It has the folders "$@" of the real one, and its symlinks (NixOS has its tools behind one). It
 * has no socket: nothing in the lab talks to this machine's services. /etc/resolv.conf is the lab's own, and
 * empty: names are not found, at once, and nobody changes the real one.
 */
const HOLDER = `set -e
trap '' HUP
umask 022
names=$(readlink -f /etc/resolv.conf) || true
mount -t tmpfs tmpfs /tmp
for link in /run/*; do
  [ ! -L "$link" ] || cp -P "$link" /tmp
done
for folder; do
  mkdir -p "/tmp\${folder#/run}"
  mount --rbind "$folder" "/tmp\${folder#/run}"
done
mount -n --move /tmp /run
case $names in
  /run/*) mkdir -p "\${names%/*}" && : > "$names" ;;
  /*) [ ! -e "$names" ] || { : > /run/resolv.conf; mount --bind /run/resolv.conf "$names"; } ;;
esac
cd "$0"
echo up`;

export type Say = (line: string) => void;
const COLOUR: Record<string, (text: string) => string> = {
  client: chalk.cyan,
  server: chalk.magenta,
  internet: chalk.yellow,
  router: chalk.green,
};

/** How a command on a host is shown: "client# ping 8.8.8.8", as a student would type it there. */
export const prompt = (host: string, command: string) =>
  `${(COLOUR[host] ?? chalk.dim)(`${host}#`)} ${command}`;

/** When a process was started, in clock ticks since boot: field 22 of /proc/PID/stat (proc(5)). */
function startTime(pid: number): string | undefined {
  try {
    return readFileSync(`/proc/${pid}/stat`, "utf8")
      .replace(/^.*\) /, "")
      .split(" ")[19];
  } catch {
    return undefined;
  }
}

/** The settings of /proc/sys that forbid namespaces, with the value that does, and one that allows them. */
const FORBIDDING = [
  ["user.max_user_namespaces", "0", "15000"], // RHEL and its kin
  ["user.max_net_namespaces", "0", "15000"],
  ["user.max_mnt_namespaces", "0", "15000"],
  ["kernel.unprivileged_userns_clone", "0", "1"], // Debian 10 and older
  ["kernel.apparmor_restrict_unprivileged_userns", "1", "0"], // Ubuntu
] as const;

/** What to try where no namespace can be had: the settings that are in the way here. */
function whatForbids(): string {
  const value = (name: string) => {
    try {
      return readFileSync(`/proc/sys/${name.replace(".", "/")}`, "utf8").trim();
    } catch {
      return undefined; // this kernel has no such setting
    }
  };
  const found = FORBIDDING.filter(([name, no]) => value(name) === no);
  const mend = found.map(([name, , yes]) => `sudo sysctl -w ${name}=${yes}`).join("; ");
  if (process.getuid?.() !== 0) return ["run as root", mend].filter(Boolean).join("; or: ");
  return mend || "outside of a container, or in one that was started with --privileged";
}

/** A command, and where it runs. */
export type OnHost = [host: string, command: string];

function failed([host, command]: OnHost, status: number | null, stderr: string): Failure {
  const why = stderr.trim() || `exit code ${status}`;
  return new Failure(`Cannot run '${command}' on ${host}: ${why}`, "run it by hand to see what it needs");
}

/** A host without a link. */
export const newHost = (host: string): OnHost[] => [
  ["lab", `ip netns add ${host}`],
  [host, "sysctl -eqw net.ipv6.conf.default.disable_ipv6=1"], // until addIPv6(); -e: if any
  [host, "ip link set lo up"],
];

/** A device of a host, with its address. */
export const up = (host: string, device: string, cidr: string): OnHost[] => [
  [host, `ip addr add ${cidr} dev ${device}`],
  [host, `ip link set ${device} up`],
];

/** The same with IPv6: no router to look for, no address in doubt. */
export const up6 = (host: string, device: string, cidr: string): OnHost[] => [
  ...["accept_ra=0", "accept_dad=0", "disable_ipv6=0"].map((setting): OnHost => [
    host,
    `sysctl -qw net.ipv6.conf.${device}.${setting}`,
  ]),
  [host, `ip addr add ${cidr} dev ${device}`],
];

export class Lab {
  private readonly say: Say;
  readonly holder: number; // pid
  private readonly process: ChildProcess | undefined;
  private readonly children = new Set<ChildProcess>(); // programs that spawn() started and that still run

  private constructor(holder: number, say: Say, process?: ChildProcess) {
    this.holder = holder;
    this.say = say;
    this.process = process;
  }

  /**
   * A new lab with its three hosts up. It ends with this process, or with down(); with `remember`, with
   * down() only: it is told of the lab before there is anything in it. Errors: a Failure that says what this
   * machine lacks.
   */
  static async up(say: Say = () => {}, remember?: (lab: Lab) => void): Promise<Lab> {
    const detached = remember !== undefined;
    try {
      accessSync(CLONE_DEVICE, constants.R_OK | constants.W_OK);
    } catch (error) {
      throw new Failure(
        `Cannot open ${CLONE_DEVICE}: ${(error as NodeJS.ErrnoException).code}`,
        "run as root; or, once: sudo modprobe tun, sudo chmod 666 /dev/net/tun",
      );
    }
    const asUser = process.getuid?.() === 0 ? [] : ["--user", "--map-root-user"];
    // Both read a pipe that ends with this process. A detached holder, once told so, waits for a signal.
    const wait = detached ? "read -r built && exec sleep infinity" : "exec cat";
    const folders = [ROOT, dirname(process.execPath)].filter((folder) => folder.startsWith("/run/"));
    const command = ["--mount", "--net", ...asUser, "sh", "-c", `${HOLDER}\n${wait}`, ROOT, ...folders];
    const holder = spawn("unshare", command, { detached });
    const said = await new Promise<string>((resolve) => {
      const errors: string[] = [];
      holder.stderr.on("data", (data) => errors.push(String(data)));
      holder.stdout.once("data", (data) => resolve(String(data)));
      holder.once("close", () => resolve(errors.join("")));
      holder.once("error", (error) => resolve(error.message));
    });
    if (said.trim() !== "up")
      throw new Failure(`Cannot make a private namespace: ${said.trim()}`, whatForbids());
    const streams = [holder.stdin, holder.stdout, holder.stderr] as unknown as { unref(): void }[];
    for (const stream of streams) stream.unref();
    holder.unref();
    const lab = new Lab(holder.pid!, say, holder);
    try {
      remember?.(lab);
      say(TOPOLOGY);
      lab.build();
      if (detached) holder.stdin.end("built\n");
    } catch (error) {
      await lab.down(); // nobody could use it
      throw error;
    }
    return lab;
  }

  /**
   * What attach() needs to find this lab again: the holder's pid and start time, for a pid may be given out
   * anew.
   */
  get name(): string {
    return `${this.holder} ${startTime(this.holder)}`;
  }

  /** The lab of that name; undefined if it is gone. */
  static attach(name: string, say: Say = () => {}): Lab | undefined {
    const holder = Number(name.split(" ")[0]);
    return name === `${holder} ${startTime(holder)}` ? new Lab(holder, say) : undefined;
  }

  private build(): void {
    this.runAll([
      ...["client", "server", "internet"].flatMap(newHost),
      ["lab", "ip link add eth0 netns client type veth peer name eth0 netns server"],
      ["lab", "ip link add eth1 netns server type veth peer name eth0 netns internet"],
      ...up("client", "eth0", "192.168.1.100/24"),
      ...up("server", "eth0", `${SERVER}/24`),
      ...up("server", "eth1", "203.0.113.1/24"),
      ...up("internet", "eth0", "203.0.113.8/24"),
      ["internet", `ip addr add ${TARGET}/32 dev lo`],
      ["client", `ip route add default via ${SERVER}`],
      ["server", "ip route add default via 203.0.113.8"],
    ]);
  }

  /** One more client host on a link of its own to the server; its name. `number` from 2 on. */
  addClient(number: number): string {
    const host = `client${number}`;
    this.runAll([
      ...newHost(host),
      ["lab", `ip link add eth0 netns ${host} type veth peer name lan${number} netns server`],
      ...up(host, "eth0", `192.168.${number}.100/24`),
      ...up("server", `lan${number}`, `192.168.${number}.1/24`),
      [host, `ip route add default via 192.168.${number}.1`],
    ]);
    return host;
  }

  /**
   * IPv6 on the three hosts, beside IPv4, before the programs start. Without it there is none: nothing on the
   * wires but our packets.
   */
  addIPv6(): void {
    const hosts = ["client", "server", "internet"];
    this.runAll([
      // of a tun0 to come
      ...hosts.map((host): OnHost => [host, "sysctl -qw net.ipv6.conf.default.disable_ipv6=0"]),
      ...up6("client", "eth0", "2001:db8:1::100/64"),
      ...up6("server", "eth0", `${SERVER6}/64`),
      ...up6("server", "eth1", "2001:db8:2::1/64"),
      ...up6("internet", "eth0", "2001:db8:2::8/64"),
      ["internet", `ip addr add ${TARGET6}/128 dev lo`],
      ["client", `ip route add default via ${SERVER6}`],
      ["server", "ip route add default via 2001:db8:2::8"],
    ]);
  }

  /** Runs each command on its host, all in one shell: it takes a tenth of the time. Throws if one fails. */
  runAll(commands: OnHost[]): void {
    for (const [host, command] of commands) this.say(prompt(host, command));
    const lines = commands.map(([host, command], i) => {
      const there = host === "lab" ? "" : `nsenter --net=${NETNS}/${host} `;
      return `${there}${command} || exit ${i + 1}`;
    });
    const { status, stderr } = this.try("lab", ["sh", "-c", lines.join("\n")]);
    if (status !== 0) throw failed(commands[status! - 1] ?? ["lab", "sh"], status, stderr);
  }

  /** Is there IPv6 on this host's interfaces to come? */
  hasIPv6(host: string): boolean {
    return this.try(host, "sysctl -n net.ipv6.conf.default.disable_ipv6").stdout.trim() === "0";
  }

  /**
   * Runs a command on a host: words, or a string to split at spaces. Returns its output. Throws if it fails.
   */
  run(host: string, command: string | string[]): string {
    const line = [command].flat().join(" ");
    this.say(prompt(host, line));
    const { status, stdout, stderr } = this.try(host, command);
    if (status === 0) return stdout;
    throw failed([host, line], status, stderr);
  }

  /** Runs a command on a host and waits for it, at most `ms`; whatever comes of it. */
  try(host: string, command: string | string[], ms = 60_000): SpawnSyncReturns<string> {
    const [program, ...args] = this.enter(host, typeof command === "string" ? command.split(" ") : command);
    return spawnSync(program!, args, {
      encoding: "utf8",
      timeout: ms,
      killSignal: "SIGKILL",
      maxBuffer: 64 * 1024 * 1024,
    });
  }

  /** Starts a program on a host. It is killed when this process ends. */
  spawn(host: string, command: string[], options: SpawnOptions = {}): ChildProcess {
    const [program, ...args] = this.enter(host, command);
    const child = spawn(program!, args, options);
    this.children.add(child);
    child.once("exit", () => this.children.delete(child));
    return child;
  }

  /**
   * The real command behind `host# command`: the namespaces, the holder's folder; one pid all the way.
   * Where we go on after SIGHUP, it does, too: program().
   */
  private enter(host: string, command: string[]): string[] {
    const goesOn = ON_TERMINAL ? [] : ["sh", "-c", `trap '' HUP; exec "$@"`, "sh"];
    const asUser = process.getuid?.() === 0 ? [] : ["--user", "--preserve-credentials"];
    const net = host === "lab" ? "--net" : `--net=/proc/${this.holder}/root${NETNS}/${host}`;
    const there = ["nsenter", "--target", `${this.holder}`, "--mount", net, "--wd", ...asUser];
    return [...goesOn, ...there, "setpriv", "--pdeathsig", "KILL", ...command];
  }

  /**
   * Ends the lab, and what spawn() started in it. The kernel removes hosts, links, rules and routes with it.
   */
  async down(): Promise<void> {
    const ending = [...this.children, ...(this.process ? [this.process] : [])];
    this.process?.ref();
    const gone = ending.map((child) => new Promise((resolve) => child.once("exit", resolve)));
    for (const child of this.children) child.kill("SIGKILL");
    process.kill(this.holder, "SIGKILL");
    await Promise.all(gone);
  }
}
