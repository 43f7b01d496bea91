/**
 * The command line of both programs: one table of options, from which the help, the parsing and the types
 * follow.
 */
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { isIP } from "node:net";
import { parseArgs } from "node:util";
import {
  isLoopback,
  type Cidr,
  formatIPv6,
  parseBlock6,
  parseCidr,
  parseIPv6,
  parsePrefix96,
  type Prefix96,
} from "../base/address.ts";
import { Failure } from "../base/failure.ts";
import { IFNAMSIZ, thisProcess } from "../base/libc.ts";
import { nearest } from "../base/nearest.ts";
import { readLogin, readSecrets, takeFromEnvironment } from "./secret.ts";

/** One option: how its value is shown in the help, and read; `read` throws what is wrong with the value. */
interface Option<T> {
  value: string; // "" for a flag without one
  initial?: string;
  help: string;
  read: (text: string) => T;
  repeatable?: true;
}
export const option = <T>(
  value: string,
  initial: string | undefined,
  help: string,
  read: (text: string) => T,
): Option<T> => (initial === undefined ? { value, help, read } : { value, initial, help, read });
/** One that may be given several times. */
export const several = <T>(value: string, help: string, read: (text: string) => T): Option<T> => ({
  ...option(value, undefined, `${help}; repeatable`, read),
  repeatable: true,
});
/** An option without a value. */
export const flag = (help: string) => option("", undefined, help, () => true);

const COMMON = {
  port: option("N", "5555", "the server's port", whole(1, 65535)),
  transport: option(
    "NAME",
    "tcp",
    "tcp; udp: what is lost holds up nothing behind it; quic: as in HTTP/3, on Node 24; raw: hand-made TCP " +
      "segments, as root; the same on both ends",
    transportName,
  ),
  "tcp-flags": option("LIST", "PA", "raw: flags of its segments, in turn, of P A U E C: PA,A", tcpFlags),
  kcp: option(
    "MODE",
    "fast",
    "raw: how eagerly it sends again what is lost: normal (and gives way to others), fast, fast2, fast3",
    choice("normal", "fast", "fast2", "fast3"),
  ),
  tun: option("NAME", "tun0", "interface name, at most 15 bytes", interfaceName),
  cipher: option(
    "NAME",
    "xor+aes",
    "xor+aes; or xor, the original C programs' format: insecure, to learn from",
    choice("xor+aes", "xor"),
  ),
  secret: several(
    "FILE",
    "64 hex digits, mode 0600 (secret.key); or the environment's SIMPLE_VPN_SECRET",
    String,
  ),
  mtu: option(
    "N",
    undefined,
    "of the TUN interface, bytes, 68 to 65535 (1400; udp: what the path takes, at most 1424)",
    whole(68, 65535),
  ),
  offload: option(
    "on|off",
    "on",
    "on: the kernel hands over TCP in packets of up to 64 KB; not with --cipher xor",
    choice("on", "off"),
  ),
  trace: option(
    "MODE",
    "walk",
    "walk: every step, folded under load; summary: a line a second; off",
    choice("walk", "summary", "off"),
  ),
  "trace-file": option("FILE", undefined, "the trace as JSON, one object a line", String),
  status: option(
    "PATH",
    undefined,
    "state and numbers as JSON lines, by a unix socket of mode 0600",
    socketPath,
  ),
  metrics: option(
    "[ADDR:]PORT",
    undefined,
    "numbers for Prometheus, by HTTP; without an address, for this machine alone",
    addressAndPort(9586),
  ),
  configure: flag("run the ip, sysctl and iptables commands instead of printing them; undo them at exit"),
  user: option("NAME", undefined, "once all is set up, go on as this user, without root", account),
  help: flag("print this"),
  version: flag("print the version"),
};
export const CLIENT = {
  ...COMMON,
  route: several("CIDR", "a block to send into the tunnel", route),
  dns: several("ADDRESS", "ask this name server, through the tunnel", dnsServer),
  socks: option(
    "[ADDR:]PORT",
    undefined,
    "a SOCKS5 server for programs here: what they ask for goes through the tunnel, without a route",
    addressAndPort(1080),
  ),
  "socks-dns": several(
    "ADDRESS",
    "the name server for --socks, asked through the tunnel (that of --dns; the server)",
    dnsServer,
  ),
  "socks-login": option(
    "FILE",
    undefined,
    "USER:PASSWORD for --socks, mode 0600; or the environment's SIMPLE_VPN_SOCKS_LOGIN",
    String,
  ),
  "kill-switch": flag(
    "what belongs into the tunnel stays blocked when the client has ended; with --configure",
  ),
  once: flag("end when the server is lost, instead of connecting again"),
  rekey: option("SECONDS", "120", "ask for fresh keys so often, 1 to 86400", whole(1, 86_400)),
  address: option(
    "CIDR",
    "10.8.0.2/24",
    "inner address, for --cipher xor only: there, no handshake assigns one",
    cidr(8, 30),
  ),
};
export const SERVER = {
  ...COMMON,
  listen: option("ADDR", "*", "IPv4 or IPv6 address to listen on; *: all of this machine's", listenAddress),
  subnet: option(
    "CIDR",
    "10.8.0.0/24",
    "inner addresses: the server takes the first, clients the next ones",
    block(8, 30),
  ),
  subnet6: option(
    "CIDR|off",
    "fd56:504e::/96",
    "inner IPv6 addresses: a /96, with the IPv4 ones in the last 32 bits; not with --cipher xor",
    subnet6,
  ),
  "max-clients": option(
    "N",
    "253",
    "connected clients, at most; the subnet may have room for fewer",
    whole(1, 65534),
  ),
  isolate: flag("clients reach the server and what is behind it, but not each other"),
  nat: option("DEV", undefined, "forward the clients' packets, and masquerade what leaves by DEV", linkName),
};

