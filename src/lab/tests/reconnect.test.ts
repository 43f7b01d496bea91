/** The tunnel outlives the server and the wire: connecting again, the same address, fresh keys under way. */
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Lab, TARGET, TARGET6 } from "../lab.ts";
import { Running, startProgram } from "../running.ts";
import {
  IS_QUIC,
  IS_TCP,
  IS_UDP,
  labTest,
  MTU,
  onlyTcp,
  ping,
  PROTOCOL,
  retry,
  SECRET,
  startClient,
  startServer,
} from "./testing.ts";
import { newFolder } from "./folder.ts";

const PIECES = 40; // of 256 KB, each way

/** Sends a random stream and receives one at the same time, slowly; prints the hash of both. */
const exchange = (connect: string) => `
  const crypto = require("node:crypto"), net = require("node:net");
  const [sent, received] = [crypto.createHash("sha256"), crypto.createHash("sha256")];
  async function run(socket) {
    socket.on("data", (data) => received.update(data));
    socket.on("end", () => console.log("received " + received.digest("hex")));
    for (let i = 0; i < ${PIECES}; i++) {
      const piece = crypto.randomBytes(1 << 18);
      sent.update(piece);
      if (!socket.write(piece)) await new Promise((resolve) => socket.once("drain", resolve));
      await new Promise((resolve) => setTimeout(resolve, 50));
      if (i === 5) console.log("under way");
    }
    socket.end();
    console.log("sent " + sent.digest("hex"));
  }
  if ("${connect}") run(net.connect({ port: 9000, host: "${connect}", allowHalfOpen: true }));
  else net.createServer({ allowHalfOpen: true }, run).listen(9000, () => console.log("listening"));`;

/** Starts an exchange through the tunnel; what waits for its end, and looks whether all bytes arrived. */
async function startExchange(lab: Lab): Promise<() => Promise<void>> {
  const start = (host: string, connect: string) =>
    new Running(lab.spawn(host, [process.execPath, "-e", exchange(connect)]));
  const far = start("internet", "");
  await far.until(/listening/);
  const near = start("client", TARGET);
  await near.until(/under way/);
  return async () => {
    for (const [from, to] of [
      [near, far],
      [far, near],
    ] as const) {
      const [[, sent], [, received]] = [
        await from.until(/sent (\w{64})/, 60_000),
        await to.until(/received (\w{64})/, 60_000),
      ];
      assert.equal(received, sent);
    }
  };
}

// With --nat's own rules alone the kernel stops tracking connections when the server dies and they go, and
// resets what comes in. So there is another rule that tracks them: NAT by hand, as in the five terminals, or
// any stateful one of a firewall.
const TRACKING = {
  "NAT by hand": ["iptables -t nat -A POSTROUTING -s 10.8.0.0/24 -o eth1 -j MASQUERADE", []],
  "--nat on a host with a firewall": [
    "iptables -A INPUT -m conntrack --ctstate INVALID -j DROP",
    ["--nat", "eth1"],
  ],
} as const;
for (const [where, [rule, args]] of Object.entries(TRACKING))
  labTest(
    `a TCP connection inside survives the server's death; the client keeps its address (${where})`,
    async (lab) => {
      lab.run("server", rule);
      lab.run("server", "sysctl -w net.ipv4.ip_forward=1");
      const start = async () => {
        const server = startProgram(lab, "server", "server", ["--configure", ...args], SECRET);
        await server.until(/listening on/);
        return server;
      };
      const server = await start();
      const other = await startClient(lab, lab.addClient(2));
      const client = await startClient(lab);
      assert.match(client.output, /tunnel is 10\.8\.0\.3\/24/);
      const complete = await startExchange(lab);
      await server.stop("SIGKILL");
      await client.until(/Lost the server 192\.168\.1\.1:5555: .*; trying again in 0\.\d s/);
      await other.stop(); // 10.8.0.2 is free
      await client.until(/Cannot connect to 192\.168\.1\.1:5555: ECONNREFUSED; trying again in \d\.\d s/);
      await start();
      await client.until(
        /connected again after \d+\.\d s: this end of the tunnel is still 10\.8\.0\.3\/24, MTU 14/,
      );
      await complete();
      ping(lab, "client", TARGET);
      assert.equal(client.output.split("# ip addr").length, 2, "configured once");
    },
  );

/** Why some are for one transport only. */
const ABOVE = onlyTcp("addresses and routes are the same over all");

labTest(
  "a client whose connection died unnoticed by the server takes its address over",
  async (lab) => {
    const server = await startServer(lab);
    const client = await startClient(lab);
    const [, port] = await server.until(/connected from 192\.168\.1\.100:(\d+)/);
    // the server hears nothing; the client, of a reset, or that nobody listens there
    const reject = PROTOCOL === "udp" ? "icmp-port-unreachable" : "tcp-reset";
    lab.run("server", `iptables -I INPUT -p ${PROTOCOL} --sport ${port} -j REJECT --reject-with ${reject}`);
    lab.try("client", `ping -c 1 -W 1 ${TARGET}`);
    await client.until(/Lost the server .*(ECONNRESET|nobody listens there any more); trying/);
    await client.until(/connected again after .*: this end of the tunnel is still 10\.8\.0\.2\/24/);
    // on a busy machine the server's pulse may be as fast as the client
    const reasons = "(it connected again, from 192|it has not answered)";
    await server.until(new RegExp(`client .* from 192\\.168\\.1\\.100:${port} left: ${reasons}`));
    ping(lab, "client", TARGET);
  },
  { raw: "no rule stops what a packet socket sees", quic: "the server notices as soon as the client" },
);

