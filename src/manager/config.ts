/**
 * The configuration: a JSON file, the environment, flags. Each is stronger than the one before: what the
 * first two say is put in front of the flags, and the last word counts.
 */
import { readFileSync, statSync } from "node:fs";
import { isIP } from "node:net";
import { Failure } from "../base/failure.ts";
import { CLIENT, flag, option, parse, whole } from "../host/options.ts";
import { takeFromEnvironment } from "../host/secret.ts";
import { checked, CREATE, START } from "./fields.ts";
import { asObject, take, type Values } from "./route.ts";

const SETTINGS = {
  host: option("ADDR|PATH", "127.0.0.1", "address to listen on, or the path of a unix socket", host),
  port: option("N", "8080", "TCP port to listen on; 0: any free one", whole(0, 65535)),
  "token-file": option("FILE", "", "what one must know to change something; mode 0600", String),
  "tls-cert": option("FILE", "", "https, with this certificate (PEM)", String),
  "tls-key": option("FILE", "", "and this key (PEM)", String),
  "allow-host": option("NAMES", "", "a,b: more names that browsers may know this machine by", hostNames),
  rate: option("N", "1000", "requests a second from one address, at most", whole(1, 1e9)),
  name: option("NAME", "tun0", "of an interface, where create does not say", CREATE.name.read),
  address: option("ADDR", "10.0.0.1", "likewise", CREATE.address.read),
  netmask: option("MASK", "255.255.255.0", "likewise", CREATE.netmask.read),
  mtu: option("N", "1500", "likewise", CREATE.mtu.read),
};
const FLAGS = {
  ...SETTINGS,
  watch: option("PATH", undefined, "--status socket of a VPN program started elsewhere; repeatable", String),
  config: option("FILE", undefined, 'all of these as JSON, and "interfaces" that are to exist', String),
  "print-config": flag("print what holds, and where it came from"),
  help: CLIENT.help,
  version: CLIENT.version,
};
type Name = keyof typeof SETTINGS;
const NAMES = Object.keys(SETTINGS) as Name[];
const VARIABLE = "SIMPLE_VPN_MANAGER_"; // …PORT, …ALLOW_HOST and so on; and …TOKEN, the token itself
const DECLARED = { ...CREATE, ...START }; // of an interface that the file wants

export type Config = ReturnType<typeof read>;
export type Declared = Values<typeof DECLARED>;
type Settings = { [N in Name]: ReturnType<(typeof SETTINGS)[N]["read"]> };
type Texts = Record<string, string | string[]>;

/** What holds now. */
export let config: Config;
let environment: ReturnType<typeof fromEnvironment> | undefined; // read once: the token is not left in it

/** Reads all of it, anew. Errors: a Failure; `config` stays as it was. */
export function load(args: string[]): void {
  environment ??= fromEnvironment();
  const next = read(args, environment);
  const open = `Cannot listen on ${next.host} without a token: others reach it`;
  if (!isLocal(next.host) && next.token === undefined) throw new Failure(open, `--token-file FILE; ${MAKE}`);
  const half = "Cannot use TLS with one of --tls-cert and --tls-key";
  if (!next["tls-cert"] !== !next["tls-key"]) throw new Failure(half, "give both");
  config = next;
}
const MAKE = `to make it: (umask 077; node -p "crypto.randomBytes(16).toString('hex')" > FILE)`;

/** Loopback and unix sockets are for this machine alone. */
export const isLocal = (host: string) => /^(127\.|::1$|localhost$|\/)/.test(host);

