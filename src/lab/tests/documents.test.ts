/** What `make check` does: the documents against the source, and against fresh runs. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { ROOT, spawned } from "../lab.ts";
import { Running } from "../running.ts";
import { labTest } from "./testing.ts";

labTest("all that the documents cite is there, and the programs print what they say", async () => {
  const check = new Running(spawn(...spawned("lab/docs/check"), { cwd: ROOT }));
  assert.equal(await check.ended, 0, check.output);
  assert.match(check.output, /\d+ documents checked/);
});
