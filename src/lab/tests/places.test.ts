/** Where the project lies: in a folder with a strange name, below /run, where its user may not write. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync } from "node:fs";
import { statSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { LAB_SECRET, ROOT } from "../lab.ts";
import { labTest, runProgram } from "./testing.ts";
import { newFolder } from "./folder.ts";

const folder = newFolder();

/**
 * For shell scripts. copy: the project to $1, and goes there. wait_for: until the file $1 in TMPDIR has the
 * text $2.
 */
const FUNCTIONS = `
copy() { mkdir -p "$1" && cp -r Makefile package*.json src node_modules walkthrough.md "$1" && cd "$1"; }
wait_for() { for i in $(seq 100); do grep -q "$2" "$TMPDIR/$1" && return; sleep 0.2; done; false; }
# The five terminals, but for the ping, and the doctor instead; $@ is the command that make stands for.
five() {
  "$@" server > "$TMPDIR/server" 2>&1 &
  wait_for server "listening on" && "$@" configure-server || return
  "$@" client > "$TMPDIR/client" 2>&1 &
  wait_for client "connected to" && "$@" configure-client && "$@" doctor
  code=$?; "$@" down; return $code
}
`;
const BOTH_WELL = /The client is well\.[^]*The server is well\./;

/** Runs a shell script, with its arguments "$0" and so on. */
function shell(script: string, args: string[], env: NodeJS.ProcessEnv, before: string[] = []) {
  const [command, ...words] = [...before, "sh", "-c", FUNCTIONS + script, ...args];
  const { MAKELEVEL, MAKEFLAGS, ...rest } = env; // below `make test`, a make would say which folder it enters
  return spawnSync(command!, words, { cwd: ROOT, env: rest, encoding: "utf8", timeout: 100_000 });
}

/** The same with mounts of its own; undefined, and the test is skipped, where this machine allows none. */
function shellWithMounts(t: TestContext, script: string, args: string[], env: NodeJS.ProcessEnv) {
  const asUser = process.getuid!() === 0 ? [] : ["--user", "--map-root-user"];
  const done = shell(script, args, env, ["unshare", "--mount", ...asUser]);
  if (!/unshare failed/.test(done.stderr) || process.env.CI) return done;
  t.skip(done.stderr);
  return undefined;
}

labTest("spaces, umlauts, percent signs in the folders of the checkout, of node and of TMPDIR", async () => {
  const place = join(folder, "mein schönes vpn", "100%20 #1");
  const [checkout, bin, TMPDIR] = [join(place, "check out"), join(place, "bin x"), join(place, "tmp y")];
  for (const one of [bin, TMPDIR]) mkdirSync(one, { recursive: true });
  const env = { ...process.env, TMPDIR, SIMPLE_VPN_LAB: TMPDIR, SIMPLE_VPN_SECRET: LAB_SECRET };
  const script = `lab() { "$0" --import tsx src/lab/$1.ts $2; }
    cp "${process.execPath}" "$0" && copy "$1" && lab walk/demo && five lab terminals/terminal`;
  const { status, stdout, stderr } = shell(script, [join(bin, "node"), checkout], env);
  assert.equal(status, 0, stdout + stderr);
  assert.match(stdout, /All pings answered/);
  assert.match(stdout, BOTH_WELL);
  assert.deepEqual(readdirSync(join(folder, "mein schönes vpn")), ["100%20 #1"], "no folder beside it");
  assert.deepEqual(readdirSync(place).sort(), ["bin x", "check out", "tmp y"]);
});

test("a checkout below /run is there in the lab, and so are the symlinks of /run; the rest is not", (t) => {
  const list = `const { Lab } = await import("./src/lab/lab.ts"); const lab = await Lab.up();
    for (const folder of ["/run", "/run/user/1000"]) console.log(lab.run("client", ["ls", folder]));
    await lab.down()`;
  const script = `mount -t tmpfs tmpfs /run && mkdir -p /run/dbus /run/user/1000/bus &&
    ln -s /usr /run/current-system && copy "$1" &&
    "$0" --import tsx --input-type=module -e '${list}' && exec "$0" --import tsx src/lab/walk/demo.ts`;
  const done = shellWithMounts(t, script, [process.execPath, "/run/user/1000/vpn"], process.env);
  if (!done) return;
  assert.equal(done.status, 0, done.stdout + done.stderr);
  assert.match(done.stdout, /All pings answered/);
  assert.match(done.stdout, /current-system\n[^]*^vpn\n/m);
  assert.doesNotMatch(done.stdout, /^(dbus|bus)$/m);
});

