/**
 * The pictures of a walk: walk.svg, its swim lanes, and walk.html, which plays it. Both are one file each and
 * load nothing.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { fill, heightOf, lanes, LANES_CSS, LANES_JS, literal, TALL, widthOf } from "../../picture/lanes.ts";
import { WALK } from "../../picture/steps.ts";
import { ROOT } from "../lab.ts";
import { markdown } from "./markdown.ts";
import type { Evidence } from "./timeline.ts";

const stepsOf = (evidence: Evidence[]) => {
  const start = evidence[0]?.time ?? 0n;
  const place = ({ time, host, source, text, hex, kind, atMost }: Evidence) => ({
    when: `${atMost ? "≤ " : ""}+${(time - start) / 1000n}`, // µs
    host,
    source,
    text,
    hex,
    kind,
  });
  return WALK.map((step) => ({
    ...step,
    anchor: anchorOf(step.id),
    evidence: evidence.filter((one) => one.step === step.id).map(place),
  }));
};

/** The section of walkthrough.md about a step. */
export const anchorOf = (id: string) => `step-${id.toLowerCase()}`;

/** The picture, with the microsecond of each step's first evidence. */
function picture(evidence: Evidence[], parted: boolean, shape = TALL): string {
  const first = new Map(stepsOf(evidence).map(({ id, evidence: [one] }) => [id, one && `${one.when} µs`]));
  return lanes(shape, (id) => first.get(id), parted);
}

/** walk.svg: the lanes alone, with their own colours, for README.md. */
export function svg(evidence: Evidence[]): string {
  const style = `<style>${LANES_CSS} svg { background: var(--page) }</style>`;
  const drawn = picture(evidence, false, { ...TALL, left: 110 }); // no packet moves in it
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
  const page = readFileSync(join(ROOT, "src/lab/walk/page.html"), "utf8");
  const data = { command, lacking: Object.fromEntries(lacking), steps: stepsOf(evidence) };
  return fill(page, {
    CSS: LANES_CSS,
    JS: LANES_JS,
    SHAPE: `--shape: ${widthOf(TALL)} / ${heightOf(TALL)}`,
    PICTURE: picture(evidence, true), // in two: the names stay when the rest scrolls
    SECTIONS: sections(),
    DATA: literal(data),
  });
}
