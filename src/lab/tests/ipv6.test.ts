/** IPv6 in the lab: inside the tunnel, as its transport, and where a host has none. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { stripVTControlCharacters } from "node:util";
import { type Lab, LAB_SECRET, ROOT, SERVER, SERVER6, spawned, TARGET, TARGET6 } from "../lab.ts";
import { Running, startProgram } from "../running.ts";
import { IS_RAW, IS_UDP, labTest, MTU, ping, SECRET, startClient, startServer, TUNNEL } from "./testing.ts";
import { newFolder } from "./folder.ts";

const CLIENT6 = "fd56:504e::a08:2"; // 10.8.0.2 in the tunnel's /96

/** What --configure may change on both hosts. */
function state(lab: Lab): string[] {
  const commands = [
    "ip -o addr",
    "ip route",
    "ip -6 route",
    "iptables -t nat -S",
    "ip6tables -t nat -S",
    "sysctl net.ipv4.ip_forward net.ipv6.conf.all.forwarding",
    "grep -r . /proc/sys/net/ipv6/conf --include accept_ra",
  ];
  return ["server", "client"].flatMap((host) =>
    commands.map((command) => lab.run(host, command).replace(/ (expires|valid_lft) .*/g, "")),
  );
}

/** A client to another server address than SERVER. */
async function connect(lab: Lab, server: string, ...args: string[]): Promise<Running> {
  const client = startProgram(lab, "client", "client", [server, "--configure", ...args], SECRET);
  await client.until(/connected to/);
  return client;
}

labTest(
  "an IPv6 ping passes the tunnel and the NAT; no other IPv6 packet does; all is undone at exit",
  async (lab) => {
    lab.addIPv6();
    state(lab); // the tables' chains exist from their first use on
    const before = state(lab);
    const server = await startServer(lab);
    const client = await startClient(lab, "client", "--route", `${TARGET6}/128`);
    assert.match(
      server.output,
      new RegExp(`this end of the tunnel is 10.8.0.1/24 and fd56:504e::a08:1/96, MTU ${MTU}`),
    );
    assert.match(
      client.output,
      new RegExp(`this end of the tunnel is 10.8.0.2/24 and fd56:504e::a08:2/96, MTU ${MTU}`),
    );
    ping(lab, "client", TARGET6);
    ping(lab, "client", TARGET, 1);
    // the internet host has no route to the ULA
    assert.match(lab.run("server", "ip6tables -t nat -nvL POSTROUTING"), /^\s*[1-9]\d*\s+\d+\s+MASQUERADE/m);
    const request = `${CLIENT6} → ${TARGET6} ICMPv6 echo request id \\d+ seq 1`;
    const reply = `${TARGET6} → ${CLIENT6} ICMPv6 echo reply id \\d+ seq 1`;
    await client.until(new RegExp(`6\\.read +up\\d+\\.0 +60 .* read 104 bytes: ${request}`));
    await server.until(new RegExp(`R3\\.read +down\\d+\\.0 +60 .* read 104 bytes: ${reply}`));
    assert.deepEqual([await client.stop("SIGINT"), await server.stop("SIGINT")], [0, 0]);
    for (const { output } of [client, server])
      assert.match(
        output,
        /in all: sent 4 packets .* received 4 packets (?!.*dropped)/,
        "the four pings, and nothing that a kernel sends by itself",
      );
    assert.deepEqual(state(lab), before);
  },
);

labTest(
  "IPv6 between clients; foreign sources, and destinations that nobody holds, are dropped",
  async (lab) => {
    lab.addIPv6();
    lab.run(lab.addClient(2), "sysctl -qw net.ipv6.conf.default.disable_ipv6=0");
    const server = await startServer(lab);
    await startClient(lab, "client", "--route", `${TARGET6}/128`);
    await startClient(lab, "client2");
    ping(lab, "client2", CLIENT6);
    for (const source of ["fd56:504e::a08:3", "2001:db8:1::100"]) {
      // client2's; its own outer one
      const add = source.startsWith("fd");
      if (add) lab.run("client", `ip addr add ${source}/128 dev tun0`);
      assert.match(
        lab.try("client", `ping -c 2 -i 0.2 -W 1 -I ${source} ${TARGET6}`).stdout,
        /100% packet loss/,
      );
      await server.until(
        new RegExp(`drop.*its source is not the client's own address.*${source} → ${TARGET6} ICMPv6`),
      );
      if (add) lab.run("client", `ip addr del ${source}/128 dev tun0`);
    }
    assert.match(lab.try("client2", "ping -c 1 -W 1 fd56:504e::a08:63").stdout, /100% packet loss/);
    await server.until(/drop.*no client holds its destination address.*fd56:504e::a08:3 → fd56:504e::a08:63/);
    ping(lab, "client", TARGET6);
  },
  "hostile.test.ts has foreign sources over UDP",
);

