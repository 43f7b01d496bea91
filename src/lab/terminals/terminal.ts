/**
 * The five terminals: server, configure-server, client, configure-client, ping, each for a terminal of its
 * own, in that order. They share one lab that stays until `make down`. Also `doctor`, when no ping is
 * answered. `make client N=2` is one client more, which configures itself. on.sh is for anything else.
 */
import { readdirSync, readlinkSync } from "node:fs";
import chalk from "chalk";
import { parseCidr, parsePrefix96 } from "../../base/address.ts";
import { type Change, serverChanges } from "../../host/changes.ts";
import { Failure } from "../../base/failure.ts";
import { FRESH } from "../../host/machine.ts";
import { MTU, SERVER as DEFAULTS } from "../../host/options.ts";
import { exit, program } from "../../host/program.ts";
import { clientChanges } from "../../client/routes.ts";
import { nextTerminal } from "../../host/setup.ts";
import { Lab, ours, prompt, SERVER, TARGET, TARGET6 } from "../lab.ts";
import { TRANSPORT, withTransport } from "../running.ts";
import { find, forget, ownSecret, remember } from "./place.ts";

const COMMON = { tun: "tun0", port: 5555, transport: TRANSPORT };
const SUBNET = parseCidr("10.8.0.0/24")!;
// the first client gets the second address
const CLIENT = {
  address: SUBNET.network + 2,
  prefix: SUBNET.prefix,
  mtu: MTU[TRANSPORT],
};
const SUBNET6 = parsePrefix96(DEFAULTS.subnet6.initial);
const NAT = "eth1";

const subnet6 = (lab: Lab) => (lab.hasIPv6("client") ? SUBNET6 : undefined);
const routes = (lab: Lab) => [`${TARGET}/32`, ...(lab.hasIPv6("client") ? [`${TARGET6}/128`] : [])];
const needed = () => find() ?? fail("the lab is not up", "make server, in another terminal");
const next = (command: string) => console.log(`\n${nextTerminal(command)}\n`);

function fail(reason: string, hint: string): never {
  throw new Failure(`Cannot do this: ${reason}`, hint);
}

async function bringUp(): Promise<Lab> {
  const lab = await Lab.up(console.log, remember);
  if (process.env.IPV6) lab.addIPv6(); // make server IPV6=1
  return lab;
}

/** A command in the foreground, until it ends; Ctrl-C is for it. `failed`: what to do if it fails. */
function foreground(lab: Lab, host: string, command: string[], failed = async () => {}): void {
  process.removeAllListeners("SIGINT").on("SIGINT", () => {});
  console.log(prompt(host, command.join(" ")));
  // npx turns Ctrl-C into an error
  const script = command[0] === "npx" ? /^src\/(.*)\.ts$/.exec(command[2]!)?.[1] : undefined;
  const real = script ? [...ours(script), ...command.slice(3)] : command;
  const child = lab.spawn(host, real, { stdio: "inherit", env: { ...process.env, SIMPLE_VPN_HOST: host } });
  child.once("exit", async (code, signal) => {
    const status = code ?? (signal === "SIGPIPE" ? 0 : 1); // make ping | head
    if (status !== 0) await failed();
    exit(status);
  });
}

/** The server or a client, unless it runs: a second one would find the name tun0 in use (EBUSY). */
function start(lab: Lab, host: string, args: string[], failed?: () => Promise<void>): void {
  const another = args.some((arg) => arg.startsWith("--tun"));
  if (!another && lab.try(host, "ip link show tun0").status === 0)
    fail(
      `the ${host} has a tun0 already, so it runs in another terminal`,
      "Ctrl-C there, or make down, which ends everything",
    );
  const program = `src/${host.replace(/\d+$/, "")}.ts`;
  foreground(lab, host, ["npx", "tsx", program, ...ownSecret(), ...withTransport(args)], failed);
}

const MOST_CLIENTS = 30;

/** The host of `make client N=2`: "client2". `make` makes it, if it is not there. */
function clientHost(lab: Lab, make: boolean): string {
  const { N = "1" } = process.env;
  if (N === "1") return "client";
  const number = Number(N);
  if (!Number.isInteger(number) || number < 1 || number > MOST_CLIENTS)
    fail(`N=${N} is no number from 1 to ${MOST_CLIENTS}`, "make client N=2");
  const host = `client${number}`;
  if (lab.try(host, "true").status === 0) return host;
  return make
    ? lab.addClient(number)
    : fail(`the lab has no ${host}`, `make client N=${N}, in another terminal`);
}