labTest(
  "a client in another network keeps its inner address, though the server had given it up",
  async (lab) => {
    const server = await startServer(lab);
    const client = await startClient(lab);
    const complete = await startExchange(lab);
    lab.run("client", "ip addr del 192.168.1.100/24 dev eth0");
    await server.until(
      /client 10\.8\.0\.2 .*left: (ETIMEDOUT|it has not answered .*|nothing comes .*) \(0 connected\)/,
      30_000,
    );
    const other = await startClient(lab, lab.addClient(2));
    assert.match(other.output, /tunnel is 10\.8\.0\.3/);
    lab.run("client", "ip addr add 192.168.1.101/24 dev eth0");
    await client.until(
      /connected again after \d+\.\d s: this end of the tunnel is still 10\.8\.0\.2\/24/,
      60_000,
    );
    await server.until(/client 10\.8\.0\.2 connected from 192\.168\.1\.101/);
    await complete();
  },
);

labTest(
  "another subnet after the restart: the client's end is configured anew, or the commands are printed anew",
  async (lab) => {
    const server = await startServer(lab);
    const host = lab.addClient(2);
    const [client, byHand] = [
      await startClient(lab),
      startProgram(lab, host, "client", ["192.168.2.1", "--route", `${TARGET}/32`], SECRET),
    ];
    await byHand.until(/connected to/);
    await server.stop();
    await startServer(lab, "--subnet", "172.16.5.0/24");
    await client.until(/connected again .* with another address[^]*now 172\.16\.5\.\d\/24/);
    assert.doesNotMatch(lab.run("client", "ip addr show tun0"), /10\.8\.0/);
    ping(lab, "client", TARGET);
    const lines = [
      String.raw`now 172\.16\.5\.\d/24, MTU ${MTU}`,
      String.raw`Type in the next terminal, as root:`,
      String.raw`  ip addr replace (172\.16\.5\.\d)/32 dev tun0`,
      String.raw`  ip addr del 10\.8\.0\.\d/24 dev tun0`,
      String.raw`  ip addr replace \1/24 dev tun0`,
      String.raw`  ip addr del \1/32 dev tun0`,
    ];
    await byHand.until(new RegExp(`${lines.join("\n")}\n`));
  },
  ABOVE,
);

labTest(
  "another subnet after the restart, with an IPv6 route: the routes stay, only the addresses change",
  async (lab) => {
    lab.addIPv6();
    const server = await startServer(lab);
    const client = await startClient(lab, "client", "--route", `${TARGET6}/128`);
    await server.stop();
    await startServer(lab, "--subnet", "172.16.5.0/24");
    await client.until(
      /connected again .* with another address[^]*now 172\.16\.5\.2\/24 and fd56:504e::ac10:502\/96/,
    );
    for (const target of [TARGET, TARGET6]) ping(lab, "client", target);
  },
  ABOVE,
);

labTest(
  "a server without IPv6, for a client that routes it: the tunnel waits for one that has it",
  async (lab) => {
    lab.addIPv6();
    let server = await startServer(lab);
    const client = await startClient(lab, "client", "--route", `${TARGET6}/128`);
    for (const args of [
      ["--subnet6", "off"],
      ["--mtu", "1200"],
    ]) {
      await server.stop();
      server = await startServer(lab, ...args);
      await client.until(/Cannot route 2001:\S+ into the tunnel: it carries no IPv6; trying again in/);
      if (IS_TCP || IS_QUIC) await server.until(/a probe from .* left: the connection was closed/);
      assert.match(
        lab.run("client", `ip route get ${TARGET6}`),
        /dev tun0/,
        "nothing leaves beside the tunnel meanwhile",
      );
      client.output = "";
      await server.stop();
      server = await startServer(lab);
      await client.until(/connected again/);
      for (const target of [TARGET, TARGET6]) ping(lab, "client", target);
    }
  },
  ABOVE,
);

labTest(
  "an MTU too small for IPv6, and back",
  async (lab) => {
    lab.addIPv6();
    let server = await startServer(lab);
    const client = await startClient(lab);
    for (const [mtu, own] of [
      ["1200", "10.8.0.2/24, MTU 1200"],
      ["1400", "10.8.0.2/24 and fd56:504e::a08:2/96, MTU 1400"],
    ] as const) {
      await server.stop();
      server = await startServer(lab, "--mtu", mtu);
      await client.until(new RegExp(`now ${own}\\n`));
      ping(lab, "client", TARGET);
    }
    ping(lab, "client", "fd56:504e::a08:1");
  },
  ABOVE,
);

