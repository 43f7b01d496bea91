/** Packets too large for a link on their way: inside, behind the server; and outside, under the tunnel. No connection may hang. */
import assert from "node:assert/strict";
import { type Lab, TARGET } from "./lab.ts";
import { labTest, startClient, startServer, transfer } from "./testing.ts";

const MEGABYTES = 8;

/** The link between server and internet host carries packets of `mtu` bytes at most. */
function narrow(lab: Lab, mtu: number): void {
  lab.run("server", `ip link set eth1 mtu ${mtu}`);
  lab.run("internet", `ip link set eth0 mtu ${mtu}`);
}

/** Puts 8.8.8.8 on a host "web" behind the internet host, on a link of 1500: neither end of a connection knows of a smaller one between. */
function addWeb(lab: Lab): void {
  lab.run("lab", "ip netns add web");
  lab.run("lab", "ip link add eth1 netns internet type veth peer name eth0 netns web");
  lab.run("internet", `ip addr del ${TARGET}/32 dev lo`);
  for (const [host, address, device] of [["internet", "198.51.100.1/24", "eth1"], ["web", "198.51.100.2/24", "eth0"], ["web", `${TARGET}/32`, "lo"]] as const) {
    lab.run(host, `ip addr add ${address} dev ${device}`);
    lab.run(host, `ip link set ${device} up`);
  }
  lab.run("internet", `ip route add ${TARGET}/32 via 198.51.100.2`);
  lab.run("internet", "sysctl -w net.ipv4.ip_forward=1");
  lab.run("web", `ip route add default via 198.51.100.1 src ${TARGET}`);
}

/** The MTU that ICMP has told `host` of for its way to `address`; NaN if none has. */
const learned = (lab: Lab, host: string, address: string) => Number(/ mtu (\d+)/.exec(lab.run(host, `ip route get ${address}`))?.[1]);

labTest("a smaller link in the middle: MSS clamping saves TCP where ICMP is blocked, ICMP where nothing is clamped", async (lab) => {
  addWeb(lab);
  narrow(lab, 1200);
  const server = await startServer(lab);
  await startClient(lab);
  const routers = ["server", "internet"];
  const bothWays = async () => {
    await transfer(lab, "web", "client", MEGABYTES);
    const byWeb = learned(lab, "web", "203.0.113.1");
    lab.run("web", "ip route flush cache"); // or it would ask for small segments from now on
    await transfer(lab, "client", "web", MEGABYTES);
    return [byWeb, learned(lab, "client", TARGET)];
  };
  for (const router of routers) lab.run(router, "iptables -A OUTPUT -p icmp --icmp-type fragmentation-needed -j DROP");
  assert.deepEqual(await bothWays(), [NaN, NaN]);
  for (const router of routers) lab.run(router, "iptables -F OUTPUT");
  lab.run("server", "iptables -t mangle -F FORWARD");
  assert.deepEqual(await bothWays(), [1200, 1200]);
  assert.doesNotMatch(server.output, /left:/);
});

labTest("a link that becomes smaller while a connection is running through the tunnel", async (lab) => {
  addWeb(lab);
  await startServer(lab);
  await startClient(lab);
  await transfer(lab, "client", "web", 4 * MEGABYTES, () => narrow(lab, 1300));
  await transfer(lab, "web", "client", 4 * MEGABYTES, () => narrow(lab, 1200));
});

labTest("a packet that must not be cut and does not fit is refused, with the size that would fit", async (lab) => {
  await startServer(lab);
  await startClient(lab);
  const said = (size: number) => {
    const { stdout, stderr } = lab.try("client", `ping -c 1 -W 5 -M do -s ${size - 28} ${TARGET}`); // 28: IPv4 and ICMP headers
    return stdout + stderr;
  };
  assert.match(said(1400), / 1 received/);
  assert.match(said(1401), /message too long, mtu=1400/, "the client's own kernel knows tun0's MTU");
  narrow(lab, 1200);
  assert.match(said(1201), /From 10\.8\.0\.1 .*Frag needed and DF set \(mtu = 1200\)/, "the server's kernel, in step 9");
  assert.match(said(1201), /message too long, mtu=1200/, "and the client's has learned it");
  assert.match(said(1200), / 1 received/);
});

labTest("the outer link becomes smaller under a running tunnel: the tunnel's own TCP adapts, no packet inside notices", async (lab) => {
  const server = await startServer(lab);
  await startClient(lab);
  const outer = (mtu: number) => () => {
    lab.run("server", `ip link set eth0 mtu ${mtu}`);
    lab.run("client", `ip link set eth0 mtu ${mtu}`);
  };
  await transfer(lab, "client", "internet", 4 * MEGABYTES, outer(1000));
  await transfer(lab, "internet", "client", 4 * MEGABYTES, outer(800));
  assert.match(lab.try("client", `ping -c 1 -W 5 -M do -s 1372 ${TARGET}`).stdout, / 1 received/);
  assert.doesNotMatch(server.output, /left:/);
});
