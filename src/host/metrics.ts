/** A program's numbers as Prometheus wants them: a unit at the end of a name, _total for what only grows. */
import type { Family, Sample } from "../base/prometheus.ts";
import type { PeerStatus, Status } from "../base/status.ts";

/** A program, and the labels that tell it from others. */
export interface Labelled {
  labels: Record<string, string>;
  status: Status;
}

type Own = [labels: Sample[0], value: number]; // of one program, without its own labels
type Metric = [name: string, help: string, samplesOf: (status: Status) => Own[]];

const one = (name: string, help: string, valueOf: (status: Status) => number): Metric => [
  name,
  help,
  (status) => [[{}, valueOf(status)]],
];

/** One sample for each peer that has the value. */
const ofPeers = (name: string, help: string, valueOf: (peer: PeerStatus) => number | undefined): Metric => [
  `peer_${name}`,
  help,
  ({ peers }) =>
    peers.flatMap((peer): Own[] => {
      const value = valueOf(peer);
      return value === undefined ? [] : [[{ inner: peer.inner }, value]];
    }),
];

const METRICS: Metric[] = [
  [
    "info",
    "Which program this is; always 1.",
    ({ version, transport, tun }) => [[{ version, transport, tun: tun.name }, 1]],
  ],
  one("connected", "1: it listens, or is connected to its server.", ({ state }) =>
    Number(state === "listening" || state === "connected"),
  ),
  one("mtu_bytes", "MTU of its TUN.", ({ tun }) => tun.mtu),
  ...(["sent", "received"] as const).flatMap((way) => [
    one(`${way}_packets_total`, `Packets ${way}, in frames.`, ({ counters }) => counters[way].packets),
    one(`${way}_bytes_total`, "Bytes of these packets.", ({ counters }) => counters[way].bytes),
    one(`${way}_frames_total`, `Frames ${way}.`, ({ counters }) => counters[way].frames),
  ]),
  [
    "dropped_packets_total",
    "Packets that went no further, by the reason's code.",
    ({ drops }) => Object.entries(drops).map(([code, count]) => [{ code }, count]),
  ],
  [
    "handshakes_total",
    "Tries to begin a session.",
    ({ handshakes }) => Object.entries(handshakes).map(([result, count]) => [{ result }, count]),
  ],
  one("rekeys_total", "Fresh keys in sessions that went on.", ({ rekeys }) => rekeys),
  one("reconnects_total", "A client's sessions after its first.", ({ reconnects }) => reconnects),
  [
    "socks_connections",
    "Programs that are connected to --socks.",
    ({ socks }) => (socks ? [[{}, socks.open]] : []),
  ],
  [
    "socks_requests_total",
    "Requests of programs to --socks.",
    ({ socks }) => (socks ? (["ok", "failed"] as const).map((result) => [{ result }, socks[result]]) : []),
  ],
  one("peers", "Sessions that there are.", ({ peerCount }) => peerCount),
  ...(["sent", "received"] as const).flatMap((way) => {
    const where = way === "sent" ? "to" : "from";
    return [
      ofPeers(`${way}_packets_total`, `Packets ${way} ${where} a peer.`, (peer) => peer[way].packets),
      ofPeers(`${way}_bytes_total`, "Bytes of these packets.", (peer) => peer[way].bytes),
    ];
  }),
  ofPeers("key_age_seconds", "Age of a peer's newest keys.", ({ keyAge }) => keyAge),
  ofPeers("last_seen_seconds", "Since the latest frame of a peer.", ({ lastSeen }) => lastSeen),
  ofPeers("connected_seconds", "Since a peer's session began.", ({ connected }) => connected),
  [
    "event_loop_delay_seconds",
    "How late the event loop was in the last second.",
    ({ loop }) => Object.entries(loop).map(([stat, ms]) => [{ stat }, ms / 1000]),
  ],
  one("resident_memory_bytes", "Memory that the program has.", ({ memory }) => memory.rss),
  one("heap_used_bytes", "Of it, JavaScript's.", ({ memory }) => memory.heapUsed),
];

/** The metrics of these programs, all of them under one name each. */
export function familiesOf(programs: Labelled[]): Family[] {
  return METRICS.map(([name, help, samplesOf]) => [
    `simple_vpn_${name}`,
    name.endsWith("_total") ? "counter" : "gauge",
    help,
    programs.flatMap(({ labels, status }) =>
      samplesOf(status).map(([own, value]): Sample => [{ ...labels, ...own }, value]),
    ),
  ]);
}

/** The names of all metrics: "simple_vpn_peers". */
export const METRIC_NAMES = familiesOf([]).map(([name]) => name);
