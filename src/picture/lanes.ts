/**
 * The picture of the walk: eight lanes, nineteen steps, as svg. walk.html, walk.svg and the manager's page
 * have it. lanes.css gives it colours, in both. lanes.js moves the packet in it.
 */
import { readFileSync } from "node:fs";
import { type Lane, LANES, WALK } from "./steps.ts";

// The measures, px. A page scales the picture: as a whole it fits 1280 × 720, with letters of 20 px.
const LANE = 130; // between two lanes
const ROW = 31; // between two steps
const LEFT = 190; // beside the first and the last lane: room for the packet
const HEAD = 54; // the machines' and the lanes' names
const FONT = 21;
const KNOB = 14; // half the height of a step's knob
const TOP = 16; // between the head and the first row
const TOKEN = Math.round(FONT * 8); // the packet's width: a lock, and eleven letters of a monospace font

export const WIDTH = LEFT * 2 + LANE * (LANES.length - 1);
export const HEIGHT = HEAD + TOP + ROW * WALK.length + 6;

const isReply = (id: string) => id.startsWith("R");
/** Text as it must be written in html and svg. */
export const escape = (text: string) =>
  text.replace(/[&<>"]/g, (sign) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[sign]!);
const at = (x1: number, y1: number, x2: number, y2: number) => `x1="${x1}" y1="${y1}" x2="${x2}" y2="${y2}"`;

/** The machines' bands, from one lane to another. The wire is between them. */
const MACHINES: [name: string, from: Lane, to: Lane][] = [
  ["client machine", "application", "client program"],
  ["server machine", "server program", "server kernel"],
  ["internet", "internet", "internet"],
];
/** Between these steps is the tunnel: what is in it is sealed. */
const TUNNEL = new Set(["6", "7", "8", "R4", "R5", "R6"]);

const x = (lane: Lane) => LEFT + LANE * LANES.indexOf(lane);
const y = (row: number) => HEAD + TOP + ROW * (row + 0.5);

/** The machines: a band for each. */
const bands = MACHINES.map(([, from, to]) => {
  const [left, right] = [x(from) - LANE / 2 + 4, x(to) + LANE / 2 - 4];
  return `<rect class="machine" x="${left}" y="0" width="${right - left}" height="${HEIGHT}" rx="10"/>`;
}).join("");

/** The names: of the machines, and below them of their lanes. */
function names(): string {
  const machines = MACHINES.map(
    ([name, from, to]) =>
      `<text text-anchor="middle" font-weight="600" x="${(x(from) + x(to)) / 2}" y="22">${name}</text>`,
  );
  const lanes = LANES.filter((lane) => lane !== "internet").map(
    (lane) => `<text text-anchor="middle" x="${x(lane)}" y="46">${lane.split(" ").at(-1)}</text>`,
  );
  return [...machines, ...lanes].join("\n");
}

/** A piece of the way; `inside` the tunnel, a tube around it. */
const way = (ends: string, direction: "up" | "down", inside: boolean) =>
  (inside ? `<line class="tunnel" ${ends}/><line class="bore" ${ends}/>` : "") +
  `<line class="${direction}" ${ends} stroke-width="3"/>`;

/** The lanes, and the packet's way from step to step. */
function ground(): string {
  const lines = LANES.map((lane) => `<line class="lane" ${at(x(lane), HEAD, x(lane), HEIGHT)}/>`);
  const ways = WALK.slice(1).map((step, i) => {
    const { id, lane: from } = WALK[i]!;
    const inside = TUNNEL.has(id) && TUNNEL.has(step.id);
    return way(at(x(from), y(i), x(step.lane), y(i + 1)), isReply(step.id) ? "down" : "up", inside);
  });
  return [bands, ...lines, ...ways].join("\n");
}

/** What the signs mean, below the way back, where nothing else is. */
function legend(): string {
  const left = x("server program") + 80;
  const [tokens, tunnel, ways] = [4, 3, 2].map((fromEnd) => y(WALK.length - fromEnd) - ROW / 2);
  const word = (wordX: number, row: number, text: string) =>
    `<text x="${wordX}" y="${row + FONT / 3}">${text}</text>`;
  let next = left;
  const kinds = ["plain", "xor", "sealed"].map((kind) => {
    const width = Math.round(FONT * (1.7 + 0.6 * kind.length));
    next += width + 8;
    const place = `translate(${next - width - 8} ${tokens})`;
    return `<g class="${kind}" transform="${place}">${token(width, kind)}</g>`;
  });
  const parts = [
    ...kinds,
    way(at(left + 12, tunnel!, left + 62, tunnel!), "up", true),
    word(left + 84, tunnel!, "the tunnel"),
    way(at(left + 2, ways!, left + 42, ways!), "up", false),
    word(left + 50, ways!, "there"),
    way(at(left + 122, ways!, left + 162, ways!), "down", false),
    word(left + 170, ways!, "and back"),
  ];
  return `<g class="legend">${parts.join("\n")}</g>`;
}

/** A step: its knob, and beside it what happens, with `note` behind it. `missing`: without evidence. */
function step(index: number, note: string, missing: boolean): string {
  const { id, lane, title } = WALK[index]!;
  const [cx, cy, middle] = [x(lane), y(index), FONT / 3];
  // where the text is; opposite: the packet. At R4 and R5 the text is clear of the tunnel, the packet in it
  const isEnd = id === "R4" || id === "R5";
  const right = LANES.indexOf(lane) < LANES.length / 2 !== isEnd;
  // clear of the lines, which come from above and leave below
  const far = id === "10" ? 0 : TUNNEL.has(id) || id === "R7" ? 9 : 6;
  const aside = right === isReply(id) ? far : -far;
  const half = FONT * 0.85; // of the knob's width: "R9" fits
  const labelX = cx + (right ? 1 : -1) * (id === "10" ? half * 3 : half + 8);
  const packetX = right ? cx - half - 4 - TOKEN : cx + half + 4;
  const name = `step ${id}: ${escape(title)}`;
  return (
    `<g class="step" tabindex="0" role="button" aria-label="${name}" data-x="${packetX}" data-y="${cy}">` +
    `<rect class="knob ${isReply(id) ? "down" : "up"}${missing ? " missing" : ""}" stroke-width="3" ` +
    `x="${cx - half}" y="${cy - KNOB}" width="${half * 2}" height="${KNOB * 2}" rx="${KNOB}"/>` +
    `<text class="id" x="${cx}" y="${cy + middle}" text-anchor="middle" font-weight="600">${id}</text>` +
    `<text class="label" x="${labelX}" y="${cy + middle + aside}" ` +
    `text-anchor="${right ? "start" : "end"}">${escape(title)} <tspan class="dim">${escape(note)}</tspan>` +
    "</text></g>"
  );
}

/** A packet with a text: a lock, open or closed, and the flap of an envelope, seen only on a sealed one. */
function token(width: number, text: string): string {
  const height = FONT * 1.3;
  const [shackle, body] = [
    "M -5 -2 v -4 a 5 5 0 0 1 10 0 v 4",
    'x="-8" y="-2" width="16" height="12" rx="2"',
  ];
  const lock = `transform="translate(${FONT * 0.48} ${FONT * -0.08}) scale(${FONT / 27})"`;
  const flap = `M 3 ${2 - height / 2} L ${width / 2} ${height * -0.27} L ${width - 3} ${2 - height / 2}`;
  return (
    `<g class="token"><rect y="${-height / 2}" width="${width}" height="${height}" rx="5"/>` +
    `<path class="flap" d="${flap}"/>` +
    `<g class="lock" ${lock}><path d="${shackle}"/><rect ${body}/></g>` +
    `<text x="${width - 5}" y="${FONT / 3}" text-anchor="end">${text}</text></g>`
  );
}

/** An svg element that shows the drawing from `top` to `bottom`, `margin` px beside its first lane. */
function svg(attributes: string, top: number, bottom: number, margin: number, parts: string): string {
  const look = `font-family="system-ui, sans-serif" font-size="${FONT}" stroke-linecap="round"`;
  const box = `${LEFT - margin} ${top} ${WIDTH - 2 * (LEFT - margin)} ${bottom - top}`;
  return `<svg ${attributes} viewBox="${box}" ${look}>${parts}</svg>`;
}

/** What is written behind a step's title. undefined: there is no evidence of it. */
export type Note = (id: string) => string | undefined;

/** The picture as one svg, or, `parted`, the lanes' names and the rest in two: the names can stay in view. */
export function lanes(note: Note, parted = false, margin = LEFT): string {
  const steps = WALK.map(({ id }, i) => step(i, note(id) ?? "", note(id) === undefined));
  // the packet has its first four bytes; lanes.js moves it
  const packet = `<g id="packet" pointer-events="none">${token(TOKEN, "")}</g>`;
  const rest = [ground(), legend(), ...steps, packet].join("\n");
  if (!parted) return svg('id="walk"', 0, HEIGHT, margin, `${rest}\n${names()}`);
  return svg('id="lanes"', 0, HEAD, margin, bands + names()) + svg('id="walk"', HEAD, HEIGHT, margin, rest);
}

// From src/picture and from build/picture the same file.
const read = (file: string) => readFileSync(new URL(`../../src/picture/${file}`, import.meta.url), "utf8");
export const LANES_CSS = read("lanes.css");
export const LANES_JS = read("lanes.js");

/** `page` with its places filled: <!--NAME-->, or in a style or a script /*NAME*\/, with a null behind it. */
export const fill = (page: string, parts: Record<string, string>) =>
  page.replace(/<!--([A-Z]+)-->|\/\*([A-Z]+)\*\/(?:null)?/g, (_, name, other) => parts[name ?? other]!);

/** A value as it can stand in a page's script. */
export const literal = (value: unknown) => JSON.stringify(value).replace(/</g, "\\u003c");
