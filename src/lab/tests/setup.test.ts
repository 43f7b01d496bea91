/**
 * --configure on machines that are not fresh: what they have already, what they cannot do, and what takes
 * long.
 */
import assert from "node:assert/strict";
import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Lab, SERVER, TARGET, TARGET6 } from "../lab.ts";
import { Running, startProgram } from "../running.ts";
import { labTest, ping, retry, SECRET, snapshot, standIn, startClient, startServer } from "./testing.ts";
import { newFolder } from "./folder.ts";

const FAR = "203.0.113.1"; // the server, by an address that the client reaches through its default route only
const BEYOND = "203.0.113.8"; // the internet host
const server = (lab: Lab, ...args: string[]) =>
  startProgram(lab, "server", "server", ["--configure", "--nat", "eth1", ...args], SECRET);
const client = (lab: Lab, ...args: string[]) =>
  startProgram(lab, "client", "client", ["--configure", ...args], SECRET);
const hint = ({ output }: Running) => /^error .* Try: (.*)$/m.exec(output)![1]!;

/** A program that must end, with one line of error. */
async function refuses(running: Running, words: RegExp): Promise<string> {
  assert.equal(await running.ended, 1, running.output);
  assert.match(running.output, words);
  return hint(running);
}

/** All is as before when both have ended. */
async function endsAsBefore(lab: Lab, programs: Running[], before: string[]): Promise<void> {
  for (const program of programs) assert.equal(await program.stop(), 0, program.output);
  assert.deepEqual([snapshot(lab, "client"), snapshot(lab, "server")], before);
}
const both = (lab: Lab) => [snapshot(lab, "client"), snapshot(lab, "server")];

// ---- what is right already ----

