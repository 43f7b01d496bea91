/**
 * Which step a line of the kernel's trace belongs to: recorded lines of one ping, with those of another VPN
 * on this machine between them.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { packetsOf } from "../walk/packets.ts";
import { stripVTControlCharacters } from "node:util";
import { drop, type Evidence, fromTracepoints, print } from "../walk/timeline.ts";
import { parseTrace } from "../walk/tracepoints.ts";

const PIDS = { client: 7330, server: 7252, internet: 7411 };

// time, pid, then as the kernel prints it, but for line breaks in front of spaces; ping is 7504
const PING = `
634 7504 sys_connect(fd: 5, uservaddr: 0x7ffcfedbfd40, addrlen: 0x10)
644 7504 fib_table_lookup: table 254 oif 0 iif 1 proto 17 0.0.0.0/57470 -> 8.8.8.8/1025
  tos 0 scope 0 flags 0 ==> dev tun0 gw 0.0.0.0/:: err 0
740 7504 sys_sendto(fd: 3, buff: 0x56195802eb40, len: 0x40, flags: 0, addr: 0x56191bdbd5c0, addr_len: 0x10)
746 7504 fib_table_lookup: table 254 oif 0 iif 1 proto 1 0.0.0.0/0 -> 8.8.8.8/0
  tos 0 scope 0 flags 0 ==> dev tun0 gw 0.0.0.0/:: err 0
774 7504 net_dev_start_xmit: dev=tun0 queue_mapping=0 skbaddr=00000000300d0ab9 vlan_tagged=0
  protocol=0x0800 ip_summed=0 len=84
1019 7330 skb_copy_datagram_iovec: skbaddr=00000000300d0ab9 len=84
1423 7330 fib_table_lookup: table 254 oif 0 iif 1 proto 6 192.168.1.100/59332 -> 192.168.1.1/5555
  tos 0 scope 0 flags 0 ==> dev eth0 gw 0.0.0.0/:: err 0
1430 7330 net_dev_start_xmit: dev=eth0 queue_mapping=0 skbaddr=0000000068d8da9a vlan_tagged=0
  protocol=0x0800 ip_summed=3 len=174
1437 7330 netif_receive_skb: dev=eth0 skbaddr=0000000068d8da9a len=160
1474 7330 net_dev_start_xmit: dev=eth0 queue_mapping=0 skbaddr=00000000790fc118 vlan_tagged=0
  protocol=0x0800 ip_summed=3 len=66
1476 7330 netif_receive_skb: dev=eth0 skbaddr=00000000790fc118 len=52
1614 7252 skb_copy_datagram_iovec: skbaddr=0000000068d8da9a len=108
1972 7252 netif_receive_skb: dev=tun0 skbaddr=00000000790fc118 len=84
1985 7252 fib_table_lookup: table 254 oif 0 iif 4 proto 0 10.8.0.2/0 -> 8.8.8.8/0
  tos 0 scope 0 flags 0 ==> dev eth1 gw 203.0.113.8/:: err 0
2004 7252 fib_table_lookup: table 255 oif 0 iif 0 proto 0 0.0.0.0/0 -> 203.0.113.8/0
  tos 0 scope 0 flags 0 ==> dev eth1 gw 0.0.0.0/:: err 0
2011 7252 net_dev_start_xmit: dev=eth1 queue_mapping=0 skbaddr=00000000c4e46bdb vlan_tagged=0
  protocol=0x0806 ip_summed=0 len=42
2014 7252 netif_receive_skb: dev=eth0 skbaddr=00000000c4e46bdb len=28
2024 7252 fib_table_lookup: table 254 oif 0 iif 2 proto 0 203.0.113.1/0 -> 203.0.113.8/0
  tos 0 scope 0 flags 0 ==> dev eth0 gw 0.0.0.0/:: err 0
2037 7252 net_dev_start_xmit: dev=eth1 queue_mapping=0 skbaddr=00000000790fc118 vlan_tagged=0
  protocol=0x0800 ip_summed=0 len=98
2038 7252 netif_receive_skb: dev=eth0 skbaddr=00000000790fc118 len=84
2041 7252 fib_table_lookup: table 254 oif 0 iif 2 proto 0 203.0.113.1/0 -> 8.8.8.8/0
  tos 0 scope 0 flags 0 ==> dev lo gw 0.0.0.0/:: err 0
2045 7252 fib_table_lookup: table 254 oif 0 iif 1 proto 1 8.8.8.8/0 -> 203.0.113.1/0
  tos 0 scope 0 flags 0 ==> dev eth0 gw 0.0.0.0/:: err 0
2051 7252 net_dev_start_xmit: dev=eth0 queue_mapping=0 skbaddr=000000006ea10c1b vlan_tagged=0
  protocol=0x0800 ip_summed=0 len=98
2052 7252 netif_receive_skb: dev=eth1 skbaddr=000000006ea10c1b len=84
2056 7252 fib_table_lookup: table 254 oif 0 iif 3 proto 0 8.8.8.8/0 -> 10.8.0.2/0
  tos 0 scope 0 flags 0 ==> dev tun0 gw 0.0.0.0/:: err 0
2060 7252 net_dev_start_xmit: dev=tun0 queue_mapping=0 skbaddr=000000006ea10c1b vlan_tagged=0
  protocol=0x0800 ip_summed=0 len=84
2152 7252 skb_copy_datagram_iovec: skbaddr=000000006ea10c1b len=84
2512 7252 net_dev_start_xmit: dev=eth0 queue_mapping=0 skbaddr=0000000068d8da9a vlan_tagged=0
  protocol=0x0800 ip_summed=3 len=174
2514 7252 netif_receive_skb: dev=eth0 skbaddr=0000000068d8da9a len=160
3721 7330 skb_copy_datagram_iovec: skbaddr=0000000068d8da9a len=108
4145 7330 netif_receive_skb: dev=tun0 skbaddr=000000002023106c len=84
4152 7330 fib_table_lookup: table 254 oif 0 iif 3 proto 0 8.8.8.8/0 -> 10.8.0.2/0
  tos 0 scope 0 flags 0 ==> dev tun0 gw 0.0.0.0/:: err 0
4157 7330 sk_data_ready: family=2 protocol=1 func=sock_def_readable
4160 7330 kfree_skb: skbaddr=000000002023106c rx_sk=0000000000000000
  protocol=2048 location=ping_rcv+0xab/0xd0 reason: NO_SOCKET
5705 7504 skb_copy_datagram_iovec: skbaddr=00000000bcb96f96 len=84
5707 7504 sock_recv_length: sk address = 0000000081b2b6cc, family = AF_INET
  protocol = 0x1, length = 84, error = 0, flags = 0x0
5729 7504 sys_write(fd: 1, buf: 0x56195802f160, count: 0x63)`.replace(/\n +/g, " ");
const STEPS = "1 3 4 6 7 7 8 9 9 9 10 10 10 R1 R2 R2 R3 R4 R5 R5 R7 R7 R8 R8 R9";

const trace = (lines: string) =>
  parseTrace(
    lines
      .trim()
      .replace(
        /^(\d+) (\d+)/gm,
        (_, time, pid) => `  task-${pid}   [000] b..2. 15440.${time.padStart(6, "0")}:`,
      ),
  ).sort((a, b) => Number(a.time - b.time));
const freed = (start: string, skb: string, location: string, reason: string) =>
  `\n${start} kfree_skb: skbaddr=00000000${skb} rx_sk=0000000000000000 ` +
  `protocol=2048 location=${location} reason: ${reason}`;
const stepsOf = (lines: string) =>
  fromTracepoints(trace(lines), PIDS)
    .map(({ step }) => step)
    .join(" ");

/**
 * The same ping in another lab, at almost the same time: other processes, other sk_buffs, the same devices
 * and addresses.
 */
