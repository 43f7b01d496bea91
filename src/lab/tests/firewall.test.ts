/**
 * The server's firewall: what it sets, what this kernel cannot do, what others have set already. And: a
 * batch that fails half-way, blocks that are in use, published ports of containers.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { type Lab, ROOT, TARGET, TARGET6 } from "../lab.ts";
import { Running, startProgram } from "../running.ts";
import { labTest, ping, retry, SECRET, snapshot, standIn, startClient, startServer } from "./testing.ts";
import { newFolder } from "./folder.ts";

/** All is as before when both have ended. */
async function endAsBefore(programs: Running[], state: () => unknown, before: unknown): Promise<void> {
  for (const program of programs) assert.equal(await program.stop(), 0, program.output);
  assert.deepEqual(state(), before);
}
const both = (lab: Lab) => [snapshot(lab, "client"), snapshot(lab, "server")];

// ---- what this kernel cannot do ----

const LACKS: [what: string, tool: string, pattern: string, said: string, goesOn: RegExp][] = [
  [
    "ip6tables' nat table",
    "ip6tables",
    "*nat*",
    "ip6tables v1.8.9 (legacy): can't initialize ip6tables table `nat': " +
      "Table does not exist (do you need to insmod?)",
    /without IPv6 inside the tunnel: Cannot run 'ip6tables .*Table does not exist/,
  ],
  [
    "conntrack",
    "iptables",
    "*conntrack*",
    "iptables: No chain/target/match by that name.",
    /without a way for answers through a firewall/,
  ],
  [
    "TCPMSS for IPv6",
    "ip6tables",
    "*TCPMSS*",
    "ip6tables: No chain/target/match by that name.",
    /without a limit for TCP's segments/,
  ],
  [
    "TCPMSS",
    "iptables",
    "*TCPMSS*",
    "iptables: No chain/target/match by that name.",
    /without a limit for TCP's segments/,
  ],
  [
    "the icmp match",
    "iptables",
    "*redirect*",
    "iptables: No chain/target/match by that name.",
    /without silence about redirects/,
  ],
  [
    "the raw table",
    "iptables",
    "*raw*",
    "iptables: can't initialize iptables table 'raw': Table does not exist (do you need to insmod?)",
    /without a wall around the inner addresses: .*: Cannot run 'iptables -t raw .*Table does not exist/,
  ],
  [
    "the comment match",
    "iptables",
    "*comment*",
    "iptables: No chain/target/match by that name.",
    /match by that name; so, instead:\n# iptables -t raw -A PREROUTING -i lo \S+ \S+ -j RETURN -w\n/,
  ],
];
for (const [what, tool, pattern, said, goesOn] of LACKS) {
  labTest(
    `a kernel without ${what}: the server goes on without it, says so, and undoes the rest`,
    async (lab) => {
      lab.addIPv6();
      const before = both(lab);
      const lacking = standIn(
        tool,
        `case "$*" in ${pattern}) echo "${said.replaceAll("`", "\\`")}" >&2; exit 3 ;; *) real "$@" ;; esac`,
      );
      const running = startProgram(lab, "server", "server", ["--configure", "--nat", "eth1"], lacking);
      await running.until(/listening on/);
      assert.match(running.output, goesOn);
      const user = await startClient(lab);
      ping(lab, "client", TARGET);
      if (pattern === "*nat*") assert.doesNotMatch(user.output, /fd56:/);
      else assert.match(user.output, /fd56:/);
      await endAsBefore([user, running], () => both(lab), before);
    },
  );
}

// ---- no iptables ----

/** Takes the iptables command away from the lab. Returns what reads the state of the server without it. */
function withoutIptables(lab: Lab): () => string {
  lab.run("server", "iptables-save"); // what it makes the kernel set up by itself must be there before
  lab.run("lab", `mount --bind /dev/null ${lab.run("lab", "readlink -f /usr/sbin/iptables").trim()}`);
  const commands = ["nft list ruleset", "ip addr", "ip rule", "sysctl net.ipv4.conf net.ipv4.ip_forward"];
  const read = () => commands.map((command) => lab.run("server", command)).join("");
  return () => read().replace(/NO-CARRIER,|,LOWER_UP|state \w+/g, "");
}

