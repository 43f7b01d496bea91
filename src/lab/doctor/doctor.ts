/**
 * `make doctor`, and on a real machine `npx tsx src/lab/doctor/doctor.ts client` or `server`: for "connected,
 * but cannot ping". Goes along the packet's walk, hop by hop, and prints for each whether it is well, and for
 * what is not the commands that mend it. Changes nothing itself: it pings, connects with a
 * handshake, and watches the kernel meanwhile.
 */
import { readlinkSync } from "node:fs";
import { resolve } from "node:path";
import chalk from "chalk";
import { parseIPv4 } from "../../base/address.ts";
import { Failure } from "../../base/failure.ts";
import { CLIENT, MTU, option, parse, SERVER } from "../../host/options.ts";
import { takeFromEnvironment } from "../../host/secret.ts";
import { exit, program } from "../../host/program.ts";
import { LAB_HOST } from "../../host/setup.ts";
import { type Finding, unknown } from "./finding.ts";
import { type Check, clientChecks, type Options, serverChecks } from "./hops.ts";
import { findHolder } from "./inspect.ts";
import { prompt } from "../lab.ts";
import { withTransport } from "../running.ts";

const { tun, mtu, port, transport, cipher, secret, help } = CLIENT;
const OPTIONS = {
  target: option("ADDR", "8.8.8.8", "what cannot be pinged, an IPv4 address", ipv4),
  server: option(
    "HOST",
    undefined,
    "on the client: the server (else: whom the running client is connected to)",
    String,
  ),
  address: { ...CLIENT.address, help: "the client's inner address" },
  nat: {
    ...SERVER.nat,
    help: "on the server: its interface to the internet (else: where the target is routed)",
  },
  subnet: SERVER.subnet,
  tun,
  mtu,
  port,
  transport,
  cipher,
  secret,
  help,
};

program(async () => {
  const options = readOptions();
  const findings = new Map<string, Finding>();
  for (const { hop, needs = [], check } of options.role === "client"
    ? clientChecks(options)
    : serverChecks(options)) {
    const missing = needs.find((need) => findings.get(need)?.state !== "ok");
    const finding = missing
      ? unknown(`cannot be checked before this is well: ${missing}`)
      : await found(check);
    findings.set(hop, finding);
    show(options.role, hop, finding);
  }
  const broken = [...findings].filter(([, { state }]) => state === "✗").map(([hop]) => hop);
  const open = [...findings].filter(([, { state }]) => state === "?").map(([hop]) => hop);
  const unseen = open.length > 0 ? `, as far as could be seen; not: ${open.join(", ")}` : "";
  if (broken.length === 0) console.log(chalk.green(`The ${options.role} is well${unseen}.`));
  else console.log(chalk.red.bold(`The ${options.role}'s first broken hop: ${broken[0]}`));
  exit(broken.length === 0 ? 0 : 1);
});

/**
 * The doctor's own arguments; and before them, so that they count less, what the running program was started
 * with.
 */
function readOptions(): Options {
  const environment = takeFromEnvironment();
  const args = process.argv.slice(2);
  const holder = findHolder(given(args, "tun"), args.includes("server") ? "server.ts" : "client.ts");
  const started = Object.keys(OPTIONS).flatMap((name) => {
    const value = given(holder?.words ?? [], name);
    return value === undefined
      ? []
      : [`--${name}`, name === "secret" ? resolve(readlinkSync(`/proc/${holder!.pid}/cwd`), value) : value];
  });
  const { values, positionals } = parse(
    holder ? [...started, ...args] : withTransport(args),
    OPTIONS,
    "src/lab/doctor/doctor.ts [client|server]",
  );
  const [role = "client", ...rest] = positionals;
  if ((role !== "client" && role !== "server") || rest.length > 0)
    throw new Failure(
      `Cannot start: expected client or server, got ${positionals.join(" ")}`,
      "npx tsx src/lab/doctor/doctor.ts client",
      2,
    );
  const last = <T>(given: T[] | undefined) => given?.at(-1);
  const subnet = last(values.subnet)!;
  const transport = last(values.transport)!;
  return {
    role,
    subnet,
    gateway: subnet.network + 1,
    address: last(values.address)!,
    target: last(values.target)!,
    tun: last(values.tun)!,
    mtu: last(values.mtu) ?? MTU[transport],
    port: last(values.port)!,
    transport,
    cipher: last(values.cipher)!,
    secrets: values.secret?.slice(-1), // what we are told counts more than what runs
    environment,
    server: last(values.server),
    nat: last(values.nat),
  };
}

/** The last value of an option among the words of a command line: "--tun", "vpn9", or "--tun=vpn9". */
const given = (words: string[], name: string) =>
  [...words.join("\0").matchAll(new RegExp(`(?<=^|\0)--${name}[\0=]([^\0]+)`, "g"))].at(-1)?.[1];

function ipv4(text: string): string {
  if (parseIPv4(text) === undefined) throw new Error("is no IPv4 address");
  return text;
}

/** A tool that is missing, or may not look, leaves its hop unknown; it does not end the doctor. */
async function found(check: Check["check"]): Promise<Finding> {
  try {
    return await check();
  } catch (error) {
    return unknown((error as Error).message);
  }
}

function show(role: string, hop: string, { state, text, fixes }: Finding): void {
  const colour = { ok: chalk.green, "✗": chalk.red.bold, "?": chalk.yellow }[state];
  console.log(`${colour(state.padEnd(2))} ${hop.padEnd(11)} ${text}`);
  for (const fix of fixes) {
    const command = fix.startsWith("server# ") ? typed("server", fix.slice(8)) : typed(role, fix);
    console.log(`   ${chalk.bold("fix")}         ${command}`);
  }
}

/**
 * A fix as it is to be typed: on its host; or, in the lab of the five terminals, in a terminal of the real
 * machine.
 */
function typed(host: string, fix: string): string {
  if (!LAB_HOST) return prompt(host, fix);
  if (fix.includes("doctor.ts server")) return "the server's part of this, below";
  const [, transport] = /--transport (\w+)/.exec(fix) ?? [];
  const over = transport ? ` TRANSPORT=${transport}` : "";
  return fix.includes(`src/${host}.ts`)
    ? `make ${host}${over}, then make configure-${host}${over}`
    : `make on HOST=${host} CMD="${fix}"`;
}