const foreign = PING.replace(/^(\d+) (\d+)/gm, (_, time, pid) => `${Number(time) + 3} 9${pid}`)
  .replace(/skbaddr=0/g, "skbaddr=f")
  .replace(/^.* sys_.*$/gm, "");

test("fromTracepoints() gives each of one ping's events its step", () => {
  assert.equal(stepsOf(PING), STEPS);
});

test("fromTracepoints() takes a keepalive's frame for no answer: no packet is in it", () => {
  const keepalive = `
2500 7252 net_dev_start_xmit: dev=eth0 skbaddr=0000000068d8da9b protocol=0x0800 len=90
2501 7252 netif_receive_skb: dev=eth0 skbaddr=0000000068d8da9b len=76
2502 7330 skb_copy_datagram_iovec: skbaddr=0000000068d8da9b len=24`;
  assert.equal(stepsOf(PING + keepalive), STEPS);
});

test("fromTracepoints() takes no other VPN's packets for evidence, on whatever devices", () => {
  assert.equal(stepsOf(foreign), "");
  assert.equal(stepsOf(PING + foreign), STEPS);
});

/** The same over UDP: nothing says which datagram a program has read, but in whose sendmsg(2) it left. */
const UDP_PING = PING.replace(
  "\n1423 ",
  "\n1421 7330 sys_sendmsg(fd: 0x19, msg: 0x25185440, flags: 0)\n1423 ",
)
  .replace("\n2512 ", "\n2511 7252 sys_sendmsg(fd: 0x19, msg: 0x3b664730, flags: 0)\n2512 ")
  .replace(/^(1474|1476) .*\n/gm, "") // TCP's acknowledgement
  .replace(
    /^(1614 7252|3721 7330) .*$/gm,
    "$1 sock_recv_length: sk address = 00000000d0f8974e, family = AF_INET6 protocol = 0x11, " +
      "length = 132, error = 0, flags = 0x40",
  );
