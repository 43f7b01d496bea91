/** The search for the size that a path takes, on paths that exist only here. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { random, SEED } from "../lab/tests/peers.ts";
import { Path } from "./path.ts";

/**
 * Seconds of a session over a path that takes `takes()` bytes, where one in `losses` probes is lost anyway.
 */
function pass(path: Path, seconds: number, takes: () => number, isUsed = true, lost = () => false): number {
  let probes = 0;
  for (let i = 0; i < seconds; i++) {
    const size = path.check(isUsed, takes() > 0);
    if (size === 0) continue;
    probes++;
    if (size <= takes() && !lost()) path.arrived(size);
  }
  return probes;
}

test("a path that takes what was asked for is left alone, but for a probe of the size in use", () => {
  const path = new Path(1500, () => 1500);
  assert.equal(
    pass(path, 100, () => 1500),
    100,
  );
  assert.equal(path.size, 1500);
  assert.equal(
    pass(path, 100, () => 1500, false),
    0,
    "a quiet session asks nothing",
  );
});

test("a black hole: after five lost probes, packets of 1,280; then the largest that goes through", () => {
  for (const takes of [1499, 1492, 1420, 1400, 1300, 1280]) {
    const path = new Path(1500, () => 1500);
    pass(path, 5, () => takes);
    assert.equal(path.size, 1500);
    path.check(true, true);
    assert.equal(path.size, 1280, `${takes}`);
    pass(path, 40, () => takes);
    assert.ok(path.size <= takes && path.size > takes - 17, `${path.size} of ${takes}`);
  }
});

test("a path that takes less than 1,280 bytes is given what every host takes", () => {
  const path = new Path(1500, () => 1500);
  pass(path, 12, () => 600);
  assert.equal(path.size, 576);
  pass(path, 100, () => 600);
  assert.ok(path.size <= 600 && path.size >= 584, `${path.size}`);
});

test("nothing comes at all: then size is not what is wrong", () => {
  const path = new Path(1500, () => 1500);
  for (let i = 0; i < 100; i++) path.check(true, false);
  assert.equal(path.size, 1500);
});

test("a path that takes more by now is noticed after a minute, the whole at first", () => {
  const path = new Path(1280, () => 1500);
  pass(path, 2, () => 1500);
  assert.equal(path.size, 1500, "the first probe asks for all");
  let takes = 1400;
  path.limit(1400);
  assert.equal(path.size, 1400);
  pass(path, 40, () => takes);
  assert.equal(path.size, 1400);
  takes = 1500;
  pass(path, 62, () => takes);
  assert.equal(path.size, 1500);
});

test("an idle session on a narrow path asks nothing; a busy one, whether it takes more by now", () => {
  const path = new Path(1500, () => 1500);
  path.limit(1400);
  let takes = 1400;
  assert.equal(
    pass(path, 1000, () => takes, false),
    0,
  );
  takes = 1500;
  pass(path, 3, () => takes);
  assert.equal(path.size, 1500);
});

test("what the kernel says counts at once; a late answer to an old probe does not", () => {
  const path = new Path(1500, () => 1500);
  const asked = path.check(true, true);
  assert.equal(asked, 1500);
  path.limit(1300);
  path.arrived(1500);
  assert.equal(path.size, 1300);
  for (const forged of [0, 1, 1400, 9000, 2 ** 31]) path.arrived(forged);
  assert.equal(path.size, 1300);
});

test("a shorter first message than needed is no limit: the search goes up from there at once", () => {
  const path = new Path(1500, () => 1500);
  path.lower(1280);
  assert.equal(path.size, 1280);
  pass(path, 3, () => 1500);
  assert.equal(path.size, 1500);
});

test(`from a size that goes through, it never uses more than goes through (seed ${SEED})`, () => {
  const below = random(SEED);
  for (let run = 0; run < 300; run++) {
    const top = 600 + below(8400);
    const takes = 576 + below(top - 575);
    const first = [576, 1280, top][below(3)]!;
    const path = new Path(Math.min(first, takes), () => top);
    pass(
      path,
      200,
      () => takes,
      true,
      () => below(10) === 0,
    );
    assert.ok(path.size <= takes, `${path.size} of ${takes}, top ${top}`);
  }
});

test(`from any larger size, it ends within 16 bytes of what the path takes (seed ${SEED})`, () => {
  const below = random(SEED);
  for (let run = 0; run < 300; run++) {
    const top = 1280 + below(7720);
    const takes = 576 + below(top - 575);
    const path = new Path(top, () => top);
    pass(path, 200, () => takes);
    const nearby = Math.min(takes, top) - path.size;
    assert.ok(nearby >= 0 && nearby <= 16, `${path.size} of ${takes}, top ${top}`);
  }
});

test("a way on which nothing gets through for a while is as wide as before", () => {
  const path = new Path(1500, () => 1500);
  pass(path, 30, () => 0); // what comes from the other end still comes
  assert.equal(path.size, 1500);
});