/** Bytes. With udp, a packet in its datagram is as long as Ethernet takes: 76 bytes are around it. */
export const MTU = { tcp: 1400, udp: 1424, quic: 1400, raw: 1400 };
/** What carries them, for the firewall and the routes. */
export const IP_PROTOCOL = { tcp: "tcp", udp: "udp", quic: "udp", raw: "tcp" } as const;

type Values<Table> = { [Name in keyof Table]?: Table[Name] extends Option<infer T> ? T[] : never };
const last = <T>(values: T[] | undefined) => values?.at(-1);

/** What both programs take. */
export type Options = ReturnType<typeof common>;
export type ClientOptions = ReturnType<typeof clientOptions>;
export type ServerOptions = ReturnType<typeof serverOptions>;

/**
 * The client's options, from its arguments. Errors: a Failure with exit code 2 for usage, 1 for the secret.
 */
export function clientOptions(args: string[]) {
  const environment = takeFromEnvironment();
  const login = takeFromEnvironment("SIMPLE_VPN_SOCKS_LOGIN");
  const { values, positionals } = parse(args, CLIENT, "src/client.ts <server>");
  if (positionals.length !== 1)
    throw usage(`expected one server, got ${positionals.length}`, "npx tsx src/client.ts 192.168.1.1");
  if (values["kill-switch"] && !values.configure)
    throw usage(
      "--kill-switch is for routes that the client sets itself",
      "add --configure, or leave it out",
    );
  return {
    ...common(values, environment),
    server: positionals[0]!,
    routes: values.route ?? [],
    dns: values.dns ?? [],
    socks: socksOptions(values, login),
    address: last(values.address)!,
    killSwitch: values["kill-switch"] !== undefined,
    once: values.once !== undefined,
    rekey: last(values.rekey)!,
  };
}

/** --socks and what belongs to it; undefined: it was not asked for. */
function socksOptions(values: Values<typeof CLIENT>, environment: string | undefined) {
  const place = last(values.socks);
  const alone = (["socks-dns", "socks-login"] as const).find((name) => values[name]);
  if (!place && alone) throw usage(`--${alone} is for --socks`, "add --socks 1080, or leave it out");
  if (!place) return undefined;
  const login = readLogin(last(values["socks-login"]), environment);
  if (login === undefined && !isLoopback(place.host))
    throw usage(
      `--socks ${place.host} is for other machines, too, and needs a login`,
      "add --socks-login FILE, or leave the address out",
    );
  return { ...place, login, dns: values["socks-dns"] ?? values.dns ?? [] };
}

/** The server's options, likewise. */
export function serverOptions(args: string[]) {
  const environment = takeFromEnvironment();
  const { values, positionals } = parse(args, SERVER, "src/server.ts");
  if (positionals.length !== 0) throw usage(`unexpected argument ${positionals[0]}`, "--help");
  return {
    ...common(values, environment),
    listen: last(values.listen)!,
    subnet: last(values.subnet)!,
    subnet6: last(values.subnet6),
    maxClients: last(values["max-clients"])!,
    isolate: values.isolate !== undefined,
    nat: last(values.nat),
  };
}