const KEEPALIVE = `
9000 7330 sys_sendmsg(fd: 0x19, msg: 0x25185440, flags: 0)
9001 7330 net_dev_start_xmit: dev=eth0 skbaddr=0000000068d8da9a protocol=0x0800 len=78
9002 7330 netif_receive_skb: dev=eth0 skbaddr=0000000068d8da9a len=64
9003 7252 sock_recv_length: sk address = 00000000d0f8974e, family = AF_INET6
  protocol = 0x11, length = 36, error = 0`.replace(/\n +/g, " ");

test("fromTracepoints() knows a datagram by the sendmsg(2) that it left in, and a read by its length", () => {
  assert.equal(stepsOf(UDP_PING), STEPS);
  assert.equal(stepsOf(UDP_PING + KEEPALIVE), STEPS, "a keepalive carries no packet");
  assert.equal(stepsOf(UDP_PING + foreign), STEPS, "another VPN's");
});

test("fromTracepoints() shows a packet as far as it came; drop() says where the kernel dropped it", () => {
  const refused =
    PING.slice(0, PING.indexOf("\n1985")) +
    freed("1985 7252", "790fc118", "ip_error+0x94/0x210", "IP_INADDRERRORS");
  assert.equal(stepsOf(refused), "1 3 4 6 7 7 8 9");
  assert.deepEqual(drop(trace(refused), PIDS), {
    after: "9",
    text: "dropped in ip_error(): IP_INADDRERRORS",
  });
  const redirect = freed("1980 7252", "c4e46bdb", "nf_hook_slow+0xb6/0x110", "NETFILTER_DROP");
  assert.deepEqual(
    drop(trace(refused.replace("\n1985", `${redirect}\n1985`)), PIDS),
    { after: "9", text: "dropped in ip_error(): IP_INADDRERRORS" },
    "no packet of the walk",
  );
  const output =
    PING.slice(0, PING.indexOf("\n774")) +
    freed("774 7504", "790fc118", "nf_hook_slow+0xb6/0x110", "NETFILTER_DROP");
  assert.deepEqual(
    drop(trace(output), PIDS),
    { after: "3", text: "dropped in nf_hook_slow(): NETFILTER_DROP" },
    "it has been on no device yet",
  );
  assert.equal(
    drop(trace(PING), PIDS),
    undefined,
    "ping_rcv() says NO_SOCKET of every answer: the raw socket has its own copy by then",
  );
  assert.equal(drop(trace(PING + refused.replace(/ 7/g, " 97")), PIDS), undefined, "another's");
});

