import assert from "node:assert/strict";
import { test } from "node:test";
import { parseCidr, parsePrefix96 } from "../base/address.ts";
import type { Change } from "../host/changes.ts";
import { checkFree } from "../host/checks.ts";
import { FRESH, type Machine } from "../host/machine.ts";
import { clientChanges, renewal } from "./routes.ts";

const CONFIG = { address: parseCidr("10.8.0.2/24")!.address, prefix: 24, mtu: 1400 };
const machine = (has: Partial<Machine>): Machine => ({ ...FRESH, ...has });
const eth0 = (address: string, prefix: number) => ({ dev: "eth0", address, prefix, global: true });
const lines = (changes: Change[]) => changes.map(({ run }) => run);
const routing = (routes: string[], outers = ["203.0.113.1"], has = FRESH) =>
  lines(clientChanges({ tun: "tun0", port: 5555, routes }, CONFIG, outers, has)).filter(
    (line) => !/^ip (addr|link)/.test(line),
  );

test("a route goes into the main table, or into ours, with rules around it, if it holds the server", () => {
  assert.deepEqual(routing(["8.8.8.8/32", "8.8.8.8/32"]), ["ip route add 8.8.8.8/32 dev tun0"]);
  assert.deepEqual(
    routing(
      ["0.0.0.0/0"],
      ["203.0.113.1"],
      machine({ held: [eth0("192.168.1.100", 24), eth0("2001:db8::5", 64)] }),
    ),
    [
      "ip route add 0.0.0.0/0 dev tun0 table 86",
      "ip rule add nop pref 8999",
      "ip rule add to 203.0.113.1 ipproto tcp dport 5555 goto 8999 pref 8600",
      "ip rule add from 192.168.1.100 goto 8999 pref 8601",
      "ip rule add lookup main suppress_prefixlength 0 pref 8698",
      "ip rule add lookup 86 pref 8699",
    ],
  );
});

test("raw: the kernel is kept from the server's segments, and a mark keeps ours out of the tunnel", () => {
  const options = { tun: "tun0", port: 5555, routes: ["0.0.0.0/0"], transport: "raw" as const };
  const changes = (firewall: Machine["firewall"], outer: string) =>
    lines(clientChanges(options, CONFIG, [outer], machine({ firewall })));
  const iptables = changes("iptables", "203.0.113.1");
  assert.deepEqual(iptables.slice(0, 2), [
    "iptables -t raw -A PREROUTING -s 203.0.113.1 -p tcp --sport 5555 -j DROP",
    "iptables -t raw -A OUTPUT -d 203.0.113.1 -p tcp --dport 5555 -j CT --notrack",
  ]);
  assert.ok(iptables.includes("ip rule add to 203.0.113.1 fwmark 0x76706e goto 8999 pref 8600"));
  assert.deepEqual(changes("nft", "2001:db8::1").slice(0, 5), [
    "nft add table ip6 simple-vpn-tun0-raw",
    "nft add chain ip6 simple-vpn-tun0-raw in { type filter hook prerouting priority -300 ; }",
    "nft add chain ip6 simple-vpn-tun0-raw out { type filter hook output priority -300 ; }",
    "nft add rule ip6 simple-vpn-tun0-raw in ip6 saddr 2001:db8::1 tcp sport 5555 drop",
    "nft add rule ip6 simple-vpn-tun0-raw out ip6 daddr 2001:db8::1 tcp dport 5555 notrack",
  ]);
});

test("a thousand routes need no more rules than they have prefix lengths", () => {
  const blocks = Array.from({ length: 1000 }, (_, i) => `100.${i >> 8}.${i & 255}.0/24`);
  const rules = routing(["100.0.0.0/8", ...blocks], ["100.0.0.1"]).filter((line) => line.includes("lookup"));
  assert.deepEqual(rules, [
    "ip rule add lookup main suppress_prefixlength 24 pref 8626",
    "ip rule add lookup 86 suppress_prefixlength 23 pref 8627",
    "ip rule add lookup main suppress_prefixlength 8 pref 8674",
    "ip rule add lookup 86 suppress_prefixlength 7 pref 8675",
  ]);
});

test("packets that the user's own rules name go on to those rules; a rule for all does not", () => {
  const rules = (
    [
      [100, "from all to 198.51.100.9 lookup 7"], // before ours: it counts in any case
      [32763, "from all to 198.51.100.0/24 lookup 100"],
      [32763, "from 10.1.0.5 lookup 101 proto static"],
      [32764, "from all lookup main suppress_prefixlength 0"],
      [32765, "not from all fwmark 0xca6c lookup 51820"],
    ] as const
  ).map(([preference, text]) => ({ ip: "ip" as const, preference, text }));
  const added = routing(["8.8.8.8/32"], ["203.0.113.1"], machine({ rules })).filter(
    (line) => /goto/.test(line) && !/8600/.test(line),
  );
  assert.deepEqual(
    added,
    [
      ["to 198.51.100.0/24", 8628],
      ["from 10.1.0.5", 8601],
      ["fwmark 0xca6c", 8601],
    ].map(([words, at]) => `ip rule add ${words} goto 8999 pref ${at}`),
  );
});

