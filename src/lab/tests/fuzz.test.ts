/** A slice of `make fuzz`: the same cases at each run, and as many new ones. */
import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { test } from "node:test";
import { Failure } from "../../base/failure.ts";
import { SEED } from "./peers.ts";
import { CORPUS, keptFor } from "../fuzz/corpus.ts";
import { checked, fuzz } from "../fuzz/fuzz.ts";
import { PARSERS } from "../fuzz/parsers.ts";
import type { Random } from "../fuzz/random.ts";
import { newFolder } from "./folder.ts";

for (const seed of [20250101, SEED]) {
  test(`10,000 hostile inputs, divided among all parsers (seed ${seed})`, async () => {
    const results = await fuzz(seed, 10_000);
    assert.deepEqual(
      results.map(({ name }) => name),
      PARSERS.map(({ name }) => name),
    );
    assert.ok(results.reduce((sum, { cases }) => sum + cases, 0) >= 10_000);
  });
}

test("a finding names its seed, its case, and the command that repeats it; it can be kept", async () => {
  const seen: number[] = [];
  const parser = {
    name: "broken",
    share: 1,
    make: (any: Random) => Buffer.from([any.below(100)]),
    check: ([input]: Buffer) => {
      seen.push(input!);
      if (input! < 10) throw new TypeError("it broke");
    },
  };
  const said = await fuzz(7, 10_000, [parser]).then(
    () => assert.fail("nothing found"),
    (error) => error,
  );
  assert.ok(said instanceof Failure);
  const [, i] = /^Cannot pass case (\d+) of broken, seed 7: TypeError: it broke$/.exec(said.message)!;
  assert.match(said.hint, new RegExp(`make fuzz ARGS="--seed 7 --only broken --case ${i}" repeats it`));
  const input = seen.at(-1);
  await assert.rejects(fuzz(7, 1, [parser], Number(i)), Failure);
  assert.equal(seen.at(-1), input);

  const corpus = newFolder();
  await assert.rejects(fuzz(7, 1, [parser], Number(i), corpus), /TypeError: it broke/);
  const [kept] = keptFor("broken", corpus);
  assert.deepEqual(
    [kept!.name, kept!.what, [...kept!.input]],
    [`seed-7-case-${i}`, "TypeError: it broke", [input]],
  );
  await assert.rejects(checked(parser, kept!.input, kept!.chance!), /it broke/);
});

test("each parser has kept inputs, and each kept input a parser", () => {
  assert.deepEqual(readdirSync(CORPUS).sort(), PARSERS.map(({ name }) => name).sort());
});

const CHANCES = Array.from({ length: 32 }, (_, i) => i); // what else happens by chance, so many times
for (const parser of PARSERS) {
  test(`the inputs that are kept for ${parser.name}`, async (t) => {
    for (const { name, what, input, chance } of keptFor(parser.name))
      await t.test(`${name}: ${what}`, async () => {
        for (const one of [...(chance === undefined ? [] : [chance]), ...CHANCES])
          await checked(parser, input, one);
      });
    parser.end?.();
  });
}

test("a case that takes too long is a finding", async () => {
  const busy = {
    name: "slow",
    share: 1,
    make: () => Buffer.alloc(0),
    check: () => {
      for (const start = process.cpuUsage(); process.cpuUsage(start).user < 110_000;);
    },
  };
  await assert.rejects(fuzz(7, 1, [busy]), /case 0 of slow, seed 7: Error: it takes \d+ ms/);
});