/** An IPv4 packet of 60 bytes; NAT changes its source. */
const ipv4 = (identification: number, source = "0a080002") =>
  `4500003c${identification.toString(16).padStart(4, "0")}40004011beef${source}08080808`.padEnd(64, "0");

test("packetsOf() parts two packets of one frame, and their answers; two alike go by their order", () => {
  let time = 0n;
  const evidence: Evidence[] = [];
  const add = (step: string, source: Evidence["source"], text: string, more: Partial<Evidence> = {}) => {
    const host = /^[789]|^R[1-4]/.test(step) ? "server" : /^10/.test(step) ? "internet" : "client";
    evidence.push({ time: (time += 1n), step, host, source, text, hex: "", kind: "plain", ...more });
  };
  const tap = (step: string, device: string, hex: string, out: boolean, kind: Evidence["kind"] = "plain") => {
    const packet = { time, host: "", device, out, link: 0, bytes: Buffer.from(hex, "hex") };
    add(step, "tap", `${device} ${out ? "→" : "←"} 10.8.0.2 → 8.8.8.8 UDP 7`, { hex, kind, packet });
  };
  const ours = (step: string, id: string, hex: string, kind: Evidence["kind"] = "plain") =>
    add(step, "program", `${step} ${id}: …`, { hex, kind, id });
  const frame = "02000078deadbeef";
  const nat = (identification: number) => ipv4(identification, "cb007101");

  add("1", "tracepoint", "sendto, the first");
  tap("4", "tun0", ipv4(0), true);
  add("1", "tracepoint", "sendto, the second");
  tap("4", "tun0", ipv4(0), true); // alike: without fragments the kernel may leave the identification 0
  ours("6", "up1.0", ipv4(0));
  ours("6", "up1.1", ipv4(0));
  ours("6", "up1", frame, "frame");
  tap("7", "eth0", frame, true, "frame");
  ours("8", "up1.0", ipv4(0));
  ours("8", "up1.1", ipv4(0));
  tap("10", "eth0", nat(0), false);
  tap("10", "eth0", ipv4(5), true);
  add("10", "tracepoint", "of the first answer");
  tap("10", "eth0", nat(0), false);
  tap("10", "eth0", ipv4(6), true);
  tap("R7", "tun0", ipv4(5), false);
  add("R8", "tracepoint", "the first is delivered");
  tap("R7", "tun0", ipv4(6), false);
  add("R9", "output", "the second is printed");

  const [first, second, ...others] = packetsOf(evidence);
  assert.equal(others.length, 0);
  const times = (of: Evidence) => Number(of.time);
  assert.deepEqual(
    [...first!.evidence].map(times).sort((a, b) => a - b),
    [1, 2, 5, 7, 8, 9, 11, 12, 13, 16, 17],
  );
  assert.deepEqual(
    [...second!.evidence].map(times).sort((a, b) => a - b),
    [3, 4, 6, 7, 8, 10, 14, 15, 18, 19],
  );
  assert.equal(first!.name, "UDP 7");
});

test("make walk's lines are no wider than the terminal", (t) => {
  const lines: string[] = [];
  t.mock.method(console, "log", (text: string) => lines.push(...stripVTControlCharacters(text).split("\n")));
  const text = "eth0 → 192.168.1.100 → 192.168.1.1 TCP 60012 → 5555 PSH ACK 120 bytes";
  const hex = "02000074a08c930b";
  for (const columns of [80, 120])
    print([{ time: 0n, step: "7", host: "client", source: "tap", text, hex }], new Map(), columns);
  assert.deepEqual(
    lines.filter((line) => /eth0→/.test(line)),
    [
      "      +0 µs  client   tap        02 00 00 74 eth0→192.168.1.100→192.168.1.1 TCP…",
      "      +0 µs  client   tap        02 00 00 74 a0 8c 93 0b " +
        "eth0→192.168.1.100→192.168.1.1 TCP 60012→5555 PSH ACK 120 B",
    ],
  );
  const widest = Math.max(...lines.slice(0, lines.length / 2).map((line) => line.length));
  assert.ok(widest <= 80, `${widest} columns`);
});
