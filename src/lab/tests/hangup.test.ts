/** The terminal is closed, nobody reads what is printed, the disk is full: who ends, and who goes on. */
import assert from "node:assert/strict";
import { spawn, type SpawnOptions, spawnSync } from "node:child_process";
import { once } from "node:events";
import { closeSync, existsSync, mkdtempSync, openSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { openTerminal, until } from "./peers.ts";
import { ROOT, TARGET } from "../lab.ts";
import { Running, startProgram } from "../running.ts";
import {
  labTest,
  ping,
  SECRET,
  snapshot,
  standIn as standInFor,
  startClient,
  startServer,
} from "./testing.ts";
import { newFolder } from "./folder.ts";

const standIn = (tool: string, script: string) => standInFor(tool, script).env;

const folder = newFolder();
const DEMO = ["--import", "tsx", "src/lab/walk/demo.ts"];

labTest("SIGHUP ends a program on a terminal, with its undoing; one that has none goes on", async (lab) => {
  const [master, terminal] = openTerminal();
  const before = snapshot(lab, "server");
  const args = ["--configure", "--nat", "eth1"];
  const options = { ...SECRET, stdio: [terminal, "pipe", "pipe"] } satisfies SpawnOptions;
  const server = startProgram(lab, "server", "server", args, options);
  await server.until(/listening on/);
  assert.equal(await server.stop("SIGHUP"), 0, server.output);
  assert.equal(snapshot(lab, "server"), before);
  for (const fd of [terminal, master]) closeSync(fd);

  const programs = [await startServer(lab), await startClient(lab)];
  for (const { child } of programs) child.kill("SIGHUP");
  ping(lab, "client", TARGET);
  for (const program of programs) assert.equal(await program.stop(), 0, program.output);
});

labTest("nohup make demo goes on when the terminal goes, and so does all that it has started", async () => {
  const begun = join(folder, "begun");
  const env = standIn("ping", `touch ${begun}; sleep 0.5; real "$@"`);
  const demo = new Running(spawn("nohup", [process.execPath, ...DEMO], { cwd: ROOT, env, detached: true }));
  demo.child.stdin!.end();
  await until(() => existsSync(begun), 30_000);
  process.kill(-demo.child.pid!, "SIGHUP"); // the whole group, as the kernel does
  assert.equal(await demo.ended, 0, demo.output);
  assert.match(demo.output, /All pings answered/);
});

labTest("make demo | head -3 ends with 0, quietly, and leaves nothing; a full disk is one line", async () => {
  const env = { ...process.env, TMPDIR: mkdtempSync(join(folder, "tmp-")) };
  const start = (stdout: number | "pipe") =>
    spawn(process.execPath, DEMO, { cwd: ROOT, env, stdio: ["ignore", stdout, "pipe"] });
  const piped = start("pipe");
  piped.stdout!.once("data", () => piped.stdout!.destroy());
  let errors = "";
  piped.stderr!.on("data", (text) => (errors += text));
  assert.deepEqual([...(await once(piped, "close")), errors], [0, null, ""]);
  assert.deepEqual(
    readdirSync(env.TMPDIR).filter((name) => name.startsWith("simple-vpn-")),
    [],
  );

  const full = new Running(start(openSync("/dev/full", "w")));
  assert.equal(await full.ended, 1);
  assert.match(full.output, /^error Cannot write: ENOSPC\. Try: .*\n$/);
});

test("what the system refuses is told in one line, with what to try", () => {
  const tries = [
    ["fs.openSync('/no/such')", "open /no/such: ENOENT"],
    ["spawn('no-such-tool')", "spawn no-such-tool: ENOENT"],
    ["fs.writeFileSync('/dev/full', 'x')", "write: ENOSPC"],
  ];
  for (const [what, message] of tries) {
    const script = `
      import fs from "node:fs";
      import { spawn } from "node:child_process";
      import { program } from "./src/host/program.ts";
      program(() => void ${what})`;
    const args = ["--import", "tsx", "--input-type=module", "-e", script];
    const { status, stderr } = spawnSync(process.execPath, args, { cwd: ROOT, encoding: "utf8" });
    assert.equal(status, 1);
    assert.match(stderr, new RegExp(`^error Cannot ${message}\\. Try: .*\n$`));
  }
});