labTest(
  "no iptables command, but nft: a table of our own masquerades, and goes at the end; by SIGKILL, too",
  async (lab) => {
    lab.addIPv6();
    const state = withoutIptables(lab);
    const before = state();
    for (const signal of ["SIGTERM", "SIGKILL"] as const) {
      const running = await startServer(lab);
      assert.match(running.output, /# nft add table ip simple-vpn-tun0/);
      const user = await startClient(lab, "client", "--route", `${TARGET6}/128`);
      for (const target of [TARGET, TARGET6]) ping(lab, "client", target);
      await user.stop();
      await running.stop(signal);
      await retry(() => assert.equal(state(), before));
    }
  },
);

const NFT_LACKS: [word: string, said: string, goesOn: RegExp][] = [
  [
    "maxseg",
    "Error: Could not process rule: No such file or directory",
    /without a limit for TCP's segments.*: Cannot run 'nft add rule ip .* maxseg .*No such file/,
  ],
  [
    "icmp",
    "Error: Could not process rule: Not supported",
    /without silence about redirects.*: Cannot run 'nft add rule ip .* icmp .*Not supported/,
  ],
];
for (const [word, said, goesOn] of NFT_LACKS) {
  labTest(`nft without ${word}: the server goes on without it, says so, and undoes all`, async (lab) => {
    lab.addIPv6();
    const state = withoutIptables(lab);
    const before = state();
    const refusal = `case "$*" in *" ${word} "*) echo "${said}" >&2; exit 1 ;; esac`;
    const lacking = standIn("nft", `${refusal}; real "$@"`);
    const running = startProgram(lab, "server", "server", ["--configure", "--nat", "eth1"], lacking);
    await running.until(/listening on .*tunnel is 10\.8\.0\.1\/24 and fd56:/);
    assert.match(running.output, goesOn);
    const user = await startClient(lab, "client", "--route", `${TARGET6}/128`);
    for (const target of [TARGET, TARGET6]) ping(lab, "client", target);
    await endAsBefore([user, running], state, before);
  });
}

// ---- a server without --nat ----

const plainServer = (lab: Lab, env = SECRET) => startProgram(lab, "server", "server", ["--configure"], env);

for (const tool of ["iptables", "nft"]) {
  labTest(`without --nat where the machine forwards: no ICMP redirects (${tool})`, async (lab) => {
    lab.run("server", "sysctl -w net.ipv4.ip_forward=1");
    const host = lab.addClient(2);
    const state = tool === "nft" ? withoutIptables(lab) : () => snapshot(lab, "server");
    const before = state();
    const running = plainServer(lab);
    await running.until(/listening on/);
    const users = [await startClient(lab), await startClient(lab, host)];
    const { stdout } = lab.try("client", "ping -c 5 -i 0.2 10.8.0.3");
    assert.match(stdout, / 5 received/);
    assert.doesNotMatch(stdout, /redirect/i);
    await endAsBefore([...users, running], state, before);
  });
}

labTest("without --nat: where the rule about redirects cannot be set, the server goes on", async (lab) => {
  const noTool = standIn(
    "iptables",
    `case "$*" in *-S*) real "$@" ;; *) echo 'iptables: Permission denied' >&2; exit 4 ;; esac`,
  );
  const quiet = plainServer(lab, noTool);
  await quiet.until(/listening on/);
  assert.doesNotMatch(quiet.output, /redirects/);
  await quiet.stop();
  lab.run("server", "sysctl -w net.ipv4.ip_forward=1");
  const running = plainServer(lab, noTool);
  await running.until(/without silence about redirects[^]*listening on/);
  await endAsBefore([running], () => 0, 0);
});

labTest("--nat of no use is refused, and the hint names what is of use", async (lab) => {
  const nowhere = "it leads nowhere else";
  const useless = [
    ["ppp0", "there is no such interface"],
    ["lo", nowhere],
    ["tun0", nowhere],
  ];
  for (const [device, why] of useless) {
    const running = startProgram(lab, "server", "server", ["--configure", "--nat", device!], SECRET);
    assert.equal(await running.ended, 1, running.output);
    const said = `Cannot use --nat ${device}: ${why}. Try: name another one, of eth0, eth1\n`;
    assert.ok(running.output.includes(said), running.output);
  }
  await startServer(lab); // with eth1, which it names
});

// ---- firewalls of others ----

const nft = (lab: Lab, line: string) => lab.run("server", ["nft", ...line.split(" ")]);
const chain = (table: string, name: string, policy: string) =>
  `add chain ${table} ${name} { type filter hook forward priority 10 ; policy ${policy} ; }`;
/** The hint of the server's line about a firewall, as a shell would take it. */
const opening = ({ output }: Running) => /to let the tunnel through: (nft '.*')$/m.exec(output)?.[1];

/** Firewalls, as commands of nft that make them. */
const WALLS: [what: string, named: string, lines: string[]][] = [
  ["a policy of drop", "inet own wall", ["add table inet own", chain("inet own", "wall", "drop")]],
  [
    "reject as the last rule",
    "inet strict filter_FORWARD",
    [
      "add table inet strict",
      chain("inet strict", "filter_FORWARD", "accept"),
      "add rule inet strict filter_FORWARD ct state established,related accept",
      "add rule inet strict filter_FORWARD counter reject with icmpx type admin-prohibited",
    ],
  ],
];
for (const [what, named, lines] of WALLS) {
  for (const tool of ["iptables", "nft"]) {
    labTest(`another firewall with ${what} is named, and the hint opens it (${tool})`, async (lab) => {
      lab.addIPv6();
      if (tool === "nft") withoutIptables(lab);
      for (const line of lines) nft(lab, line);
      const running = await startServer(lab);
      const user = await startClient(lab, "client", "--route", `${TARGET6}/128`);
      assert.notEqual(lab.try("client", `ping -c 1 -W 1 ${TARGET}`).status, 0, "it is in the way");
      assert.ok(running.output.includes(named), running.output);
      lab.run("server", ["sh", "-c", opening(running)!]);
      for (const target of [TARGET, TARGET6]) ping(lab, "client", target);
      for (const program of [user, running]) await program.stop();
      assert.doesNotMatch((await startServer(lab)).output, /to let the tunnel through/, "it is open by now");
    });
  }
}

labTest("firewalld keeps its table to itself: the hint is its own command", async (lab) => {
  for (const line of ["add table inet firewalld", chain("inet firewalld", "filter_FORWARD", "drop")])
    nft(lab, line);
  assert.match((await startServer(lab)).output, /through: firewall-cmd --zone=trusted --add-interface=tun0/);
});

labTest("iptables whose kernel's half is missing: nft does it", async (lab) => {
  const broken = standIn("iptables", `echo "can't initialize iptables table 'nat'" >&2; exit 3`);
  const running = startProgram(lab, "server", "server", ["--configure", "--nat", "eth1"], broken);
  await running.until(/# nft add table ip simple-vpn-tun0[^]*listening on/);
  await startClient(lab);
  ping(lab, "client", TARGET);
});

labTest(
  "a firewall that lets the tunnel through, by index, by pattern or in another chain, is no wall",
  async (lab) => {
    const rules = [
      ["add rule inet own wall iif tun0 accept", "add rule inet own wall oif tun0 accept"],
      ['add rule inet own wall iifname "tun*" accept', 'add rule inet own wall oifname "tun*" accept'],
      [
        "add rule inet own more iifname tun0 accept",
        "add rule inet own more oifname tun0 accept",
        "add rule inet own wall jump more",
      ],
    ];
    lab.run("server", "ip tuntap add dev tun0 mode tun"); // `iif` is for an interface that exists
    for (const lines of rules) {
      for (const line of [...WALLS[0]![2], "add chain inet own more", ...lines]) nft(lab, line);
      const running = await startServer(lab);
      assert.equal(opening(running), undefined, running.output);
      await running.stop();
      nft(lab, "delete table inet own");
    }
  },
);

labTest("two firewalls in the way are named in one line", async (lab) => {
  for (const line of WALLS.flatMap(([, , lines]) => lines)) nft(lab, line);
  const running = await startServer(lab);
  lab.run("server", ["sh", "-c", opening(running)!]);
  await startClient(lab);
  ping(lab, "client", TARGET);
});

labTest("not in the way: iptables' own chain, one that accepts at its end; no nft, no word", async (lab) => {
  lab.run("server", "iptables -P FORWARD DROP");
  for (const line of ["add table ip other", chain("ip other", "wall", "drop")]) nft(lab, line);
  nft(lab, "add rule ip other wall counter accept");
  const first = await startServer(lab);
  assert.equal(opening(first), undefined, first.output);
  const user = await startClient(lab);
  ping(lab, "client", TARGET);
  for (const program of [user, first]) await program.stop();
  for (const line of WALLS[0]![2]) nft(lab, line);
  lab.run("lab", `mount --bind /dev/null ${lab.run("lab", "readlink -f /usr/sbin/nft").trim()}`);
  assert.equal(opening(await startServer(lab)), undefined);
});

labTest("where iptables is the legacy one, nftables' chain of its name is in the way", async (lab, t) => {
  const legacy = standIn("iptables", `exec iptables-legacy "$@"`);
  const works = lab.try("server", "iptables-legacy -S").status === 0;
  if (!works && !process.env.CI) return t.skip("iptables-legacy does not work here");
  for (const line of ["add table ip filter", chain("ip filter", "FORWARD", "drop")]) nft(lab, line);
  const running = startProgram(lab, "server", "server", ["--configure", "--nat", "eth1"], legacy);
  await running.until(/listening on/);
  lab.run("server", ["sh", "-c", opening(running)!]);
  await startClient(lab);
  ping(lab, "client", TARGET);
});

// ---- set-up that fails half-way ----

/** With Setup alone: four rules in one batch, tried twice; they stay until a line of input comes. */
const TWICE = `
  const { Setup } = await import("${ROOT}src/host/setup.ts");
  const { exit } = await import("${ROOT}src/host/program.ts");
  const setup = new Setup(true);
  await setup.begin("tun0");
  const rule = (n) => "to 192.0.2." + n + " lookup 100 pref " + n;
  const change = (words) => ({ run: "ip rule add " + words, undo: "ip rule del " + words });
  const changes = [1, 2, 3, 4].map((n) => change(rule(n)));
  for (const name of ["first", "second"]) {
    const failed = await setup.make(changes).then(() => "nothing", (error) => error.message);
    console.log("== " + name + " try, failed: " + failed);
  }
  process.stdin.once("data", () => exit(0));`;

const NAMED = "ip rule add to 192.0.2.3 lookup 100 pref 3";
const HALFWAY: [what: string, script: string, named: string, again: number[]][] = [
  // It says which line failed; ip ends at once, without that; it is killed.
  ["is refused", `sed '3s/.*/rule add to 192.0.2.1 lookup 100 pref 1/' | real "$@"`, NAMED, [3, 4]],
  ["is not understood", `sed '3s/.*/rule add nonsense/' | real "$@"`, "ip -batch -", [1, 2, 3, 4]],
  ["is killed", `head -n 2 | real "$@"; kill -KILL $$`, "ip -batch -", [1, 2, 3, 4]],
];
for (const [what, script, named, again] of HALFWAY) {
  labTest(`a batch that ${what} half-way: a later try does the rest, and the end undoes all`, async (lab) => {
    const marker = join(newFolder(), "failed");
    const failing = `*-batch*) [ -e ${marker} ] || { touch ${marker}; ${script}; exit; }`;
    const { env } = standIn("ip", `case "$*" in ${failing} ;; esac; real "$@"`);
    const before = snapshot(lab, "client");
    const command = [process.execPath, "--import", "tsx", "--input-type=module", "-e", TWICE];
    const running = new Running(lab.spawn("client", command, { env }));
    await running.until(/== second try/);
    assert.ok(running.output.includes(`== first try, failed: Cannot run '${named}': `), running.output);
    const second = again.map((n) => `# ip rule add to 192.0.2.${n} lookup 100 pref ${n}\n`).join("");
    assert.ok(running.output.endsWith(`\n${second}== second try, failed: nothing\n`), running.output);
    assert.equal(lab.run("client", "ip rule").match(/to 192\.0\.2\.\d /g)?.length, 4);
    running.child.stdin!.write("\n");
    assert.equal(await running.ended, 0, running.output);
    assert.equal(snapshot(lab, "client"), before);
  });
}

// ---- inner blocks that are in use already ----

/** A program that must end with such an error: the options that its hint names, to be typed. */
async function refuses(running: Running, words: RegExp, option: string): Promise<string[]> {
  assert.equal(await running.ended, 1, running.output);
  assert.match(running.output, words);
  const said = new RegExp(`Try: .*${option} (?:on the server, such as )?(\\S+): nothing here has that`);
  const block = said.exec(running.output);
  assert.ok(block, running.output);
  return [option, block[1]!];
}

labTest("addresses in fd56:504e::/96 already: the --subnet6 of the hint works", async (lab) => {
  lab.addIPv6();
  lab.run("server", "ip addr add fd56:504e::1/96 dev eth1");
  const running = startProgram(lab, "server", "server", ["--configure", "--nat", "eth1"], SECRET);
  const taken = /Cannot use fd56:504e::\S*\/96 inside .*: on this machine eth1 has fd56:504e::1\/96/;
  const option = await refuses(running, taken, "--subnet6");
  await startServer(lab, ...option);
  const user = await startClient(lab, "client", "--route", `${TARGET6}/128`);
  assert.match(user.output, / and fd[0-9a-f:]+::a08:2\/96/); // the kernel and we write its zeros in short
  for (const target of [TARGET, TARGET6]) ping(lab, "client", target);
});

labTest("two servers with one subnet: the second client is refused, and its hint works", async (lab) => {
  const other = lab.addClient(2);
  lab.run("server", "sysctl -w net.ipv4.ip_forward=1"); // so that the client reaches the second server
  const second = async (...args: string[]) => {
    const running = startProgram(lab, other, "server", ["--configure", ...args], SECRET);
    await running.until(/listening on/);
    return running;
  };
  const toSecond = ["192.168.2.100", "--configure", "--tun", "tun1"];
  const client2 = () => startProgram(lab, "client", "client", toSecond, SECRET);
  await startServer(lab);
  await startClient(lab);
  const same = await second();
  const taken = /Cannot use 10\.8\.0\.0\/24 inside .*: on this machine tun0 has 10\.8\.0\.2\/24/;
  const option = await refuses(client2(), taken, "--subnet");
  await same.stop();
  await second(...option);
  const user = client2();
  await user.until(/connected to/);
  ping(lab, "client", TARGET);
  ping(lab, "client", option[1]!.replace(/0\/.*/, "1"));
});

// ---- containers on the client's machine ----

/** A "container" on the client, as Docker makes one: 172.17.0.2, behind docker0, with its port published. */
async function publish(lab: Lab): Promise<void> {
  lab.run("lab", "ip netns add box");
  lab.run("lab", "ip link add docker0 netns client type veth peer name eth0 netns box");
  lab.run("client", "ip addr add 172.17.0.1/16 dev docker0");
  lab.run("box", "ip addr add 172.17.0.2/16 dev eth0");
  lab.run("client", "ip link set docker0 up");
  lab.run("box", "ip link set eth0 up");
  lab.run("box", "ip route add default via 172.17.0.1");
  const settings = ["ip_forward", "conf.all.rp_filter", "conf.eth0.rp_filter"]; // as often set
  lab.run("client", `sysctl -w ${settings.map((name) => `net.ipv4.${name}=1`).join(" ")}`);
  const to = "-d 192.168.1.100 -p tcp --dport 8080";
  lab.run("client", `iptables -t nat -A PREROUTING ${to} -j DNAT --to-destination 172.17.0.2:80`);
  lab.run("client", "iptables -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE");
  const answers = `const server = require("node:net").createServer((s) => s.end("hello"));
    server.listen(80, () => console.log("ready"));`;
  await new Running(lab.spawn("box", [process.execPath, "-e", answers])).until(/ready/);
}

labTest("published ports of containers: none while 0.0.0.0/0 is routed; a rule helps", async (lab) => {
  lab.run("server", "sysctl -w net.ipv4.ip_forward=1");
  lab.run("internet", "ip route add 192.168.1.0/24 via 203.0.113.1");
  await publish(lab);
  const ask = `const s = require("node:net").connect(8080, "192.168.1.100").on("error", () => {});
    s.setTimeout(1500, () => s.destroy()).pipe(process.stdout);`;
  const answer = () => lab.run("internet", [process.execPath, "-e", ask]);
  assert.equal(answer(), "hello", "without a tunnel");
  await startServer(lab);
  const words = ["203.0.113.1", "--configure", "--route", "0.0.0.0/0"];
  await startProgram(lab, "client", "client", words, SECRET).until(/connected to/);
  assert.equal(answer(), "", "the container's answers go into the tunnel");
  lab.run("client", "ip rule add from 172.17.0.0/16 lookup main pref 8000"); // as README.md says
  assert.equal(answer(), "hello");
});
