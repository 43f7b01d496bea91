/** Prometheus' text format (prometheus.io/docs/instrumenting/exposition_formats, version 0.0.4). */

/** One metric: its values, by their labels. Those of a summary also by the end of their name. */
export type Family = [name: string, type: "counter" | "gauge" | "summary", help: string, samples: Sample[]];
export type Sample = [labels: Record<string, string | number>, value: number, end?: "_sum" | "_count"];

export const PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"; // media type

export function render(families: Family[]): string {
  const lines = families.flatMap(([name, type, help, samples]) => [
    `# HELP ${name} ${help}`,
    `# TYPE ${name} ${type}`,
    ...samples.map(([labels, value, end = ""]) => `${name}${end}${braces(labels)} ${Number(value)}`),
  ]);
  return `${lines.join("\n")}\n`;
}

/** {a="1",b="2"}; backslash, quote and newline are escaped, and nothing else may be. */
function braces(labels: Sample[0]): string {
  const escaped = (text: string) => text.replace(/[\\"]/g, "\\$&").replaceAll("\n", "\\n");
  const pairs = Object.entries(labels).map(([name, value]) => `${name}="${escaped(String(value))}"`);
  return pairs.length > 0 ? `{${pairs}}` : "";
}
