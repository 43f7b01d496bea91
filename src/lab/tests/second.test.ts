/**
 * peer.py is the protocol a second time, written from draft/wire.md alone. It makes the bytes of that page,
 * and both its roles talk to our programs.
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { test } from "node:test";
import { type Lab, LAB_SECRET, OTHER_SECRET, ROOT, SERVER, TARGET } from "../lab.ts";
import { Running } from "../running.ts";
import { has } from "../tools.ts";
import { labTest, ping, startClient, startServer } from "./testing.ts";

const PEER = join(ROOT, "src/lab/tests/peer.py"); // tsc leaves it there
const HAS_CRYPTO = 'import ctypes.util; assert ctypes.util.find_library("crypto")';

const UDP_PEER = join(ROOT, "src/lab/tests/peer_udp.py");
const UDP = ["--transport", "udp"];

const startPeer = (lab: Lab, host: string, ...args: string[]) =>
  new Running(lab.spawn(host, ["python3", PEER, ...args]));
const startUdpPeer = (lab: Lab, host: string, ...args: string[]) =>
  new Running(lab.spawn(host, ["python3", "-B", UDP_PEER, ...args]));

/** Pings through the tunnel, all answered, until peer.py has had fresh keys four times. */
async function pingAcrossKeys(lab: Lab, peer: Running): Promise<void> {
  do {
    ping(lab, "client", TARGET, 5);
    await new Promise((resolve) => setTimeout(resolve, 10)); // its output is read meanwhile
  } while (peer.output.split("fresh keys").length <= 4);
}

const missing = !has("python3")
  ? "python3 is not installed"
  : spawnSync("python3", ["-c", HAS_CRYPTO]).status !== 0 && "python3 finds no libcrypto";

if (missing) test("peer.py", (t) => (process.env.CI ? assert.fail(missing) : t.skip(missing)));
else {
  test("peer.py makes every byte of the test vectors in draft/wire.md", () => {
    const page = join(ROOT, "draft/wire.md");
    const { status, stderr } = spawnSync("python3", [PEER, "vectors", page], { encoding: "utf8" });
    assert.equal(status, 0, stderr);
  });

  labTest("peer.py as a client of our server loses no ping while keys change each second", async (lab) => {
    await startServer(lab, "--offload", "off");
    const peer = startPeer(lab, "client", "client", SERVER, LAB_SECRET, "1");
    await peer.until(/connected: 10\.8\.0\.2/);
    lab.run("client", `ip route add ${TARGET}/32 dev tun0`);
    await pingAcrossKeys(lab, peer);
  });

  labTest("our client of peer.py as a server loses no ping while keys change each second", async (lab) => {
    const peer = startPeer(lab, "server", "server", LAB_SECRET);
    await peer.until(/listening/);
    lab.run("server", "sysctl -qw net.ipv4.ip_forward=1");
    lab.run("server", "iptables -t nat -A POSTROUTING -s 10.8.0.0/24 -o eth1 -j MASQUERADE");
    const hosts = ["client", lab.addClient(2)];
    const clients = [];
    for (const host of hosts) clients.push(await startClient(lab, host, "--offload", "off", "--rekey", "1"));
    await pingAcrossKeys(lab, peer);
    ping(lab, "client2", "10.8.0.2");
    assert.equal(await clients[1]!.stop(), 0);
    await peer.until(/ended: it said goodbye/);
    ping(lab, "client", TARGET);
  });

  labTest("our server refuses peer.py with another secret, and peer.py says so", async (lab) => {
    const server = await startServer(lab);
    const peer = startPeer(lab, "client", "client", SERVER, OTHER_SECRET);
    assert.equal(await peer.ended, 1);
    assert.match(peer.output, /ended: the server refuses our secret/);
    await server.until(/refused 192\.168\.1\.100:\d+: it was made with another secret/);
  });

  test("peer_udp.py makes every byte of the test vectors over UDP", () => {
    const page = join(ROOT, "draft/wire.md");
    const { status, stderr } = spawnSync("python3", ["-B", UDP_PEER, "vectors", page], { encoding: "utf8" });
    assert.equal(status, 0, stderr);
  });

  labTest("over UDP: peer.py as a client of our server loses no ping while keys change", async (lab) => {
    await startServer(lab, "--offload", "off", ...UDP);
    const peer = startUdpPeer(lab, "client", "client", SERVER, LAB_SECRET, "1");
    await peer.until(/connected: 10\.8\.0\.2/);
    lab.run("client", `ip route add ${TARGET}/32 dev tun0`);
    await pingAcrossKeys(lab, peer);
  });

  labTest("over UDP: our client of peer.py as a server loses no ping while keys change", async (lab) => {
    const peer = startUdpPeer(lab, "server", "server", LAB_SECRET);
    await peer.until(/listening/);
    lab.run("server", "sysctl -qw net.ipv4.ip_forward=1");
    lab.run("server", "iptables -t nat -A POSTROUTING -s 10.8.0.0/24 -o eth1 -j MASQUERADE");
    const client = await startClient(lab, "client", "--offload", "off", "--rekey", "1", ...UDP);
    await pingAcrossKeys(lab, peer);
    assert.equal(await client.stop(), 0);
    await peer.until(/ended: it said goodbye/);
  });

  labTest("over UDP: our server refuses peer.py with another secret, and peer.py says so", async (lab) => {
    await startServer(lab, ...UDP);
    const peer = startUdpPeer(lab, "client", "client", SERVER, OTHER_SECRET);
    assert.notEqual(await peer.ended, 0);
    assert.match(peer.output, /the server refuses our secret/);
  });
}
