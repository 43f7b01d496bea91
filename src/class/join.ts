/**
 * `make join`: a student's machine in a class. Our client goes in by the class's code, with a route to the
 * class alone. Now and then we ping the others, and tell the page who has answered.
 */
import { exit, vpnProgram } from "../host/program.ts"; // first: it puts the environment right
import { setTimeout as sleep } from "node:timers/promises";
import chalk from "chalk";
import { type Cidr, formatIPv4, parseCidr } from "../base/address.ts";
import { Failure } from "../base/failure.ts";
import { run } from "../host/command.ts";
import { takeFromEnvironment } from "../host/secret.ts";
import { start } from "./child.ts";
import { secretOf } from "./code.ts";
import { isName } from "./roster.ts";

const EACH = 5_000; // ms between two rounds of pings
const PATIENCE = 5_000; // ms, for the page
const MOST = 64; // that are pinged in one round
const LONGEST = 24 * 3600; // s, of a class

interface Told {
  you: string;
  left: number; // s
  students: { address: string; name: string }[];
}

/** Our client, connected; its end of the tunnel, "10.8.0.2/24". Errors: a Failure. */
async function connect(server: string, code: string): Promise<string> {
  const { PORT, TRANSPORT } = process.env;
  const args = ["--configure", "--trace=off", ...(PORT ? [`--port=${PORT}`] : [])];
  if (TRANSPORT) args.push(`--transport=${TRANSPORT}`);
  const secret = { SIMPLE_VPN_SECRET: secretOf(code) };
  const print = (text: string) => void process.stdout.write(text);
  try {
    const ready = /this end of the tunnel is ([\d.]+\/\d+),/;
    return (await start("client", [...args, "--", server], secret, ready, print))[1]!;
  } catch (error) {
    const { message } = error as Error;
    const isOpen =
      "is the class open? SERVER, PORT and TRANSPORT are those of the line that the teacher shows";
    if (message.startsWith("Cannot connect")) throw new Failure(message, isOpen);
    if (!message.includes("refused our secret")) throw error;
    const hint = "read it again from the board; if it was of an earlier class, ask for today's";
    throw new Failure(`Cannot join: the server does not know the code ${code}`, hint);
  }
}

vpnProgram(async () => {
  const code = takeFromEnvironment("CODE");
  const { SERVER, NAME, PAGE = "80" } = process.env;
  if (!SERVER || !code || !NAME)
    throw new Failure("Cannot join: SERVER, CODE and NAME are needed", "the line that the teacher shows", 2);
  if (!isName(NAME))
    throw new Failure(`Cannot join as ${NAME}: at most 24 letters, digits, spaces or . ' _ -`, "NAME=Ana", 2);

  const own = parseCidr(await connect(SERVER, code))!;
  const server = formatIPv4(own.network + 1);
  const page = `http://${server}${PAGE === "80" ? "" : `:${PAGE}`}/`;
  console.log(`You are in. The page of the class: ${chalk.bold(page)}   Ctrl-C ends it.`);

  let answers = new Map<string, boolean>(); // of the latest round, by address
  const names = new Map([[server, "the server"]]);
  const said = new Map<string, string>(); // of each, the latest: only news is told
  let end: NodeJS.Timeout | undefined;
  for (; ; await sleep(EACH)) {
    const which = (value: boolean) => [...answers].flatMap(([to, one]) => (one === value ? to : []));
    const told = await tell(page, { name: NAME, answered: which(true), silent: which(false) });
    if (!told) continue;
    if (told.left > 0 && told.left < LONGEST)
      end ??= setTimeout(() => (console.log("The class is over."), exit(0)), told.left * 1000);
    const others = told.students
      .filter(({ address }) => isInside(own, address) && address !== told.you)
      .slice(0, MOST);
    for (const { address, name } of others) names.set(address, isName(name) ? name : "no name yet");
    answers = new Map(await Promise.all([server, ...others.map(({ address }) => address)].map(ping)));
    for (const [to, answered] of answers) {
      const who = `${to} (${names.get(to)})`;
      const line = answered ? `✓ ${who} answers` : `✗ ${who} does not answer`;
      if (said.get(to) !== line) console.log(line);
      said.set(to, line);
    }
  }
});

/** Nobody can have us ping what is outside the class. */
const isInside = ({ network, prefix }: Cidr, address: string) =>
  parseCidr(`${address}/${prefix}`)?.network === network;

async function ping(address: string): Promise<[string, boolean]> {
  const { code } = await run(`ping -n -c 1 -W 2 ${address}`);
  if (code === "ENOENT") throw new Failure("Cannot ping: there is no ping", "apt-get install iputils-ping");
  return [address, code === 0];
}

/** Tells the page, and returns what it tells; undefined if there is no answer, or none that helps. */
async function tell(page: string, report: object): Promise<Told | undefined> {
  const headers = { "Content-Type": "application/json" };
  const [body, signal] = [JSON.stringify(report), AbortSignal.timeout(PATIENCE)];
  try {
    const response = await fetch(`${page}me`, { method: "POST", headers, body, signal });
    const answer: any = await response.json();
    if (response.ok && Array.isArray(answer.students)) return answer;
    console.log(`The page of the class has not taken our pings: ${response.status}`);
  } catch {
    // the client says why, and connects again
  }
  return undefined;
}
