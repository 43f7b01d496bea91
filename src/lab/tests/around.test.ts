/**
 * Around the tunnel: a machine beside the client, or beside the server, has no secret. It sends to inner
 * addresses over its own network, and must reach nobody (the class of CVE-2019-14899).
 */
import assert from "node:assert/strict";
import { type Lab, TARGET, TARGET6 } from "../lab.ts";
import { Running, startProgram } from "../running.ts";
import { labTest, ping, retry, SECRET, snapshot, startClient, startServer } from "./testing.ts";

const [CLIENT, CLIENT6] = ["10.8.0.2", "fd56:504e::a08:2"];
const GATEWAYS = ["10.8.0.1", "fd56:504e::a08:1"];

/** An attacker on each side: "server" is beside the client, "internet" is beside the server. */
function prepare(lab: Lab, filter: number): void {
  lab.addIPv6();
  for (const host of ["client", "server"])
    for (const name of ["all", "eth0"]) lab.run(host, `sysctl -qw net.ipv4.conf.${name}.rp_filter=${filter}`);
  for (const route of ["10.8.0.0/24 via 203.0.113.1", "fd56:504e::/96 via 2001:db8:2::1"])
    lab.run("internet", `ip route add ${route}`);
}

/** A neighbour on the client's wire. It has the source address `from`, or none of its own. */
function addNeighbour(lab: Lab): string {
  const host = "neighbour";
  lab.run("lab", `ip netns add ${host}`);
  lab.run("lab", `ip link add eth0 netns ${host} type veth peer name eth9 netns client`);
  for (const [at, line] of [
    [host, "addr add 192.168.9.2/24 dev eth0"],
    ["client", "addr add 192.168.9.1/24 dev eth9"],
    [host, "link set eth0 up"],
    ["client", "link set eth9 up"],
    [host, "-6 addr add 2001:db8:9::2/64 dev eth0 nodad"],
    ["client", "-6 addr add 2001:db8:9::1/64 dev eth9 nodad"],
    [host, "route add default via 192.168.9.1"],
    [host, "-6 route add default via 2001:db8:9::1"],
  ] as const)
    lab.run(at, `ip ${line}`);
  return host;
}

const answers = (lab: Lab, host: string, target: string, source = "") =>
  lab.try(host, `ping -c 2 -i 0.2 -W 1 ${source}${target}`).stdout.includes("bytes from");

const udp = (address: string) => (address.includes(":") ? "udp6" : "udp4");

/** A UDP socket on the client, bound to the inner address, that prints what comes from port 53 of TARGET. */
async function listen(lab: Lab, address: string): Promise<Running> {
  const script = `const socket = require("node:dgram").createSocket("${udp(address)}");
    socket.on("message", (text, { address }) => console.log("got " + text + " from " + address));
    socket.bind(5353, "${address}", () => console.log("ready"));`;
  const socket = new Running(lab.spawn("client", [process.execPath, "-e", script]));
  await socket.until(/ready/);
  return socket;
}

/** Sends a datagram to that socket; `source` need not be an address of the sender's. */
function send(lab: Lab, host: string, text: string, target: string, source?: string): void {
  const length = target.includes(":") ? "128 nodad" : "32";
  if (source) lab.run(host, `ip addr add ${source}/${length} dev eth0`);
  const script = `const socket = require("node:dgram").createSocket("${udp(target)}");
    const send = () => socket.send("${text}", 5353, "${target}", () => socket.close());
    ${source ? `socket.bind(53, "${source}", send)` : "send()"};`;
  lab.run(host, [process.execPath, "-e", script]);
  if (source) lab.run(host, `ip addr del ${source}/${length.split(" ")[0]} dev eth0`);
}

