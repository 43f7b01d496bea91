import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { Counter } from "../base/counters.ts";
import { render } from "../base/prometheus.ts";
import type { PeerStatus, Status } from "../base/status.ts";
import { inPath } from "./command.ts";
import { familiesOf, type Labelled, METRIC_NAMES } from "./metrics.ts";
import { ROOT } from "../lab/lab.ts";

const amount = (packets: number, bytes: number) => ({ packets, bytes });
const count = (packets: number, bytes: number, frames: number) =>
  Object.assign(new Counter(), { packets, bytes, frames });
const peer = (inner: string): PeerStatus => ({
  inner,
  remote: "192.168.1.100:40312",
  sent: amount(3, 252),
  received: amount(4, 336),
  keyAge: 61.5,
  lastSeen: 0.4,
  connected: 300,
});
const STATUS: Status = {
  type: "status",
  time: "2026-01-01T00:00:00.000Z",
  role: "server",
  pid: 7,
  version: "1.2.3",
  state: "listening",
  tun: { name: "tun0", mtu: 1400 },
  transport: "tcp",
  endpoint: "*:5555",
  inner: ["10.8.0.1/24"],
  counters: { sent: count(3, 252, 2), received: count(4, 336, 3) },
  drops: { "socket-full": 5, "wrong-source": 1 },
  handshakes: { ok: 2, failed: 1 },
  rekeys: 4,
  reconnects: 0,
  peers: [peer("10.8.0.2"), { ...peer("10.8.0.3"), inner6: "fd56:504e::a08:3" }],
  peerCount: 2,
  loop: { p50: 0.1, p99: 12, max: 250 },
  memory: { rss: 60_000_000, heapUsed: 9_000_000 },
};
const { keyAge: _, ...keyless } = peer("10.8.0.1");
const CLIENT: Status = { ...STATUS, role: "client", state: "reconnecting", drops: {}, peers: [keyless] };
const metricsText = (programs: Labelled[]) => render(familiesOf(programs));
const two = metricsText([
  { labels: { name: "class", role: "server" }, status: STATUS },
  { labels: { name: 'a "quoted"\t\\ name\nof two lines', role: "client" }, status: CLIENT },
]);

test("each metric has its HELP and TYPE once, and behind them a sample for each program", () => {
  const lines = two.split("\n");
  for (const name of METRIC_NAMES) {
    assert.equal(lines.filter((line) => line.startsWith(`# HELP ${name} `)).length, 1, name);
    assert.equal(lines.filter((line) => line.startsWith(`# TYPE ${name} `)).length, 1, name);
  }
  for (const line of [
    "# TYPE simple_vpn_sent_bytes_total counter",
    'simple_vpn_info{name="class",role="server",version="1.2.3",transport="tcp",tun="tun0"} 1',
    'simple_vpn_connected{name="class",role="server"} 1',
    'simple_vpn_received_packets_total{name="class",role="server"} 4',
    'simple_vpn_dropped_packets_total{name="class",role="server",code="socket-full"} 5',
    'simple_vpn_handshakes_total{name="class",role="server",result="failed"} 1',
    'simple_vpn_peer_sent_bytes_total{name="class",role="server",inner="10.8.0.3"} 252',
    'simple_vpn_peer_key_age_seconds{name="class",role="server",inner="10.8.0.2"} 61.5',
    'simple_vpn_event_loop_delay_seconds{name="class",role="server",stat="max"} 0.25',
    'simple_vpn_connected{name="a \\"quoted\\"\t\\\\ name\\nof two lines",role="client"} 0',
  ])
    assert.ok(lines.includes(line), `${line}\nis not in\n${two}`);
  assert.equal(
    lines.filter((line) => line.startsWith("simple_vpn_peer_key_age_seconds{")).length,
    2,
    "no keys",
  );
});

test("no program, no sample; a program alone may have no labels", () => {
  assert.doesNotMatch(metricsText([]), /^[^#]/m);
  assert.match(metricsText([{ labels: {}, status: STATUS }]), /^simple_vpn_peers 2$/m);
});

test("the document and the dashboard name these metrics, and no others", () => {
  const names = (file: string) => {
    const found = readFileSync(join(ROOT, "draft", file), "utf8").match(/simple_vpn_[a-z\d_]+(?<!_)/g);
    return [...new Set(found)];
  };
  assert.deepEqual(names("status.md").sort(), [...METRIC_NAMES].sort());
  const shown = names("grafana.json");
  assert.deepEqual(
    shown.filter((name) => !METRIC_NAMES.includes(name)),
    [],
  );
  const dashboard = JSON.parse(readFileSync(join(ROOT, "draft/grafana.json"), "utf8"));
  assert.ok(dashboard.panels.length >= 8 && shown.length >= 12);
  for (const { targets } of dashboard.panels)
    for (const { expr, legendFormat } of targets) {
      const name = /simple_vpn_\w+/.exec(expr)![0];
      assert.equal(/^(rate|increase)\(/.test(expr), name.endsWith("_total"), expr);
      const line = new RegExp(`^${name}\\{(.*)\\} `, "m").exec(two)![1]!;
      const labels = [...line.matchAll(/(\w+)="/g)].map(([, label]) => label!);
      for (const [, label] of legendFormat.matchAll(/\{\{(\w+)\}\}/g))
        assert.ok(labels.includes(label), expr);
    }
});

test("promtool finds nothing to object to", (t) => {
  if (!inPath("promtool")) return t.skip("promtool is not installed: apt-get install prometheus");
  for (const input of [two, metricsText([{ labels: { role: "client" }, status: CLIENT }])]) {
    const { status, stdout, stderr } = spawnSync("promtool", ["check", "metrics"], {
      input,
      encoding: "utf8",
    });
    assert.deepEqual([status, stdout, stderr], [0, "", ""]);
  }
});
