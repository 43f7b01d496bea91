/**
 * Packets too large for a link on their way: inside, behind the server; and outside, under the tunnel. No
 * connection may hang.
 */
import assert from "node:assert/strict";
import { type Lab, SERVER, SERVER6, TARGET, TARGET6 } from "../lab.ts";
import { type Running, startProgram } from "../running.ts";
import { IS_UDP, labTest, MTU, onlyTcp, SECRET, startServer, transfer } from "./testing.ts";

const MEGABYTES = 8;

/** The two families, as far as they differ here. */
const IPV4 = {
  server: SERVER,
  target: TARGET,
  route: `${TARGET}/32`,
  natted: "203.0.113.1", // the clients' packets come from there
  routers: ["198.51.100.1/24", "198.51.100.2/24"], // of the link between internet host and web
  forwarding: "net.ipv4.ip_forward",
  iptables: "iptables",
  tooBig: "-p icmp --icmp-type fragmentation-needed",
  headers: 28, // IP and ICMP
  small: 1200, // the MTU of a link inside …
  outer: [1000, 800], // … and, smaller and smaller, outside
  refusal: /From 10\.8\.0\.1 .*Frag needed and DF set \(mtu = 1200\)/,
};
const IPV6: typeof IPV4 = {
  server: SERVER6,
  target: TARGET6,
  route: `${TARGET6}/128`,
  natted: "2001:db8:2::1",
  routers: ["2001:db8:3::1/64", "2001:db8:3::2/64"],
  forwarding: "net.ipv6.conf.all.forwarding",
  iptables: "ip6tables",
  tooBig: "-p icmpv6 --icmpv6-type packet-too-big",
  headers: 48,
  small: 1300, // its links have at least 1280 (RFC 8200, section 5)
  outer: [1350, 1280],
  refusal: /From fd56:504e::a08:1 .*Packet too big: mtu=1300/,
};

/** A server, and a client that is connected to it by that family, with a route of it through the tunnel. */
async function startBoth(lab: Lab, { server, route }: typeof IPV4): Promise<Running> {
  const running = await startServer(lab);
  const client = startProgram(lab, "client", "client", [server, "--configure", "--route", route], SECRET);
  await client.until(/connected to/);
  return running;
}

/** The link between server and internet host carries packets of `mtu` bytes at most. */
function narrow(lab: Lab, mtu: number): void {
  lab.run("server", `ip link set eth1 mtu ${mtu}`);
  lab.run("internet", `ip link set eth0 mtu ${mtu}`);
}

/**
 * Puts 8.8.8.8 on a host "web" behind the internet host, on a link of 1500: neither end of a connection knows
 * of a smaller one between.
 */
function addWeb(lab: Lab, { target, route, routers: [near, far], forwarding }: typeof IPV4): void {
  const [gateway, web] = [near!, far!].map((address) => address.split("/")[0]!);
  lab.run("lab", "ip netns add web");
  lab.run("lab", "ip link add eth1 netns internet type veth peer name eth0 netns web");
  lab.run("internet", `ip addr del ${route} dev lo`);
  for (const [host, address, device] of [
    ["internet", near, "eth1"],
    ["web", far, "eth0"],
    ["web", route, "lo"],
  ] as const) {
    lab.run(host, `ip addr add ${address} dev ${device} nodad`);
    lab.run(host, `ip link set ${device} up`);
  }
  lab.run("internet", `ip route add ${route} via ${web}`);
  lab.run("internet", `sysctl -w ${forwarding}=1`);
  lab.run("web", `ip route add default via ${gateway} src ${target}`);
}

/** The MTU that ICMP has told `host` of for its way to `address`; NaN if none has. */
const learned = (lab: Lab, host: string, address: string) =>
  Number(/ mtu (\d+)/.exec(lab.run(host, `ip route get ${address}`))?.[1]);

