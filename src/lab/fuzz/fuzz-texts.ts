/** For fuzz.ts: what people type. Addresses and blocks as text, options, secret files. */
import assert from "node:assert/strict";
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { isIPv6 } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { embed, formatIPv4, formatIPv6, parseBlock6, parseIPv6, parsePrefix96 } from "../../base/address.ts";
import { Failure } from "../../base/failure.ts";
import { clientOptions, serverOptions } from "../../host/options.ts";
import { endpoint, readSockaddr, sockaddr } from "../../transport/addresses.ts";
import { ADDRESSES, checkFailure, SECRET } from "./fuzz-inputs.ts";
import type { Random } from "./random.ts";
import { groupsAt, ipv6, network6, OPTIONS, written } from "./models.ts";

// ---- ipv6: addresses and blocks as text, and as the kernel has them ----

/** An IPv6 address in one of the forms that people type, or nearly. */
function text6(any: Random): string {
  const groups = Array.from({ length: 8 }, () => any.one(0, 0, any.below(0x10000), any.edge() % 0x10000));
  if (any.below(8) === 0) groups.splice(0, 6, 0, 0, 0, 0, 0, 0xffff);
  const hex = groups.map((group) => group.toString(16).padStart(any.one(1, 4), "0"));
  const dotted = [...hex.slice(0, 6), formatIPv4((groups[6]! * 65536 + groups[7]!) >>> 0)];
  const from = any.below(7);
  const cut = `${hex.slice(0, from).join(":")}::${hex.slice(from + 1 + any.below(7)).join(":")}`;
  const text = any.one(
    written(groups),
    hex.join(":"),
    hex.join(":").toUpperCase(),
    dotted.join(":"),
    cut,
    `::${dotted.slice(any.below(6) + 1).join(":")}`,
  );
  return any.below(2) ? text : any.mutateText(text);
}

export const makeIPv6 = (any: Random) =>
  Buffer.from(
    text6(any).replaceAll("%", "") + any.one("", "", "%lo", "%7", "%no-such-dev", "%-1", "%99999999999"),
  );

export function checkIPv6(input: Buffer, any: Random): void {
  const [, text, scope] = /^([^%]*)([^]*)$/.exec(input.toString()) as unknown as [string, string, string];
  const groups = ipv6(text);
  const bytes = parseIPv6(text + scope);
  assert.equal(bytes && written(groupsAt(bytes, 0)), groups && written(groups));
  if (bytes) assert.equal(formatIPv6(bytes), written(groups!));

  const slashed = any.below(8)
    ? `${text}/${any.one(0, 1, 32, 64, 96, 96, 96, 127, 128, 129, any.below(200))}`
    : any.mutateText(`${text}/96`);
  const net = network6(slashed);
  const block = parseBlock6(slashed);
  assert.equal(block?.text, net && `${written(net.groups)}/${net.prefix}`);
  const prefix = parsePrefix96(slashed);
  assert.equal(prefix !== undefined, net?.prefix === 96);
  const number = any.one(...ADDRESSES);
  if (prefix)
    assert.equal(
      embed(prefix, number),
      written([...net!.groups.slice(0, 6), number >>> 16, number & 0xffff]),
    );

  const port = any.below(65536);
  const isOurs = bytes !== undefined && isIPv6(text + scope);
  const index = scope === "%7" ? 7 : scope === "%lo" ? 1 : 0;
  const raw = isOurs ? sockaddr(text + scope, port) : any.mutate(sockaddr(formatIPv4(number), port));
  const kernels = Buffer.concat([isOurs && any.below(2) ? any.mutate(raw) : raw, Buffer.alloc(28)]).subarray(
    0,
    28,
  );
  if (isOurs)
    assert.deepEqual([raw.length, groupsAt(raw, 8), raw[24], raw.readUInt16BE(2)], [28, groups, index, port]);
  const shown = (at: number) => [...kernels.subarray(at, at + 4)].join(".");
  const mapped = groupsAt(kernels, 8).slice(0, 6).join() === "0,0,0,0,0,65535";
  const at = kernels.readUInt32LE(24);
  const expected =
    kernels.readUInt16LE(0) === 2
      ? shown(4)
      : mapped
        ? shown(20)
        : written(groupsAt(kernels, 8)) + (at ? `%${at}` : "");
  assert.deepEqual(readSockaddr(kernels), [expected, kernels.readUInt16BE(2)]);
  assert.match(endpoint(...readSockaddr(kernels)), /^(\[[\da-f:]+(%\d+)?\]|[\d.]+):\d+$/);
}

// ---- options and secrets ----

const WORDS = [
  "5555",
  "0",
  "65536",
  "86400",
  "tun0",
  "fifteen-bytes-a",
  "sixteen-bytes-ab",
  "a/b",
  "xor",
  "xor+aes",
  "10.8.0.0/24",
  "10.8.0.5/24",
  "0.0.0.0/0",
  "1.2.3.4",
  "1.2.3.4:9586",
  "[::1]:9586",
  "*",
  "::",
  "::1",
  "fe80::1%eth0",
  "::/0",
  "2001:DB8::/32",
  "fd00::/96",
  "fd00::1/96",
  "walk",
  "off",
  "on",
  "-1",
  "1e3",
  "",
  "tünl",
  "\u001b[2J",
  "a\nb",
  "--",
  "-p",
];
const NAMES = Object.keys(OPTIONS);

