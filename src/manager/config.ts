/**
 * The configuration: a JSON file, the environment, flags, each stronger than the one before; and where each
 * value came from. A file with a mistake changes nothing.
 */
import { readFileSync, statSync } from "node:fs";
import { isIP } from "node:net";
import { Failure } from "../base/failure.ts";
import { CLIENT, flag, option, parse, whole } from "../host/options.ts";
import { takeFromEnvironment } from "../host/secret.ts";
import { CREATE, FIELDS, START } from "./interfaces.ts";
import { nearest, take, type Values } from "./route.ts";

const SETTINGS = {
  host: option("ADDR|PATH", "127.0.0.1", "address to listen on, or the path of a unix socket", host),
  port: option("N", "8080", "TCP port to listen on; 0: any free one", whole(0, 65535)),
  "token-file": option(
    "FILE",
    undefined,
    "what requests that change something must bear; mode 0600",
    readToken,
  ),
  "tls-cert": option("FILE", undefined, "https, with this certificate (PEM)", readPem),
  "tls-key": option("FILE", undefined, "and this key (PEM)", readPem),
  "allow-host": option("NAMES", undefined, "a,b: names of this machine that browsers may use", allowHost),
  rate: option("N", "1000", "requests a second from one address, at most", whole(1, 1e9)),
  name: option("NAME", "tun0", "of an interface, where create names none", FIELDS.name.read),
  address: option("ADDR", "10.0.0.1", "likewise", FIELDS.address.read),
  netmask: option("MASK", "255.255.255.0", "likewise", FIELDS.netmask.read),
  mtu: option("N", "1500", "likewise", FIELDS.mtu.read),
};
const FLAGS = {
  ...SETTINGS,
  config: option("FILE", undefined, 'all of these as JSON, and "interfaces" that are to exist', String),
  "print-config": flag("print what holds, and where each value came from"),
  help: CLIENT.help,
  version: CLIENT.version,
};
const NAMES = Object.keys(SETTINGS) as (keyof typeof SETTINGS)[];
const VARIABLE = "SIMPLE_VPN_MANAGER_"; // …PORT, …ALLOW_HOST and so on; and …TOKEN, the token itself
const DECLARED = { ...CREATE, ...START };

/** An interface that the file wants: what create and start take. */
export type Declared = Values<typeof DECLARED>;
type Read = { [N in keyof typeof SETTINGS]: ReturnType<(typeof SETTINGS)[N]["read"]> };
export type Config = Omit<Partial<Read>, "host"> &
  Pick<Read, "host" | "port" | "rate" | "name" | "address" | "netmask" | "mtu"> & {
    token: string | undefined;
    file: string | undefined;
    interfaces: Declared[];
    shown: string; // what --print-config prints
  };

/** Where values came from, and their texts. */
type Layer = [source: string, texts: Record<string, string>];

/** What holds now. */
export let config: Config;
let environment: Record<string, string> | undefined; // read once: no child of ours shall see the token

/** Reads all of it, anew. `print`: --print-config. Errors: a Failure; `config` stays as it was. */
export function load(args: string[]): { print: boolean } {
  environment ??= fromEnvironment();
  const texts = Object.entries(FLAGS).map(([name, { value, help, initial }]) => [
    name,
    { value, help: initial ? `${help} (${initial})` : help, read: String },
  ]);
  const { values: given, positionals } = parse(args, Object.fromEntries(texts), "src/manager/main.ts");
  const flags = Object.fromEntries(Object.entries(given).map(([name, all]) => [name, String(all!.at(-1))]));
  if (positionals.length > 0) throw usage(`unexpected argument ${positionals[0]}`);
  const file = flags.config ?? environment.config;
  const { interfaces, ...inFile } = file === undefined ? { interfaces: [] } : readFile(file);
  const defaults = NAMES.flatMap(
    (name) => SETTINGS[name].initial?.split("\0").map((text) => [name, text]) ?? [],
  );
  const layers: Layer[] = [
    ["a flag", flags],
    ["the environment", environment],
    [file ?? "", inFile],
    ["default", Object.fromEntries(defaults)],
  ];
  const values: Record<string, unknown> = {};
  const lines = NAMES.map((name) => {
    const [source, texts] = layers.find(([, texts]) => texts[name] !== undefined) ?? [];
    if (texts) values[name] = readOne(name, texts[name]!, source!);
    return `${name.padEnd(12)}${texts?.[name] ?? ""} (${source ?? "not set"})`;
  });
  const token = (values["token-file"] as string | undefined) ?? environment.token;
  lines.push(`token       ${token ? "set" : "not set"}`, `interfaces  ${JSON.stringify(interfaces)}`);
  const next = { ...values, token, file, interfaces, shown: lines.join("\n") } as Config;
  refuseOpenDoor(next);
  config = next;
  return { print: flags["print-config"] !== undefined };
}