labTest("16 MB of TCP over IPv6 arrive unchanged, in packets that are still to be cut", async (lab) => {
  lab.addIPv6();
  await startServer(lab);
  const client = await startClient(lab, "client", "--route", `${TARGET6}/128`);
  const hashing = `
    const net = require("node:net"), { createHash, randomBytes } = require("node:crypto");
    const hash = createHash("sha256"), done = () => console.log("hash " + hash.digest("hex"));`;
  const receive = `${hashing}
    net.createServer((socket) => {
      socket.on("data", (part) => hash.update(part)).on("end", done);
    }).listen(9000, () => console.log("listening"));`;
  const send = `${hashing}
    const data = randomBytes(1 << 24);
    hash.update(data);
    net.connect(9000, "${TARGET6}").end(data, done);`;
  const receiver = new Running(lab.spawn("internet", [process.execPath, "-e", receive]));
  await receiver.until(/listening/);
  const sender = new Running(lab.spawn("client", [process.execPath, "-e", send]));
  const [sent, received] = [
    await sender.until(/hash (\w{64})/, 60_000),
    await receiver.until(/hash (\w{64})/, 60_000),
  ];
  assert.equal(received[1], sent[1]);
  if (IS_UDP) return; // there they are cut before they are shown
  await client.until(
    /6\.read .*still to be cut into pieces of 13\d\d\): fd56:504e::a08:2 → 2001:4860:4860::8888 TCP/,
  );
});

