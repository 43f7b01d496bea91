/**
 * Numbers for Prometheus, in its text format: https://prometheus.io/docs/instrumenting/exposition_formats/
 * Names by its conventions: a unit at the end, _total for what only grows.
 */
import type { Status } from "../base/status.ts";

/** A program, and the labels that tell it from others. */
export interface Labelled {
  labels: Record<string, string>;
  status: Status;
}

type Sample = [value: number, labels?: Record<string, string>];
interface Metric {
  name: string; // without "simple_vpn_"
  type: "counter" | "gauge";
  help: string;
  samples: (status: Status) => Sample[];
}

const one = (
  name: string,
  type: Metric["type"],
  help: string,
  value: (status: Status) => number,
): Metric => ({ name, type, help, samples: (status) => [[value(status)]] });

/** One sample for each peer that has the value. */
const ofPeers = (
  name: string,
  type: Metric["type"],
  help: string,
  value: (peer: Status["peers"][number]) => number | undefined,
): Metric => ({
  name: `peer_${name}`,
  type,
  help,
  samples: ({ peers }) =>
    peers.flatMap((peer): Sample[] => {
      const number = value(peer);
      return number === undefined ? [] : [[number, { inner: peer.inner }]];
    }),
});

const METRICS: Metric[] = [
  {
    name: "info",
    type: "gauge",
    help: "Which program this is; always 1.",
    samples: ({ version, transport, tun }) => [[1, { version, transport, tun: tun.name }]],
  },
  one("connected", "gauge", "1: it listens, or is connected to its server.", ({ state }) =>
    Number(state === "listening" || state === "connected"),
  ),
  one("mtu_bytes", "gauge", "MTU of its TUN.", ({ tun }) => tun.mtu),
  ...(["sent", "received"] as const).flatMap((way) => [
    one(
      `${way}_packets_total`,
      "counter",
      `Packets ${way}, in frames.`,
      (status) => status.counters[way].packets,
    ),
    one(`${way}_bytes_total`, "counter", `Bytes of these packets.`, (status) => status.counters[way].bytes),
    one(`${way}_frames_total`, "counter", `Frames ${way}.`, (status) => status.counters[way].frames),
  ]),
  {
    name: "dropped_packets_total",
    type: "counter",
    help: "Packets that went no further, by the reason's code.",
    samples: ({ drops }) => Object.entries(drops).map(([code, count]) => [count, { code }]),
  },
  {
    name: "handshakes_total",
    type: "counter",
    help: "Tries to begin a session.",
    samples: ({ handshakes: { ok, failed } }) => [
      [ok, { result: "ok" }],
      [failed, { result: "failed" }],
    ],
  },
  one("rekeys_total", "counter", "Fresh keys in sessions that went on.", ({ rekeys }) => rekeys),
  one("reconnects_total", "counter", "A client's sessions after its first.", ({ reconnects }) => reconnects),
  one("peers", "gauge", "Sessions that there are.", ({ peerCount }) => peerCount),
  ofPeers("sent_packets_total", "counter", "Packets sent to a peer.", ({ sent }) => sent.packets),
  ofPeers("sent_bytes_total", "counter", "Bytes of these packets.", ({ sent }) => sent.bytes),
  ofPeers(
    "received_packets_total",
    "counter",
    "Packets received from a peer.",
    ({ received }) => received.packets,
  ),
  ofPeers("received_bytes_total", "counter", "Bytes of these packets.", ({ received }) => received.bytes),
  ofPeers("key_age_seconds", "gauge", "Age of a peer's newest keys.", ({ keyAge }) => keyAge),
  ofPeers("last_seen_seconds", "gauge", "Since the latest frame of a peer.", ({ lastSeen }) => lastSeen),
  ofPeers("connected_seconds", "gauge", "Since a peer's session began.", ({ connected }) => connected),
  {
    name: "event_loop_delay_seconds",
    type: "gauge",
    help: "How late the event loop was in the last second.",
    samples: ({ loop }) => (["p50", "p99", "max"] as const).map((stat) => [loop[stat] / 1000, { stat }]),
  },
  one("resident_memory_bytes", "gauge", "Memory that the program has.", ({ memory }) => memory.rss),
  one("heap_used_bytes", "gauge", "Of it, JavaScript's.", ({ memory }) => memory.heapUsed),
];

/** The names of all metrics: "simple_vpn_peers". */
export const METRIC_NAMES = METRICS.map(({ name }) => `simple_vpn_${name}`);

/** All metrics of these programs; each name once, with the samples of all programs behind it. */
export function metricsText(programs: Labelled[]): string {
  const all = programs.map(({ labels, status }) => ({ own: labelText(labels), status }));
  return METRICS.map(({ name, type, help, samples }) => {
    const full = `simple_vpn_${name}`;
    const lines = all.flatMap(({ own, status }) =>
      samples(status).map(([value, more]) => {
        const labels = [own, more && labelText(more)].filter(Boolean).join();
        return `${full}${labels && `{${labels}}`} ${value}\n`;
      }),
    );
    return lines.length === 0 ? "" : `# HELP ${full} ${help}\n# TYPE ${full} ${type}\n${lines.join("")}`;
  }).join("");
}

/** `name="a",role="b"`; in values, a backslash, a quote and the end of a line have a backslash in front. */
function labelText(labels: Record<string, string>): string {
  const escape = (text: string) => text.replace(/[\\"]/g, "\\$&").replace(/\n/g, "\\n");
  return Object.entries(labels)
    .map(([name, value]) => `${name}="${/[\\"\n]/.test(value) ? escape(value) : value}"`)
    .join();
}