/** Loopback and unix sockets are for this machine alone. */
export const isLocal = (host: string) => /^(127\.|::1$|localhost$|\/)/.test(host);

function refuseOpenDoor({ host, token, ...values }: Config): void {
  if (!isLocal(host) && token === undefined)
    throw new Failure(
      `Cannot listen on ${host}: whoever reaches it needs no token`,
      `--token-file FILE; ${MAKE}`,
    );
  if (!values["tls-cert"] !== !values["tls-key"])
    throw new Failure("Cannot use TLS: --tls-cert and --tls-key belong together", "give both, or none");
}
const MAKE = `to make one: (umask 077; node -p "crypto.randomBytes(16).toString('hex')" > FILE)`;

const usage = (message: string, hint = "--help") => new Failure(`Cannot start: ${message}`, hint, 2);

function fromEnvironment(): Record<string, string> {
  const token = takeFromEnvironment(`${VARIABLE}TOKEN`);
  const rest = Object.entries(process.env).flatMap(([variable, value = ""]) => {
    if (!variable.startsWith(VARIABLE)) return [];
    const name = variable.slice(VARIABLE.length).toLowerCase().replaceAll("_", "-");
    return [[known(name, [...NAMES, "config"], `the environment's ${variable}`), value]];
  });
  return {
    ...Object.fromEntries(rest),
    ...(token !== undefined && { token: checkedToken(token, `${VARIABLE}TOKEN`) }),
  };
}

function known(name: string, names: string[], what: string): string {
  if (names.includes(name)) return name;
  throw new Failure(
    `Cannot use ${what}: there is no such setting${nearest(name, names)}`,
    "--help names them",
    2,
  );
}

function readOne(name: keyof typeof SETTINGS, text: string, source: string): unknown {
  try {
    return SETTINGS[name].read(text);
  } catch (error) {
    if (error instanceof Failure) throw error;
    throw usage(`${name} ${text} ${(error as Error).message} (${source})`);
  }
}

/** The file's values as text, and its interfaces, checked. */
function readFile(file: string): Record<string, string> & { interfaces: Declared[] };
function readFile(file: string): object {
  const refuse = (why: string) => new Failure(`Cannot use ${file}: ${why}`, "mend it; nothing has changed");
  let json: Record<string, unknown>;
  try {
    json = JSON.parse(readFileSync(file, "utf8"));
  } catch (error) {
    throw refuse((error as Error).message);
  }
  if (typeof json !== "object" || json === null || Array.isArray(json))
    throw refuse("expected a JSON object");
  const { interfaces = [], ...rest } = json;
  const names = [...NAMES, "interfaces"];
  const wrong = Object.entries(rest).find(
    ([name, value]) => known(name, names, `${name} in ${file}`) && !isText(value),
  );
  if (wrong) throw refuse(`${wrong[0]}: expected a text or a number`);
  if (!Array.isArray(interfaces)) throw refuse("interfaces: expected a list");
  try {
    const declared = interfaces.map((one) => take(DECLARED, Object(one)));
    const twice = declared.find(({ name }, i) => declared.findIndex((other) => other.name === name) !== i);
    if (twice) throw new Error(`${twice.name ?? "one without a name"} is there twice`);
    return {
      ...Object.fromEntries(Object.entries(rest).map(([name, value]) => [name, String(value)])),
      interfaces: declared,
    };
  } catch (error) {
    throw refuse(`interfaces: ${(error as Error).message}`);
  }
}
const isText = (value: unknown) => typeof value === "string" || Number.isInteger(value);

// ---- readers: text → value, or what is wrong with the text ----

function host(text: string): string {
  if (isIP(text) === 0 && text !== "localhost" && !text.startsWith("/"))
    throw new Error("is neither an IP address nor localhost nor a path that begins with /");
  return text;
}

function allowHost(text: string): string[] {
  const names = text.toLowerCase().split(",");
  if (names.some((name) => !/^[a-z\d.-]+$/.test(name)))
    throw new Error("is no list of names, such as vpn.lan,desk");
  return names;
}

function readPem(file: string): Buffer {
  return readFileSync(file);
}

function readToken(file: string): string {
  if (statSync(file).mode & 0o077)
    throw new Failure(`Cannot use the token in ${file}: other users can read it`, `chmod 600 ${file}`);
  return checkedToken(readFileSync(file, "utf8").trim(), file);
}

function checkedToken(token: string, source: string): string {
  if (/^[!-~]{16,128}$/.test(token)) return token;
  throw new Failure(`Cannot use the token in ${source}: expected 16 to 128 letters and digits`, MAKE);
}