function read(args: string[], { token, texts }: ReturnType<typeof fromEnvironment>) {
  const file = parsed([...words(texts), ...args]).values.config?.at(-1);
  const inFile = file === undefined ? { texts: {}, interfaces: [] } : fromFile(file);
  const { values, positionals } = parsed([...words(inFile.texts), ...words(texts), ...args]);
  if (positionals.length > 0) throw refusal(positionals[0]!, "flags begin with --");
  const settings = Object.fromEntries(NAMES.map((name) => [name, values[name]!.at(-1)])) as Settings;
  const source = (name: Name) => {
    if (args.some((word) => word.split("=")[0] === `--${name}`)) return "a flag";
    return name in texts ? "the environment" : name in inFile.texts ? file : "default";
  };
  const lines = NAMES.map((name) => `${name.padEnd(12)}${settings[name]} (${source(name)})`);
  const tokenFile = settings["token-file"];
  lines.push(`token       ${tokenFile || token ? "set" : "not set"}`);
  const { watch = [] } = values; // all that the file, the environment and the flags name
  lines.push(`watch       ${watch.join(", ")}`);
  lines.push(`interfaces  ${JSON.stringify(inFile.interfaces)}`);
  const { name, address, netmask, mtu } = settings;
  const create = { name, address, netmask, mtu }; // what a new interface has, unless asked for something else
  if (file !== undefined) checkTogether(file, inFile.interfaces, create);
  return {
    ...settings,
    watch,
    token: tokenFile ? fromTokenFile(tokenFile) : token,
    create,
    file,
    interfaces: inFile.interfaces,
    shown: values["print-config"] && lines.join("\n"),
  };
}

function fromEnvironment() {
  const token = takeFromEnvironment(`${VARIABLE}TOKEN`);
  const ours = Object.entries(process.env).filter(([variable]) => variable.startsWith(VARIABLE));
  const nameOf = (variable: string) => variable.slice(VARIABLE.length).toLowerCase().replaceAll("_", "-");
  return {
    token: token === undefined ? undefined : goodToken(token, `${VARIABLE}TOKEN`),
    texts: Object.fromEntries(ours.map(([variable, text]) => [nameOf(variable), text!])) as Texts,
  };
}

/** The file's values as text, and its interfaces. */
function fromFile(file: string): { texts: Texts; interfaces: Declared[] } {
  try {
    const json: Record<string, unknown> = { ...asObject(JSON.parse(readFileSync(file, "utf8"))) };
    const { interfaces = [], ...texts } = json;
    const isText = (value: unknown) => ["string", "number"].includes(typeof value);
    const isGood = ([name, value]: [string, unknown]) =>
      name === "watch" && Array.isArray(value) ? value.every(isText) : isText(value);
    const [odd] = Object.entries(texts).find((one) => !isGood(one)) ?? [];
    if (odd) throw new Error(`${odd}: expected a text or a number`);
    parsed(words(texts as Texts)); // throws what is wrong with them
    if (!Array.isArray(interfaces)) throw new Error("interfaces: expected a list");
    return { texts: texts as Texts, interfaces: interfaces.map((one) => take(DECLARED, asObject(one))) };
  } catch (error) {
    throw refusal(file, (error as Error).message.replace("Cannot start: ", ""));
  }
}

/** What the fields of an entry say together, and the entries. Errors: a Failure. */
function checkTogether(
  file: string,
  entries: Declared[],
  create: Pick<Settings, keyof typeof CREATE & Name>,
) {
  const names = new Set<string>();
  for (const entry of entries) {
    const { name, type = "tun", mode, ...rest } = { address6: "", ...create, ...entry };
    if (names.has(name)) throw refusal(file, `interfaces: there are two of the name ${name}`);
    names.add(name);
    try {
      checked(type, rest);
    } catch (error) {
      throw refusal(file, `interfaces: ${name}: ${(error as Error).message}`);
    }
  }
}

/** As flags; a list is a flag for each of it. */
const words = (texts: Texts) =>
  Object.entries(texts).flatMap(([name, text]) => [text].flat().map((one) => `--${name}=${one}`));
const parsed = (args: string[]) => parse(args, FLAGS, "src/manager/main.ts");
const refusal = (what: string, why: string) => new Failure(`Cannot use ${what}: ${why}`, "--help", 2);

function host(text: string): string {
  if (isIP(text) > 0 || text === "localhost" || text.startsWith("/")) return text;
  throw new Error("is no IP address, nor localhost, nor a path that begins with /");
}

function hostNames(text: string): string[] {
  return text.toLowerCase().split(",").filter(Boolean);
}

function fromTokenFile(file: string): string {
  if (statSync(file).mode & 0o077) throw refusal(file, "other users can read it");
  return goodToken(readFileSync(file, "utf8").trim(), file);
}

function goodToken(token: string, source: string): string {
  if (/^[!-~]{16,128}$/.test(token)) return token;
  throw new Failure(`Cannot use the token in ${source}: expected 16 to 128 characters without a space`, MAKE);
}