function common(values: Values<typeof COMMON>, environment: string | undefined) {
  const transport = last(values.transport)!;
  if (transport !== "tcp" && last(values.cipher) === "xor")
    throw usage(
      "--cipher xor is the original programs' format, for TCP",
      "leave out --transport, or --cipher",
    );
  return {
    transport,
    tcpFlags: last(values["tcp-flags"])!,
    kcp: last(values.kcp)!,
    port: last(values.port)!,
    tun: last(values.tun)!,
    // 32 bytes each; undefined: --cipher xor
    secrets: last(values.cipher) === "xor" ? undefined : readSecrets(values.secret, environment),
    mtu: last(values.mtu) ?? MTU[transport], // bytes
    // the C wire format has no place for it
    offload: last(values.cipher) === "xor" ? ("none" as const) : last(values.offload)!,
    trace: last(values.trace)!,
    traceFile: last(values["trace-file"]),
    status: last(values.status), // a path
    metrics: last(values.metrics),
    configure: values.configure !== undefined,
    user: last(values.user), // undefined: stay who we are
  };
}

export function parse<Table extends Record<string, Option<unknown>>>(
  args: string[],
  table: Table,
  usageLine: string,
): { values: Values<Table>; given: string[]; positionals: string[] } {
  const names = Object.keys(table);
  const options = Object.fromEntries(
    names.map((name) => [
      name,
      { type: table[name]!.value ? ("string" as const) : ("boolean" as const), multiple: true },
    ]),
  );
  let given;
  try {
    given = parseArgs({ args, options, allowPositionals: true });
  } catch (error) {
    const [problem = ""] = (error as Error).message.split(/\. |\n/);
    const unknown = /^Unknown option '--(.*)'/.exec(problem)?.[1];
    throw usage(problem + (unknown === undefined ? "" : nearest(unknown, names)), "--help");
  }
  const lines = names.map((name) => helpLine(name, table[name]!)).join("\n");
  if (given.values.help) printAndExit(`Usage: npx tsx ${usageLine} [options]\n\n${lines}`);
  if (given.values.version) printAndExit(`simple-vpn ${version}`);
  const values: Record<string, unknown[]> = {};
  for (const name of names) {
    const { initial, read } = table[name]!;
    const texts = given.values[name] ?? (initial === undefined ? undefined : [initial]);
    if (texts) values[name] = (texts as string[]).map((text) => checked(name, text, read));
  }
  return {
    values: values as Values<Table>,
    given: Object.keys(given.values),
    positionals: given.positionals,
  };
}

const helpLine = (name: string, { value, help, initial }: Option<unknown>) =>
  `  ${`--${name} ${value}`.padEnd(20)} ${help}${initial ? ` (${initial})` : ""}`;

/** Of package.json. */
export const { version }: { version: string } = JSON.parse(
  readFileSync(new URL("../../package.json", import.meta.url), "utf8"),
);

function printAndExit(text: string): never {
  console.log(text);
  process.exit(0);
}

function checked<T>(name: string, text: string, read: (text: string) => T): T {
  try {
    return read(text);
  } catch (error) {
    if (error instanceof Failure) throw error;
    throw usage(`--${name} ${text} ${(error as Error).message}`, "--help");
  }
}

const usage = (message: string, hint: string) => new Failure(`Cannot start: ${message}`, hint, 2);

// ---- readers: text → value, or what is wrong with the text ----

export function whole(min: number, max: number) {
  return (text: string) => {
    if (!/^\d+$/.test(text) || Number(text) < min || Number(text) > max)
      throw new Error(`is no whole number from ${min} to ${max}`);
    return Number(text);
  };
}

export function choice<const T extends string>(...allowed: T[]) {
  return (text: string) => {
    const found = allowed.find((one) => one === text);
    if (found === undefined) throw new Error(`is not one of ${allowed.join(", ")}`);
    return found;
  };
}

/** "PA,A": the flags of one segment, and of the next one (RFC 9293, section 3.1). */
function tcpFlags(text: string): number[] {
  const bits: Record<string, number> = { P: 0x08, A: 0x10, U: 0x20, E: 0x40, C: 0x80 };
  if (!/^[PAUEC]+(,[PAUEC]+)*$/.test(text) || text.split(",").some((flags) => !flags.includes("A")))
    throw new Error("is no list such as PA,A: each of P, A, U, E, C, with an A; F, S and R end connections");
  return text.split(",").map((flags) => [...flags].reduce((sum, flag) => sum | bits[flag]!, 0));
}

/** Is there a QUIC server in this Node's OpenSSL? Declaring what is not there throws. */
export function hasQuic(): boolean {
  try {
    thisProcess.func("void OSSL_QUIC_server_method()");
    return true;
  } catch {
    return false;
  }
}

function transportName(text: string) {
  const name = choice("tcp", "udp", "quic", "raw")(text);
  if (name !== "quic" || hasQuic()) return name;
  const { node, openssl } = process.versions;
  throw usage(
    `--transport quic needs OpenSSL 3.5 or later, and Node ${node} has ${openssl}`,
    "Node 24, or the newest Node 22; or leave out --transport quic",
  );
}