test("a killed client's rules are removed first; others at our numbers, or in our table, are refused", () => {
  const left = { ip: "ip" as const, preference: 8600, text: "from all to 192.0.2.1 goto 8999" };
  assert.equal(
    routing(["0.0.0.0/0"], ["203.0.113.1"], machine({ rules: [left] }))[1],
    "ip rule del pref 8600 to 192.0.2.1 goto 8999",
  );
  const foreign = machine({ rules: [{ ...left, text: "from all lookup 100" }] });
  assert.throws(
    () => routing(["0.0.0.0/0"], ["203.0.113.1"], foreign),
    /8600 is there already \(from all lookup 100\)/,
  );
  assert.deepEqual(routing(["8.8.8.8/32"], ["203.0.113.1"], foreign), [
    "ip rule add to 10.8.0.0/24 lookup main pref 8599",
    "ip route add 8.8.8.8/32 dev tun0",
  ]);
  const tables = new Map([
    ["86", [{ block: "1.0.0.0/8", dev: "wg0", where: "out of wg0", gateway: undefined }]],
  ]);
  assert.throws(
    () => routing(["0.0.0.0/0"], ["203.0.113.1"], machine({ tables })),
    /table 86 has a route out of wg0 already/,
  );
  const tables6 = new Map([
    ["86", [{ block: "2001:db8::/32", dev: "wg0", where: "out of wg0", gateway: undefined }]],
  ]);
  assert.deepEqual(
    routing(["0.0.0.0/0"], ["203.0.113.1"], machine({ tables: tables6 })).length,
    5,
    "that is IPv6's table 86",
  );
});

