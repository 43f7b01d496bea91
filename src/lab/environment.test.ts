/** Surroundings that are not a developer's own: cron's environment, another language, strange folders, no terminal. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { after, test } from "node:test";
import { ROOT } from "./lab.ts";
import { labTest } from "./testing.ts";

const folder = mkdtempSync(join(tmpdir(), "simple-vpn-environment-"));
after(() => rmSync(folder, { recursive: true, force: true }));
const node = dirname(process.execPath); // it may be none of cron's places

/** Runs a shell script in the project's folder, with this environment and no other. */
function shell(script: string, env: NodeJS.ProcessEnv = process.env) {
  return spawnSync("sh", ["-c", script], { cwd: ROOT, env, encoding: "utf8", timeout: 100_000 });
}

/** What a program of ours hands on to its children of this environment. */
function handedOn(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  const script = `await import("./src/program.ts"); console.log(JSON.stringify(process.env))`;
  const args = ["--import", "tsx", "--input-type=module", "-e", script];
  return JSON.parse(spawnSync(process.execPath, args, { cwd: ROOT, env, encoding: "utf8" }).stdout);
}

/** A stand-in for a tool, first in PATH. */
function standIn(name: string, script: string): NodeJS.ProcessEnv {
  const place = mkdtempSync(join(folder, "bin-"));
  writeFileSync(join(place, name), `#!/bin/sh\n${script}\n`, { mode: 0o755 });
  return { ...process.env, PATH: `${place}:${process.env.PATH}` };
}

labTest("make demo works in cron's environment, with nothing to read, a strict umask, and a TMPDIR that is none", async () => {
  const TMPDIR = join(folder, "file");
  writeFileSync(TMPDIR, "");
  const cron = { HOME: "/", LOGNAME: "x", SHELL: "/bin/sh", PATH: `/usr/bin:/bin:${node}`, TMPDIR, LC_ALL: "xx_XX" };
  const { status, stdout, stderr } = shell("umask 077; make demo <&-", cron);
  assert.equal(status, 0, stdout + stderr);
  assert.match(stdout, /All pings answered/);
});

labTest("make demo works without PATH, without HOME, and with a TMPDIR that is not there, which it does not make", async () => {
  const TMPDIR = join(folder, "none");
  const { status, stdout, stderr } = shell("unset PATH; /usr/bin/make demo", { PATH: node, TMPDIR });
  assert.equal(status, 0, stdout + stderr);
  assert.ok(!existsSync(TMPDIR));
});

test("tools are found where distributions put them, after all that PATH has", () => {
  const rest = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin";
  assert.equal(handedOn({ PATH: "/bin:/opt/x:/usr/bin" }).PATH, `/bin:/opt/x:/usr/bin:${rest}`);
  for (const PATH of [undefined, ""]) assert.equal(handedOn({ PATH }).PATH, `${rest}:/usr/bin:/bin`);
});

labTest("what ip and ping say is asked for in English, whatever the caller speaks; the characters stay the caller's", async () => {
  const german = `case "\${LC_ALL:-\${LC_MESSAGES:-$LANG}}" in de*) echo "3 Pakete übertragen, 3 empfangen, 0% packet loss" ;; *) PATH=\${PATH#*:} exec ping "$@" ;; esac`;
  for (const name of ["LC_ALL", "LANG"]) {
    const { status, stdout, stderr } = shell("make demo", { ...standIn("ping", german), LC_ALL: "", [name]: "de_DE.UTF-8" });
    assert.equal(status, 0, stdout + stderr);
    assert.match(stdout, /3 packets transmitted, 3 received/);
  }
  const { LC_ALL, LC_CTYPE, LC_MESSAGES, LANG } = handedOn({ LC_ALL: "de_DE.UTF-8", LANG: "fr_FR.UTF-8" });
  assert.deepEqual([LC_ALL, LC_CTYPE, LC_MESSAGES, LANG], [undefined, "de_DE.UTF-8", "C", "fr_FR.UTF-8"]);
});

test("a TMPDIR below /run, which is another one in the lab, is left out; a space in it does no harm", () => {
  const odd = join(folder, "a space ä");
  mkdirSync(odd);
  assert.equal(handedOn({ TMPDIR: odd }).TMPDIR, odd);
  assert.equal(handedOn({ TMPDIR: "/run/lock" }).TMPDIR, undefined);
});