labTest(
  "--cipher xor: a full server closes connections at once, and the client waits longer each time",
  async (lab) => {
    const start = (host: string, ...args: string[]) =>
      startProgram(
        lab,
        host,
        "client",
        [...args, "--cipher", "xor", "--configure", "--route", `${TARGET}/32`],
        SECRET,
      );
    const one = ["--cipher", "xor", "--max-clients", "1"];
    const server = await startServer(lab, ...one);
    const client = start("client", "192.168.1.1");
    await client.until(/connected to/);
    ping(lab, "client", TARGET, 1);
    const rival = start(lab.addClient(2), "192.168.2.1", "--address", "10.8.0.3/24");
    assert.equal(await rival.ended, 1);
    assert.match(rival.output, /start both ends with --cipher xor, or both without; or is the server full\?/);
    client.child.kill("SIGSTOP");
    await server.stop();
    await startServer(lab, ...one);
    const again = start("client2", "192.168.2.1", "--address", "10.8.0.3/24");
    await again.until(/connected to/);
    ping(lab, "client2", TARGET, 1);
    client.child.kill("SIGCONT");
    await client.until(/trying again in [2-9]\.\d s/);
  },
  "--cipher xor is for TCP",
);

labTest("while waiting for the server, a signal ends the client at once with 0", async (lab) => {
  const server = await startServer(lab);
  const client = await startClient(lab);
  await server.stop();
  await client.until(/trying again in [2-9]/);
  const since = Date.now();
  assert.equal(await client.stop("SIGINT"), 0);
  assert.ok(Date.now() - since < 1500, "before its next try");
  assert.equal(lab.try("client", "ip link show tun0").status, 1);
});

labTest(
  "no name server answers: the last address is tried again, and a signal waits for no lookup",
  async (lab) => {
    const folder = newFolder();
    const [hosts, resolver] = [join(folder, "hosts"), join(folder, "resolv.conf")];
    writeFileSync(hosts, "192.168.1.1 vpn.test\n");
    writeFileSync(resolver, "nameserver 192.168.1.1\n");
    lab.run("server", "iptables -A INPUT -p udp --dport 53 -j DROP");
    lab.run("lab", `mount --bind ${hosts} /etc/hosts`); // in the lab's own mount namespace
    lab.run("lab", `mount --bind ${resolver} /etc/resolv.conf`);
    const start = (name: string, tun: string, patience: string) =>
      startProgram(lab, "client", "client", [name, "--tun", tun], {
        env: { ...SECRET.env, RES_OPTIONS: patience },
      });
    const server = await startServer(lab);
    const client = start("vpn.test", "tun0", "timeout:10 attempts:3"); // longer than until() waits
    await client.until(/connected to 192\.168\.1\.1/);
    writeFileSync(hosts, "");
    await server.stop();
    await startServer(lab);
    await client.until(/connected again/);

    const waiting = start("slow.test", "tun1", "timeout:10 attempts:3");
    await retry(() => lab.run("client", "ip link show tun1"));
    const since = Date.now();
    assert.equal(await waiting.stop("SIGINT"), 0);
    assert.ok(Date.now() - since < 5000);
  },
  ABOVE,
);

labTest("a server that has no address left is asked again", async (lab) => {
  const server = await startServer(lab, "--subnet", "10.8.0.0/30");
  const client = await startClient(lab);
  const host = lab.addClient(2);
  client.child.kill("SIGSTOP");
  await server.stop();
  await startServer(lab, "--subnet", "10.8.0.0/30");
  const rival = await startClient(lab, host);
  client.child.kill("SIGCONT");
  await client.until(/Cannot start a session .*all inner addresses are taken; trying again in/);
  await rival.stop();
  await client.until(/connected again/);
  ping(lab, "client", TARGET);
});

labTest(
  "fresh keys every second, under load: no packet is lost, and the trace counts nonces from 0 again",
  async (lab) => {
    const server = await startServer(lab);
    const client = await startClient(lab, "client", "--rekey", "1");
    const complete = await startExchange(lab);
    assert.match(
      lab.try("client", `ping -q -i 0.002 -c 1500 ${TARGET}`).stdout,
      /1500 received, 0% packet loss/,
    );
    await complete();
    for (const program of [server, client])
      await program.until(/(fresh keys with \S+: (nonces count from 0 again|the numbers go on)[^]*){3}/);
    if (IS_UDP) return assert.doesNotMatch(server.output + client.output, /left:|Lost the server/);
    for (const deadline = Date.now() + 20_000; !/6\.seal +up\d{3,} .*nonce \d{1,2},/.test(client.output);) {
      assert.ok(Date.now() < deadline, "no packet was shown after the load");
      ping(lab, "client", TARGET, 1);
      await new Promise((resolve) => setTimeout(resolve, 1100)); // quiet: the trace unfolds
    }
    assert.doesNotMatch(server.output + client.output, /left:|Lost the server/);
  },
);