/** "client" or "server", and its arguments, as JSON: in half of the cases one option, else several words. */
export function makeOptions(any: Random): Buffer {
  const value = () =>
    any.one(
      any.one(...WORDS),
      any.mutateText(any.one(...WORDS)),
      any.one(text6(any), `${text6(any)}/${any.one(0, 32, 96, 128)}`),
    );
  const word = () => (any.below(4) ? any.one(...WORDS) : any.mutateText(any.one(...WORDS)));
  const name = () =>
    // it starts id(1)
    any.below(100) ? any.one(...NAMES, "configure", "once", "nonsense", "__proto__") : "user";
  const several = () =>
    Array.from({ length: any.below(6) }, () =>
      any.below(2)
        ? [`--${any.below(20) ? name() : any.mutateText(name())}`, word()]
        : [any.below(3) ? `--${name()}=${word()}` : word()],
    ).flat();
  const args = any.below(2) ? [`--${any.one(...NAMES)}=${value()}`] : several();
  return Buffer.from(JSON.stringify([any.one("client", "server"), ...args]));
}

/** One option with one value: taken if models.ts says so, refused if not. */
function checkOption(name: string, value: string, isClient: boolean): void {
  const { of, takes } = OPTIONS[name]!;
  const expected = of !== (isClient ? "server" : "client") && takes(value);
  try {
    const options = isClient
      ? clientOptions(["server", `--${name}=${value}`])
      : serverOptions([`--${name}=${value}`]);
    assert.ok(expected, `taken: --${name}=${value}`);
    const all: Record<string, unknown> = { ...options };
    if (typeof all[name] === "number") assert.equal(all[name], Number(value));
    if ("routes" in options && name === "route")
      assert.deepEqual(options.routes, [
        value.includes(":") ? `${written(network6(value)!.groups)}/${network6(value)!.prefix}` : value,
      ]);
  } catch (error) {
    checkFailure(error, 2);
    assert.ok(!expected, `refused: --${name}=${value}`);
  }
}

export function checkOptions(input: Buffer): void {
  const [program, ...args] = JSON.parse(input.toString()) as string[];
  const isClient = program === "client";
  process.env.SIMPLE_VPN_SECRET = SECRET.toString("hex");
  try {
    const [, only, value] = (args.length === 1 && /^--([\w-]+)=([^]*)$/.exec(args[0]!)) || [];
    if (NAMES.includes(only!)) return checkOption(only!, value!, isClient);
    if (args.some((arg) => /^--(help|version)/.test(arg))) return;
    const options = isClient ? clientOptions(["server", ...args]) : serverOptions(args);
    assert.ok(
      options.port >= 1 && options.port <= 65535 && options.mtu >= 68 && options.mtu <= 65535,
      JSON.stringify(options),
    );
    assert.match(options.tun, /^[!-~]{1,15}$/);
    assert.ok(options.user === undefined || options.user.uid > 0, "never root");
    if ("routes" in options)
      for (const route of options.routes) assert.match(route, /^[\d.]+\/\d+$|^[\da-f:]+\/\d+$/);
    if ("rekey" in options) assert.ok(options.rekey >= 1 && options.rekey <= 86_400, JSON.stringify(options));
    if ("subnet" in options)
      assert.ok(
        options.subnet.size >= 4 &&
          options.maxClients >= 1 &&
          (!options.subnet6 || options.subnet6.length === 3),
        JSON.stringify(options),
      );
  } catch (error) {
    checkFailure(error, 2);
  } finally {
    delete process.env.SIMPLE_VPN_SECRET;
  }
}

let folder: string | undefined;

/** A secret file. */
export function makeSecret(any: Random): Buffer {
  const good = SECRET.toString("hex");
  return any.mutate(
    Buffer.from(
      any.one("", "", "\ufeff", " \n") +
        any.one(good, good, good.toUpperCase(), good.slice(2), `${good}00`, "5e".repeat(32), "é".repeat(32)) +
        any.one("\n", "\r\n", "", " "),
    ),
  );
}

export function checkSecret(bytes: Buffer, any: Random): void {
  folder ??= mkdtempSync(join(tmpdir(), "simple-vpn-fuzz-"));
  const path = join(folder, "secret");
  const mode = any.one(0o600, 0o600, 0o400, any.below(0o1000) | 0o400);
  writeFileSync(path, bytes);
  chmodSync(path, mode);
  const digits = bytes.toString("latin1").replace(/^[\0- \xef\xbb\xbf]+|[\0- \xef\xbb\xbf]+$/g, "");
  const variety = new Set(digits.toLowerCase().match(/../g)).size;
  const isGood = /^[0-9a-fA-F]{64}$/.test(digits) && variety >= 16 && mode % 0o100 === 0;
  try {
    const [secret] = clientOptions(["server", "--secret", path]).secrets!;
    assert.ok(
      isGood && secret!.toString("hex") === digits.toLowerCase(),
      `taken: ${digits}, mode ${mode.toString(8)}`,
    );
  } catch (error) {
    checkFailure(error);
    assert.ok(!isGood, "a good secret is taken");
    assert.ok(
      digits.length < 8 || !(error as Failure).message.includes(digits.slice(0, 8)),
      "no secret is ever printed",
    );
  } finally {
    rmSync(path);
  }
}
