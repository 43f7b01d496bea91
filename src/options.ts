/** The command line of both programs: flags, their defaults, and what is wrong with a wrong one (exit code 2). */
import { readFileSync, statSync } from "node:fs";
import { isIPv4 } from "node:net";
import { parseArgs, type ParseArgsConfig } from "node:util";
import { KEY_LENGTH } from "./aes.ts";
import { IFNAMSIZ } from "./libc.ts";
import { type Cidr, parseCidr } from "./packet.ts";
import { Failure } from "./program.ts";
import type { TraceMode } from "./trace.ts";

const COMMON = {
  port: { type: "string", default: "5555" },
  tun: { type: "string", default: "tun0" },
  cipher: { type: "string", default: "xor+aes" },
  secret: { type: "string" },
  mtu: { type: "string", default: "1400" },
  trace: { type: "string", default: "walk" },
  "trace-file": { type: "string" },
  configure: { type: "boolean", default: false },
  help: { type: "boolean", default: false },
  version: { type: "boolean", default: false },
} satisfies ParseArgsConfig["options"];

const COMMON_HELP = `
  --port N            TCP port (5555)
  --tun NAME          interface name, at most 15 bytes (tun0)
  --cipher NAME       xor+aes, or xor: the insecure first lesson, the original C programs' format (xor+aes)
  --secret FILE       64 hex digits, mode 0600 (secret.key); or the environment variable SIMPLE_VPN_SECRET
  --mtu N             of the TUN interface, bytes, 68 to 65535 (1400)
  --trace MODE        walk: every step, folded under load; summary: a line a second; off (walk)
  --trace-file FILE   the trace as JSON, one object a line
  --configure         run the ip, sysctl and iptables commands instead of printing them; undo them at exit
  --help, --version`;

const CLIENT_HELP = `Usage: npx tsx src/client.ts <server> [options]

  <server>            the server's name or IPv4 address
  --route CIDR        with --configure: send this block into the tunnel; repeatable
  --address CIDR      inner address, for --cipher xor only, where no handshake assigns one (10.8.0.2/24)${COMMON_HELP}`;

const SERVER_HELP = `Usage: npx tsx src/server.ts [options]

  --listen ADDR       IPv4 address to listen on (0.0.0.0)
  --subnet CIDR       inner addresses: the server takes the first, clients the next ones (10.8.0.0/24)
  --nat DEV           with --configure: forward, and masquerade what leaves through DEV${COMMON_HELP}`;

/** What both programs take. */
export interface Options {
  port: number;
  tun: string;
  secret: Buffer | undefined; // 32 bytes; undefined: --cipher xor
  mtu: number; // bytes
  trace: TraceMode;
  traceFile: string | undefined;
  configure: boolean;
}

export interface ClientOptions extends Options {
  server: string;
  routes: string[]; // CIDR blocks, checked
  address: Cidr;
}

export interface ServerOptions extends Options {
  listen: string;
  subnet: Cidr;
  nat: string | undefined;
}

export function clientOptions(args: string[]): ClientOptions {
  const { values, positionals } = parse(args, { ...COMMON, route: { type: "string", multiple: true }, address: { type: "string", default: "10.8.0.2/24" } }, CLIENT_HELP);
  if (positionals.length !== 1) throw usage(`expected one server, got ${positionals.length}`, "npx tsx src/client.ts 192.168.1.1");
  const routes = (values.route ?? []) as string[];
  for (const route of routes) {
    const block = cidr("--route", route, 0, 32);
    if (block.address !== block.network) throw usage(`--route ${route} has host bits set`, "a block's first address, such as 10.0.0.0/8");
  }
  return { ...common(values), server: positionals[0]!, routes, address: cidr("--address", values.address as string, 8, 30) };
}

export function serverOptions(args: string[]): ServerOptions {
  const { values, positionals } = parse(args, { ...COMMON, listen: { type: "string", default: "0.0.0.0" }, subnet: { type: "string", default: "10.8.0.0/24" }, nat: { type: "string" } }, SERVER_HELP);
  if (positionals.length !== 0) throw usage(`unexpected argument ${positionals[0]}`, "--help");
  const listen = values.listen as string;
  if (!isIPv4(listen)) throw usage(`--listen ${listen} is no IPv4 address`, "0.0.0.0 for all of this machine's");
  const nat = values.nat as string | undefined;
  if (nat !== undefined) interfaceName("--nat", nat);
  return { ...common(values), listen, subnet: cidr("--subnet", values.subnet as string, 8, 30), nat };
}

