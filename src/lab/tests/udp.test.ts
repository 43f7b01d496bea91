/**
 * --transport udp in the lab: what only datagrams do. The other tests of the lab run with TRANSPORT=udp, too:
 * see run.ts.
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { type Lab, ours, SERVER, TARGET, TARGET6 } from "../lab.ts";
import { retry, Running, startProgram } from "../running.ts";
import { SEED } from "./peers.ts";
import {
  labTest,
  ping,
  routerTest,
  SECRET,
  startClient,
  startServer,
  startTransfer,
  transfer,
} from "./testing.ts";
import { Emulator } from "../wire/emulator.ts";

const UDP = ["--transport", "udp"];

/** The two programs, as they are. */
async function startBoth(lab: Lab, ...args: string[]): Promise<[server: Running, client: Running]> {
  const server = await startServer(lab, ...UDP);
  return [server, await startClient(lab, "client", ...UDP, ...args)];
}

/**
 * Looks at each TCP packet that comes into a host's kernel by a device, as an AF_PACKET socket shows it: at
 * its length, and the sums of its headers. Where the checksum is left over, it has the pseudo header's sum.
 */
const CAPTURE = (device: string, count: number) => `
import socket, struct
def total(data):
    if len(data) % 2: data += b"\\0"
    value = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while value > 0xffff: value = (value & 0xffff) + (value >> 16)
    return value
SOL_PACKET, PACKET_AUXDATA = 263, 8
tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
tap.bind(("${device}", 0))
tap.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
tap.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 25)  # or what an ordinary user may have
print("ready", flush=True)
seen, wrong, large, left = {4: 0, 6: 0}, [], 0, 0
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

const TAPS = Object.entries({ server: "tun0", internet: "eth0", client: "tun0" });
const PACKETS = 250; // of each family, way and place: 3,000 in all

routerTest(
  "3,000 packets that were cut and joined, up, down and behind the NAT, IPv4 and IPv6: each sum is right",
  async (lab) => {
    lab.run("server", "ethtool -K eth1 tx off"); // so behind the NAT no checksum is left over
    // a late datagram leaves one packet alone, and ends what others are joined to
    await Emulator.start(lab, { reorder: 0.02, late: 2 });
    await startBoth(lab, "--route", `${TARGET6}/128`);
    for (const target of [TARGET, TARGET6]) {
      for (const [from, to, joins] of [
        ["client", "internet", "server"],
        ["internet", "client", "client"],
      ] as const) {
        const taps = TAPS.map(
          ([host, device]) => new Running(lab.spawn(host, ["python3", "-c", CAPTURE(device, PACKETS)])),
        );
        for (const tap of taps) await tap.until(/ready/);
        while (!taps.every(({ output }) => /seen/.test(output)))
          await transfer(lab, from, to, 8, undefined, target);
        for (const [i, [host, device]] of TAPS.entries()) {
          const [seen] = /seen.*/.exec(taps[i]!.output)!;
          const line = `${from} to ${to}, ${device} of ${host}: ${seen}`;
          const [four, six, large, left, wrong] = seen.match(/\d+/g)!.map(Number);
          assert.equal(wrong, 0, line);
          assert.equal(target === TARGET ? four : six, PACKETS, line);
          if (host === "internet") assert.equal(left, 0, line);
          else assert.ok(left! > PACKETS / 2, line);
          if (host === joins) assert.ok(large! > PACKETS / 10 && large! < PACKETS * 0.9, line);
          console.log(line);
        }
      }
    }
  },
  "python3",
);

const MANY = 100_000;
const DAMAGED = "a datagram that is damaged or forged";
const REPLAYED = "a datagram that has come before (or much too late)";

labTest(
  `${MANY} replayed, forged, truncated datagrams while pings run: none is lost, each is counted (${SEED})`,
  async (lab) => {
    const server = await startServer(lab, ...UDP);
    const words = [...ours("lab/fuzz/hostile-relay"), SERVER, String(MANY), String(SEED)];
    const relay = new Running(lab.spawn("server", words));
    await relay.until(/ready/);
    const client = await startClient(lab, "client", ...UDP, "--port", "5556");
    const flood = new Running(lab.spawn("client", `ping -q -f -l 3 ${TARGET}`.split(" ")));
    const [, up, down, sent] = await relay.until(/swapped (\d+) up, (\d+) down; sent (.*)/, 60_000);
    await flood.stop("SIGINT");
    ping(lab, "client", TARGET); // and what came before has arrived, too
    for (const program of [client, server])
      assert.doesNotMatch(program.output, /left:|Lost the server|is at .* now/);
    for (const program of [client, server]) assert.equal(await program.stop(), 0);

    const [here, there] = [client, server].map(({ output }) => inAll(output));
    console.log(`# ${here!.sent} pings; ${up} and ${down} of their datagrams came behind later ones`);
    assert.deepEqual([there!.received, there!.sent, here!.received], Array(3).fill(here!.sent), "pings");
    assert.ok(Number(up) > 20 && Number(down) > 20);
    const bad = JSON.parse(sent!) as Record<"up" | "down", Counts>;
    assert.deepEqual(eitherOf(there!.dropped), eitherOf(bad.up));
    assert.deepEqual(eitherOf(here!.dropped), eitherOf(bad.down));
  },
);

type Counts = Record<string, number>;

/** What a program said at its end: packets, and what it has dropped, by reason. */
function inAll(output: string) {
  const [sum, ...dropped] = /in all: .*/.exec(output)![0].split(", dropped ");
  const [sent, received] = sum!.match(/\d+ packets/g)!.map((words) => parseInt(words));
  const reasons = dropped.map((words) => /^(\d+) \((.*)\)$/.exec(words)!);
  return {
    sent: sent!,
    received: received!,
    dropped: Object.fromEntries(reasons.map(([, count, reason]) => [reason!, Number(count)])) as Counts,
  };
}

/** A damaged datagram may come behind the true one, on another processor: then its number has come before. */
function eitherOf({ [DAMAGED]: damaged, [REPLAYED]: replayed, ...counts }: Counts) {
  return { ...counts, both: damaged! + replayed! };
}

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
  await retry(() => lab.run("server", "ping -c 1 -W 1 10.8.0.2")); // it may be too soon for another note
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

labTest(
  "two ends with different transports do not meet: the client says so, and what to check",
  async (lab) => {
    await startServer(lab, ...UDP);
    const client = startProgram(lab, "client", "client", [SERVER, "--transport", "tcp"], SECRET);
    assert.equal(await client.ended, 1);
    assert.match(client.output, /^error Cannot connect to 192\.168\.1\.1:5555: ECONNREFUSED\. Try: /m);
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
