import assert from "node:assert/strict";
import { test } from "node:test";
import { backOff } from "./connect.ts";

test("backOff() doubles from half a second to half a minute, less up to a half at random", () => {
  const longest = [0.5, 1, 2, 4, 8, 16, 30, 30].map((seconds) => seconds * 1000);
  assert.deepEqual(
    longest.map((_, failures) => backOff(failures, 1)),
    longest,
  );
  assert.deepEqual(
    longest.map((_, failures) => backOff(failures, 0)),
    longest.map((ms) => ms / 2),
  );
  assert.equal(backOff(10_000, 1), 30_000, "however long the server is away");
  const pauses = Array.from({ length: 100 }, () => backOff(3));
  assert.ok(pauses.every((pause) => pause >= 2000 && pause <= 4000) && new Set(pauses).size > 50);
});
