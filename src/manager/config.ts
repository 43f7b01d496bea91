/**
 * The configuration: a JSON file, the environment, flags. Each is stronger than the one before. The values of
 * the first two are put in front of the flags, and the last value counts.
 */
import { readFileSync } from "node:fs";
import { isIP } from "node:net";
import { isLoopback } from "../base/address.ts";
import { Failure } from "../base/failure.ts";
import { nearest } from "../base/nearest.ts";
import { CLIENT, flag, option, parse, several, socketPath, whole } from "../host/options.ts";
import { readPrivate, takeFromEnvironment } from "../host/secret.ts";
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
  watch: several("PATH", "--status socket of a VPN program started elsewhere", String),
  config: option("FILE", undefined, 'all of these as JSON, and "interfaces" that are to exist', String),
  "print-config": flag("print what holds, and where it came from"),
  help: CLIENT.help,
  version: CLIENT.version,
};
type Name = keyof typeof SETTINGS;
const NAMES = Object.keys(SETTINGS) as Name[];
const IN_FILE = [...NAMES, "watch"];
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
  // Loopback and unix sockets are for this machine alone.
  const isLocal = next.host === "localhost" || next.host.startsWith("/") || isLoopback(next.host);
  if (!isLocal && next.token === undefined) throw new Failure(open, `--token-file FILE; ${MAKE}`);
  const half = "Cannot use TLS with one of --tls-cert and --tls-key";
  if (!next["tls-cert"] !== !next["tls-key"]) throw new Failure(half, "give both");
  config = next;
}
const inFront = (file: string) => `${VARIABLE}TOKEN=$(cat ${file}) in front of npx or node`;
const MAKE = `to make it: (umask 077; node -p "crypto.randomBytes(16).toString('hex')" > FILE)`;

function read(args: string[], { token, texts }: ReturnType<typeof fromEnvironment>) {
  const file = parsed([...words(texts), ...args]).values.config?.at(-1);
  const inFile = file === undefined ? { texts: {} as Texts, interfaces: [] } : fromFile(file);
  const { values, positionals } = parsed([...words(inFile.texts), ...words(texts), ...args]);
  if (positionals.length > 0) throw refusal(positionals[0]!, "flags begin with --");
  const settings = Object.fromEntries(NAMES.map((name) => [name, values[name]!.at(-1)])) as Settings;
  const source = (name: Name) => {
    if (args.some((word) => word.split("=")[0] === `--${name}`)) return "a flag";
    return name in texts ? "the environment" : name in inFile.texts ? file! : "default";
  };
  const tokenFile = settings["token-file"];
  const tokenSource = tokenFile || (token && "the environment");
  const places: [{ watch?: string | string[] }, string][] = [
    [inFile.texts, file!],
    [texts, "the environment"],
    [parsed(args).values, "a flag"],
  ];
  // All that they name, together
  const watch = places.flatMap(([{ watch = [] }, from]) => [watch].flat().map((path) => ({ path, from })));
  const { interfaces } = inFile;
  const line = (name: string, value: unknown, from: string) => `${name.padEnd(12)}${value} (${from})`;
  const lines = [
    ...NAMES.map((name) => line(name, settings[name], source(name))),
    line("token", tokenSource ? "set" : "not set", tokenSource || "default"),
    ...watch.map(({ path, from }) => line("watch", path, from)),
    ...interfaces.map((one) => line("interface", JSON.stringify(one), file!)),
  ];
  const { name, address, netmask, mtu } = settings;
  const create = { name, address, netmask, mtu }; // what a new interface has, unless asked for something else
  if (file !== undefined) checkTogether(file, interfaces, create);
  return {
    ...settings,
    watch: watch.map(({ path }) => path),
    token: tokenFile ? goodToken(`${readPrivate("token", tokenFile, inFront, MAKE)}`, tokenFile) : token,
    create,
    file,
    interfaces,
    shown: values["print-config"] && lines.join("\n"),
  };
}

function fromEnvironment() {
  const token = takeFromEnvironment(`${VARIABLE}TOKEN`);
  const texts: Texts = {};
  for (const [variable, text] of Object.entries(process.env)) {
    if (!variable.startsWith(VARIABLE)) continue;
    const name = variable.slice(VARIABLE.length).toLowerCase().replaceAll("_", "-");
    const why = mistake(name, text!, [...IN_FILE, "config"]);
    if (why) throw refusal(variable, why);
    texts[name] = text!;
  }
  return { token: token === undefined ? undefined : goodToken(token, `${VARIABLE}TOKEN`), texts };
}

/** The file's values as text, and its interfaces. */
function fromFile(file: string): { texts: Texts; interfaces: Declared[] } {
  try {
    const json: Record<string, unknown> = { ...asObject(JSON.parse(readFileSync(file, "utf8"))) };
    const { interfaces = [], ...texts } = json;
    for (const [name, value] of Object.entries(texts)) {
      const why = mistake(name, value, [...IN_FILE, "interfaces"]);
      if (why) throw new Error(`${name}: ${why}`);
    }
    if (!Array.isArray(interfaces)) throw new Error("interfaces: expected a list");
    return { texts: texts as Texts, interfaces: interfaces.map((one) => take(DECLARED, asObject(one))) };
  } catch (error) {
    throw refusal(file, (error as Error).message);
  }
}

/** What is wrong with a setting of this name and value; undefined: nothing. */
function mistake(name: string, value: unknown, known: string[]): string | undefined {
  if (!known.includes(name)) return `there is no such setting${nearest(name, known)}`;
  for (const one of name === "watch" ? [value].flat() : [value]) {
    if (!["string", "number"].includes(typeof one)) return "expected a text or a number";
    try {
      FLAGS[name as Name].read(String(one));
    } catch (error) {
      return `${one} ${(error as Error).message}`;
    }
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
  if (text.startsWith("/")) return socketPath(text);
  if (isIP(text) > 0 || text === "localhost") return text;
  throw new Error("is no IP address, nor localhost, nor a path that begins with /");
}

function hostNames(text: string): string[] {
  return text.toLowerCase().split(",").filter(Boolean);
}

function goodToken(text: string, source: string): string {
  const token = text.trim();
  if (/^[!-~]{16,128}$/.test(token)) return token;
  throw new Failure(`Cannot use the token in ${source}: expected 16 to 128 characters without a space`, MAKE);
}