function cidr(minPrefix: number, maxPrefix: number) {
  return (text: string): Cidr => {
    const block = parseCidr(text);
    if (block && block.prefix >= minPrefix && block.prefix <= maxPrefix) return block;
    throw new Error(
      `is not ADDRESS/PREFIX with a prefix from ${minPrefix} to ${maxPrefix}, such as 10.8.0.0/24`,
    );
  };
}

function block(minPrefix: number, maxPrefix: number) {
  return (text: string): Cidr => {
    const block = cidr(minPrefix, maxPrefix)(text);
    if (block.address !== block.network)
      throw new Error("has host bits set: give the block's first address, such as 10.0.0.0/8");
    return block;
  };
}

/** A block of either family, as `ip route` writes it. */
function route(text: string): string {
  const block6 = text.includes(":") ? parseBlock6(text) : undefined;
  if (block6) return block6.text;
  if (text.includes(":")) throw new Error("is no ADDRESS/PREFIX without host bits, such as 2001:db8::/32");
  block(0, 32)(text);
  return text;
}

function subnet6(text: string): Prefix96 | undefined {
  const prefix = parsePrefix96(text);
  if (prefix === undefined && text !== "off")
    throw new Error("is neither an IPv6 block ADDRESS/96, such as fd56:504e::/96, nor off");
  return prefix;
}

function dnsServer(text: string): string {
  const bytes = parseIPv6(text);
  const address = bytes ? formatIPv6(bytes) : text;
  const isMapped = /^::ffff:[^:]+:[^:]+$/.test(address); // IPv4 after all: no IPv6 route counts for it
  const isAddress = isIP(text) !== 0 && !text.includes("%") && !isMapped;
  if (!isAddress) throw new Error("is no IP address, such as 8.8.8.8");
  if (!/^(0|127)\.|^::1?$/.test(address)) return address;
  throw new Error("is this machine itself: name one that the server reaches, such as 8.8.8.8");
}

function listenAddress(text: string): string {
  if (text !== "*" && isIP(text) === 0)
    throw new Error("is no IP address, such as 0.0.0.0 or :: for all of this machine's");
  return text;
}

/** White space in it would part the command that removes it at the end. */
export function socketPath(text: string): string {
  const length = Buffer.byteLength(text);
  if (length === 0 || length > 107) throw new Error(`has ${length} bytes, expected 1 to 107`); // unix(7)
  if (/[\s\p{C}]/u.test(text)) throw new Error("has white space or a control character in it");
  return text;
}

/** "9586", "127.0.0.1:9586" or "[::1]:9586". `example`: a port, for the error. */
function addressAndPort(example: number) {
  return (text: string): { host: string; port: number } => {
    const [, host = "127.0.0.1", port = ""] = /^(?:\[?([^[\]]*)\]?:)?(\d+)$/.exec(text) ?? [];
    if (isIP(host) === 0 || text.includes("[") !== (isIP(host) === 6))
      throw new Error(`is no ADDR:PORT, such as 127.0.0.1:${example} or [::1]:${example}`);
    return { host, port: whole(1, 65535)(port) };
  };
}

export function interfaceName(text: string): string {
  const length = Buffer.byteLength(text);
  if (length === 0 || length >= IFNAMSIZ)
    throw new Error(`has ${length} bytes, expected 1 to ${IFNAMSIZ - 1}`);
  if (!/^[!-~]+$/.test(text) || /[/:%#"'\\]|^\.\.?$/.test(text))
    throw new Error("has a character that an interface name cannot have");
  if (/[+*]$/.test(text))
    throw new Error("ends in a character that makes it a pattern: iptables' +, nft's *");
  return text;
}

/** As `ip -br link` shows it: in "eth1@if2", the name of this end ends before the @. */
function linkName(text: string): string {
  return interfaceName(text.replace(/@.*/s, ""));
}

/** A user of this system to go on as. */
export interface Account {
  name: string;
  uid: number;
  gid: number;
}

/** As id(1) knows it: /etc/passwd is not the only place where users are kept. */
function account(name: string): Account {
  const [uid, gid] = ["-u", "-g"].map((which) =>
    Number(spawnSync("id", [which, "--", name], { encoding: "utf8" }).stdout?.trim() || NaN),
  );
  if (!Number.isInteger(uid) || !Number.isInteger(gid))
    throw new Error("is no user of this system, such as nobody");
  if (uid === 0) throw new Error("is root itself: name another user, such as nobody");
  if (gid === 0) throw new Error("is of root's group: name another user, such as nobody");
  if (process.getuid!() !== 0)
    throw new Error("is for root, which can become another user: start with sudo, or leave it out");
  return { name, uid: uid!, gid: gid! };
}
