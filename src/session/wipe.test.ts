/**
 * No key outlives its work. A process has a session with three rekeys. This one reads the other's memory, and
 * looks for each key in it. The keys come here with each byte inverted, so that telling them leaves no copy.
 */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { closeSync, openSync, readFileSync, readSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { Running } from "../lab/running.ts";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const SECRET = createHash("sha256").update("a secret to look for").digest();

const SCRIPT = `
  import crypto from "node:crypto";
  import { syncBuiltinESMExports } from "node:module";
  const told = {};
  const inverted = (key) => Buffer.from(key.map((byte) => byte ^ 255)).toString("hex");
  const note = (kind, key) => (told[kind] ??= []).push(inverted(key));
  const { randomFillSync } = crypto;
  crypto.randomFillSync = (bytes) => (randomFillSync(bytes), note("private", bytes), bytes);
  syncBuiltinESMExports();

  let second; // what keepFresh() does each second
  const { setInterval } = globalThis;
  globalThis.setInterval = (run) => ((second = run), { unref() { return this; }, refresh() {} });
  const { KeyPair } = await import("./src/session/primitives.ts");
  const { Handshake } = await import("./src/session/handshake.ts");
  const { ClientHandshake, answer } = await import("./src/session/session.ts");
  const { keepFresh, answerRekeys } = await import("./src/session/rekey.ts");
  const { readSecrets } = await import("./src/host/secret.ts");
  const { session } = await import("./src/lab/tests/peers.ts");
  const { take, split } = Handshake.prototype;
  const { shared } = KeyPair.prototype;
  Handshake.prototype.take = function (keys) {
    for (const key of keys) note("chain", key);
    take.call(this, keys);
  };
  Handshake.prototype.split = function () {
    const keys = split.call(this);
    for (const key of [keys.send, keys.receive]) note("session", key);
    return keys;
  };
  KeyPair.prototype.shared = function (theirs) {
    const secret = shared.call(this, theirs);
    note("shared", secret);
    return secret;
  };

  const secrets = readSecrets();
  const client = new ClientHandshake(secrets[0]);
  const config = { address: 0x0a080002, prefix: 24, mtu: 1400 };
  const { message2, keys, secret } = answer(secrets, client.message1, () => true, () => config);
  const it = session("xor+aes", undefined, [client.finish(message2, "server").keys, keys]);
  keepFresh(it.client.peer, secret, 1);
  answerRekeys(it.server.peer, secret);
  let now = 0;
  performance.now = () => (now += 10_000);
  const rekey = () => { second(); it.server.receive(); it.client.receive(); it.server.receive(); };
  for (let i = 0; i < 3; i++) rekey();
  console.log("keys " + JSON.stringify(told));
  process.stdin.once("data", () => {
    second(); // a rekey that is on its way
    it.server.receive();
    it.end();
    console.log("ended " + JSON.stringify(told));
    process.stdin.once("data", () => process.exit());
  });`;

const PAGE = 4096; // bytes

/** How often each of the keys is in the memory that a process can write, by what they are for. */
function count(pid: number, keys: Record<string, Buffer[]>): Record<string, number[]> {
  const found = Object.fromEntries(Object.entries(keys).map(([kind, list]) => [kind, list.map(() => 0)]));
  const memory = openSync(`/proc/${pid}/mem`, "r");
  for (const line of readFileSync(`/proc/${pid}/maps`, "utf8").split("\n")) {
    const [, from, to] = /^(\w+)-(\w+) rw/.exec(line) ?? [];
    if (!from || line.endsWith("[vvar]")) continue;
    const [start, size] = [parseInt(from, 16), parseInt(to!, 16) - parseInt(from, 16)];
    const bytes = Buffer.alloc(size);
    for (let at = 0; at < size;) {
      try {
        at += readSync(memory, bytes, at, size - at, start + at);
      } catch (error) {
        assert.equal((error as NodeJS.ErrnoException).code, "EIO", "a guard page, which nobody can read");
        at += PAGE;
      }
    }
    for (const [kind, list] of Object.entries(keys))
      list.forEach((key, i) => {
        for (let at = bytes.indexOf(key); at >= 0; at = bytes.indexOf(key, at + 1)) found[kind]![i]!++;
      });
  }
  closeSync(memory);
  return found;
}

/** The keys that the process tells, each once, by what they were for. */
function keysIn(json: string): Record<string, Buffer[]> {
  const told = Object.entries(JSON.parse(json) as Record<string, string[]>);
  const upright = (key: string) => Buffer.from(Buffer.from(key, "hex").map((byte) => byte ^ 255));
  return Object.fromEntries(told.map(([kind, keys]) => [kind, [...new Set(keys)].map(upright)]));
}

test("no key is in memory after its work: of a handshake, before a rekey, of an ended session", async (t) => {
  const env = { ...process.env, SIMPLE_VPN_SECRET: SECRET.toString("hex") };
  const args = ["--import", "tsx", "--input-type=module", "-e", SCRIPT];
  const program = new Running(spawn(process.execPath, args, { cwd: ROOT, env }));
  t.after(() => program.stop("SIGKILL"));
  const { private: own, chain, shared, session } = keysIn((await program.until(/keys (\{.*\})/))[1]!);
  const [past, current] = [session!.slice(0, -2), session!.slice(-2)];
  assert.deepEqual([own!.length, shared!.length, past.length], [8, 4, 6], "a session and three rekeys");
  const found = count(program.child.pid!, {
    current,
    own: own!,
    chain: chain!,
    shared: shared!,
    past,
    SECRET: [SECRET],
  });
  for (const times of found.current!)
    assert.ok(times >= 1, "the ciphers have it; so this test can find keys");
  for (const kind of ["own", "chain", "shared", "past"])
    assert.ok(
      found[kind]!.every((times) => times === 0),
      kind,
    );
  assert.deepEqual(found.SECRET, [1], "the next rekey needs the secret");

  program.child.stdin!.write("\n");
  const all = keysIn((await program.until(/ended (\{.*\})/))[1]!);
  assert.equal(all.private!.length, 10);
  for (const [kind, times] of Object.entries(count(program.child.pid!, all)))
    assert.ok(
      times.every((one) => one === 0),
      kind,
    );
  program.child.stdin!.write("\n");
  await program.ended;
});