test("a route that this machine has already is a Failure, whose hint works", () => {
  const networks: [own: string, prefix: number, block: string, halves: string[]][] = [
    ["192.168.7.5", 24, "192.168.7.0/24", ["192.168.7.0/25", "192.168.7.128/25"]],
    ["2001:db8:7::5", 64, "2001:db8:7::/64", ["2001:db8:7::/65", "2001:db8:7:0:8000::/65"]],
  ];
  const config = { ...CONFIG, subnet6: parsePrefix96("fd56:504e::/96") };
  for (const [own, prefix, block, halves] of networks) {
    const has = machine({
      held: [eth0(own, prefix)],
      routes: [{ block, dev: "eth0", where: "out of eth0", gateway: undefined }],
    });
    const routes = (blocks: string[]) =>
      lines(clientChanges({ tun: "tun0", port: 5555, routes: blocks }, config, [], has)).filter((line) =>
        line.includes("route"),
      );
    try {
      routes([block]);
      assert.fail();
    } catch (error) {
      const { message, hint } = error as Error & { hint: string };
      assert.match(message, /Cannot route \S+ into the tunnel: it is this machine's own network, on eth0/);
      assert.deepEqual(
        [...hint.matchAll(/--route (\S+\/\d+)/g)].map(([, route]) => route!),
        halves,
      );
      assert.deepEqual(
        routes(halves),
        halves.map((half) => `ip route add ${half} dev tun0`),
      );
    }
  }
  const elsewhere = machine({
    routes: [{ block: "8.8.8.8/32", dev: "wg0", where: "out of wg0", gateway: undefined }],
  });
  assert.throws(
    () => routing(["8.8.8.8/32"], [], elsewhere),
    (error: Error & { hint: string }) =>
      /routes it out of wg0 already/.test(error.message) &&
      error.hint.startsWith("ip route del 8.8.8.8/32 dev wg0,"),
  );
});

test("a route that is the inner subnet is there already", () => {
  assert.deepEqual(routing(["10.8.0.0/24", "8.8.8.8/32"]), ["ip route add 8.8.8.8/32 dev tun0"]);
});

test("the server itself is never routed into the tunnel to it", () => {
  assert.throws(
    () => routing(["203.0.113.1/32"]),
    /Cannot route the server itself .*: --route 203\.0\.113\.1\/32/,
  );
  assert.throws(
    () => routing([], ["10.8.0.9"]),
    /Cannot route the server itself .*: the inner subnet 10\.8\.0\.0\/24/,
  );
});

test("a name server is routed into the tunnel, unless it is inside already", () => {
  const dns = (address: string) =>
    lines(clientChanges({ tun: "tun0", port: 5555, routes: [], dns: [address] }, CONFIG, [], FRESH));
  assert.ok(dns("8.8.8.8").includes("ip route add 8.8.8.8/32 dev tun0"));
  assert.ok(!dns("10.8.0.1").some((line) => line.startsWith("ip route")));
});

test("checkFree() refuses a block in use, and names a free one; part of a larger network may be used", () => {
  const check = (block: string, has: Partial<Machine>) => checkFree(machine(has), [block], "--subnet BLOCK");
  const held = [eth0("10.8.0.77", 24), eth0("10.9.3.3", 16), eth0("fd56:504e::9", 64)];
  assert.throws(
    () => check("10.8.0.0/24", { held }),
    (error: Error & { hint: string }) =>
      /eth0 has 10\.8\.0\.77\/24/.test(error.message) &&
      error.hint === "--subnet 10.10.0.0/24: nothing here has that",
  );
  assert.throws(
    () => check("fd56:504e::/96", { held: [eth0("fd56:504e::9", 96)] }),
    (error: Error & { hint: string }) => /--subnet6 fd..:....:....::\/96: /.test(error.hint),
  );
  assert.throws(
    () =>
      check("10.8.0.0/16", {
        routes: [{ block: "10.8.5.0/24", dev: "docker0", where: "out of docker0", gateway: undefined }],
      }),
    /10\.8\.5\.0\/24 is routed out of docker0/,
  );
  assert.match(check("10.8.0.0/24", { held: [eth0("10.0.0.5", 8)] }), /holds the tunnel's 10\.8\.0\.0\/24/);
  const gateway = [{ block: "0.0.0.0/0", dev: "eth0", where: "out of eth0", gateway: "10.8.0.1" }];
  assert.throws(
    () => check("10.8.0.0/24", { held: [eth0("10.0.0.5", 8)], routes: gateway }),
    /eth0 has 10\.0\.0\.5\/8/,
  );
  assert.equal(
    check("10.8.0.0/24", {
      held: [eth0("192.168.1.100", 24)],
      routes: [{ block: "0.0.0.0/0", dev: "eth0", where: "out of eth0", gateway: "192.168.1.1" }],
    }),
    "",
  );
});

test("what a persistent TUN has already is not set again", () => {
  const tun = {
    link: "ip link set tun0 up mtu 1400",
    has: (words: string) => words === "mtu 1400 up",
    addresses: ["10.8.0.2/24"],
    routes: ["8.8.8.8/32"],
  };
  assert.deepEqual(
    lines(clientChanges({ tun: "tun0", port: 5555, routes: ["8.8.8.8/32"] }, CONFIG, [], machine({ tun }))),
    [],
  );
});

test("another address: the former one goes while the new one is a /32, so that the routes stay", () => {
  const next = { ...CONFIG, address: CONFIG.address + 1 };
  assert.deepEqual(lines(renewal("tun0", next, CONFIG, FRESH)).slice(1), [
    "ip addr replace 10.8.0.3/32 dev tun0",
    "ip addr del 10.8.0.2/24 dev tun0",
    "ip addr replace 10.8.0.3/24 dev tun0",
    "ip addr del 10.8.0.3/32 dev tun0",
  ]);
  assert.deepEqual(renewal("tun0", { ...CONFIG, mtu: 1300 }, CONFIG, FRESH), []);
});

test("--socks has a table of its own, for packets from our inner addresses; a killed one's rules go", () => {
  const socks = { host: "127.0.0.1", port: 1080, login: undefined, dns: [] };
  const options = { tun: "tun0", port: 5555, routes: [], socks };
  const changes = (config: typeof SIX | typeof CONFIG, has = FRESH) =>
    lines(clientChanges(options, config, ["203.0.113.1"], has)).filter((line) => /87/.test(line));
  const SIX = { ...CONFIG, subnet6: parsePrefix96("fd56:504e::/96")! };
  const four = ["ip route add 0.0.0.0/0 dev tun0 table 87", "ip rule add from 10.8.0.2 lookup 87 pref 8598"];
  assert.deepEqual(changes(CONFIG), four);
  assert.deepEqual(changes(SIX), [
    ...four,
    "ip route add ::/0 dev tun0 table 87",
    "ip -6 rule add from fd56:504e::a08:2 lookup 87 pref 8598",
  ]);
  const left = { ip: "ip" as const, preference: 8598, text: "from 10.8.0.2 lookup 87" };
  const foreign = { ...left, text: "from 10.8.0.2 lookup 100" };
  assert.deepEqual(changes(CONFIG, machine({ rules: [left, foreign] })), [
    "ip rule del pref 8598 from 10.8.0.2 lookup 87",
    ...four,
  ]);
  const other = { block: "0.0.0.0/0", dev: "tun1", where: "out of tun1", gateway: undefined };
  assert.throws(
    () => changes(CONFIG, machine({ tables: new Map([["87", [other]]]) })),
    /table 87 has a route out of tun1 already/,
  );
});
