/** Where a value comes from, and what is refused. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { Failure } from "../base/failure.ts";

const folder = mkdtempSync(join(tmpdir(), "simple-vpn-test-"));
after(() => rmSync(folder, { recursive: true }));
const file = join(folder, "manager.json");
const write = (json: unknown) => writeFileSync(file, typeof json === "string" ? json : JSON.stringify(json));

const TOKEN = "0123456789abcdef";
process.env.SIMPLE_VPN_MANAGER_MTU = "1300";
process.env.SIMPLE_VPN_MANAGER_ADDRESS = "10.3.0.1";
process.env.SIMPLE_VPN_MANAGER_TOKEN = TOKEN;
const { load } = await import("./config.ts");
const module = await import("./config.ts"); // for its config, which changes

const refuses = (args: string[], message: RegExp) =>
  assert.throws(
    () => load(args),
    (error: Failure) => error instanceof Failure && message.test(error.message),
  );

test("flags are stronger than the environment, that than the file, that than what is built in", () => {
  write({ port: 1, address: "10.2.0.1", mtu: 1200, name: "tun7", interfaces: [{ name: "a", mode: "echo" }] });
  load(["--config", file, "--address=10.4.0.1", "--print-config"]);
  const { host, port, create, interfaces, shown } = module.config;
  assert.deepEqual({ host, port }, { host: "127.0.0.1", port: 1 });
  assert.deepEqual(create, { name: "tun7", address: "10.4.0.1", netmask: "255.255.255.0", mtu: 1300 });
  assert.deepEqual(interfaces, [{ name: "a", mode: "echo" }]);
  const lines = shown!.split("\n").map((line) => line.replace(/ +/g, " "));
  const expected = [
    "host 127.0.0.1 (default)",
    `port 1 (${file})`,
    "address 10.4.0.1 (a flag)",
    "mtu 1300 (the environment)",
    "tls-cert (default)",
    "token set (the environment)",
    `interface {"name":"a","mode":"echo"} (${file})`,
  ];
  for (const line of expected) assert.ok(lines.includes(line), `${line} in ${shown}`);
});

test("watch is a list: what the file, the environment and the flags name, together", () => {
  write({ watch: ["/a", "/b"] });
  load(["--config", file, "--watch", "/c", "--watch=/d", "--print-config"]);
  assert.deepEqual(module.config.watch, ["/a", "/b", "/c", "/d"]);
  const from = (where: string) =>
    [...module.config.shown!.matchAll(/^watch +(.*) \((.*)\)$/gm)].flatMap(([, path, source]) =>
      source === where ? [path] : [],
    );
  assert.deepEqual(
    [from(file), from("a flag")],
    [
      ["/a", "/b"],
      ["/c", "/d"],
    ],
  );
  write({ watch: "/a" });
  load(["--config", file]);
  assert.deepEqual(module.config.watch, ["/a"]);
  refuses(["--config", (write({ watch: ["/a", {}] }), file)], /watch: expected a text or a number/);
});

test("the token is taken out of the environment, and not shown", () => {
  load(["--print-config"]);
  assert.equal(process.env.SIMPLE_VPN_MANAGER_TOKEN, undefined);
  assert.equal(module.config.token, TOKEN);
  assert.ok(!module.config.shown!.includes(TOKEN));
});

test("unknown keys are errors with the nearest known one; a mistake changes nothing", () => {
  load([]);
  const before = module.config;
  const wrong: [json: unknown, message: RegExp][] = [
    [{ prot: 1 }, /manager\.json: prot: there is no such setting, the nearest is port/],
    [{ config: "other.json" }, /manager\.json: config: there is no such setting/],
    [{ "print-config": "1" }, /print-config: there is no such setting/],
    [{ port: "many" }, /port: many is no whole number/],
    [{ port: 70000 }, /port: 70000 is no whole number/],
    [{ port: [1] }, /port: expected a text or a number/],
    [{ netmask: "255.0.255.0" }, /netmask/],
    [{ token: TOKEN }, /token: there is no such setting/], // no secrets in it
    [{ interface: [] }, /interface: there is no such setting, the nearest is interfaces/],
    [{ interfaces: {} }, /interfaces: expected a list/],
    [{ interfaces: [1] }, /expected an object/],
    [{ interfaces: [{ mtu: 1 }] }, /mtu: 1 is no whole number/],
    [{ interfaces: [{ nmae: "x" }] }, /"nmae": no such field, the nearest is name/],
    [
      { interfaces: [{ name: "a" }, { name: "b", address: "10.1.0.0" }] },
      /manager\.json: interfaces: b: address: 10\.1\.0\.0 is no host's own/,
    ],
    [
      { interfaces: [{ address: "10.1.0.255" }] },
      /interfaces: tun0: address: 10\.1\.0\.255 is no host's own/,
    ],
    [{ interfaces: [{ type: "tap", mtu: 65535 }] }, /interfaces: tun0: mtu: 65535 is too much for a TAP/],
    [{ interfaces: [{ mtu: 1279, address6: "fd00::1/64" }] }, /address6: it needs an mtu of 1280 bytes/],
    [{ interfaces: [{ name: "a" }, { name: "a" }] }, /interfaces: there are two of the name a/],
    [{ interfaces: [{ name: "tun0" }, {}] }, /interfaces: there are two of the name tun0/],
    ["{", /JSON/],
    ["[]", /expected an object/],
  ];
  for (const [json, message] of wrong) {
    write(json);
    refuses(["--config", file], message);
    assert.equal(module.config, before);
  }
  refuses(["--config", join(folder, "none.json")], /ENOENT/);
  refuses(["--prot", "1"], /Unknown option '--prot', the nearest is port/);
  refuses(["8080"], /flags begin with --/);
});

test("a token file is its owner's alone, and long enough", () => {
  const path = join(folder, "token");
  writeFileSync(path, `${TOKEN}X\n`, { mode: 0o644 });
  refuses(["--token-file", path], /other users can read it/);
  rmSync(path);
  writeFileSync(path, "short\n", { mode: 0o600 });
  refuses(["--token-file", path], /expected 16 to 128 characters/);
  writeFileSync(path, `${TOKEN}X\n`);
  load(["--token-file", path, "--host", "192.0.2.1", "--print-config"]);
  assert.equal(module.config.token, `${TOKEN}X`);
  assert.match(module.config.shown!, new RegExp(`^token +set \\(${path}\\)$`, "m"));
  refuses(["--token-file", folder], /Cannot use the token .*: it is a folder/);
  refuses(["--token-file", join(folder, "none")], /Cannot read the token .*none: ENOENT/);
});

test("TLS needs both files; --host an address, localhost or a path", () => {
  refuses(["--tls-cert", "x"], /one of --tls-cert and --tls-key/);
  refuses(["--host", "example.org"], /is no IP address/);
  refuses(["--host", `/${"x".repeat(107)}`], /has 108 bytes, expected 1 to 107/);
});

test("a bad value in the environment is named by its variable", () => {
  const config = new URL(`config${import.meta.url.slice(-3)}`, import.meta.url);
  const script = `
    process.env["SIMPLE_VPN_MANAGER_" + process.argv[1]] = process.argv[2];
    const { load } = await import(${JSON.stringify(config)});
    try { load([]); } catch ({ message }) { console.log(message); }`;
  const said = (...words: string[]) => {
    const args = [...process.execArgv, "--input-type=module", "-e", script, "--", ...words];
    return spawnSync(process.execPath, args, { encoding: "utf8" }).stdout.trim();
  };
  const [bad, odd] = [said("PORT", "many"), said("TLS_CERTS", "x")];
  assert.equal(bad, "Cannot use SIMPLE_VPN_MANAGER_PORT: many is no whole number from 0 to 65535");
  assert.match(odd, /^Cannot use SIMPLE_VPN_MANAGER_TLS_CERTS: there is no such setting.* is tls-cert$/);
});
