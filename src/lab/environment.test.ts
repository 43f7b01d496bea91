/** Surroundings that are not a developer's own: cron's environment, another language, strange folders, no terminal. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
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

/** A copy of the project, which the shell script $COPY makes in the folder $1: all that its programs need. */
const COPY = `mkdir -p "$1" && cp -r package.json src node_modules walkthrough.md "$1" && cd "$1"`;

labTest("a checkout, a node and a TMPDIR with spaces, umlauts and percent signs in their names: the demo, and the five terminals' doctor", async () => {
  const place = join(folder, "mein schönes vpn", "100%20 #1");
  const [checkout, bin, temporary] = ["check out", "bin x", "tmp y"].map((name) => join(place, name)) as [string, string, string];
  for (const one of [bin, temporary]) mkdirSync(one, { recursive: true });
  const run = (script: string) => {
    const env = { ...process.env, TMPDIR: temporary, SIMPLE_VPN_LAB: temporary, SIMPLE_VPN_SECRET: "5e".repeat(32) };
    return spawnSync("sh", ["-c", script, join(bin, "node"), checkout], { cwd: ROOT, env, encoding: "utf8", timeout: 60_000 });
  };
  const demo = run(`cp "${process.execPath}" "$0" && ${COPY} && exec "$0" --import tsx src/lab/demo.ts`);
  assert.equal(demo.status, 0, demo.stdout + demo.stderr);
  const terminal = (what: string) => `"$0" --import tsx src/lab/terminal.ts ${what}`;
  const waiting = `for i in $(seq 100); do grep -q "$2" "$TMPDIR/$1" && break; sleep 0.2; done`;
  const doctor = run(`cd "$1"; wait_for() { ${waiting}; }
    ${terminal("server")} > "$TMPDIR/server" 2>&1 & wait_for server "listening on"; ${terminal("configure-server")} &&
    ${terminal("client")} > "$TMPDIR/client" 2>&1 & wait_for client "connected to"; ${terminal("configure-client")} &&
    ${terminal("doctor")}; code=$?; ${terminal("down")}; exit $code`);
  assert.equal(doctor.status, 0, doctor.stdout + doctor.stderr);
  assert.match(doctor.stdout, /The client is well\.[^]*The server is well\./);
  assert.deepEqual(readdirSync(join(folder, "mein schönes vpn")), ["100%20 #1"]);
  assert.deepEqual(readdirSync(place).sort(), ["bin x", "check out", "tmp y"], "no folder beside it");
});

test("a checkout below /run is there in the lab, and so are the symlinks of /run; the rest of /run is not", (t) => {
  const list = `const { Lab } = await import("./src/lab/lab.ts"); const lab = await Lab.up();
    console.log(lab.run("client", "ls /run"), lab.run("client", "ls /run/user/1000")); await lab.down()`;
  const script = `mount -t tmpfs tmpfs /run && mkdir -p /run/dbus /run/user/1000/bus && ln -s /usr /run/current-system && ${COPY} &&
    "$0" --import tsx --input-type=module -e '${list}' && exec "$0" --import tsx src/lab/demo.ts`;
  const asUser = process.getuid!() === 0 ? [] : ["--user", "--map-root-user"];
  const args = ["--mount", ...asUser, "sh", "-c", script, process.execPath, "/run/user/1000/vpn"];
  const { status, stdout, stderr } = spawnSync("unshare", args, { cwd: ROOT, encoding: "utf8", timeout: 60_000 });
  if (/unshare failed/.test(stderr) && !process.env.CI) return t.skip(stderr);
  assert.equal(status, 0, stdout + stderr);
  assert.match(stdout, /All pings answered/);
  assert.match(stdout, /current-system\n[^]*\n vpn\n/);
  assert.doesNotMatch(stdout, /^ ?(dbus|bus)$/m);
});

labTest("the lab has a resolv.conf of its own: names are not found, at once, and nobody changes this machine's", async (lab) => {
  const file = "/etc/resolv.conf";
  if (!existsSync(file)) return;
  const before = readFileSync(file, "utf8");
  const identity = (command: string) => lab.run("client", command).trim();
  assert.equal(identity(`stat -L -c %s ${file}`), "0");
  assert.notEqual(identity(`stat -L -c %d:%i ${file}`), `${statSync(file).dev}:${statSync(file).ino}`); // else the next line would change it
  lab.run("client", ["sh", "-c", `echo nameserver 192.0.2.1 > ${file}`]);
  assert.equal(readFileSync(file, "utf8"), before);
  lab.run("client", ["sh", "-c", `: > ${file}`]);
  const asked = Date.now();
  assert.notEqual(lab.try("client", "getent hosts no.such.name.example").status, 0);
  assert.ok(Date.now() - asked < 5_000, "getent(1) would wait so long for a name server that is silent");
});
