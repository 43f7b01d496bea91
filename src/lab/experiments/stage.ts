/**
 * What the experiments share: showing what is typed on which host and what it answers, the two programs in
 * the lab, and `measured()`, the one place where an experiment succeeds or fails. relay.ts is the other half:
 * who sits on the wire.
 */
import { randomBytes } from "node:crypto";
import chalk from "chalk";
import { Failure } from "../../base/failure.ts";
import { fold } from "../columns.ts";
import { Lab, prompt, SERVER, TARGET, TOPOLOGY } from "../lab.ts";
import { Running, startProgram, TRANSPORT } from "../running.ts";

export type CipherName = "xor" | "xor+aes";
const ENV = { ...process.env, SIMPLE_VPN_SECRET: randomBytes(32).toString("hex") }; // a secret for this run
const COMMAND_DEADLINE = 30_000; // ms

export const heading = (text: string) => console.log(`\n${chalk.bold.inverse(fold(` ${text} `, " "))}`);
export const note = (text: string, indent?: string) => console.log(fold(text, indent));

/** Shows a command as a student would type it on that host. */
export const typed = (host: string, command: string) =>
  console.log(fold(prompt(host, command), undefined, " \\"));

/** "07 42 42 16 …": the first `count` bytes. */
export const hex = (bytes: Buffer, count = 16) =>
  (bytes.toString("hex", 0, count).match(/../g) ?? []).join(" ") + (bytes.length > count ? " …" : "");

/** What was measured so far: the exercises judge by it. */
export const observations: string[] = [];

/**
 * An observation, made from what was captured or measured. The experiment ends with exit code 1 unless it
 * `holds`.
 */
export function measured(holds: boolean, observation: string): void {
  if (!holds)
    throw new Failure(
      `Cannot confirm: ${observation}`,
      "run it again; if it stays so, the code has changed, or this experiment is wrong",
    );
  observations.push(observation);
  note(`${chalk.green.bold("measured")} ${observation}`, " ".repeat(9));
}

let drawn = false;

/** A lab that shows itself once, and from then on what `lab.run` runs on its hosts. */
export async function up(): Promise<Lab> {
  let built = false;
  const lab = await Lab.up((line) => built && note(line));
  built = true;
  if (!drawn) console.log(chalk.dim(TOPOLOGY));
  drawn = true;
  return lab;
}

/**
 * Types `command` on a host, whatever comes of it: shows it, waits for its end, shows and returns what it
 * said. A relay goes on meanwhile.
 */
export async function type(lab: Lab, host: string, command: string): Promise<string> {
  typed(host, command);
  const running = new Running(lab.spawn(host, command.split(" ")));
  const deadline = setTimeout(() => running.child.kill("SIGKILL"), COMMAND_DEADLINE);
  await running.ended;
  clearTimeout(deadline);
  if (running.output.trim()) note(chalk.dim(running.output.trim()));
  return running.output;
}

/** Starts a Node program of a few lines on a host. `what` it does is shown, the lines are not. */
export function node(lab: Lab, host: string, what: string, ...lines: string[]): Running {
  note(`${prompt(host, "node -e …")} ${chalk.dim(`# ${what}`)}`);
  return new Running(lab.spawn(host, [process.execPath, "-e", lines.join("\n")]));
}

/** Starts the server, forwarding and masquerading. */
export async function startServer(lab: Lab, cipher: CipherName, ...more: string[]): Promise<Running> {
  return start(
    lab,
    "server",
    ["--configure", "--nat", "eth1", "--cipher", cipher, ...more],
    /listening on.*/,
  );
}

/** Starts the client, with a route for 8.8.8.8 into the tunnel. `port`: the server's, or a relay's. */
export async function startClient(
  lab: Lab,
  cipher: CipherName,
  port = 5555,
  ...more: string[]
): Promise<Running> {
  const through = port === 5555 ? [] : ["--port", `${port}`];
  return start(
    lab,
    "client",
    [SERVER, ...through, "--configure", "--route", `${TARGET}/32`, "--cipher", cipher, ...more],
    /connected to.*/,
  );
}

/** Starts one of the two programs: over TCP, unless the experiment itself names a transport. */
export async function start(
  lab: Lab,
  host: "server" | "client",
  words: string[],
  done: RegExp,
): Promise<Running> {
  const args =
    words.includes("--transport") || TRANSPORT === "tcp" ? words : [...words, "--transport", "tcp"];
  typed(host, `npx tsx src/${host}.ts ${args.join(" ")}`);
  const running = startProgram(lab, host, host, args, { env: ENV });
  const [said] = await running.until(done);
  note(chalk.dim(said));
  return running;
}

/** Packets that went out of an interface of a host so far, as the kernel counts them: `ip -s link`. */
export function sentOn(lab: Lab, host: string, device: string): number {
  const [link] = JSON.parse(lab.try(host, `ip -s -j link show dev ${device}`).stdout) as [
    { stats64: { tx: { packets: number } } },
  ];
  return link.stats64.tx.packets;
}