labTest(
  "the tunnel over IPv6: by address with --route ::/0, by name, each address in turn, link-local",
  async (lab) => {
    lab.addIPv6();
    lab.run("server", "sysctl -qw net.ipv6.conf.eth1.accept_ra=1");
    state(lab);
    const before = state(lab);
    const server = await startServer(lab);
    assert.match(
      lab.run("server", "sysctl net.ipv6.conf.eth1.accept_ra"),
      /= 2/,
      "a router that still hears router advertisements",
    );
    // of its eth1: behind the default route
    const client = await connect(lab, "[2001:db8:2::1]", "--route", "::/0", "--route", "0.0.0.0/0");
    assert.match(client.output, /connected to \[2001:db8:2::1\]:5555/);
    await server.until(/client 10\.8\.0\.2 connected from \[2001:db8:1::100\]:\d+/);
    assert.match(lab.run("client", `ip route get 2001:db8:2::1 ${TUNNEL}`), /via 2001:db8:1::1 dev eth0/);
    for (const target of ["2001:db8:2::8", "203.0.113.8"]) {
      assert.match(lab.run("client", `ip route get ${target}`), /dev tun0/);
      ping(lab, "client", target);
    }
    await client.stop();
    const linkLocal = /(fe80::\S+)\//.exec(lab.run("server", "ip -o addr show dev eth0 scope link"))![1]!;
    const near = await connect(lab, `${linkLocal}%eth0`, "--route", "::/0");
    await server.until(IS_RAW ? /connected from \[fe80::/ : /connected from \[fe80::\S+%\d+\]:\d+/);
    ping(lab, "client", TARGET6);
    await near.stop();
    await server.stop();
    assert.deepEqual(state(lab), before);

    const hosts = join(newFolder(), "hosts");
    writeFileSync(hosts, `${SERVER6} vpn.test\n${SERVER} vpn.test\n`);
    lab.run("lab", `mount --bind ${hosts} /etc/hosts`); // in the lab's own mount namespace
    const nobody = startProgram(lab, "client", "client", ["vpn.test"], SECRET);
    assert.equal(await nobody.ended, 1);
    const [first, second] = [/\[2001:db8:1::1\]:5555: ECONNREFUSED/, /192\.168\.1\.1:5555: ECONNREFUSED/];
    assert.match(
      nobody.output,
      new RegExp(`Cannot connect to ${first.source}, nor to ${second.source}\\. Try: .*start the server`),
    );
    for (const [listen, remote] of [
      ["::", "[2001:db8:1::1]:5555"],
      [SERVER, "192.168.1.1:5555"],
    ] as const) {
      const server = await startServer(lab, "--listen", listen);
      const client = await connect(lab, "vpn.test");
      assert.ok(client.output.includes(`connected to ${remote}`), client.output);
      await client.stop();
      await server.stop();
    }
  },
);

labTest(
  "no IPv6 in the kernel, a small MTU and --subnet6 off leave IPv6 out; who asks for it is told",
  async (lab) => {
    lab.addIPv6();
    const only4 = /this end of the tunnel is 10\.8\.0\.\d\/24, MTU/;
    const refused = async (...args: string[]) => {
      const client = startProgram(
        lab,
        "client",
        "client",
        [SERVER, "--configure", ...args, "--route", "::/0"],
        SECRET,
      );
      assert.equal(await client.ended, 1);
      assert.match(client.output, /Cannot route ::\/0 into the tunnel: it carries no IPv6\. Try: /);
    };
    const works = async (...args: string[]) => {
      const client = await startClient(lab, "client", ...args);
      assert.match(client.output, only4);
      ping(lab, "client", TARGET, 1);
      await client.stop();
      await refused(...args);
    };
    const server = await startServer(lab);
    await works("--mtu", "1279");
    lab.run("client", "sysctl -qw net.ipv6.conf.default.disable_ipv6=1");
    await works();
    lab.run("client", "sysctl -qw net.ipv6.conf.default.disable_ipv6=0");
    await server.stop();
    const without = await startServer(lab, "--subnet6", "off");
    assert.match(without.output, only4);
    // raw has rules for IPv6 outside
    assert.doesNotMatch(without.output, /ip6tables (?!-t raw -A \S+ -p tcp)|conf\.all\.forwarding/);
    await works();
  },
);

labTest(
  "--cipher xor carries no IPv6: the client drops it, and so does the server, from an address as from none",
  async (lab) => {
    lab.addIPv6();
    const server = await startServer(lab, "--cipher", "xor");
    const client = await startClient(lab, "client", "--cipher", "xor");
    await client.until(
      /drop 48 bytes: this tunnel carries no IPv6: fe80::\S+ → ff02::2 ICMPv6 router solicitation/,
    );
    const script = `
    const [ipv6, ipv4] = [Buffer.alloc(48), Buffer.alloc(28)];
    [ipv6[0], ipv4[0]] = [0x60, 0x45];
    const socket = require("node:net").connect(5555, "${SERVER}");
    for (const packet of [ipv6, ipv4]) {
      socket.write(Buffer.from([0, packet.length]));
      socket.write(packet.map((byte) => byte ^ 0x42));
    }`;
    lab.spawn("client", [process.execPath, "-e", script]);
    await server.until(/drop 48 bytes: its source is not the client's own address .*:: → ::/);
    await server.until(/drop 28 bytes: its source is not the client's own address .*0\.0\.0\.0 → 0\.0\.0\.0/);
  },
  "--cipher xor is for TCP",
);

labTest(
  "the five terminals with IPV6=1 show the walkthrough's commands, and ping answers",
  async () => {
    const env = {
      ...process.env,
      IPV6: "1",
      SIMPLE_VPN_LAB: newFolder(),
      SIMPLE_VPN_SECRET: LAB_SECRET,
    };
    const terminal = (...args: string[]) =>
      new Running(
        spawn(...spawned("lab/terminals/terminal", ...args), {
          cwd: ROOT,
          env,
        }),
      );
    const shown = /## The same with IPv6[^]*?```\n([^]*?)```/
      .exec(readFileSync(join(ROOT, "walkthrough.md"), "utf8"))![1]!
      .trim()
      .split("\n");
    try {
      await terminal("server").until(/ip6tables/);
      const configured = terminal("configure-server");
      assert.equal(await configured.ended, 0);
      for (const line of shown) assert.ok(stripVTControlCharacters(configured.output).includes(line), line);
      await terminal("client").until(/ip route add 2001:4860:4860::8888/);
      assert.equal(await terminal("configure-client").ended, 0);
      await terminal("ping", "-c", "1", TARGET6).until(/1 received/);
    } finally {
      await terminal("down").ended;
    }
  },
  "terminals.test.ts has the five over UDP",
);