for (const [name, family] of [
  ["IPv4", IPV4],
  ["IPv6", IPV6],
] as const) {
  const { target, natted, iptables, tooBig, headers, small, outer, refusal } = family;

  labTest(
    `${name}: a smaller link in the middle: MSS clamping saves TCP without ICMP, ICMP without clamping`,
    async (lab) => {
      if (family === IPV6) lab.addIPv6();
      addWeb(lab, family);
      narrow(lab, small);
      const server = await startBoth(lab, family);
      const routers = ["server", "internet"];
      const bothWays = async () => {
        await transfer(lab, "web", "client", MEGABYTES, undefined, target);
        const byWeb = learned(lab, "web", natted);
        // or it would ask for small segments from now on
        for (const version of ["-4", "-6"]) lab.run("web", `ip ${version} route flush cache`);
        await transfer(lab, "client", "web", MEGABYTES, undefined, target);
        return [byWeb, learned(lab, "client", target)];
      };
      for (const router of routers) lab.run(router, `${iptables} -A OUTPUT ${tooBig} -j DROP`);
      assert.deepEqual(await bothWays(), [NaN, NaN]);
      for (const router of routers) lab.run(router, `${iptables} -F OUTPUT`);
      lab.run("server", `${iptables} -t mangle -F FORWARD`);
      assert.deepEqual(await bothWays(), [small, small]);
      assert.doesNotMatch(server.output, /left:/);
    },
  );

  labTest(
    `${name}: a packet that must not be cut and does not fit is refused, with the size that would fit`,
    async (lab) => {
      if (family === IPV6) lab.addIPv6();
      await startBoth(lab, family);
      const own = family === IPV6 && IS_UDP ? MTU - 20 : MTU; // the outer header is larger, too
      const said = (size: number) => {
        const { stdout, stderr } = lab.try("client", `ping -c 1 -W 5 -M do -s ${size - headers} ${target}`);
        return stdout + stderr;
      };
      assert.match(said(own), / 1 received/);
      assert.match(
        said(own + 1),
        new RegExp(`message too long, mtu[=:] ?${own}`),
        "the client's own kernel knows tun0's MTU",
      );
      narrow(lab, small);
      assert.match(said(small + 1), refusal, "the server's kernel, in step 9");
      assert.match(
        said(small + 1),
        new RegExp(`message too long, mtu[=:] ?${small}`),
        "and the client's has learned it",
      );
      assert.match(said(small), / 1 received/);
    },
  );

  labTest(
    `${name}: the outer link becomes smaller: the tunnel's own TCP adapts, no packet inside notices`,
    async (lab) => {
      if (family === IPV6) lab.addIPv6();
      const server = await startBoth(lab, family);
      const narrowOuter = (mtu: number) => () => {
        lab.run("server", `ip link set eth0 mtu ${mtu}`);
        lab.run("client", `ip link set eth0 mtu ${mtu}`);
      };
      const segment = (host: string) =>
        // of the tunnel's TCP
        Number(/ mss:(\d+)/.exec(lab.run(host, "ss -tinH ( sport = :5555 or dport = :5555 )"))![1]);
      assert.ok(segment("client") > outer[0]!);
      await transfer(lab, "client", "internet", 4 * MEGABYTES, narrowOuter(outer[0]!), target);
      assert.ok(segment("client") < outer[0]!);
      await transfer(lab, "internet", "client", 4 * MEGABYTES, narrowOuter(outer[1]!), target);
      assert.ok(segment("server") < outer[1]!);
      assert.match(
        lab.try("client", `ping -c 1 -W 5 -M do -s ${1400 - headers} ${target}`).stdout,
        / 1 received/,
      );
      assert.doesNotMatch(server.output, /left:/);
    },
    onlyTcp(
      "UDP: packets inside do notice (path.test.ts); QUIC: never above 1,200 bytes; raw: a new session",
    ),
  );
}

labTest("a link that becomes smaller while a connection is running through the tunnel", async (lab) => {
  addWeb(lab, IPV4);
  await startBoth(lab, IPV4);
  await transfer(lab, "client", "web", 4 * MEGABYTES, () => narrow(lab, 1300));
  await transfer(lab, "web", "client", 4 * MEGABYTES, () => narrow(lab, 1200));
});