type Values = Record<string, string | boolean | (string | boolean)[] | undefined>;

function parse(args: string[], options: NonNullable<ParseArgsConfig["options"]>, help: string): { values: Values; positionals: string[] } {
  try {
    const { values, positionals } = parseArgs({ args, options, allowPositionals: true });
    if (values.help) leave(help);
    if (values.version) leave(`simple-vpn ${JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8")).version}`);
    return { values, positionals };
  } catch (error) {
    throw usage((error as Error).message.split(/\. |\n/)[0]!, "--help");
  }
}

function leave(text: string): never {
  console.log(text);
  process.exit(0);
}

function common(values: Values): Options {
  const cipher = choice("--cipher", values.cipher, ["xor+aes", "xor"]);
  const tun = interfaceName("--tun", values.tun as string);
  return {
    port: whole("--port", values.port as string, 1, 65535),
    tun,
    mtu: whole("--mtu", values.mtu as string, 68, 65535),
    trace: choice("--trace", values.trace, ["walk", "summary", "off"]),
    traceFile: values["trace-file"] as string | undefined,
    configure: values.configure as boolean,
    secret: cipher === "xor" ? undefined : readSecret(values.secret as string | undefined),
  };
}

/** The shared secret, from the file that --secret names, or the environment, or secret.key. */
function readSecret(file: string | undefined): Buffer {
  const fromEnvironment = file === undefined ? process.env.SIMPLE_VPN_SECRET : undefined;
  if (fromEnvironment !== undefined) return parseSecret("SIMPLE_VPN_SECRET", fromEnvironment);
  const path = file ?? "secret.key";
  try {
    if (statSync(path).mode & 0o077) throw new Failure(`Cannot use the secret ${path}: other users can read it`, `chmod 600 ${path}`);
    return parseSecret(path, readFileSync(path, "utf8"));
  } catch (error) {
    if (error instanceof Failure) throw error;
    const { code } = error as NodeJS.ErrnoException;
    throw new Failure(`Cannot read the secret ${path}: ${code}`, code === "ENOENT" ? "'make secret' makes one; the other end needs the same" : "check the path and its owner");
  }
}

function parseSecret(source: string, text: string): Buffer {
  if (!/^[0-9a-f]{64}$/i.test(text.trim()))
    throw new Failure(`Cannot use the secret in ${source}: expected ${2 * KEY_LENGTH} hex digits, got ${text.trim().length} characters`, "'make secret' makes a good one");
  return Buffer.from(text.trim(), "hex");
}

function interfaceName(flag: string, name: string): string {
  const length = Buffer.byteLength(name);
  if (length === 0 || length >= IFNAMSIZ) throw usage(`${flag} ${name} has ${length} bytes, expected 1 to ${IFNAMSIZ - 1}`, "a short name, such as tun0");
  if (/[/\s:%]/.test(name) || name === "." || name === "..") throw usage(`${flag} ${name} has a character that an interface name cannot have`, "letters and digits, such as tun0");
  return name;
}

function whole(flag: string, text: string, min: number, max: number): number {
  const value = Number(text);
  if (!/^\d+$/.test(text) || value < min || value > max) throw usage(`${flag} ${text} is no whole number from ${min} to ${max}`, "--help");
  return value;
}

function choice<const T extends string>(flag: string, value: unknown, allowed: readonly T[]): T {
  const found = allowed.find((one) => one === value);
  if (found === undefined) throw usage(`${flag} ${value} is not one of ${allowed.join(", ")}`, `${flag} ${allowed[0]}`);
  return found;
}

function cidr(flag: string, text: string, minPrefix: number, maxPrefix: number): Cidr {
  const block = parseCidr(text);
  if (!block || block.prefix < minPrefix || block.prefix > maxPrefix)
    throw usage(`${flag} ${text} is no CIDR block with a prefix from ${minPrefix} to ${maxPrefix}`, "ADDRESS/PREFIX, such as 10.8.0.0/24");
  return block;
}

function usage(message: string, hint: string): Failure {
  return new Failure(`Cannot start: ${message}`, hint, 2);
}