labTest(
  "settings that are right already are not set: /proc/sys may be read-only, as in a container",
  async (lab) => {
    lab.addIPv6();
    lab.run("lab", "mount --bind /proc/sys /proc/sys");
    lab.run("lab", "mount -o remount,ro,bind /proc/sys");
    const said = await refuses(
      server(lab),
      /Cannot run 'sysctl -w net\.ipv4\.ip_forward=1'.*(denied|Read-only)/,
    );
    assert.match(said, /--sysctl net\.ipv4\.ip_forward=1/);
    lab.run("lab", "mount -o remount,rw,bind /proc/sys"); // what the hint does from outside
    lab.run("server", "sysctl -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
    const before = both(lab);
    lab.run("lab", "mount -o remount,ro,bind /proc/sys");
    const programs = [await startServer(lab), await startClient(lab, "client", "--route", `${TARGET6}/128`)];
    for (const target of [TARGET, TARGET6]) ping(lab, "client", target);
    await endsAsBefore(lab, programs.reverse(), before);
  },
);

labTest("IPv6 forwarding that cannot be set costs IPv6, not the server", async (lab) => {
  lab.addIPv6();
  const sysctl = standIn(
    "sysctl",
    `case "$*" in
      *ipv6*) echo "sysctl: setting key: Read-only file system" >&2; exit 1 ;;
      *) real "$@" ;;
    esac`,
  );
  const before = both(lab);
  const running = startProgram(lab, "server", "server", ["--configure", "--nat", "eth1"], sysctl);
  await running.until(
    /without IPv6 inside the tunnel: Cannot run 'sysctl[^]*listening on .*tunnel is 10\.8\.0\.1\/24, MTU/,
  );
  const user = await startClient(lab);
  ping(lab, "client", TARGET);
  await endsAsBefore(lab, [user, running], before);
});

// ---- what is in use already ----

labTest(
  "an inner block that this machine uses already is refused, on both ends; what the hint names works",
  async (lab) => {
    lab.run("server", "ip addr add 10.8.0.1/24 dev eth1"); // as an OpenVPN with its defaults would
    const said = await refuses(
      server(lab),
      /Cannot use 10\.8\.0\.0\/24 inside the tunnel: on this machine eth1 has 10\.8\.0\.1\/24/,
    );
    assert.match(said, /^--subnet 10\.9\.0\.0\/24/);
    await startServer(lab, ...said.split(":")[0]!.split(" "));
    lab.run("client", "ip addr add 10.9.0.77/24 dev eth0");
    const there = await refuses(
      client(lab, SERVER),
      /Cannot use 10\.9\.0\.0\/24 inside the tunnel: on this machine eth0 has 10\.9\.0\.77\/24/,
    );
    assert.match(there, /another --subnet on the server, such as 10\.10\.0\.0\/24/);
    lab.run("client", "ip addr del 10.9.0.77/24 dev eth0");

    lab.run("client", "ip addr add 10.200.0.5/8 dev eth0"); // a larger network: the tunnel takes a part of it
    const user = await startClient(lab);
    assert.match(user.output, /network on eth0, 10\.200\.0\.5\/8, holds the tunnel's 10\.9\.0\.0\/24/);
    ping(lab, "client", "10.9.0.1");
    await user.stop();
  },
);

labTest("a --route that is this machine's own network is refused; the halves of it work", async (lab) => {
  await startServer(lab);
  lab.run("client", "ip addr add 203.0.113.99/24 dev eth0");
  const before = snapshot(lab, "client");
  const said = await refuses(
    client(lab, SERVER, "--route", "203.0.113.0/24"),
    /Cannot route 203\.0\.113\.0\/24 into the tunnel: it is this machine's own network, on eth0/,
  );
  assert.equal(snapshot(lab, "client"), before);
  const user = client(lab, SERVER, .../(?:--route \S+?\/\d+ ?)+/.exec(said)![0].trim().split(" "));
  await user.until(/connected to/);
  ping(lab, "client", BEYOND);
  assert.match(lab.run("client", `ip route get ${BEYOND}`), /dev tun0/);
  await user.stop();
  assert.equal(snapshot(lab, "client"), before);
});

// ---- what this kernel cannot do ----

labTest("busybox's ip is not enough, and is named", async (lab) => {
  const busybox = standIn("ip", `exec busybox ip "$@"`);
  const running = startProgram(lab, "server", "server", ["--configure"], busybox);
  const said = await refuses(
    running,
    /Cannot configure this machine: its ip command is not iproute2's \(BusyBox/,
  );
  assert.match(said, /install iproute2/);
});

labTest("from one client to another through the server: no ICMP redirects, of either family", async (lab) => {
  lab.addIPv6();
  const host = lab.addClient(2);
  await startServer(lab);
  await startClient(lab);
  const other = await startClient(lab, host);
  assert.match(other.output, /tunnel is 10\.8\.0\.3/);
  for (const target of [
    "10.8.0.3",
    ...(other.output.includes("fd56:504e::a08:3") ? ["fd56:504e::a08:3"] : []),
  ]) {
    const { stdout } = lab.try("client", `ping -c 5 -i 0.2 ${target}`);
    assert.match(stdout, / 5 received/);
    assert.doesNotMatch(stdout, /redirect/i);
  }
});

// ---- what takes long ----

labTest("a thousand routes to a server with a name: connected soon, and all is undone", async (lab) => {
  const hosts = join(newFolder(), "hosts");
  writeFileSync(hosts, `${FAR} vpn.test\n`);
  lab.run("lab", `mount --bind ${hosts} /etc/hosts`);
  const running = await startServer(lab);
  const before = snapshot(lab, "client");
  const routes = Array.from({ length: 1000 }, (_, i) => [
    "--route",
    `100.64.${i >> 2}.${(i & 3) << 6}/26`,
  ]).flat();
  for (const first of [[], ["--route", "0.0.0.0/0"]]) {
    const user = client(lab, "vpn.test", ...first, ...routes, "--route", "203.0.113.8/32");
    await user.until(/connected to/, 10_000);
    ping(lab, "client", BEYOND);
    assert.equal(lab.run("client", "ip route show table all dev tun0").match(/^100\.64\./gm)?.length, 1000);
    assert.ok(user.output.split("\n").length < 60, "and not a thousand lines of it");
    assert.equal(await user.stop("SIGINT"), 0, user.output);
    assert.equal(snapshot(lab, "client"), before);
  }
  const early = client(lab, "vpn.test", "--route", "0.0.0.0/0", ...routes);
  await early.until(/# ip route add/);
  assert.equal(await early.stop("SIGINT"), 0, early.output);
  assert.equal(snapshot(lab, "client"), before, "in the middle of it, too");
  assert.doesNotMatch(running.output, /no sealed frame/);
});

labTest(
  "slow set-up: the client is proven before it, answers meanwhile, and ends when it is told to",
  async (lab) => {
    const folder = newFolder();
    const slow = standIn(
      "ip",
      `case "$*" in
        *-batch*) touch ${folder}/begun; until [ -e ${folder}/go ]; do sleep 0.05; done ;;
      esac
      real "$@"`,
    );
    const running = await startServer(lab);
    const before = snapshot(lab, "client");
    const user = startProgram(
      lab,
      "client",
      "client",
      [SERVER, "--configure", "--once", "--route", `${TARGET}/32`],
      slow,
    );
    await running.until(/client 10\.8\.0\.2 connected/);
    await retry(() => assert.ok(existsSync(join(folder, "begun")), "the command has begun"));
    // data: whoever gets some says "keepalive" within 3 s, or is left
    lab.try("server", "ping -c 1 -W 1 10.8.0.2");
    user.child.kill("SIGINT");
    await running.until(/client 10\.8\.0\.2 .* left: it said goodbye/);
    writeFileSync(join(folder, "go"), "");
    assert.equal(await user.ended, 0, user.output);
    assert.equal(snapshot(lab, "client"), before);
  },
);
