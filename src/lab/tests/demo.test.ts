/** What a newcomer types: make demo, and the five terminals. */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { chmodSync, existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { LAB_SECRET, ROOT, spawned } from "../lab.ts";
import { Running } from "../running.ts";
import { labTest } from "./testing.ts";
import { newFolder } from "./folder.ts";
import { until } from "./peers.ts";

const ON = "src/lab/terminals/on.sh"; // make on

labTest("the demo answers its pings, shows every step on both ends, and exits with 0", async () => {
  const demo = new Running(spawn(...spawned("lab/walk/demo"), { cwd: ROOT }));
  assert.equal(await demo.ended, 0, demo.output);
  assert.match(demo.output, /3 packets transmitted, 3 received, 0% packet loss/);
  assert.match(demo.output, /All pings answered, every step seen on both ends/);
  assert.doesNotMatch(demo.output, /not seen/);
});

labTest("make demo TRANSPORT=udp: the same steps, and each frame is a datagram", async () => {
  const env = { ...process.env, TRANSPORT: "udp" };
  const demo = new Running(spawn(...spawned("lab/walk/demo"), { cwd: ROOT, env }));
  assert.equal(await demo.ended, 0, demo.output);
  assert.match(demo.output, /# npx tsx src\/server\.ts .*--transport udp\n/);
  assert.match(demo.output, /6\.frame .*with number 1: a datagram of 132 bytes\n/);
  assert.match(demo.output, /All pings answered, every step seen on both ends/);
});

labTest("the five terminals, in their order, each naming the next; make down ends everything", async () => {
  const folder = newFolder();
  const env = { ...process.env, SIMPLE_VPN_LAB: folder, SIMPLE_VPN_SECRET: LAB_SECRET };
  const terminal = (...args: (string | Record<string, string>)[]) => {
    const words = args.filter((arg) => typeof arg === "string");
    const settings = Object.assign({}, env, ...args.filter((arg) => typeof arg !== "string"));
    return new Running(spawn(...spawned("lab/terminals/terminal", ...words), { cwd: ROOT, env: settings }));
  };
  const ended = async (running: Running) => (await running.ended, running);
  const on = (...args: string[]) => new Running(spawn("sh", [ON, ...args], { cwd: ROOT, env }));
  try {
    assert.equal(await on("client", "true").ended, 1, "no lab yet");
    const early = terminal("client");
    assert.equal(await early.ended, 1);
    assert.match(early.output, /the lab is not up\. Try: make server/);

    const server = terminal("server");
    await server.until(
      /listening on[^]*next terminal .*make configure-server.*on the server:\n  ip addr[^]*MASQUERADE/,
    );
    assert.doesNotMatch(server.output, /as root/, "nothing to type on the real machine");
    const twice = terminal("server");
    assert.equal(await twice.ended, 1);
    assert.match(twice.output, /^error Cannot do this: the server has a tun0 already.* Try: .*make down/);
    const configureServer = terminal("configure-server");
    assert.equal(await configureServer.ended, 0, configureServer.output);
    assert.match(
      configureServer.output,
      /server#.* iptables -t nat -A POSTROUTING[^]*next terminal .*make client/,
    );
    const client = terminal("client");
    await client.until(
      /connected to[^]*next terminal .*make configure-client.*on the client:\n  ip addr[^]*ip route add/,
    );
    const configureClient = terminal("configure-client");
    assert.equal(await configureClient.ended, 0, configureClient.output);
    assert.match(configureClient.output, /next terminal .*make ping/);
    const ping = terminal("ping", "-c", "2", "8.8.8.8");
    assert.equal(await ping.ended, 0, ping.output);
    assert.match(ping.output, /2 received, 0% packet loss/);
    const page = on(
      "client",
      process.execPath,
      "-e",
      'require("http").get("http://8.8.8.8/",(r)=>r.pipe(process.stdout))',
    );
    await page.until(/hello from the internet/);
    for (const again of ["configure-server", "configure-client"])
      assert.equal(await terminal(again).ended, 0, "once more changes nothing");
    const rules = on("server", "iptables", "-t", "nat", "-S", "POSTROUTING");
    await rules.ended;
    assert.equal(rules.output.split("-A POSTROUTING").length, 2, "one rule");
    await client.until(/6\.seal/);
    await server.until(/R4\.write/);
    await on("internet", "ip", "-br", "addr").until(/203\.0\.113\.8/);
    for (const [words, said] of [
      [["sever", "ip"], /sever is none of the lab's hosts: client, internet, server\. Try: make on HOST=/],
      [["server"], /no command for server\. Try: make on HOST=server CMD=/],
      [[], /no host is given, and the lab has client, internet, server\./],
    ] as const) {
      const wrong = on(...words);
      assert.equal(await wrong.ended, 1);
      assert.match(wrong.output, said);
    }

    const { MAKELEVEL, MAKEFLAGS, ...outside } = { ...env, MAKELEVEL: "", MAKEFLAGS: "" };
    const words = ["on", "HOST=client", 'CMD=sh -c "env | grep -c ^MAKE; exec ping 192.168.1.1"'];
    const pings = new Running(spawn("make", words, { cwd: ROOT, env: outside, detached: true }));
    await pings.until(/^0\n[^]*bytes from/m); // a make that runs there is a first one
    process.kill(-pings.child.pid!, "SIGINT"); // Ctrl-C
    await pings.ended;
    assert.match(pings.output, /ping statistics/);
    assert.doesNotMatch(pings.output, /make: \*\*\*/);

    const another = terminal("client", { N: "2" });
    await another.until(/ip route add 8\.8\.8\.8\/32 dev tun0[^]*this end of the tunnel is 10\.8\.0\.3/);
    assert.match((await ended(terminal("ping", "-c", "1", "8.8.8.8", { N: "2" }))).output, / 0% packet loss/);
    const none = await ended(terminal("ping", "-c", "1", "8.8.8.8", { N: "7" }));
    assert.match(none.output, /the lab has no client7\. Try: make client N=7, in another terminal/);
    const many = await ended(terminal("client", { N: "31" }));
    assert.match(many.output, /N=31 is no number from 1 to 30/);

    const doctor = terminal("doctor");
    assert.equal(await doctor.ended, 0, doctor.output);
    assert.match(doctor.output, /The client is well\.[^]*The server is well\./);
    await on("client", "ip", "link", "set", "tun0", "down").ended;
    await on("server", "sysctl", "-w", "net.ipv4.ip_forward=0").ended;
    const sick = terminal("doctor");
    assert.equal(await sick.ended, 1);
    assert.match(sick.output, /fix +make on HOST=client CMD="ip link set tun0 mtu 1400 up"\n/);
    assert.match(sick.output, /fix +make on HOST=server CMD="sysctl -w net\.ipv4\.ip_forward=1"\n/);
    assert.doesNotMatch(sick.output, /fix +(client|server)#/, "nothing to type on the real machine");

    const [holder] = readFileSync(join(folder, "holder"), "utf8").split(" ");
    assert.equal(await terminal("down").ended, 0);
    assert.deepEqual([await server.ended, (await client.ended) !== undefined], [0, true]);
    assert.ok(!existsSync(`/proc/${holder}`), "the holder is gone");
  } finally {
    await terminal("down").ended;
  }
});

labTest("make server that fails, or is killed while it builds, leaves no lab", async () => {
  const folder = newFolder();
  const env = { ...process.env, SIMPLE_VPN_LAB: folder, SIMPLE_VPN_SECRET: LAB_SECRET };
  const server = (...args: string[]) =>
    new Running(spawn(...spawned("lab/terminals/terminal", "server", ...args), { cwd: ROOT, env }));
  const holder = () => readFileSync(join(folder, "holder"), "utf8").split(" ")[0];

  const wrong = server("--foo");
  assert.equal(await wrong.ended, 2);
  assert.match(wrong.output, /Unknown option '--foo'[^]*The lab is down/);
  assert.ok(!existsSync(join(folder, "holder")));

  const slow = newFolder(); // with this ip, the building takes some seconds
  writeFileSync(join(slow, "ip"), "#!/bin/sh\nexec sleep 5\n", { mode: 0o755 });
  Object.assign(env, { PATH: `${slow}:${process.env.PATH}` });
  const killed = server();
  await until(() => existsSync(join(folder, "holder")) && holder() !== "", 10_000); // it is written, too
  await killed.stop("SIGKILL");
  await until(() => !existsSync(`/proc/${holder()}`)); // nobody has told the holder to stay
});

labTest("make down ends no process but the lab's: a pid that was given out anew is left alone", async () => {
  const folder = newFolder();
  const stranger = spawn("unshare", [...(process.getuid!() === 0 ? [] : ["-Ur"]), "--mount", "sleep", "60"]);
  writeFileSync(join(folder, "holder"), `${stranger.pid} 12345`);
  const { stdout } = spawnSync(...spawned("lab/terminals/terminal", "down"), {
    cwd: ROOT,
    env: { ...process.env, SIMPLE_VPN_LAB: folder },
    encoding: "utf8",
  });
  assert.match(stdout, /No lab is up/);
  assert.ok(stranger.exitCode === null && stranger.signalCode === null);
  stranger.kill();
});

test("an ordinary user can run the demo with the PATH of su(1), where user namespaces are allowed", (t) => {
  if (process.getuid!() !== 0)
    return t.skip("this run is an ordinary user's already: the other tests show it");
  // /dev/net/tun is 0666 on ordinary distributions; where it is not, a device node of our own stands in, in a
  // private mount.
  const home = newFolder();
  chmodSync(home, 0o777);
  const script = `mount -t tmpfs tmpfs /dev/net && mknod -m 666 /dev/net/tun c 10 200 &&
    cp -r package.json src node_modules ${home} && cd ${home} &&
    exec setpriv --reuid 65534 --regid 65534 --clear-groups \\
      env -i HOME=${home} PATH=/usr/local/bin:/usr/bin:/bin TMPDIR=${home} \\
      ${process.execPath} --import tsx src/lab/walk/demo.ts`;
  const { status, stdout, stderr } = spawnSync("unshare", ["--mount", "sh", "-c", script], {
    cwd: ROOT,
    encoding: "utf8",
    timeout: 150_000,
  });
  if (/Cannot make a private namespace/.test(stderr)) {
    assert.ok(!process.env.CI, stderr);
    return t.skip(stderr.trim());
  }
  assert.equal(status, 0, stdout + stderr);
  assert.match(stdout, /All pings answered, every step seen on both ends/);
});
