import assert from "node:assert/strict";
import { test } from "node:test";
import { random, SEED } from "../lab/tests/peers.ts";
import { ReplayWindow, WINDOW } from "./replay.ts";

/** Takes it if it is new; was it? */
function offer(window: ReplayWindow, number: number): boolean {
  const isNew = window.isNew(number);
  if (isNew) window.take(number);
  return isNew;
}

test("each number is new once; what is older than the window never is", () => {
  const window = new ReplayWindow();
  assert.ok(offer(window, 0));
  assert.ok(!offer(window, 0));
  assert.ok(offer(window, 1));
  assert.ok(offer(window, 5000));
  assert.equal(window.newest, 5000);
  for (const [number, isNew] of [
    [5000, false],
    [5001 - WINDOW, true], // the oldest that is known
    [5000 - WINDOW, false], // one older
    [1, false],
    [2, false],
    [4999, true],
  ] as const) {
    assert.equal(window.isNew(number), isNew, `${number}`);
    assert.equal(offer(window, number), isNew, `${number}`);
    assert.ok(!window.isNew(number));
  }
});

test("asking changes nothing: a forged number makes the window forget nothing", () => {
  const window = new ReplayWindow();
  for (const number of [0, 1, 7]) window.take(number);
  for (const number of [8, 5000, 2 ** 40, 2 ** 48 - 1]) assert.ok(window.isNew(number));
  assert.equal(window.newest, 7);
  assert.deepEqual(
    [0, 1, 2, 7].map((number) => window.isNew(number)),
    [false, false, true, false],
  );
});

test("jumps around the window's size, a word's and the ring's leave no old bit behind", () => {
  const edges = [1, 31, 32, 33, 63, 64, WINDOW - 1, WINDOW, WINDOW + 1, 2 * WINDOW - 32, 2 * WINDOW];
  for (const jump of [...edges, 2 * WINDOW + 1, 4 * WINDOW, 2 ** 33, 2 ** 47])
    for (const start of [0, 31, 32, 4095]) {
      const window = new ReplayWindow();
      for (let number = start; number <= start + WINDOW; number++) window.take(number);
      const newest = start + WINDOW + jump;
      assert.ok(offer(window, newest));
      for (let number = Math.max(newest - WINDOW + 1, start + WINDOW + 1); number < newest; number++)
        assert.ok(window.isNew(number), `${number} of ${newest}`);
      for (let number = start; number <= start + WINDOW; number++)
        assert.ok(!window.isNew(number), `${number} of ${newest}`);
    }
});

test("numbers up to the greatest that a header has", () => {
  const window = new ReplayWindow();
  const last = 2 ** 48 - 1;
  for (const number of [last - 1, last, last - WINDOW + 1]) assert.ok(offer(window, number));
  for (const number of [last - 1, last, last - WINDOW]) assert.ok(!offer(window, number));
});

test(`it says the same as a list of all that came (seed ${SEED})`, () => {
  const below = random(SEED);
  for (let run = 0; run < 20; run++) {
    const window = new ReplayWindow();
    const came = new Set<number>();
    let newest = -1;
    for (let i = 0; i < 20_000; i++) {
      const jump = below(500) ? below(40) : below(3 * WINDOW);
      const number = Math.max(0, newest + (below(3) ? jump - 20 : -below(WINDOW + 50)));
      const isNew = number > newest - WINDOW && !came.has(number);
      assert.equal(offer(window, number), isNew, `${number}, newest ${newest}`);
      came.add(number);
      newest = Math.max(newest, number);
    }
  }
});
