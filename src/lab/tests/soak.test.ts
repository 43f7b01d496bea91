/** A short slice of `make soak`: each kind of fault once, and then all is as before. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";
import { CLIENT_FAULTS } from "../soak/faults.ts";
import { ROOT, spawned } from "../lab.ts";
import { isWell, soak } from "../soak/soak.ts";
import { labTest } from "./testing.ts";

labTest(
  "the server killed, then a fault for each client: all recover, all arrives, nothing is left",
  async (lab) => {
    const { stage, rows } = await soak(lab, {
      clients: 8,
      serverFaults: (stage) => stage.serverFault("SIGKILL", stage.clients.slice(0, 2), 1),
      clientFaults: async (stage) =>
        void (await Promise.all(
          CLIENT_FAULTS.map((fault, i) => stage.clientFault(stage.clients[i]!, fault, 1, i % 2 === 0)),
        )),
    });
    assert.deepEqual(
      rows.filter((row) => !isWell(row)),
      [],
    );
    assert.ok(
      rows.some(({ before }) => before > 50),
      "it looked at something",
    );
    assert.deepEqual(
      Object.keys(stage.recoveries).sort(),
      ["server: SIGKILL, each client", ...CLIENT_FAULTS.map(({ name }) => name)].sort(),
    );
    assert.equal(stage.transfers, 2 + CLIENT_FAULTS.length);
  },
);

test("make soak refuses wrong options in one line, with exit code 2", () => {
  for (const [args, words] of [
    [["--clients", "3"], /3 is not from 8 to 200/],
    [["--seconds", "0"], /no whole number/],
    [["now"], /unexpected argument now/],
  ] as const) {
    const { status, stderr } = spawnSync(...spawned("lab/soak/soak", ...args), {
      cwd: ROOT,
      encoding: "utf8",
    });
    assert.equal(status, 2);
    assert.match(stderr, words);
    assert.equal(stderr.trim().split("\n").length, 1);
  }
});
