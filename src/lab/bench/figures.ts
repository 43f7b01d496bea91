/**
 * What `make bench` measures and aims at: median and spread over the repeats, ratios, and whether each target
 * was reached.
 */

export const MEASURES = {
  up: { title: "TCP up", unit: "Gbit/s", better: "more" },
  down: { title: "TCP down", unit: "Gbit/s", better: "more" },
  udp: { title: "small UDP", unit: "k packets/s", better: "more" },
  idle: { title: "idle ping", unit: "ms", better: "less" },
  loaded: { title: "loaded ping", unit: "ms", better: "less" },
  cpu: { title: "CPU", unit: "s per GB", better: "less" },
  memory: { title: "peak memory", unit: "MB", better: "less" },
} as const;
export type Measure = keyof typeof MEASURES;

/** A row of the table: by measure, one value a repeat; a hole where a repeat failed. */
export type Values = Partial<Record<Measure, number[]>>;

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

/** One line of "how fast is fast enough": the measure of `row` against that of `than`. */
export interface Target {
  measure: Measure;
  row: string;
  than: string;
  bound: number; // of the ratio: at least this where more is better, at most this where less is
}
const ours = (measure: Measure, than: string, bound: number): Target => ({
  measure,
  row: "ours",
  than,
  bound,
});
const bothWays = (row: string, than: string, bound: number): Target[] => [
  { measure: "up", row, than, bound },
  { measure: "down", row, than, bound },
];
export const TARGETS: Target[] = [
  ...bothWays("ours", "openvpn", 4),
  ...bothWays("ours", "c", 3.5),
  ...bothWays("ours", "wireguard-go", 5),
  ...bothWays("ours", "none", 0.28),
  ours("udp", "openvpn", 2.2),
  ours("idle", "openvpn", 1.3),
  ours("loaded", "openvpn", 0.6),
  ...bothWays("clients", "one", 0.8),
];

export interface Verdict extends Target {
  ratio: Spread | undefined; // undefined: one of the two was not measured
  reached: boolean;
}

/** Each target, held against what was measured. */
export function judge(rows: Record<string, Values>): Verdict[] {
  return TARGETS.map((target) => {
    const { measure, row, than, bound } = target;
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
