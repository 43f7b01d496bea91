/** Surroundings that are not a developer's own: cron's environment, another language, strange folders, no terminal. */
import assert from "node:assert/strict";
import { spawn, type SpawnOptions, spawnSync } from "node:child_process";
import { once } from "node:events";
import { closeSync, constants, existsSync, mkdirSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { after, test } from "node:test";
import { O_CLOEXEC, O_RDWR, thisProcess } from "../libc.ts";
import { until } from "../testing.ts";
import { ROOT, TARGET } from "./lab.ts";
import { Running, startProgram } from "./running.ts";
import { labTest, ping, SECRET, snapshot, startClient, startServer } from "./testing.ts";

const folder = mkdtempSync(join(tmpdir(), "simple-vpn-environment-"));
after(() => rmSync(folder, { recursive: true, force: true }));
const node = dirname(process.execPath); // it may be none of cron's places

/** Runs a shell script in the project's folder, with this environment and no other. */
function shell(script: string, env: NodeJS.ProcessEnv = process.env) {
  return spawnSync("/bin/sh", ["-c", script], { cwd: ROOT, env, encoding: "utf8", timeout: 100_000 });
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
  const isCommon = ["/usr/local/bin", "/usr/bin", "/bin"].includes(node); // else nobody could find it
  const { status, stdout, stderr } = shell(`${isCommon ? "unset PATH;" : ""} /usr/bin/make demo`, { PATH: node, TMPDIR });
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
/** The body of a shell function: waits until the file $1 in TMPDIR has the text $2. */
const WAITING = `for i in $(seq 100); do grep -q "$2" "$TMPDIR/$1" && break; sleep 0.2; done`;

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
  const doctor = run(`cd "$1"; wait_for() { ${WAITING}; }
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

/** Both ends of a pseudo terminal: posix_openpt(3), pts(4). */
function openTerminal(): [master: number, terminal: number] {
  const master = thisProcess.func("int posix_openpt(int flags)")(O_RDWR | O_CLOEXEC);
  thisProcess.func("int unlockpt(int fd)")(master);
  return [master, openSync(thisProcess.func("str ptsname(int fd)")(master), constants.O_RDWR | constants.O_NOCTTY)];
}

labTest("SIGHUP, the terminal was closed, ends a program that has one, and --configure is undone; one that has none goes on", async (lab) => {
  const [master, terminal] = openTerminal();
  const before = snapshot(lab, "server");
  const server = startProgram(lab, "server", "server", ["--configure", "--nat", "eth1"], { ...SECRET, stdio: [terminal, "pipe", "pipe"] });
  await server.until(/listening on/);
  assert.equal(await server.stop("SIGHUP"), 0, server.output);
  assert.equal(snapshot(lab, "server"), before);
  for (const fd of [terminal, master]) closeSync(fd);

  const programs = [await startServer(lab), await startClient(lab)];
  for (const { child } of programs) child.kill("SIGHUP");
  ping(lab, "client", TARGET);
  for (const program of programs) assert.equal(await program.stop(), 0, program.output);
});

labTest("nohup make demo goes on to its end when the terminal goes, and so does all that it has started", async () => {
  const begun = join(folder, "begun");
  const env = standIn("ping", `PATH=\${PATH#*:}; touch ${begun}; sleep 0.5; exec ping "$@"`);
  const options = { cwd: ROOT, env, detached: true, stdio: ["ignore", "pipe", "pipe"] } satisfies SpawnOptions;
  const demo = new Running(spawn("nohup", [process.execPath, "--import", "tsx", "src/lab/demo.ts"], options));
  await until(() => existsSync(begun), 30_000);
  process.kill(-demo.child.pid!, "SIGHUP"); // the whole group, as the kernel does
  assert.equal(await demo.ended, 0, demo.output);
  assert.match(demo.output, /All pings answered/);
});

labTest("make demo | head -3 ends quietly, with 0, and leaves nothing behind; a full disk is one line", async () => {
  const TMPDIR = mkdtempSync(join(folder, "tmp-"));
  const start = (stdout: number | "pipe") => {
    const demo = spawn(process.execPath, ["--import", "tsx", "src/lab/demo.ts"], { cwd: ROOT, env: { ...process.env, TMPDIR }, stdio: ["ignore", stdout, "pipe"] });
    demo.stdout?.once("data", () => demo.stdout!.destroy());
    return demo;
  };
  const piped = start("pipe");
  let errors = "";
  piped.stderr!.on("data", (text) => (errors += text));
  assert.deepEqual([...(await once(piped, "close")), errors], [0, null, ""]);
  assert.deepEqual(readdirSync(TMPDIR).filter((name) => name.startsWith("simple-vpn-")), []);

  const full = new Running(start(openSync("/dev/full", "w")));
  assert.equal(await full.ended, 1);
  assert.match(full.output, /^error Cannot write: ENOSPC\. Try: .*\n$/);
});

test("what the system refuses is told in one line, with what to try", () => {
  const script = `const { program } = await import("./src/program.ts"), { spawn } = await import("node:child_process"), fs = await import("node:fs");`;
  const tries = [["fs.openSync('/no/such')", "open /no/such: ENOENT"], ["spawn('no-such-tool')", "spawn no-such-tool: ENOENT"], ["fs.writeFileSync('/dev/full', 'x')", "write: ENOSPC"]];
  for (const [what, message] of tries) {
    const args = ["--import", "tsx", "--input-type=module", "-e", `${script} program(() => void ${what})`];
    const { status, stderr } = spawnSync(process.execPath, args, { cwd: ROOT, encoding: "utf8" });
    assert.equal(status, 1);
    assert.match(stderr, new RegExp(`^error Cannot ${message}\\. Try: .*\n$`));
  }
});

test("colour: --color or --no-color, then FORCE_COLOR, then NO_COLOR, then the terminal", () => {
  const [master, terminal] = openTerminal();
  const script = `await import("./src/program.ts"); const { default: chalk } = await import("chalk"); process.stderr.write([!!chalk.level, process.env.FORCE_COLOR, process.argv.slice(2)].join(" "))`;
  const file = join(ROOT, `colour-${process.pid}.mts`); // as a file: it has arguments
  writeFileSync(file, script);
  try {
    const cases: [NodeJS.ProcessEnv, string, string, string][] = [
      [{}, "x", "true ", "x"],
      [{ NO_COLOR: "1" }, "x", "false ", "x"],
      [{ NO_COLOR: "" }, "x", "true ", "x"],
      [{ NO_COLOR: "1", FORCE_COLOR: "1" }, "x", "true 1", "x"],
      [{ FORCE_COLOR: "0" }, "x", "false 0", "x"],
      [{ FORCE_COLOR: "1" }, "x --no-color y", "false 0", "x,y"],
      [{ FORCE_COLOR: "0" }, "--color x", "true 1", "x"],
      [{ NO_COLOR: "1" }, "--no-color --color x", "true 1", "x"],
      [{ NO_COLOR: "1" }, "on client ls --color", "false ", "on,client,ls,--color"],
      [{}, "--no-color --follow ls --color", "false 0", "--follow,ls,--color"],
    ];
    for (const [env, words, colour, rest] of cases) {
      const { PATH } = process.env;
      const { stderr } = spawnSync(process.execPath, ["--import", "tsx", file, ...words.split(" ")], { cwd: ROOT, env: { PATH, TERM: "xterm", NODE_NO_WARNINGS: "1", ...env }, encoding: "utf8", stdio: ["ignore", terminal, "pipe"] });
      assert.equal(stderr, `${colour} ${rest}`, `${JSON.stringify(env)} ${words}`);
    }
  } finally {
    rmSync(file);
    for (const fd of [terminal, master]) closeSync(fd);
  }
});

test("all programs take --no-color and --color", () => {
  for (const program of ["client", "server", "lab/doctor", "lab/bench", "lab/soak", "lab/fuzz"]) {
    const { status, stdout } = spawnSync(process.execPath, ["--import", "tsx", `src/${program}.ts`, "--no-color", "--help"], { cwd: ROOT, encoding: "utf8" });
    assert.equal(status, 0, program);
    assert.match(stdout, /^Usage/);
  }
  const args = ["--import", "tsx", "src/client.ts", "--color"];
  assert.match(spawnSync(process.execPath, args, { cwd: ROOT, encoding: "utf8" }).stderr, /^\x1b\[31m/);
});

test("a Node.js that is too old, or none at all, is told in one line, by make and by the programs", () => {
  const needed = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8")).engines.node.slice(2);
  const told = (have: string) => new RegExp(`^error Cannot start: Node\\.js ${needed} or later is needed, this is ${have}\\. Try: .*\n`);
  const old = shell("make secret demo", standIn("node", `[ "$1" = -v ] && echo v18.19.0`));
  assert.equal(old.status, 2);
  assert.match(old.stderr, told("v18.19.0"));
  const tools = mkdtempSync(join(folder, "tools-")); // a PATH without node
  const none = shell(`for tool in sh sed sort head; do ln -s "$(command -v $tool)" ${tools}; done; make demo PATH=${tools}`);
  assert.match(none.stderr, told("none"));
  const pretend = `data:text/javascript,Object.defineProperty(process, "versions", { value: { ...process.versions, node: "18.19.0" } })`;
  const { status, stderr } = spawnSync(process.execPath, ["--import", "tsx", "--import", pretend, "src/client.ts", "--version"], { cwd: ROOT, encoding: "utf8" });
  assert.equal(status, 1);
  assert.match(stderr, told("18\\.19\\.0"));
});

test("in a checkout that one may not write: make walk says so at once and takes OUT; the five terminals have their own place at home", (t) => {
  const [checkout, home] = [join(folder, "read only"), mkdtempSync(join(folder, "home "))];
  const script = `cp Makefile package-lock.json "${folder}"; ${COPY} && mv "${folder}/Makefile" "${folder}/package-lock.json" . &&
    mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && cd "$1" && export HOME="$2" && { make walk; echo "code $?"; } && make walk OUT="$2/a walk" &&
    wait_for() { ${WAITING}; } && TMPDIR=$2 && { make server > "$2/server" 2>&1 & } && wait_for server "listening on" && make configure-server &&
    { make client > "$2/client" 2>&1 & } && wait_for client "connected to" && make configure-client && make doctor; code=$?; make down; cat "$2/server" "$2/client"; exit $code`;
  const args = ["--mount", ...(process.getuid!() === 0 ? [] : ["--user", "--map-root-user"]), "sh", "-c", script, "sh", checkout, home];
  const env = { ...process.env, TMPDIR: undefined, SIMPLE_VPN_SECRET: undefined };
  const { status, stdout, stderr } = spawnSync("unshare", args, { cwd: ROOT, env, encoding: "utf8", timeout: 100_000 });
  if (/unshare failed/.test(stderr) && !process.env.CI) return t.skip(stderr);
  assert.equal(status, 0, stdout + stderr);
  assert.match(stdout, /^code 2\n/, "nothing is printed before");
  assert.match(stderr, /^error Cannot write walk\.html, walk\.svg, walk\.pcapng: this folder cannot be written \(EROFS\)\. Try: make walk OUT=FOLDER\n/);
  assert.deepEqual(readdirSync(join(home, "a walk")).sort(), ["walk.html", "walk.pcapng", "walk.svg"]);
  assert.match(stdout, /The client is well\.[^]*The server is well\./);
  assert.equal(statSync(join(home, ".simple-vpn/secret.key")).mode & 0o777, 0o600);
});

test("make bench, too, says before the run that it cannot write its files", () => {
  const file = join(folder, "a file");
  writeFileSync(file, "");
  const args = ["--import", "tsx", "src/lab/bench.ts", "--out", join(file, "x")];
  const { status, stderr } = spawnSync(process.execPath, args, { cwd: ROOT, encoding: "utf8", timeout: 20_000 });
  assert.equal(status, 1);
  assert.match(stderr, /^error Cannot write bench\.json, bench\.svg: .*a file\/x cannot be written \(ENOTDIR\)\. Try: make bench ARGS="--out FOLDER"\n$/);
});

test("where namespaces are forbidden, the setting that forbids them is named, and no other", (t) => {
  const script = `echo 0 > /proc/sys/user/max_net_namespaces && exec "$0" --import tsx src/lab/demo.ts`;
  const args = ["--user", "--map-root-user", "sh", "-c", script, process.execPath];
  const { status, stderr } = spawnSync("unshare", args, { cwd: ROOT, encoding: "utf8" });
  if (/unshare failed: Op|cannot create/.test(stderr) && !process.env.CI) return t.skip(stderr);
  assert.equal(status, 1);
  assert.match(stderr, /^error Cannot make a private namespace: .*No space left on device\. Try: sudo sysctl -w user\.max_net_namespaces=15000\n$/);
});

test("busybox's ip, ping and setpriv count as missing; apt-get that fails, too, is one line", () => {
  const busybox = `[ "$1" = -V ] && echo "ip: BusyBox v1.36.1 multi-call binary." >&2; exit 1`;
  for (const [tool, missing] of [["ip", "iproute2"], ["ping", "iputils-ping"], ["setpriv", "util-linux"]] as const) {
    const env = standIn(tool, busybox);
    writeFileSync(join(env.PATH!.split(":")[0]!, "apt-get"), "#!/bin/sh\nexit 100\n", { mode: 0o755 }); // it is locked, or has no network
    const { status, stderr } = spawnSync(process.execPath, ["--import", "tsx", "src/lab/tools.ts"], { cwd: ROOT, env, encoding: "utf8" });
    assert.equal(status, 1, stderr);
    assert.match(stderr, new RegExp(`^error Cannot make the lab: ${missing} not installed.* Try: .*\\n$`));
  }
});

labTest("busybox's env does for the lab, as in Alpine", async () => {
  const { status, stdout, stderr } = spawnSync(process.execPath, ["--import", "tsx", "src/lab/demo.ts"], { cwd: ROOT, env: standIn("env", `echo "env: invalid option" >&2; exit 1`), encoding: "utf8" });
  assert.equal(status, 0, stdout + stderr);
});
