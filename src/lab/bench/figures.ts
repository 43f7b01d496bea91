/**
 * What `make bench` measures and aims at: median and spread over the repeats, ratios, and whether each target
 * was reached.
 */
import type { WireName } from "./wires.ts";

export const MEASURES = {
  up: { title: "TCP up", unit: "Gbit/s", better: "more" },
  down: { title: "TCP down", unit: "Gbit/s", better: "more" },
  udp: { title: "small UDP", unit: "k packets/s", better: "more" },
  idle: { title: "idle ping", unit: "ms", better: "less" },
  loaded: { title: "loaded ping", unit: "ms", better: "less" },
  cpu: { title: "CPU", unit: "s per GB", better: "less" },
  memory: { title: "peak memory", unit: "MB", better: "less" },
  // on near and far networks
  upLossy: { title: "4 × TCP up", unit: "Mbit/s", better: "more" },
  downLossy: { title: "4 × TCP down", unit: "Mbit/s", better: "more" },
} as const;
export type Measure = keyof typeof MEASURES;

/** A row of the table: by measure, one value a repeat; a hole where a repeat failed. */
export type Values = Partial<Record<Measure, number[]>>;
/** A table, one a wire: by name of the row. */
export type Rows = Record<string, Values>;

export interface Spread {
  median: number;
  min: number;
  max: number;
}

/** Median, least and greatest of the values; holes do not count. undefined: there are none. */
export function spread(values: number[] = []): Spread | undefined {
  const sorted = values.filter(Number.isFinite).sort((a, b) => a - b);
  const middle = (sorted.length - 1) / 2;
  if (sorted.length === 0) return undefined;
  return {
    median: (sorted[Math.floor(middle)]! + sorted[Math.ceil(middle)]!) / 2,
    min: sorted[0]!,
    max: sorted.at(-1)!,
  };
}

/**
 * How many times `b` is `a`: the quotient of each repeat by itself, for a machine's speed drifts, its ratios
 * do not.
 */
export const ratio = (a: number[] = [], b: number[] = []) =>
  spread(Array.from(a, (value, repeat) => value / (b[repeat] ?? NaN)));

/** One line of "how fast is fast enough": the measure of `row` against that of `than`, on one wire. */
export interface Target {
  wire: WireName;
  measure: Measure;
  row: string;
  than: string;
  bound: number; // of the ratio: at least this where more is better, at most this where less is
}
const one =
  (wire: WireName, measure: Measure) =>
  (row: string, than: string, bound: number): Target => ({ wire, measure, row, than, bound });
const bothWays =
  (wire: WireName, ...measures: [Measure, Measure]) =>
  (row: string, than: string, bound: number): Target[] =>
    measures.map((measure) => one(wire, measure)(row, than, bound));
const plain = bothWays("plain", "up", "down");
const honest = bothWays("honest", "up", "down");

export const TARGETS: Target[] = [
  ...plain("ours", "openvpn", 4),
  ...plain("ours", "c", 3.5),
  ...plain("ours", "c-aes", 0.9),
  ...plain("ours", "wireguard-go", 2),
  ...plain("ours", "none", 0.28),
  one("plain", "udp")("ours", "openvpn", 2.2),
  one("plain", "idle")("ours", "openvpn", 1.2),
  one("plain", "loaded")("ours", "openvpn", 0.6),
  ...plain("clients", "one", 0.8),
  ...plain("socks", "curl", 0.5),
  ...plain("udp", "openvpn", 6),
  ...plain("udp", "wireguard-go", 1.5),
  ...plain("udp", "ours", 0.7),
  ...honest("udp", "openvpn", 4),
  ...honest("udp", "wireguard-go", 1.2),
  ...honest("udp", "ours", 0.5),
  ...(["plain", "honest"] as const).flatMap((wire) => [
    one(wire, "udp")("udp", "openvpn", 1.3),
    one(wire, "idle")("udp", "openvpn", 1.2),
    one(wire, "loaded")("udp", "openvpn", 0.6),
  ]),
  ...plain("raw", "openvpn-tcp", 2),
  ...honest("raw", "openvpn-tcp", 2),
  ...plain("quic", "openvpn", 1.2),
  ...honest("quic", "openvpn", 1.2),
  ...(["loss1", "loss3"] as const).flatMap((wire) =>
    bothWays(wire, "upLossy", "downLossy")("udp", "ours", 1.5),
  ),
  ...bothWays("loss3", "upLossy", "downLossy")("raw", "ours", 1.5),
];

export interface Verdict extends Target {
  ratio: Spread | undefined; // undefined: one of the two was not measured
  reached: boolean;
}

/** Each target, held against what was measured. */
export function judge(tables: Partial<Record<WireName, Rows>>): Verdict[] {
  return TARGETS.map((target) => {
    const { wire, measure, row, than, bound } = target;
    const rows = tables[wire] ?? {};
    const measured = ratio(rows[row]?.[measure], rows[than]?.[measure]);
    const reached =
      measured !== undefined &&
      (MEASURES[measure].better === "more" ? measured.median >= bound : measured.median <= bound);
    return { ...target, ratio: measured, reached };
  });
}

/** Three digits, whatever the size: 0.068, 1.56, 87.0, 690. */
export const show = (value: number) =>
  value.toFixed(value >= 100 ? 0 : value >= 10 ? 1 : value >= 0.1 ? 2 : 3);
