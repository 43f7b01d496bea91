/**
 * The doctor, tested by breaking each hop in the lab: it must name the hop, and what it says to type must
 * mend it.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { parseCidr } from "../../base/address.ts";
import { readTrace } from "../doctor/drops.ts";
import { filter, findNat } from "../doctor/inspect.ts";
import { type Lab, OTHER_SECRET, ours, SERVER } from "../lab.ts";
import { Running } from "../running.ts";
import { labTest, ping, SECRET, startClient, startServer } from "./testing.ts";
import { has } from "../tools.ts";

type Host = "client" | "server";
const [TCP, UDP] = ["tcp", "udp"].map((name) => ["--transport", name]) as [string[], string[]];
const INSTANCES = "/sys/kernel/tracing/instances";
const hasTracefs = (lab: Lab) =>
  lab.try("lab", `test -d ${INSTANCES}`).status === 0 ||
  lab.try("lab", "mount -t tracefs tracefs /sys/kernel/tracing").status === 0;

/** What a doctor on `host` says: the state of each hop, and its fixes as [host, command]. */
async function doctor(lab: Lab, host: Host, ...args: string[]) {
  return examine(lab, host, [...ours("lab/doctor/doctor"), host, ...args]);
}

async function examine(lab: Lab, host: Host, command: string[], env = SECRET) {
  const running = new Running(lab.spawn(host, command, env));
  const code = await running.ended;
  const { output } = running;
  const hops = new Map(
    [...output.matchAll(/^(ok|✗|\?) +(\w+(?: back)?) {2,}(.*)/gm)].map(([, state, hop, text]) => [
      hop!,
      { state: state!, text: text! },
    ]),
  );
  const fixes = [...output.matchAll(/^ +fix +(client|server)# (.*)/gm)].map(
    ([, where, line]) => [where!, line!] as const,
  );
  const broken = [...hops].filter(([, { state }]) => state === "✗").map(([hop]) => hop);
  assert.equal(
    lab.try("lab", `test -e ${INSTANCES}/simple-vpn-${running.child.pid}`).status,
    1,
    "it removed its tracefs instance",
  );
  return { code, output, hops, fixes, broken };
}

const allWell = ({ code, output, hops, broken }: Awaited<ReturnType<typeof doctor>>) => {
  assert.equal(code, 0, output);
  assert.deepEqual(broken, [], output);
  assert.ok(
    [...hops.values()].every(({ state }) => state === "ok"),
    output,
  );
};

/** In the end: whatever was broken has been mended. */
async function recovers(lab: Lab, host: Host): Promise<void> {
  const deadline = Date.now() + 20_000;
  let again = await doctor(lab, host);
  while (again.code !== 0 && Date.now() < deadline) again = await doctor(lab, host);
  allWell(again);
}

/**
 * Breaks with `commands`, expects `hop` first among the broken, and types the fixes. Had they not mended it,
 * the next one would find it, or recovers() in the end.
 */
async function breakAndMend(
  lab: Lab,
  host: Host,
  commands: string[],
  hop: string,
  fix: RegExp,
  where: Host = host,
): Promise<void> {
  for (const command of commands) lab.run(where, command);
  const sick = await doctor(lab, host);
  assert.equal(sick.code, 1, sick.output);
  assert.equal(sick.broken[0], hop, `${commands.join("; ")}:\n${sick.output}`);
  const typed = sick.fixes.filter(([, line]) => !line.includes("doctor.ts"));
  assert.match(typed.map(([on, line]) => `${on}# ${line}`).join("\n"), fix);
  for (const [on, line] of typed) lab.run(on, line);
}

labTest("on a healthy tunnel, every hop of both ends is ok, and the exit code is 0", async (lab) => {
  const server = await startServer(lab);
  await startClient(lab);
  const client = await doctor(lab, "client");
  allWell(client);
  assert.deepEqual(
    [...client.hops.keys()],
    [
      "device",
      "privilege",
      "interface",
      "address",
      "program",
      "route",
      "server",
      "handshake",
      "firewall",
      "ping",
      "kernel",
      "mtu",
    ],
  );
  assert.match(client.hops.get("mtu")!.text, /^1400 bytes, not to be cut, get there; the answer may be cut$/);
  const other = await doctor(lab, "server");
  allWell(other);
  assert.deepEqual(
    [...other.hops.keys()],
    [
      "device",
      "privilege",
      "interface",
      "address",
      "program",
      "listening",
      "way back",
      "rp_filter",
      "forwarding",
      "firewall",
      "nat",
      "target",
    ],
  );
  assert.doesNotMatch(server.output, /10\.8\.0\.3 connected/, "the doctor's handshake claims no address");
  await server.until(/a probe from 192\.168\.1\.100:\d+ left/);
  assert.doesNotMatch(server.output, /refused|client from/, "one connection, and it is called what it is");
});

labTest("what the running programs were started with, the doctor need not be told", async (lab) => {
  const options = ["--cipher", "xor", "--port=5556", "--tun", "vpn9"];
  await startServer(lab, ...options);
  await startClient(lab, "client", ...options);
  const client = await doctor(lab, "client");
  allWell(client);
  assert.equal(client.hops.get("handshake")!.text, "none with --cipher xor");
  allWell(await doctor(lab, "server"));
  assert.deepEqual(
    (await doctor(lab, "client", "--port", "5557")).broken,
    ["server"],
    "what it is told counts more",
  );
});

labTest("firewalls: on the client INPUT and OUTPUT, on the server the VPN's port", async (lab) => {
  await startServer(lab);
  await startClient(lab);
  await breakAndMend(
    lab,
    "client",
    ["iptables -A INPUT -i tun0 -j DROP"],
    "firewall",
    /^client# iptables -I INPUT -i tun0 -j ACCEPT(\nclient# iptables -S INPUT)?$/,
  );
  await breakAndMend(
    lab,
    "client",
    ["iptables -A OUTPUT -o tun0 -j DROP"],
    "firewall",
    /^client# iptables -I OUTPUT -o tun0 -j ACCEPT(\nclient# iptables -S OUTPUT)?$/,
  );
  await recovers(lab, "client");
  await breakAndMend(
    lab,
    "server",
    ["iptables -A INPUT -p tcp --dport 5555 -j DROP"],
    "firewall",
    /^server# iptables -I INPUT -p tcp --dport 5555 -j ACCEPT$/,
  );
  await recovers(lab, "server");
  if (!hasTracefs(lab)) return;
  for (const [chain, rule, way] of [
    ["INPUT", "-s 8.8.8.8", "client out tun0, server in tun0, .*, client in tun0"],
    ["OUTPUT", "-d 8.8.8.8", "nowhere"],
  ] as const) {
    // with a condition: the firewall hop cannot say that it hits our ping
    lab.run("client", `iptables -I ${chain} ${rule} -j DROP`);
    const sick = await doctor(lab, "client");
    assert.deepEqual(sick.broken, ["ping", "kernel"], sick.output);
    assert.equal(
      sick.hops.get("ping")!.text,
      "8.8.8.8 does not answer; this host's kernel dropped the packet itself: see below",
    );
    assert.match(
      sick.hops.get("kernel")!.text,
      new RegExp(`saw it go: ${way}; then the client dropped it in \\w+\\(\\): NETFILTER_DROP`),
    );
    assert.deepEqual(sick.fixes, [["client", `iptables -S ${chain}`]], sick.output);
    lab.run("client", `iptables -D ${chain} ${rule} -j DROP`);
  }
});

labTest("over UDP, every hop is ok; a firewall that drops UDP alone is named from both ends", async (lab) => {
  const [server, client] = [await startServer(lab, ...UDP), await startClient(lab, "client", ...UDP)];
  const well = await doctor(lab, "client");
  allWell(well);
  assert.equal(well.hops.get("server")!.text, "192.168.1.1:5555 answers over UDP");
  assert.match(well.hops.get("mtu")!.text, /^1424 bytes, not to be cut, get there/);
  const other = await doctor(lab, "server");
  allWell(other);
  assert.equal(other.hops.get("listening")!.text, "UDP port 5555");

  lab.run("server", "iptables -A INPUT -p udp --dport 5555 -j DROP");
  const cut = await doctor(lab, "client");
  assert.equal(cut.broken[0], "server", cut.output);
  assert.match(
    cut.hops.get("server")!.text,
    /^192\.168\.1\.1:5555: TCP gets there and back, and UDP does not\./,
  );
  await breakAndMend(
    lab,
    "server",
    [],
    "firewall",
    /^server# iptables -I INPUT -p udp --dport 5555 -j ACCEPT$/,
  );
  await recovers(lab, "server");
  // While no large datagram got through, pings were told so, and the kernel remembers it for ten minutes.
  lab.run("client", "ip route flush cache");

  const drop = "OUTPUT -p udp --dport 5555 -j DROP";
  const own = /^client# iptables -I OUTPUT -p udp --dport 5555 -j ACCEPT$/m;
  await breakAndMend(lab, "client", [`iptables -A ${drop}`], "server", own);
  lab.run("client", "ip route flush cache");
  await recovers(lab, "client");
  await client.stop();
  await server.stop();
});

labTest("a firewall that drops TCP alone, and two ends with different transports, are named", async (lab) => {
  const server = await startServer(lab, ...TCP);
  await startClient(lab, "client", ...TCP);
  lab.run("server", "iptables -A INPUT -p tcp --dport 5555 -j DROP");
  const cut = await doctor(lab, "client");
  assert.equal(cut.broken[0], "server", cut.output);
  assert.match(cut.hops.get("server")!.text, /: UDP gets there and back, and TCP does not\./);
  await breakAndMend(
    lab,
    "server",
    [],
    "firewall",
    /^server# iptables -I INPUT -p tcp --dport 5555 -j ACCEPT$/,
  );
  await recovers(lab, "client");

  const udp = await doctor(lab, "client", ...UDP);
  assert.deepEqual(udp.broken, ["server"], udp.output);
  assert.match(
    udp.hops.get("server")!.text,
    /answers over TCP, and not over UDP: both ends need the same --transport/,
  );
  await server.stop();
  await startServer(lab, ...UDP);
  const tcp = await doctor(lab, "client");
  assert.equal(tcp.broken[0], "server", tcp.output);
  assert.match(
    tcp.hops.get("server")!.text,
    /answers over UDP, and not over TCP: both ends need the same --transport/,
  );
  assert.match(tcp.output, /fix +client# npx tsx src\/client\.ts .*--transport udp/);
});

labTest("on the client: interface, address, program, route, routing loop, MTU", async (lab) => {
  await startServer(lab);
  const client = await startClient(lab);
  const mend = (commands: string[], hop: string, fix: RegExp, where: Host = "client") =>
    breakAndMend(lab, "client", commands, hop, fix, where);
  await mend(
    ["ip link set tun0 down"],
    "interface",
    /^client# ip link set tun0 mtu 1400 up\nclient# ip route replace/,
  );
  await mend(
    ["ip addr del 10.8.0.2/24 dev tun0"],
    "address",
    /^client# ip addr replace 10\.8\.0\.2\/24 dev tun0\nclient# ip route replace/,
  );
  await mend([`kill -STOP ${client.child.pid}`], "program", /^client# kill -CONT \d+$/);
  await mend(
    ["ip route del 8.8.8.8/32 dev tun0"],
    "route",
    /^client# ip route replace 8\.8\.8\.8\/32 dev tun0$/,
  );
  await mend(
    [`ip route add ${SERVER}/32 dev tun0`],
    "server",
    /^client# ip route replace 192\.168\.1\.1\/32 dev eth0/,
  );
  await recovers(lab, "client"); // after a loop, TCP retransmits when it likes
  lab.run("server", "iptables -A OUTPUT -p icmp --icmp-type fragmentation-needed -j DROP");
  // a black hole: the largest size tried that passes
  await mend(["ip link set eth1 mtu 1300"], "mtu", /^client# ip link set tun0 mtu 1280$/, "server");
  lab.run("server", "iptables -D OUTPUT -p icmp --icmp-type fragmentation-needed -j DROP");
  // the server's kernel says the size itself
  await mend(["ip link set tun0 mtu 1400"], "mtu", /^client# ip link set tun0 mtu 1300$/);
  lab.run("server", "ip link set eth1 mtu 1500");
  // 1500 would be answered, in fragments
  await mend(["ip link set tun0 mtu 1500"], "mtu", /^client# ip link set tun0 mtu 1400$/);
  await recovers(lab, "client");
});

labTest("on the server: interface, address, way back, forwarding, firewall, NAT", async (lab) => {
  await startServer(lab);
  await startClient(lab);
  const mend = (commands: string[], hop: string, fix: RegExp) =>
    breakAndMend(lab, "server", commands, hop, fix);
  await mend(["ip link set tun0 down"], "interface", /^server# ip link set tun0 mtu 1400 up/);
  await mend(
    ["ip addr del 10.8.0.1/24 dev tun0"],
    "address",
    /^server# ip addr replace 10\.8\.0\.1\/24 dev tun0/,
  );
  await mend(
    ["ip route add 10.8.0.2/32 dev eth0"],
    "way back",
    /^server# ip route replace 10\.8\.0\.2\/32 dev tun0$/,
  );
  await mend(
    ["sysctl -w net.ipv4.ip_forward=0"],
    "forwarding",
    /^server# sysctl -w net\.ipv4\.ip_forward=1$/,
  );
  await mend(
    ["sysctl -w net.ipv4.conf.tun0.forwarding=0"],
    "forwarding",
    /^server# sysctl -w net\.ipv4\.conf\.tun0\.forwarding=1$/,
  );
  lab.run("server", "iptables -P FORWARD DROP");
  allWell(await doctor(lab, "server")); // the rules of --nat let the tunnel through
  await mend(
    ["iptables -F FORWARD"],
    "firewall",
    /^server# iptables -I FORWARD -i tun0 -j ACCEPT\nserver# iptables -I FORWARD -o tun0 -j ACCEPT$/,
  );
  lab.run("server", "iptables -F FORWARD");
  lab.run("server", "iptables -P FORWARD ACCEPT");
  await mend(
    ["iptables -A FORWARD -o tun0 -j REJECT"],
    "firewall",
    /^server# iptables -I FORWARD -o tun0 -j ACCEPT$/,
  );
  await mend(
    ["iptables -t nat -F POSTROUTING"],
    "nat",
    /^server# iptables -t nat -A POSTROUTING -s 10\.8\.0\.0\/24 -o eth1 -j MASQUERADE$/,
  );
  await mend(
    ["ip route replace 10.8.0.2/32 dev eth0", "sysctl -w net.ipv4.conf.tun0.rp_filter=1"],
    "way back",
    /^server# ip route replace.*\nserver# sysctl -w net\.ipv4\.conf\.tun0\.rp_filter=2$/,
  );
  await recovers(lab, "server");
});

labTest(
  "on the server: where nftables has rules of its own, iptables' firewall and NAT are not the whole story",
  async (lab) => {
    if (!has("nft")) return assert.ok(!process.env.CI, "nft is not installed");
    await startServer(lab);
    await startClient(lab);
    lab.run("server", "nft add table inet firewalld");
    const well = await doctor(lab, "server");
    assert.equal(well.code, 0, well.output);
    assert.deepEqual(well.hops.get("firewall"), {
      state: "?",
      text:
        "iptables lets the tunnel's packets pass; " +
        "not read: nftables' inet firewalld ('nft list ruleset')",
    });
    assert.equal(well.hops.get("nat")!.state, "ok");
    lab.run("server", "iptables -t nat -F POSTROUTING");
    const without = await doctor(lab, "server");
    assert.deepEqual([without.code, without.hops.get("nat")!.state], [0, "?"], without.output);
    assert.match(
      without.output,
      /no iptables rule rewrites .*; not read: nftables' inet firewalld.*\n +fix +server# iptables -t nat -A/,
    );
  },
);

labTest(
  "what is beyond the tunnel, the client sees from ping and from the kernel's reason for the drop",
  async (lab) => {
    await startServer(lab);
    await startClient(lab);
    const traced = hasTracefs(lab);
    // of a doctor that was killed: no pid is so large
    if (traced) lab.run("lab", `mkdir ${INSTANCES}/simple-vpn-999999999`);
    const seen = async (state: string, text: RegExp) => {
      const sick = await doctor(lab, "client");
      assert.equal(sick.code, 1, sick.output);
      assert.equal(sick.broken[0], "ping", sick.output);
      assert.match(
        sick.hops.get("ping")!.text,
        /8\.8\.8\.8 does not answer; 10\.8\.0\.1, the server's end of the tunnel, does/,
      );
      if (!traced) return assert.match(sick.hops.get("kernel")!.text, /no tracefs/);
      assert.equal(sick.hops.get("kernel")!.state, state, sick.output);
      assert.match(sick.hops.get("kernel")!.text, text);
      return sick;
    };
    lab.run("server", "sysctl -w net.ipv4.ip_forward=0");
    await seen("✗", /client out tun0, server in tun0; then the server dropped it in ip_error\(\): IP_\w+/);
    assert.equal(
      lab.try("lab", `test -e ${INSTANCES}/simple-vpn-999999999`).status,
      1,
      "the next doctor removes what a killed one left",
    );
    lab.run("server", "sysctl -w net.ipv4.ip_forward=1");
    lab.run("server", "iptables -I FORWARD -i tun0 -j DROP");
    await seen("✗", /client out tun0, server in tun0; then the server dropped it in \w+\(\): NETFILTER_DROP/);
    lab.run("server", "iptables -D FORWARD -i tun0 -j DROP");

    // Two ways to the internet: out by eth2, back by eth1, where the strict filter expects nothing from
    // 8.8.8.8.
    lab.run("lab", "ip link add eth2 netns server type veth peer name eth1 netns internet");
    lab.run("internet", "ip addr add 198.51.100.8/24 dev eth1");
    lab.run("internet", "ip link set eth1 up");
    for (const line of [
      "ip addr add 198.51.100.1/24 dev eth2",
      "ip link set eth2 up",
      "ip route add 8.8.8.8/32 via 198.51.100.8",
      "iptables -t nat -A POSTROUTING -s 10.8.0.0/24 -o eth2 -j SNAT --to-source 203.0.113.1",
      "sysctl -w net.ipv4.conf.eth1.rp_filter=1",
    ])
      lab.run("server", line);
    // or the filter would drop the ARP request already: it asks as 8.8.8.8
    ping(lab, "internet", "203.0.113.1", 1);
    const strict = await seen(
      "✗",
      /internet out \w+, server in eth1; then the server dropped it in \w+\(\): IP_RPFILTER/,
    );
    if (strict) assert.deepEqual(strict.fixes.at(-1), ["server", "sysctl -w net.ipv4.conf.eth1.rp_filter=2"]);
    lab.run("server", "sysctl -w net.ipv4.conf.eth1.rp_filter=2");
    allWell(await doctor(lab, "client"));
    lab.run("server", "ip link del eth2");

    lab.run("internet", `ip addr del 8.8.8.8/32 dev lo`);
    await seen("✗", /server out eth1, internet in eth0; then the internet dropped it in ip_error\(\)/);
    const server = await doctor(lab, "server");
    assert.deepEqual(server.broken, ["target"], server.output);
  },
);

labTest(
  "a wrong secret, no device, no privilege, the server stopped, a foreign server; usage",
  async (lab) => {
    const server = await startServer(lab);
    const client = await startClient(lab);
    const wrong = await examine(lab, "client", [...ours("lab/doctor/doctor")], {
      env: { ...process.env, SIMPLE_VPN_SECRET: OTHER_SECRET },
    });
    assert.deepEqual([wrong.code, wrong.broken], [1, ["handshake"]], wrong.output);
    assert.match(
      wrong.output,
      /wrong secret.*\n +fix +client# scp 192\.168\.1\.1:simple-vpn\/secret\.key secret\.key/,
    );
    const none = await doctor(lab, "client", "--secret", "/no/such.key");
    assert.deepEqual([none.code, none.hops.get("handshake")!.state], [0, "?"], none.output);

    const node = `${process.execPath} --import tsx src/lab/doctor/doctor.ts server`;
    const script = `
      mount -t tmpfs tmpfs /dev/net
      ${node} > /dev/net/out
      cat /dev/net/out
      sed -n 's/.*fix .*# //p' /dev/net/out | grep -v doctor > /dev/net/fix
      sh -e /dev/net/fix && echo MENDED && ${node}`;
    const bare = await examine(lab, "server", ["unshare", "--mount", "sh", "-c", script]);
    // an ordinary user's lab is a user namespace, where nobody makes device nodes
    const mended = process.getuid!() === 0;
    assert.deepEqual(
      [bare.code, bare.fixes],
      [
        mended ? 0 : 1,
        [
          ["server", "mkdir -p /dev/net"],
          ["server", "mknod -m 666 /dev/net/tun c 10 200"],
        ],
      ],
      bare.output,
    );
    assert.match(bare.output, /✗ +device +no \/dev\/net\/tun/);
    if (mended) assert.match(bare.output, /MENDED\nok device/);
    const powerless = await examine(lab, "client", [
      "setpriv",
      "--bounding-set",
      "-net_admin",
      "--inh-caps",
      "-net_admin",
      process.execPath,
      "--import",
      "tsx",
      "src/lab/doctor/doctor.ts",
    ]);
    assert.deepEqual([powerless.code, powerless.broken], [1, ["privilege"]], powerless.output);
    assert.match(powerless.output, /fix +client# sudo npx tsx src\/lab\/doctor\/doctor\.ts client/);

    await server.stop();
    await client.stop();
    const alone = await doctor(lab, "client", "--server", SERVER);
    assert.deepEqual([alone.code, alone.broken], [1, ["interface", "server"]], alone.output);
    assert.match(alone.output, /ECONNREFUSED\n +fix +server# npx tsx src\/lab\/doctor\/doctor\.ts server/);
    assert.match(
      alone.output,
      /no tun0.*\n +fix +client# npx tsx src\/client\.ts 192\.168\.1\.1 --configure --route 8\.8\.8\.8\/32/,
    );
    const idle = await doctor(lab, "server");
    assert.equal(idle.broken[0], "interface", idle.output);
    assert.match(
      idle.output,
      /no program listens on TCP port 5555\n +fix +server# npx tsx src\/server\.ts --configure --nat eth1/,
    );
    const banner = `
      require("node:net").createServer((socket) => {
        socket.on("error", () => {}).end("SSH-2.0-OpenSSH_9.2\\r\\n");
      }).listen(5555, () => console.log("listening"));`;
    const foreign = new Running(lab.spawn("server", [process.execPath, "-e", banner]));
    await foreign.until(/listening/);
    const strange = await doctor(lab, "client", "--server", SERVER);
    assert.match(strange.hops.get("handshake")!.text, /unknown frame type 83/);
    assert.doesNotMatch(strange.output, /wrong secret/);
    await foreign.stop("SIGKILL");
    await startServer(lab); // the two fixes, as typed
    await startClient(lab);
    allWell(await doctor(lab, "client"));

    for (const args of [["nobody"], ["--target", "example.org"], ["--nonsense"]]) {
      const usage = await examine(lab, "client", [...ours("lab/doctor/doctor"), ...args]);
      assert.equal(usage.code, 2, usage.output);
      assert.match(usage.output, /^error Cannot start: .* Try: /);
    }
  },
);

test("filter() walks the chain: the first certain rule decides, what may decide is told", () => {
  const chain = (policy: string, ...rules: string[]) =>
    [`-P FORWARD ${policy}`, ...rules.map((rule) => `-A FORWARD ${rule}`)].join("\n");
  const [there, back] = ["-i tun0 -o eth1", "-i eth1 -o tun0"];
  assert.deepEqual(filter(chain("ACCEPT"), there), { maybe: [] });
  assert.deepEqual(filter(chain("DROP"), there), { drops: "-P FORWARD DROP", maybe: [] });
  assert.deepEqual(filter(chain("DROP", "-i tun0 -j ACCEPT"), there), { maybe: [] });
  assert.equal(filter(chain("DROP", "-i tun0 -j ACCEPT"), back).drops, "-P FORWARD DROP");
  assert.deepEqual(
    filter(
      chain("DROP", "-o tun0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"),
      `${back} --ctstate RELATED,ESTABLISHED`,
    ),
    { maybe: [] },
  );
  assert.equal(
    filter(chain("ACCEPT", "-o tun0 -j REJECT --reject-with icmp-port-unreachable"), back).drops,
    "-A FORWARD -o tun0 -j REJECT --reject-with icmp-port-unreachable",
  );
  assert.deepEqual(filter(chain("DROP", "-j DOCKER-USER"), there), {
    drops: "-P FORWARD DROP",
    maybe: ["-A FORWARD -j DOCKER-USER"],
  });
  assert.equal(
    filter(chain("DROP", "-i docker0 ! -o docker0 -j ACCEPT"), there).maybe.length,
    0,
    "another device's rule",
  );
  const input = (...rules: string[]) =>
    filter(["-P INPUT ACCEPT", ...rules.map((rule) => `-A INPUT ${rule}`)].join("\n"), "-p tcp --dport 5555");
  assert.equal(
    filter("-P INPUT ACCEPT\n-A INPUT -p udp -m udp --dport 5555 -j DROP", "-p udp --dport 5555").drops,
    "-A INPUT -p udp -m udp --dport 5555 -j DROP",
  );
  assert.equal(
    input("-p tcp -m tcp --dport 5555 -j DROP").drops,
    "-A INPUT -p tcp -m tcp --dport 5555 -j DROP",
  );
  assert.deepEqual(
    input("-p tcp -m tcp --dport 22 -j DROP", "-p udp -j DROP", "-p tcp -m tcp --dport 55 -j DROP"),
    { maybe: [] },
  );
  assert.deepEqual(input("-p tcp -m tcp ! --dport 5555 -j DROP"), {
    maybe: ["-A INPUT -p tcp -m tcp ! --dport 5555 -j DROP"],
  });
  assert.deepEqual(
    input("-i eth7 -j DROP"),
    { maybe: ["-A INPUT -i eth7 -j DROP"] },
    "by which device it comes is not known",
  );
});

test("findNat() finds the rule that covers the subnet and the device, and no other", () => {
  const subnet = parseCidr("10.8.0.0/24")!;
  const good = [
    "-s 10.8.0.0/24 -o eth1 -j MASQUERADE",
    "-s 10.0.0.0/8 -o eth1 -j SNAT --to-source 203.0.113.1",
    "-o eth1 -j MASQUERADE",
    "-j MASQUERADE",
  ];
  const bad = [
    "-s 10.8.0.0/25 -o eth1 -j MASQUERADE",
    "-s 10.8.0.0/24 -o eth0 -j MASQUERADE",
    "-s 10.8.0.0/24 ! -o eth1 -j MASQUERADE",
    "-s 172.17.0.0/16 ! -o docker0 -j MASQUERADE",
    "-s 10.8.0.0/24 -o eth1 -j ACCEPT",
  ];
  for (const rule of good)
    assert.ok(findNat(`-P POSTROUTING ACCEPT\n-A POSTROUTING ${rule}`, subnet, "eth1"), rule);
  for (const rule of bad)
    assert.equal(findNat(`-P POSTROUTING ACCEPT\n-A POSTROUTING ${rule}`, subnet, "eth1"), undefined, rule);
});

test("readTrace() follows our packet only, and skips what is normal", () => {
  const line = (who: string, rest: string) => `            ${who} [001] b....  6387.531696: ${rest}`;
  const freed = (who: string, skb: string, protocol: number, location: string, reason: string) =>
    line(
      who,
      `kfree_skb: skbaddr=00000000${skb} rx_sk=0000000000000000 ` +
        `protocol=${protocol} location=${location} reason: ${reason}`,
    );
  const healthy = [
    freed("ping-77", "22222222", 0, "skb_queue_purge_reason+0x9c/0x140", "QUEUE_PURGE"),
    line("ping-77", "net_dev_queue: dev=tun0 skbaddr=000000008b715cec len=361"),
    line("node-75", "netif_receive_skb: dev=tun0 skbaddr=00000000e06a6978 len=361"),
    line("node-75", "net_dev_queue: dev=eth1 skbaddr=00000000e06a6978 len=375"),
    freed("<idle>-0", "11111111", 2054, "__dev_queue_xmit+0xd01/0xf30", "QDISC_DROP"),
    freed("node-75", "e06a6978", 2048, "ping_rcv+0xab/0xd0", "NO_SOCKET"),
  ];
  const steps = ["client out tun0", "server in tun0", "server out eth1"];
  assert.deepEqual(readTrace(healthy.join("\n"), 361, 77, 99), { steps });
  const drop = freed("node-75", "8b715cec", 2048, "ip_error+0x94/0x210", "IP_INADDRERRORS");
  assert.deepEqual(readTrace([...healthy, drop].join("\n"), 361, 77, 99), {
    steps,
    drop: { reason: "IP_INADDRERRORS", where: "ip_error", device: "eth1", host: "server" },
  });
  const reused = line("node-75", "netif_receive_skb: dev=eth0 skbaddr=000000008b715cec len=52");
  assert.deepEqual(
    readTrace([...healthy, reused, drop].join("\n"), 361, 77, 99),
    { steps },
    "the same address, but another packet by now",
  );
  const output = freed("ping-77", "4872a570", 2048, "nft_do_chain+0x3e8/0x610", "NETFILTER_DROP");
  assert.deepEqual(readTrace(output, 361, 77, 99), {
    steps: [],
    drop: { reason: "NETFILTER_DROP", where: "nft_do_chain", device: "", host: "client" },
  });
  const alone = [
    line("ping-77", "net_dev_queue: dev=tun0 skbaddr=000000008b715cec len=361"),
    line("node-99", "netif_receive_skb: dev=tun0 skbaddr=00000000e06a6978 len=361"),
  ];
  assert.deepEqual(
    readTrace(alone.join("\n"), 361, 77, 99).steps,
    ["client out tun0", "client in tun0"],
    "the server is another machine: what comes in was written by our own client, process 99",
  );
});
