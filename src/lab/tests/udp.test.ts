/**
 * --transport udp in the lab: what only datagrams do. The other tests of the lab run with TRANSPORT=udp, too:
 * see run.ts.
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { type Lab, SERVER, TARGET, TARGET6 } from "../lab.ts";
import { Running, startProgram } from "../running.ts";
import { labTest, ping, SECRET, startClient, startServer, startTransfer, transfer } from "./testing.ts";

const NO_PYTHON = "python3 is not installed";
const UDP = ["--transport", "udp"];

/** The two programs, as they are. */
async function startBoth(lab: Lab, ...args: string[]): Promise<[server: Running, client: Running]> {
  const server = await startServer(lab, ...UDP);
  return [server, await startClient(lab, "client", ...UDP, ...args)];
}

/**
 * Looks at each packet that comes out of tun0 into the host's kernel, as an AF_PACKET socket shows it: at the
 * sums of its headers. A packet whose checksum is left over has its pseudo header's.
 */
const CAPTURE = (count: number) => `
import socket, struct, sys
def total(data):
    if len(data) % 2: data += b"\\0"
    value = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while value > 0xffff: value = (value & 0xffff) + (value >> 16)
    return value
SOL_PACKET, PACKET_AUXDATA = 263, 8
tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
tap.bind(("tun0", 0))
tap.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
tap.setsockopt(socket.SOL_SOCKET, 33, 1 << 25)
print("ready", flush=True)
seen = {4: 0, 6: 0}
wrong, large, left = [], 0, 0
while sum(seen.values()) < ${count}:
    data, extra, _, sender = tap.recvmsg(70000, 100)
    if sender[2] == 4: continue  # PACKET_OUTGOING: the kernel's own, to us
    status = struct.unpack("I", extra[0][2][:4])[0]
    version = data[0] >> 4
    start = (data[0] & 15) * 4 if version == 4 else 40
    protocol = data[9] if version == 4 else data[6]
    if protocol != 6: continue
    seen[version] += 1
    large += len(data) > 1500
    size = struct.unpack("!H", data[2:4])[0] if version == 4 else 40 + struct.unpack("!H", data[4:6])[0]
    if size != len(data): wrong.append("length")
    if version == 4 and total(data[:start]) != 0xffff: wrong.append("IP header")
    addresses = data[12:20] if version == 4 else data[8:40]
    pseudo = addresses + struct.pack("!II", size - start, protocol)
    if status & 8:  # TP_STATUS_CSUMNOTREADY
        left += 1
        field = struct.unpack("!H", data[start + 16 : start + 18])[0]
        if field != total(pseudo): wrong.append("pseudo header")
    elif total(pseudo + data[start:]) != 0xffff: wrong.append("TCP")
print("seen %d %d, large %d, left %d, wrong %d %s." % (seen[4], seen[6], large, left, len(wrong), wrong[:3]))
`;

labTest(
  "3,000 packets that the server writes into its TUN, IPv4 and IPv6: each sum is right",
  async (lab, t) => {
    if (spawnSync("python3", ["--version"]).status !== 0)
      return process.env.CI ? assert.fail(NO_PYTHON) : t.skip(NO_PYTHON);
    lab.addIPv6();
    await startBoth(lab, "--route", `${TARGET6}/128`);
    for (const [target, count] of [
      [TARGET, 1500],
      [TARGET6, 1500],
    ] as const) {
      const tap = new Running(lab.spawn("server", ["python3", "-c", CAPTURE(count)]));
      await tap.until(/ready/);
      while (!/seen/.test(tap.output)) {
        await transfer(lab, "client", "internet", 48, undefined, target); // large ones
        await transfer(lab, "internet", "client", 16, undefined, target); // small ones: ACKs
      }
      const [line, four, six, large, left, wrong] = await tap.until(
        /seen (\d+) (\d+), large (\d+), left (\d+), wrong (\d+) .*/,
      );
      assert.equal(Number(wrong), 0, line);
      assert.ok(Number(target === TARGET ? four : six) === count, line);
      assert.ok(Number(large) > 100, `packets are joined: ${line}`);
      assert.ok(Number(left) > 1000, line);
    }
  },
);

labTest("the client moves to another address: the session goes on, and a transfer in it", async (lab) => {
  const [server, client] = await startBoth(lab);
  const rest = await startTransfer(lab, "client", "internet", 16);
  const way = (to: string) => {
    lab.run("client", `ip addr del 192.168.1.${to === "101" ? "100" : "101"}/24 dev eth0`);
    lab.run("client", `ip addr add 192.168.1.${to}/24 dev eth0`);
    lab.run("client", "ip route replace default via 192.168.1.1");
  };
  way("101");
  await rest();
  await server.until(/192\.168\.1\.100:(\d+) is at 192\.168\.1\.101:\1 now/);
  const back = await startTransfer(lab, "internet", "client", 16);
  way("100");
  await back();
  await server.until(/192\.168\.1\.101:(\d+) is at 192\.168\.1\.100:\1 now/);
  for (const program of [server, client]) assert.doesNotMatch(program.output, /left:|Lost the server/);
});

labTest(
  "one datagram in fifty is lost on the way: what is inside arrives, and no session ends",
  async (lab) => {
    const [server, client] = await startBoth(lab, "--rekey", "1");
    for (const host of ["server", "client"])
      lab.run(host, "iptables -A INPUT -p udp -m statistic --mode random --probability 0.02 -j DROP");
    await transfer(lab, "client", "internet", 4);
    await transfer(lab, "internet", "client", 4);
    await client.until(/(fresh keys with [^]*){3}/, 60_000);
    for (const program of [server, client]) assert.doesNotMatch(program.output, /left:|Lost the server/);
  },
);

