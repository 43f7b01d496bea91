/** The commands of draft/use-cases.md: each is run as it stands there. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { type Lab, ROOT } from "../lab.ts";
import { Running, startProgram } from "../running.ts";
import { labTest, needs, retry, SECRET } from "./testing.ts";

const READY = { server: /listening on/, client: /connected to/ };
const BLOCKS = [...readFileSync(join(ROOT, "draft/use-cases.md"), "utf8").matchAll(/^```\n([^]*?)^```$/gm)];

/** One line: "client# ping -c 1 10.8.0.3 # no answer". What goes on running, if it does. */
async function type(lab: Lab, line: string): Promise<Running | undefined> {
  const [, host = "", typed = "", comment] = /^(\w+)# (.*?)(?: # (.*))?$/.exec(line) ?? assert.fail(line);
  const [, name, args] = /^npx tsx src\/(server|client)\.ts (.*)$/.exec(typed) ?? [];
  if (name) {
    const program = name as keyof typeof READY;
    const running = startProgram(lab, host, program, args!.split(" "), SECRET);
    await running.until(READY[program]);
    return running;
  }
  if (typed.endsWith(" &")) {
    const running = new Running(lab.spawn(host, typed.slice(0, -2).split(" ")));
    await running.until(/Serving/);
    return running;
  }
  const run = () => assert.equal(lab.try(host, typed).status === 0, !comment?.startsWith("no answer"), line);
  await retry(run);
  return undefined;
}

labTest("each use of draft/use-cases.md works as it says", async (lab, t) => {
  if (!needs(t, "curl") || !needs(t, "python3")) return;
  assert.equal(BLOCKS.length, 4);
  lab.addClient(2);
  for (const [, block] of BLOCKS) {
    const running: Running[] = [];
    for (const line of block!.trim().split("\n")) running.push(...[(await type(lab, line)) ?? []].flat());
    for (const one of running.reverse()) await one.stop();
  }
});