function configure(lab: Lab, host: string, changes: Change[]): void {
  if (lab.try(host, "ip link show tun0").status !== 0)
    fail(`the ${host} has no tun0`, `make ${host}, in another terminal, and leave it running`);
  for (const { run, unless } of changes) {
    if (unless !== undefined && lab.try(host, unless).status === 0) continue;
    try {
      lab.run(host, run);
    } catch (error) {
      // a route that is there already is no mistake here
      if (!/File exists/.test((error as Error).message)) throw error;
    }
  }
}

/** The doctor on both hosts, with these options for both; 1 if it finds something on either. */
function doctor(lab: Lab, options: string[]): void {
  // in the lab's own mount namespace; the doctor says if it is missing
  lab.try("lab", "mount -t tracefs tracefs /sys/kernel/tracing");
  const codes = [
    ["client", "--server", SERVER, ...options],
    ["server", ...options],
  ].map((args) => {
    const doctor = [...ours("lab/doctor/doctor"), ...args];
    const command = ["env", `FORCE_COLOR=${chalk.level}`, `SIMPLE_VPN_HOST=${args[0]}`, ...doctor];
    const { status, stdout, stderr } = lab.try(args[0]!, command);
    console.log(
      `${prompt(args[0]!, `npx tsx src/lab/doctor/doctor.ts ${args.join(" ")}`)}\n${stdout}${stderr}`,
    );
    return status;
  });
  exit(codes.every((code) => code === 0) ? 0 : 1);
}

/** Ends the programs that still run in the lab, then the lab. */
async function down(lab: Lab): Promise<void> {
  const mount = readlinkSync(`/proc/${lab.holder}/ns/mnt`);
  for (const pid of readdirSync("/proc").filter(
    (name) => /^\d+$/.test(name) && Number(name) !== lab.holder,
  )) {
    try {
      if (readlinkSync(`/proc/${pid}/ns/mnt`) === mount) process.kill(Number(pid), "SIGTERM");
    } catch {
      // it has ended, or is not ours
    }
  }
  await lab.down();
  forget();
  console.log("The lab is down.");
}

program(async () => {
  const [what, ...rest] = process.argv.slice(2);
  switch (what) {
    case "server": {
      const found = find();
      const lab = found ?? (await bringUp());
      // with no server in it, a lab that nobody has used yet is of no use
      start(lab, "server", ["--nat", NAT, ...rest], found ? undefined : () => down(lab));
      return void lab.spawn("internet", ours("lab/internet"), {
        stdio: "ignore",
      }); // something to curl
    }
    case "configure-server": {
      const lab = needed();
      configure(
        lab,
        "server",
        serverChanges(
          { ...COMMON, mtu: CLIENT.mtu, subnet: SUBNET, subnet6: subnet6(lab), nat: NAT },
          SUBNET.network + 1,
          FRESH,
        ),
      );
      return next("make client");
    }
    case "client": {
      const lab = needed();
      const host = clientHost(lab, true);
      const itself = host === "client" ? [] : ["--configure"]; // one is enough to learn it by hand
      const routed = routes(lab).flatMap((route) => ["--route", route]);
      return start(lab, host, [SERVER, ...routed, ...itself, ...rest]);
    }
    case "configure-client": {
      const lab = needed();
      configure(
        lab,
        "client",
        clientChanges(
          { ...COMMON, routes: routes(lab) },
          { ...CLIENT, subnet6: subnet6(lab) },
          [SERVER],
          FRESH,
        ),
      );
      return next("make ping");
    }
    case "ping": {
      const lab = needed();
      return foreground(lab, clientHost(lab, false), ["ping", ...(rest.length > 0 ? rest : [TARGET])]);
    }
    case "doctor":
      return doctor(needed(), rest);
    case "down": {
      const lab = find();
      return lab ? down(lab) : console.log("No lab is up.");
    }
    default:
      throw new Failure(
        `Cannot start: ${what} is none of server, configure-server, client, configure-client, ` +
          "ping, doctor, down",
        "make help",
        2,
      );
  }
});
