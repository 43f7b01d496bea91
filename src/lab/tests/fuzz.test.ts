/** A slice of `make fuzz`: the same cases at each run, and as many new ones. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Failure } from "../../base/failure.ts";
import { SEED } from "./peers.ts";
import { fuzz } from "../fuzz/fuzz.ts";
import { PARSERS } from "../fuzz/parsers.ts";

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

test("a finding names its seed, its case, and the command that repeats this case alone", async () => {
  const seen: number[] = [];
  const parser = {
    name: "broken",
    share: 1,
    run: (any: { below: (n: number) => number }) => {
      seen.push(any.below(1000));
      if (seen.at(-1)! < 10) throw new TypeError("it broke");
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
});

test("a case that takes too long is a finding", async () => {
  const busy = {
    name: "slow",
    share: 1,
    run: () => {
      for (const end = performance.now() + 110; performance.now() < end;);
    },
  };
  await assert.rejects(fuzz(7, 1, [busy]), /case 0 of slow, seed 7: it takes \d+ ms/);
});
