/**
 * All traffic goes into the tunnel, and the client's own network changes under it: the way to the server must
 * be found all the same.
 */
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Lab, SERVER } from "../lab.ts";
import { Running, startProgram } from "../running.ts";
import { labTest, ping, retry, SECRET, snapshot, startClient, startServer, TUNNEL } from "./testing.ts";
import { newFolder } from "./folder.ts";

// the server, by addresses that the client reaches through its default routes only
const FAR = ["203.0.113.1", "2001:db8:2::1"];
const BEYOND = ["203.0.113.8", "2001:db8:2::8"]; // the internet host

async function startFar(lab: Lab, server: string, ...args: string[]) {
  const client = startProgram(
    lab,
    "client",
    "client",
    [server, "--configure", "--route", "0.0.0.0/0", ...args],
    SECRET,
  );
  await client.until(/connected to/);
  return client;
}

function unplug(lab: Lab): void {
  lab.run("client", "ip link set eth0 down");
}

/**
 * The kernel has forgotten the routes, and the IPv6 address; whoever configures the network brings them back.
 */
function plugIn(lab: Lab): void {
  for (const command of [
    "link set eth0 up",
    "route add default via 192.168.1.1",
    "addr add 2001:db8:1::100/64 dev eth0",
    "route add default via 2001:db8:1::1",
  ])
    lab.run("client", `ip ${command}`);
}

labTest(
  "the client's cable is pulled and put back: the connection goes on, and the next one finds the way, too",
  async (lab) => {
    lab.addIPv6();
    const before = snapshot(lab, "client");
    const user = process.getuid!() === 0 ? ["--user", "nobody"] : [];
    for (const far of FAR) {
      const server = await startServer(lab);
      const client = await startFar(lab, far, "--route", "::/0", ...user);
      unplug(lab);
      lab.try("client", `ping -c 1 -W 1 ${BEYOND[0]}`);
      assert.notEqual(
        lab.try("client", `ip route get ${far} ${TUNNEL}`).status,
        0,
        "while there is no way to the server, the tunnel is none",
      );
      plugIn(lab);
      await retry(() => BEYOND.forEach((target) => ping(lab, "client", target, 1)));
      assert.doesNotMatch(client.output, /Lost the server/);

      await server.stop("SIGKILL");
      unplug(lab);
      await client.until(/Lost the server [^]*Cannot connect to \S+: ENETUNREACH; trying again/);
      const again = await startServer(lab);
      plugIn(lab);
      await client.until(/connected again/);
      for (const target of BEYOND) ping(lab, "client", target);
      await client.stop();
      await again.stop();
      assert.equal(snapshot(lab, "client"), before);
    }
  },
);

labTest("the client's network has another router", async (lab) => {
  const server = await startServer(lab);
  const client = await startFar(lab, FAR[0]!);
  lab.run("server", "ip addr del 192.168.1.1/24 dev eth0");
  lab.run("server", "ip addr add 192.168.1.254/24 dev eth0");
  lab.run("client", "ip route replace default via 192.168.1.254");
  lab.run("client", "ip neigh flush dev eth0");
  ping(lab, "client", BEYOND[0]!);
  await server.stop();
  await startServer(lab);
  await client.until(/connected again/);
  ping(lab, "client", BEYOND[0]!);
});

labTest("the server moves to another address: its tunnel's routes leave that one out, too", async (lab) => {
  const before = snapshot(lab, "client");
  const hosts = join(newFolder(), "hosts");
  writeFileSync(hosts, `${FAR[0]} vpn.test\n`);
  lab.run("lab", `mount --bind ${hosts} /etc/hosts`); // in the lab's own mount namespace
  const server = await startServer(lab);
  const client = await startFar(lab, "vpn.test");
  await server.stop();
  for (const command of [
    "addr del 203.0.113.1/24 dev eth1",
    "addr add 203.0.113.2/24 dev eth1",
    "route add default via 203.0.113.8",
  ])
    lab.run("server", `ip ${command}`);
  writeFileSync(hosts, "203.0.113.2 vpn.test\n");
  await startServer(lab);
  await client.until(/the server may be at 203\.0\.113\.2 now[^]*connected again/);
  ping(lab, "client", BEYOND[0]!);
  await client.stop();
  assert.equal(snapshot(lab, "client"), before);
});