/**
 * A client host "far" behind a router, whose links take `mtu` bytes, and whose ICMP errors get lost. What
 * counts the fragments that the router has seen.
 */
function addFar(lab: Lab): { narrow: (mtu: number) => void; fragments: () => number } {
  for (const host of ["router", "far"]) lab.run("lab", `ip netns add ${host}`);
  lab.run("lab", "ip link add eth0 netns far type veth peer name in netns router");
  lab.run("lab", "ip link add out netns router type veth peer name lan50 netns server");
  for (const [host, device, address] of [
    ["far", "eth0", "192.168.50.2"],
    ["router", "in", "192.168.50.1"],
    ["router", "out", "192.168.51.2"],
    ["server", "lan50", "192.168.51.1"],
  ] as const) {
    lab.run(host, `ip addr add ${address}/24 dev ${device}`);
    lab.run(host, `ip link set ${device} up`);
  }
  lab.run("router", "sysctl -qw net.ipv4.ip_forward=1");
  lab.run("router", "iptables -A OUTPUT -p icmp --icmp-type fragmentation-needed -j DROP");
  lab.run("router", "iptables -t raw -A PREROUTING -f");
  lab.run("far", "ip route add default via 192.168.50.1");
  lab.run("server", "ip route add 192.168.50.0/24 via 192.168.51.2");
  return {
    narrow: (mtu) => ["in", "out"].forEach((device) => lab.run("router", `ip link set ${device} mtu ${mtu}`)),
    fragments: () =>
      Number(
        /^ *(\d+) +\d+ /m.exec(lab.run("router", "iptables -t raw -nvxL PREROUTING").split("\n")[2]!)![1],
      ),
  };
}

async function startFar(lab: Lab): Promise<Running> {
  const args = ["192.168.51.1", "--configure", "--route", `${TARGET}/32`, ...UDP];
  const client = startProgram(lab, "far", "client", args, SECRET);
  await client.until(/connected to/);
  return client;
}

// path.test.ts has 1,280 bytes
labTest(
  "a router that drops what is larger than 1,000 bytes, and says nothing: no black hole",
  async (lab) => {
    const { narrow, fragments } = addFar(lab);
    const server = await startServer(lab, ...UDP);
    const wide = await startFar(lab);
    assert.match(wide.output, /MTU 1424/);
    const rest = await startTransfer(lab, "far", "internet", 8);
    narrow(1000);
    await rest();
    await transfer(lab, "internet", "far", 8);
    await wide.stop();
    const client = await startFar(lab);
    assert.match(client.output, /MTU 500/);
    for (const [from, to] of [
      ["far", "internet"],
      ["internet", "far"],
    ] as const)
      await transfer(lab, from, to, 8);
    assert.equal(fragments(), 0, "fragments on the wire");
    assert.doesNotMatch(server.output + client.output, /has not answered|Lost the server/);
  },
);

labTest("a server of two addresses answers from the one that a client writes to", async (lab) => {
  lab.addIPv6();
  const server = await startServer(lab, ...UDP);
  for (const [address, firewall] of [
    ["203.0.113.1", "iptables"],
    ["2001:db8:2::1", "ip6tables"],
  ] as const) {
    lab.run("client", `${firewall} -A INPUT -i eth0 -p udp ! -s ${address} -j DROP`); // as a NAT would
    const args = [address, "--configure", "--route", `${TARGET}/32`, ...UDP];
    const client = startProgram(lab, "client", "client", args, SECRET);
    await client.until(/connected to/);
    ping(lab, "client", TARGET);
    assert.equal(await client.stop(), 0);
  }
  assert.equal(await server.stop(), 0);
});

labTest("with net.ipv6.bindv6only=1, IPv4 clients are served, and their path is known", async (lab) => {
  lab.run("server", "sysctl -qw net.ipv6.bindv6only=1");
  const [server] = await startBoth(lab);
  lab.run("server", "ip route replace 192.168.1.100/32 dev eth0 mtu 1300");
  await transfer(lab, "internet", "client", 4);
  await server.until(/drop.*it is larger than the path takes/);
  assert.doesNotMatch(server.output, /EMSGSIZE/);
});

labTest(
  "a client that gave up root connects again: its new socket gets what this machine lets anybody have",
  async (lab, t) => {
    if (process.getuid!() !== 0) return t.skip("no other user than root is mapped into this user namespace");
    const [server, client] = await startBoth(lab, "--user", "nobody");
    const buffer = () => Number(/skmem:\(r\d+,rb(\d+)/.exec(lab.run("client", "ss -uanm"))?.[1]);
    const asked = 4 * 1024 * 1024; // bytes; the kernel doubles it
    assert.equal(buffer(), 2 * asked);
    await server.stop("SIGKILL");
    await startServer(lab, ...UDP);
    await client.until(/connected again/, 60_000);
    const most = Number(readFileSync("/proc/sys/net/core/rmem_max", "utf8"));
    assert.equal(buffer(), 2 * Math.min(asked, most));
    ping(lab, "client", TARGET);
  },
);

labTest(
  "two ends with different transports do not meet: the client says so, and what to check",
  async (lab) => {
    await startServer(lab, ...UDP);
    const client = startProgram(lab, "client", "client", [SERVER, "--transport", "tcp"], SECRET);
    assert.equal(await client.ended, 1);
    assert.match(client.output, /^error Cannot connect to 192\.168\.1\.1:5555: ECONNREFUSED\. Try: /m);
  },
);
