/**
 * The pictures of a walk: walk.svg, its swim lanes, and walk.html, which plays it. Both are one file each and
 * load nothing.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { fill, HEIGHT, lanes, LANES_CSS, LANES_JS, literal, WIDTH } from "../../picture/lanes.ts";
import { WALK } from "../../picture/steps.ts";
import { ROOT } from "../lab.ts";
import { markdown } from "./markdown.ts";
import { packetsOf, type Sent } from "./packets.ts";
import type { Evidence } from "./timeline.ts";

const stepsOf = (evidence: Evidence[], packets: Sent[]) => {
  const start = evidence[0]?.time ?? 0n;
  const place = (one: Evidence) => ({
    when: `${one.atMost ? "≤ " : ""}+${(one.time - start) / 1000n}`, // µs
    host: one.host,
    source: one.source,
    text: one.text,
    hex: one.hex,
    kind: one.kind,
    of: packets.flatMap((packet, i) => (packet.evidence.has(one) ? [i] : [])),
  });
  return WALK.map((step) => ({
    ...step,
    anchor: anchorOf(step.id),
    evidence: evidence.filter((one) => one.step === step.id).map(place),
  }));
};

/** The section of walkthrough.md about a step. */
export const anchorOf = (id: string) => `step-${id.toLowerCase()}`;

/** walk.svg: the lanes alone, with the microsecond of each step's first evidence, for README.md. */
export function svg(evidence: Evidence[]): string {
  const style = `<style>${LANES_CSS} svg { background: var(--page) }</style>`;
  const first = new Map(
    stepsOf(evidence, []).map(({ id, evidence: [one] }) => [id, one && `${one.when} µs`]),
  );
  const drawn = lanes((id) => first.get(id), false, 150); // no packet moves in it
  return drawn.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"').replace(">", `>${style}`);
}

/** What walkthrough.md says about each step. */
function sections(): string {
  const text = readFileSync(join(ROOT, "walkthrough.md"), "utf8");
  const section = (anchor: string) =>
    new RegExp(`<a id="${anchor}"></a>\n([^]*?)\n(<a id=|## )`).exec(text)?.[1] ?? "";
  return WALK.map(
    ({ id }) => `<article id="${anchorOf(id)}">${markdown(section(anchorOf(id)))}</article>`,
  ).join("\n");
}

/**
 * walk.html: the lanes, the packet that moves through them, the bytes at each step, and its story. `lacking`:
 * why a step has no evidence.
 */
export function html(evidence: Evidence[], command: string, lacking: Map<string, string>): string {
  const read = (file: string) => readFileSync(join(ROOT, "src/lab/walk", file), "utf8");
  const packets = packetsOf(evidence);
  const data = {
    command,
    lacking: Object.fromEntries(lacking),
    packets: packets.map(({ name }, i) => `${i + 1} ${name}`),
    steps: stepsOf(evidence, packets),
  };
  return fill(read("page.html"), {
    CSS: LANES_CSS,
    LANES: LANES_JS,
    PAGE: read("page.js"),
    SHAPE: `--shape: ${WIDTH} / ${HEIGHT}`,
    PICTURE: lanes(() => "", true), // in two: the names stay when the rest scrolls
    SECTIONS: sections(),
    DATA: literal(data),
  });
}
