/** The configuration: a JSON file, the environment, flags. Each is stronger than the one before. */
import { readFileSync } from "node:fs";
import { isIP } from "node:net";
import { isLoopback } from "../base/address.ts";
import { Failure } from "../base/failure.ts";
import { nearest } from "../base/nearest.ts";
import { CLIENT, flag, option, parse, several, socketPath, whole } from "../host/options.ts";
import { readPrivate, takeFromEnvironment } from "../host/secret.ts";
import { complete, CREATE, type Defaults, START } from "./fields.ts";
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
type Settings = { [N in Name]: ReturnType<(typeof SETTINGS)[N]["read"]> };
type Given = Partial<Settings & { watch: string[]; config: string }>;
const NAMES = Object.keys(SETTINGS) as Name[];
const DEFAULTS: Given = Object.fromEntries(
  NAMES.map((name) => [name, SETTINGS[name].read(SETTINGS[name].initial!)]),
);
const VARIABLE = "SIMPLE_VPN_MANAGER_"; // …PORT, …ALLOW_HOST and so on; and …TOKEN, the token itself
const DECLARED = { ...CREATE, ...START }; // of an interface that the file wants
export type Declared = Values<typeof DECLARED>;

/** What holds now. */
export let config: ReturnType<typeof read>;
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

function read(args: string[], { token, given: inEnvironment }: ReturnType<typeof fromEnvironment>) {
  const flags = fromFlags(args);
  const file = flags.config ?? inEnvironment.config;
  const { interfaces, ...inFile } = file === undefined ? { interfaces: [] } : fromFile(file);
  const sources: [from: string, given: Given][] = [
    ["default", DEFAULTS],
    [file ?? "", inFile],
    ["the environment", inEnvironment],
    ["a flag", flags],
  ];
  const settings: Settings = Object.assign({}, ...sources.map(([, given]) => given));
  // All that they name, together
  const watch = sources.flatMap(([from, { watch = [] }]) => watch.map((path) => ({ path, from })));
  const { name, address, netmask, mtu, "token-file": tokenFile } = settings;
  const create = { name, address, netmask, mtu }; // what a new interface has, unless asked for something else
  checkTogether(interfaces, create, file);
  const tokenSource = tokenFile || (token && "the environment");
  const line = (name: string, value: unknown, from: string) => `${name.padEnd(12)}${value} (${from})`;
  const lines = [
    ...NAMES.map((name) =>
      line(name, settings[name], sources.filter(([, given]) => name in given).at(-1)![0]),
    ),
    line("token", tokenSource ? "set" : "not set", tokenSource || "default"),
    ...watch.map(({ path, from }) => line("watch", path, from)),
    ...interfaces.map((one) => line("interface", JSON.stringify(one), file!)),
  ];
  return {
    ...settings,
    watch: watch.map(({ path }) => path),
    token: tokenFile ? goodToken(`${readPrivate("token", tokenFile, inFront, MAKE)}`, tokenFile) : token,
    create,
    file,
    interfaces,
    shown: "print-config" in flags ? lines.join("\n") : undefined,
  };
}
const inFront = (file: string) => `${VARIABLE}TOKEN=$(cat ${file}) in front of npx or node`;
const MAKE = `to make it: (umask 077; node -p "crypto.randomBytes(16).toString('hex')" > FILE)`;

function fromFlags(args: string[]): Given {
  const { values, given, positionals } = parse(args, FLAGS, "src/manager/main.ts");
  if (positionals.length > 0) throw refusal(positionals[0]!, "flags begin with --");
  const all = given.map((name) => [name, values[name as Name]!] as const);
  return Object.fromEntries(all.map(([name, list]) => [name, name === "watch" ? list : list.at(-1)]));
}

function fromEnvironment() {
  const token = takeFromEnvironment(`${VARIABLE}TOKEN`);
  const ours = Object.entries(process.env).filter(([variable]) => variable.startsWith(VARIABLE));
  const given = ours.map(([variable, text]) => {
    const name = variable.slice(VARIABLE.length).toLowerCase().replaceAll("_", "-");
    return [name, readAs(name, text, variable, "config")];
  });
  return {
    token: token === undefined ? undefined : goodToken(token, `${VARIABLE}TOKEN`),
    given: Object.fromEntries(given) as Given,
  };
}

function fromFile(file: string): Given & { interfaces: Declared[] } {
  try {
    const json: Record<string, unknown> = { ...asObject(JSON.parse(readFileSync(file, "utf8"))) };
    const { interfaces = [], ...rest } = json;
    const given = Object.entries(rest).map(([name, value]) => [
      name,
      readAs(name, value, `${file}: ${name}`, "interfaces"),
    ]);
    if (!Array.isArray(interfaces)) throw new Error("interfaces: expected a list");
    const declared = interfaces.map((one) => take(DECLARED, asObject(one)));
    return { ...Object.fromEntries(given), interfaces: declared };
  } catch (error) {
    throw error instanceof Failure ? error : refusal(file, (error as Error).message);
  }
}

/** What the flag `name` makes of this value. `place`: where it was found; `more`: what else may be there. */
function readAs(name: string, value: unknown, place: string, more: string): unknown {
  const known = [...NAMES, "watch", more];
  if (!known.includes(name)) throw refusal(place, `there is no such setting${nearest(name, known)}`);
  const read = (one: unknown) => {
    if (!["string", "number"].includes(typeof one)) throw refusal(place, "expected a text or a number");
    try {
      return FLAGS[name as Name].read(String(one));
    } catch (error) {
      throw refusal(place, `${one} ${(error as Error).message}`);
    }
  };
  return name === "watch" ? [value].flat().map(read) : read(value);
}

/** No two entries have one name, and each makes an interface. Errors: a Failure. */
function checkTogether(entries: Declared[], create: Defaults, file = "") {
  const names = new Set<string>();
  for (const entry of entries) {
    const { name } = { ...create, ...entry };
    if (names.has(name)) throw refusal(file, `interfaces: there are two of the name ${name}`);
    names.add(name);
    try {
      complete(create, entry);
    } catch (error) {
      throw refusal(file, `interfaces: ${name}: ${(error as Error).message}`);
    }
  }
}

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