labTest("a name's server moves into a block that is routed into the tunnel", async (lab) => {
  const hosts = join(newFolder(), "hosts");
  writeFileSync(hosts, `${SERVER} vpn.test\n`);
  lab.run("lab", `mount --bind ${hosts} /etc/hosts`);
  const server = await startServer(lab);
  // by address: into the main table
  const client = await startClient(lab, "client", "--route", "203.0.113.0/24");
  assert.match(lab.run("client", "ip route show table main"), /^203\.0\.113\.0\/24 dev tun0/m);
  await client.stop();
  const named = startProgram(
    lab,
    "client",
    "client",
    ["vpn.test", "--configure", "--route", "203.0.113.0/24"],
    SECRET,
  );
  await named.until(/connected to 192\.168\.1\.1/);
  ping(lab, "client", BEYOND[0]!);
  await server.stop();
  writeFileSync(hosts, `${FAR[0]} vpn.test\n`);
  await startServer(lab, "--listen", FAR[0]!);
  await named.until(/connected again/);
  ping(lab, "client", BEYOND[0]!);
});

labTest(
  "a second client of the same host that would take all, too, is refused, and the first one goes on",
  async (lab) => {
    await startServer(lab);
    await startServer(lab, "--tun", "tun1", "--port", "5556", "--subnet", "10.9.0.0/24", "--subnet6", "off");
    await startFar(lab, FAR[0]!);
    const before = snapshot(lab, "client");
    for (const [port, route, words] of [
      ["5556", "0.0.0.0/0", /table 86 has a route out of tun0 already/],
      ["5556", "203.0.113.0/24", /end the other client first/],
      ["5555", "9.9.9.9/32", /on this machine tun0 has 10\.8\.0\.2/],
    ] as const) {
      const second = startProgram(
        lab,
        "client",
        "client",
        [FAR[0]!, "--tun", "tun1", "--port", port, "--configure", "--route", route],
        SECRET,
      );
      assert.equal(await second.ended, 1);
      assert.match(second.output, /^error Cannot /m);
      assert.match(second.output, words);
      assert.equal(snapshot(lab, "client"), before);
    }
    ping(lab, "client", BEYOND[0]!);
  },
);

labTest(
  "another address of the same subnet: the routes stay; without root, the commands are printed",
  async (lab) => {
    const host = lab.addClient(2);
    const users = process.getuid!() === 0 ? [[], ["--user", "nobody"]] : [[]];
    for (const user of users) {
      const server = await startServer(lab);
      const client = await startFar(lab, SERVER, ...user);
      const monitor = new Running(lab.spawn("client", ["ip", "monitor", "route", "rule"]));
      client.child.kill("SIGSTOP");
      await server.stop();
      const again = await startServer(lab);
      const rival = await startClient(lab, host);
      assert.match(rival.output, /tunnel is 10\.8\.0\.2/);
      client.child.kill("SIGCONT");
      const [, printed] = await client.until(
        /another address or MTU[^]*now 10\.8\.0\.3\/24, MTU 14\d\d\n((?:Type in.*\n(?:  .*\n)+)?)/,
      );
      assert.equal(printed !== "", user.length > 0);
      for (const line of printed!.split("\n").filter((line) => line.startsWith("  ")))
        lab.run("client", line.trim());
      ping(lab, "client", BEYOND[0]!);
      assert.match(lab.run("client", "ip -4 -o addr show dev tun0"), /^.*10\.8\.0\.3\/24.*\n$/);
      await monitor.until(/Deleted local 10\.8\.0\.2/);
      assert.doesNotMatch(monitor.output, /Deleted (default|86\d\d:)/, "no moment without the tunnel");
      await monitor.stop();
      for (const program of [client, rival, again]) assert.equal(await program.stop(), 0, program.output);
    }
  },
);
