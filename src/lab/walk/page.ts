/**
 * The pictures of a walk: walk.svg, its swim lanes, and walk.html, which plays it. Both are one file each and
 * load nothing.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { ROOT } from "../lab.ts";
import { escape, markdown } from "./markdown.ts";
import { type Evidence, type Lane, WALK } from "./timeline.ts";

const LANES: Lane[] = [
  "application",
  "client kernel",
  "client tun0",
  "client program",
  "wire",
  "server program",
  "server kernel",
  "internet",
];
const [LANE, ROW, TOP, LEFT] = [172, 60, 84, 100]; // px
const [WIDTH, HEIGHT] = [LEFT * 2 + LANE * (LANES.length - 1), TOP + ROW * WALK.length + 10]; // px
const HEAD = 68; // px: the lanes' names are above it

const stepsOf = (evidence: Evidence[]) => {
  const start = evidence[0]?.time ?? 0n;
  const place = (one: Evidence) => ({
    micros: Number((one.time - start) / 1000n),
    host: one.host,
    source: one.source,
    text: one.text,
    hex: one.hex,
    kind: one.kind,
    atMost: one.atMost,
  });
  return WALK.map((step) => ({
    ...step,
    anchor: anchorOf(step.id),
    evidence: evidence.filter((one) => one.step === step.id).map(place),
  }));
};

/** The section of walkthrough.md about a step. */
export const anchorOf = (id: string) => `step-${id.toLowerCase()}`;

const x = (lane: Lane) => LEFT + LANE * LANES.indexOf(lane);

/** The lanes' names. */
function names(): string {
  const name = (lane: Lane) =>
    lane
      .split(" ")
      .map(
        (word, i, all) => `<tspan x="${x(lane)}" y="${all.length === 1 ? 44 : 28 + 30 * i}">${word}</tspan>`,
      );
  return LANES.map(
    (lane) => `<text text-anchor="middle" font-weight="600">${name(lane).join("")}</text>`,
  ).join("\n");
}

/** The swim lanes, one row a step, with the microsecond of its first evidence. */
function lanes(evidence: Evidence[]): string {
  const y = (row: number) => TOP + ROW * row + ROW / 2;
  const steps = stepsOf(evidence);
  const parts = LANES.map(
    (lane) => `<line class="lane" x1="${x(lane)}" y1="${HEAD}" x2="${x(lane)}" y2="${HEIGHT}"/>`,
  );
  for (const [i, { id, lane }] of WALK.entries()) {
    const next = WALK[i + 1];
    if (!next) continue;
    const way = id.startsWith("R") || next.id === "R1" ? "down" : "up";
    const ends = `x1="${x(lane)}" y1="${y(i)}" x2="${x(next.lane)}" y2="${y(i + 1)}"`;
    parts.push(`<line class="${way}" ${ends} stroke-width="3"/>`);
  }
  for (const [i, { id, lane, title, evidence: seen }] of steps.entries()) {
    const [right, back] = [LANES.indexOf(lane) < 4, id.startsWith("R")];
    const [cx, cy] = [x(lane), y(i)];
    // clear of the lines, which come from above and leave below
    const labelY = cy + 9 + (id === "10" ? 0 : right === back ? 12 : -12);
    const labelX = cx + (right ? 34 : -34);
    const [first] = seen;
    const when = first ? ` <tspan class="dim">${first.atMost ? "≤ " : ""}+${first.micros} µs</tspan>` : "";
    const knob = `knob ${back ? "down" : "up"}${first ? "" : " missing"}`;
    const name = `step ${id}: ${escape(title)}`;
    parts.push(
      `<g class="step" tabindex="0" role="button" aria-label="${name}" data-x="${cx}" data-y="${cy}">` +
        `<circle class="${knob}" cx="${cx}" cy="${cy}" r="25" stroke-width="3"/>` +
        `<text class="id" x="${cx}" y="${cy + 9}" text-anchor="middle" font-weight="600">${id}</text>` +
        `<text class="label" x="${labelX}" y="${labelY}" text-anchor="${right ? "start" : "end"}">` +
        `${escape(title)}${when}</text></g>`,
    );
  }
  parts.push(
    `<g id="packet" style="pointer-events:none"><rect x="-28" y="19" width="56" height="15" rx="4"/></g>`,
  );
  return parts.join("\n");
}

/** An svg element that shows the rows of the drawing from `top` to `bottom`. */
function drawing(attributes: string, top: number, bottom: number, parts: string): string {
  const look = 'font-family="system-ui, sans-serif" font-size="27" stroke-linecap="round"';
  return `<svg ${attributes} viewBox="0 ${top} ${WIDTH} ${bottom - top}" ${look}>${parts}</svg>`;
}

/** walk.svg: the lanes alone, with their own colours, for README.md. */
export function svg(evidence: Evidence[]): string {
  const style = `<style>
    svg { background: #fff } text { fill: #1a1c20 } .dim { fill: #6b7280 } .lane { stroke: #d5d9e0 }
    .label { paint-order: stroke; stroke: #fff; stroke-width: 6 }
    .up { stroke: #1d4ed8 } .down { stroke: #15803d } .knob { fill: #fff }
    .missing { stroke-dasharray: 3 3 } #packet { display: none }
  </style>`;
  return drawing('xmlns="http://www.w3.org/2000/svg"', 0, HEIGHT, `${style}${names()}\n${lanes(evidence)}`);
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
  const data = JSON.stringify({
    command,
    lacking: Object.fromEntries(lacking),
    steps: stepsOf(evidence),
  }).replace(/</g, "\\u003c");
  // the names stay when the rest scrolls
  const drawings = drawing('id="lanes"', 0, HEAD, names()) + drawing("", HEAD, HEIGHT, lanes(evidence));
  const picture = `<div id="picture" style="--shape: ${WIDTH} / ${HEIGHT}">${drawings}</div>`;
  const parts: Record<string, string> = {
    "<!--SVG-->": picture,
    "<!--SECTIONS-->": sections(),
    "/*DATA*/null": data,
  };
  return page.replace(/<!--SVG-->|<!--SECTIONS-->|\/\*DATA\*\/null/g, (place) => parts[place]!);
}
