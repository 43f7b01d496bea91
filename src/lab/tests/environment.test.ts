/** Surroundings unlike a developer's: cron's PATH, another language, no colours, an old Node.js, busybox. */
import assert from "node:assert/strict";
import { spawnSync, type StdioOptions } from "node:child_process";
import { closeSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { openTerminal } from "./peers.ts";
import { ROOT } from "../lab.ts";
import { labTest, runProgram, standIn as standInFor } from "./testing.ts";
import { newFolder } from "./folder.ts";

const standIn = (tool: string, script: string) => standInFor(tool, script).env;

const folder = newFolder();
const node = dirname(process.execPath); // it may be none of cron's places

/** Runs a shell script in the project's folder, with this environment and no other. */
const shell = (script: string, env: NodeJS.ProcessEnv) =>
  spawnSync("/bin/sh", ["-c", script], { cwd: ROOT, env, encoding: "utf8", timeout: 60_000 });

const MODULE = ["--import", "tsx", "--input-type=module", "-e"];

/** Runs a script as one of our programs. */
const runScript = (script: string, env: NodeJS.ProcessEnv) =>
  spawnSync(process.execPath, [...MODULE, script], { cwd: ROOT, env, encoding: "utf8" });

/** The environment that a program of ours hands on, when it was started in `env`. */
function handedOn(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  const script = `await import("./src/host/program.ts"); console.log(JSON.stringify(process.env))`;
  return JSON.parse(runScript(script, env).stdout);
}

labTest("make demo works in cron's environment, with a strict umask and a useless TMPDIR", async () => {
  const TMPDIR = join(folder, "file");
  writeFileSync(TMPDIR, "");
  const cron = { HOME: "/", LOGNAME: "x", SHELL: "/bin/sh", PATH: `/usr/bin:/bin:${node}` };
  const { status, stdout, stderr } = shell("umask 077; make demo <&-", { ...cron, TMPDIR, LC_ALL: "xx_XX" });
  assert.equal(status, 0, stdout + stderr);
  assert.match(stdout, /All pings answered/);
});

labTest("make demo works without PATH and HOME, and does not make a TMPDIR that is not there", async () => {
  const TMPDIR = join(folder, "none");
  const isCommon = ["/usr/local/bin", "/usr/bin", "/bin"].includes(node); // else nobody could find it
  const script = `${isCommon ? "unset PATH;" : ""} /usr/bin/make demo`;
  const { status, stdout, stderr } = shell(script, { PATH: node, TMPDIR });
  assert.equal(status, 0, stdout + stderr);
  assert.ok(!existsSync(TMPDIR));
});

test("tools are found where distributions put them, after all that PATH has", () => {
  const rest = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin";
  assert.equal(handedOn({ PATH: "/bin:/opt/x:/usr/bin" }).PATH, `/bin:/opt/x:/usr/bin:${rest}`);
  for (const PATH of [undefined, ""]) assert.equal(handedOn({ PATH }).PATH, `${rest}:/usr/bin:/bin`);
});

labTest("ip and ping speak English, whatever the caller does; the characters stay the caller's", async () => {
  const german = standIn(
    "ping",
    `
    case "\${LC_ALL:-\${LC_MESSAGES:-$LANG}}" in
      de*) echo "3 Pakete übertragen, 3 empfangen, 0% packet loss" ;;
      *) real "$@" ;;
    esac`,
  );
  for (const name of ["LC_ALL", "LANG"]) {
    const env = { ...german, LC_ALL: "", [name]: "de_DE.UTF-8" };
    const { status, stdout, stderr } = runProgram("lab/walk/demo", [], env);
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

test("colour: --color or --no-color, then FORCE_COLOR, then NO_COLOR, then the terminal", () => {
  const [master, terminal] = openTerminal();
  const file = join(ROOT, `colour-${process.pid}.mts`); // in this folder, for it imports from it
  writeFileSync(
    file,
    `
    await import("./src/host/program.ts");
    const { default: chalk } = await import("chalk");
    process.stderr.write([chalk.level > 0, process.env.FORCE_COLOR, process.argv.slice(2)].join(" "))`,
  );
  const cases: [NodeJS.ProcessEnv, string, string][] = [
    [{}, "x", "true  x"],
    [{ NO_COLOR: "1" }, "x", "false  x"],
    [{ NO_COLOR: "" }, "x", "true  x"],
    [{ NO_COLOR: "1", FORCE_COLOR: "1" }, "x", "true 1 x"],
    [{ FORCE_COLOR: "0" }, "x", "false 0 x"],
    [{ FORCE_COLOR: "1" }, "x --no-color y", "false 0 x,y"],
    [{ FORCE_COLOR: "0" }, "--color x", "true 1 x"],
    [{ NO_COLOR: "1" }, "--no-color --color x", "true 1 x"],
    [{ NO_COLOR: "1" }, "on client ls --color", "false  on,client,ls,--color"],
    [{}, "--no-color --follow ls --color", "false 0 --follow,ls,--color"],
  ];
  try {
    for (const [given, words, expected] of cases) {
      const env = { PATH: process.env.PATH, TERM: "xterm", NODE_NO_WARNINGS: "1", ...given };
      const args = ["--import", "tsx", file, ...words.split(" ")];
      const stdio = ["ignore", terminal, "pipe"] satisfies StdioOptions;
      const { stderr } = spawnSync(process.execPath, args, { cwd: ROOT, env, stdio });
      assert.equal(String(stderr), expected, `${JSON.stringify(given)} ${words}`);
    }
  } finally {
    rmSync(file);
    for (const fd of [terminal, master]) closeSync(fd);
  }
});

test("all programs take --no-color and --color", () => {
  for (const name of [
    "client",
    "server",
    "lab/doctor/doctor",
    "lab/bench/bench",
    "lab/soak/soak",
    "lab/fuzz/fuzz",
  ]) {
    const { status, stdout } = runProgram(name, ["--no-color", "--help"]);
    assert.equal(status, 0, name);
    assert.match(stdout, /^Usage/);
  }
  assert.match(runProgram("client", ["--color"]).stderr, /^\x1b\[31m/);
});

test("a Node.js that is too old, or none at all, is told in one line, by make and by the programs", () => {
  const needed = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8")).engines.node.slice(2);
  const told = (have: string) =>
    new RegExp(`^error Cannot start: Node\\.js ${needed} or later is needed, this is ${have}\\. Try: .*\n`);
  const old = shell("make secret demo", standIn("node", `[ "$1" = -v ] && echo v18.19.0`));
  assert.equal(old.status, 2);
  assert.match(old.stderr, told("v18.19.0"));
  const tools = mkdtempSync(join(folder, "tools-")); // a PATH without node
  const links = `for tool in sh sed sort head; do ln -s "$(command -v $tool)" ${tools}; done`;
  assert.match(shell(`${links}; make demo PATH=${tools}`, process.env).stderr, told("none"));
  const pretend = `
    Object.defineProperty(process, "versions", { value: { ...process.versions, node: "18.19.0" } });
    const { program } = await import("./src/host/program.ts");
    program(() => console.log("started"));`;
  const { status, stdout, stderr } = runScript(pretend, process.env);
  assert.deepEqual([status, stdout], [1, ""]);
  assert.match(stderr, told("18\\.19\\.0"));
});

test("where namespaces are forbidden, the setting that forbids them is named, and no other", (t) => {
  const script = `echo 0 > /proc/sys/user/max_net_namespaces && exec "$0" --import tsx src/lab/walk/demo.ts`;
  const args = ["--user", "--map-root-user", "sh", "-c", script, process.execPath];
  const { status, stderr } = spawnSync("unshare", args, { cwd: ROOT, encoding: "utf8" });
  if (/unshare failed: Op|cannot create/.test(stderr) && !process.env.CI) return t.skip(stderr);
  assert.equal(status, 1);
  assert.match(stderr, /^error Cannot make a private namespace: .*No space left on device\. Try: .*\n$/);
  assert.match(stderr, /Try: sudo sysctl -w user\.max_net_namespaces=15000\n$/);
});

test("busybox's ip, ping and setpriv count as missing; an apt-get that fails is one line, too", () => {
  const busybox = `[ "$1" = -V ] && echo "ip: BusyBox v1.36.1 multi-call binary." >&2; exit 1`;
  const packages = { ip: "iproute2", ping: "iputils-ping", setpriv: "util-linux" };
  for (const [tool, missing] of Object.entries(packages)) {
    const env = standIn(tool, busybox);
    const place = env.PATH!.split(":")[0]!;
    writeFileSync(join(place, "apt-get"), "#!/bin/sh\nexit 100\n", { mode: 0o755 }); // locked, or no network
    const { status, stderr } = runProgram("lab/tools", [], env);
    assert.equal(status, 1, stderr);
    assert.match(stderr, new RegExp(`^error Cannot make the lab: ${missing} not installed.* Try: .*\\n$`));
  }
});

labTest("busybox's env does for the lab, as in Alpine", async () => {
  const env = standIn("env", `echo "env: invalid option" >&2; exit 1`);
  const { status, stdout, stderr } = runProgram("lab/walk/demo", [], env);
  assert.equal(status, 0, stdout + stderr);
});

labTest("make demo works where the kernel was told to leave IPv6 out", async () => {
  const none = standIn(
    "sysctl",
    `
    case "$*" in
      -e*default.disable_ipv6*) ;;
      *default.disable_ipv6*) echo "sysctl: cannot stat /proc/sys/net/ipv6: No such file" >&2; exit 255 ;;
      *) real "$@" ;;
    esac`,
  );
  const { status, stdout, stderr } = runProgram("lab/walk/demo", [], none);
  assert.equal(status, 0, stdout + stderr);
});