for (const filter of [0, 1, 2])
  labTest(`inner addresses answer to the tunnel alone, with rp_filter ${filter}`, async (lab) => {
    prepare(lab, filter);
    const other = lab.addClient(2);
    const neighbour = addNeighbour(lab);
    const state = () => [snapshot(lab, "client"), snapshot(lab, "server")];
    await retry(() => assert.doesNotMatch(state().join(), /tentative/)); // addresses of IPv6 take a second
    const before = state();
    const server = await startServer(lab);
    const all = ["--route", "0.0.0.0/0", "--route", "::/0"];
    const [client, second] = [await startClient(lab, "client", ...all), await startClient(lab, other)];
    const sockets = [await listen(lab, CLIENT), await listen(lab, CLIENT6)];
    for (const host of [neighbour, "internet"])
      for (const target of [CLIENT, CLIENT6, ...GATEWAYS])
        assert.ok(!answers(lab, host, target), `${target} answers ${host}`);
    send(lab, neighbour, "forged", CLIENT, TARGET);
    send(lab, neighbour, "forged", CLIENT6, TARGET6);
    send(lab, neighbour, "forged", CLIENT6, "2001:db8:9::1"); // the client's own
    for (const target of [CLIENT, CLIENT6]) send(lab, "client", "honest", target);
    for (const socket of sockets) await socket.until(/honest/);
    for (const socket of sockets) assert.doesNotMatch(socket.output, /forged/);
    // what the tunnel is for goes on
    for (const target of [TARGET, TARGET6, ...GATEWAYS, "10.8.0.3", CLIENT, CLIENT6])
      ping(lab, "client", target, 2);
    for (const target of [CLIENT, "10.8.0.1", TARGET]) ping(lab, other, target, 2);
    for (const program of [client, second, server]) assert.equal(await program.stop(), 0, program.output);
    assert.deepEqual(state(), before);
  });

labTest("another subnet at a reconnect has the wall, too; so has a machine with nft alone", async (lab) => {
  prepare(lab, 2);
  const neighbour = addNeighbour(lab);
  for (const tool of ["iptables", "ip6tables"])
    lab.run("lab", `mount --bind /dev/null ${lab.run("lab", `readlink -f /usr/sbin/${tool}`).trim()}`);
  const rules = () => lab.run("client", "nft list ruleset") + lab.run("server", "nft list ruleset");
  const before = rules();
  const server = await startServer(lab);
  const client = await startClient(lab);
  await server.stop();
  const again = await startServer(lab, "--subnet", "172.16.5.0/24");
  await client.until(/now 172\.16\.5\.2/);
  lab.run("internet", "ip route add 172.16.5.0/24 via 203.0.113.1");
  for (const host of [neighbour, "internet"])
    for (const target of ["172.16.5.2", "fd56:504e::ac10:502", "172.16.5.1", "fd56:504e::ac10:501"])
      assert.ok(!answers(lab, host, target), `${target} answers ${host}`);
  for (const target of [TARGET, "172.16.5.1", "fd56:504e::ac10:501", "172.16.5.2"])
    ping(lab, "client", target, 2);
  for (const program of [client, again]) assert.equal(await program.stop(), 0, program.output);
  assert.equal(rules(), before);
});

labTest(
  "where there is neither iptables nor nft, both ends say that they have no wall, and go on",
  async (lab) => {
    for (const tool of ["iptables", "ip6tables", "nft"])
      lab.run("lab", `mount --bind /dev/null ${lab.run("lab", `readlink -f /usr/sbin/${tool}`).trim()}`);
    const server = startProgram(lab, "server", "server", ["--configure"], SECRET);
    await server.until(/# without a wall around the inner addresses: .*: Cannot run '\S+ .*[^]*listening on/);
    const client = await startClient(lab);
    ping(lab, "client", "10.8.0.1");
    await server.stop("SIGKILL");
    await client.until(/(trying again in [^]*){3}/);
    assert.equal(client.output.split("# without a wall around the inner addresses: ").length, 2, "said once");
    assert.doesNotMatch(client.output, /other addresses now/);
  },
);