labTest("the lab has its own resolv.conf: no name is found, nobody changes this machine's", async (lab) => {
  const file = "/etc/resolv.conf";
  if (!existsSync(file)) return;
  const before = readFileSync(file, "utf8");
  const { dev, ino } = statSync(file);
  assert.equal(lab.run("client", `stat -L -c %s ${file}`).trim(), "0");
  const identity = lab.run("client", `stat -L -c %d:%i ${file}`).trim();
  assert.notEqual(identity, `${dev}:${ino}`, "or the next line would write it");
  lab.run("client", ["sh", "-c", `echo nameserver 192.0.2.1 > ${file}`]);
  assert.equal(readFileSync(file, "utf8"), before);
  lab.run("client", ["sh", "-c", `: > ${file}`]);
  const asked = Date.now();
  assert.notEqual(lab.try("client", "getent hosts no.such.name.example").status, 0);
  assert.ok(Date.now() - asked < 5_000, "so long would it wait for a name server that is silent");
});

test("a checkout that may not be written: make walk says so first; the five terminals live at home", (t) => {
  const [checkout, HOME] = [join(folder, "read only"), mkdtempSync(join(folder, "home "))];
  const script = `copy "$1" && mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && cd "$1" &&
    { make walk; echo "code $?"; } && make walk OUT="$HOME/a walk" && five make`;
  const env = { ...process.env, HOME, TMPDIR: HOME, SIMPLE_VPN_SECRET: undefined };
  const done = shellWithMounts(t, script, ["sh", checkout], env);
  if (!done) return;
  assert.equal(done.status, 0, done.stdout + done.stderr);
  assert.match(done.stdout, /^code 2\n/, "nothing is printed before");
  const [first] = done.stderr.split("\n");
  assert.match(first!, /^error Cannot write walk\.html, .*: this folder cannot be written \(EROFS\)/);
  assert.match(first!, / Try: make walk OUT=FOLDER$/);
  assert.deepEqual(readdirSync(join(HOME, "a walk")).sort(), ["walk.html", "walk.pcapng", "walk.svg"]);
  assert.match(done.stdout, BOTH_WELL);
  assert.equal(statSync(join(HOME, ".simple-vpn/secret.key")).mode & 0o777, 0o600);
});

test("make walk says before the run that a symlink stands where its file would be", () => {
  const out = mkdtempSync(join(folder, "shared "));
  writeFileSync(join(out, "precious"), "precious");
  symlinkSync("precious", join(out, "walk.svg"));
  const { status, stdout, stderr } = runProgram("lab/walk/walk", ["--out", out]);
  assert.deepEqual([status, stdout], [1, ""]);
  assert.match(stderr, /^error Cannot write \S+.*walk\.svg: it is a symlink\. Try: /);
  assert.equal(readFileSync(join(out, "precious"), "utf8"), "precious");
});

test("make secret writes through no symlink", (t) => {
  const checkout = mkdtempSync(join(folder, "checkout "));
  for (const name of ["Makefile", "package.json"]) copyFileSync(join(ROOT, name), join(checkout, name));
  symlinkSync("elsewhere", join(checkout, "secret.key"));
  const { status, stderr, error } = spawnSync("make", ["-C", checkout, "secret"], { encoding: "utf8" });
  if (error) return t.skip(`make cannot be run: ${error.message}`);
  assert.equal(status, 2, stderr);
  assert.ok(!existsSync(join(checkout, "elsewhere")));
});

test("make secret makes one, and keeps the one that is there; it says so each time", () => {
  const checkout = mkdtempSync(join(folder, "checkout "));
  for (const name of ["Makefile", "package.json"]) copyFileSync(join(ROOT, name), join(checkout, name));
  const [first, second] = [1, 2].map(() => {
    const { stdout } = spawnSync("make", ["-C", checkout, "secret"], { encoding: "utf8" });
    assert.match(stdout, /^secret\.key: the secret\. Copy it to the other end$/m);
    return readFileSync(join(checkout, "secret.key"), "utf8");
  });
  assert.match(first!, /^[0-9a-f]{64}\n$/);
  assert.equal(second, first);
});

test("make bench, too, says before the run that it cannot write its files", () => {
  const file = join(folder, "a file");
  writeFileSync(file, "");
  const { status, stderr } = runProgram("lab/bench/bench", ["--out", join(file, "x")]);
  assert.equal(status, 1);
  assert.match(stderr, /^error Cannot write bench\.json, .*a file\/x cannot be written \(ENOTDIR\)\. Try: /);
});
