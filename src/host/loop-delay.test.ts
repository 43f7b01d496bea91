import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { measureLoop } from "./loop-delay.ts";

test("how late the loop is: not how often it is looked at; and each look begins anew", async () => {
  const look = measureLoop();
  const until = async (isGood: (loop: ReturnType<typeof look>) => boolean, work = () => {}) => {
    for (const deadline = Date.now() + 10_000; ;) {
      await sleep(100);
      work();
      await sleep(50);
      const loop = look();
      if (isGood(loop)) return;
      assert.ok(Date.now() < deadline, JSON.stringify(loop));
    }
  };
  const block = () => void Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 300); // ms
  await until(({ max }) => max >= 200, block);
  assert.deepEqual(look(), { p50: 0, p99: 0, max: 0 });
  await until(({ p50, max }) => p50 < 10 && max < 100);
});
