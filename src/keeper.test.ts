import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readdirSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { Keeper } from "./keeper.ts";

const folder = mkdtempSync(join(tmpdir(), "simple-vpn-keeper-"));

test("our stdout does not become blocking by it: a reader who is slow must not stop the tunnel", () => {
  console.log("open");
  const flags = () => [1, 2].map((fd) => /flags:\s*(\d+)/.exec(readFileSync(`/proc/self/fdinfo/${fd}`, "utf8"))![1]);
  const before = flags();
  new Keeper().finish();
  assert.deepEqual(flags(), before);
});

test("what was kept is run at the end, the newest first, word by word; not what was forgotten, nor what came after enough", () => {
  const keeper = new Keeper();
  keeper.keep(`touch ${folder}/first/* ${folder}/first/$HOME`);
  keeper.keep(`mkdir ${folder}/first/second`);
  keeper.keep(`mkdir ${folder}/forgotten`);
  keeper.forget();
  keeper.keep(`mkdir ${folder}/first`);
  keeper.enough();
  keeper.keep(`mkdir ${folder}/more`);
  assert.deepEqual(readdirSync(folder), [], "nothing before the end");
  keeper.finish();
  assert.deepEqual(readdirSync(folder), ["first"]);
  assert.deepEqual(readdirSync(join(folder, "first")).sort(), ["$HOME", "*", "second"]);
});

test("what cannot be undone is a Failure, and the rest is undone all the same", () => {
  const keeper = new Keeper();
  keeper.keep(`mkdir ${folder}/rest`);
  keeper.keep("false");
  assert.throws(() => keeper.finish(), /Cannot undo everything that --configure did/);
  assert.ok(existsSync(join(folder, "rest")));
});
