/**
 * The picture of the walk: eight lanes, nineteen steps, as svg. walk.html, walk.svg and the manager's page
 * have it. lanes.css gives it colours, in both. lanes.js moves the packet in it.
 */
import { readFileSync } from "node:fs";
import { type Lane, LANES, WALK } from "./steps.ts";

/** The measures of a picture, px. The page scales it, so they matter relative to each other. */
export interface Shape {
  lane: number; // between two lanes
  row: number; // between two steps
  left: number; // beside the first and the last lane: room for the packet
  head: number; // the lanes' names are above it
  font: number;
  bytes: number; // font of the packet's
  knob: number; // half the height of a step's knob
}
/** Fills a page that scrolls. */
export const TALL: Shape = { lane: 166, row: 60, left: 214, head: 68, font: 27, bytes: 22, knob: 25 };
/** Fits 1280 × 720 as a whole: for a projector. */
export const WIDE: Shape = { lane: 130, row: 31, left: 190, head: 54, font: 21, bytes: 21, knob: 14 };

const TOP = 16; // px, between the head and the first row
export const widthOf = ({ left, lane }: Shape) => left * 2 + lane * (LANES.length - 1);
export const heightOf = ({ head, row }: Shape) => head + TOP + row * WALK.length + 6;

const isReply = (id: string) => id.startsWith("R");
/** Text as it must be written in html and svg. */
export const escape = (text: string) =>
  text.replace(/[&<>"]/g, (sign) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[sign]!);
const at = (x1: number, y1: number, x2: number, y2: number) => `x1="${x1}" y1="${y1}" x2="${x2}" y2="${y2}"`;

/** The machines' bands, from one lane to another. The wire is between them. */
const MACHINES: [from: Lane, to: Lane][] = [
  ["application", "client program"],
  ["server program", "server kernel"],
  ["internet", "internet"],
];
/** What is said between these steps is sealed: the tunnel. */
const TUNNEL = new Set(["6", "7", "8", "R4", "R5"]);

class Drawing {
  private readonly shape: Shape;

  constructor(shape: Shape) {
    this.shape = shape;
  }

  private x(lane: Lane): number {
    return this.shape.left + this.shape.lane * LANES.indexOf(lane);
  }
  private y(row: number): number {
    return this.shape.head + TOP + this.shape.row * (row + 0.5);
  }

  /** The lanes' names, each word on a line. */
  names(): string {
    const { head, font } = this.shape;
    return LANES.map((lane) => {
      const words = lane.split(" ");
      const bottom = head * (words.length === 1 ? 0.65 : 0.41);
      const spans = words.map(
        (word, i) => `<tspan x="${this.x(lane)}" y="${Math.round(bottom + font * 1.1 * i)}">${word}</tspan>`,
      );
      return `<text text-anchor="middle" font-weight="600">${spans.join("")}</text>`;
    }).join("\n");
  }

  /** The machines, the lanes, and the packet's way from step to step. */
  ground(): string {
    const { head, lane } = this.shape;
    const bottom = heightOf(this.shape);
    const bands = MACHINES.map(([from, to]) => {
      const [left, right] = [this.x(from) - lane / 2 + 4, this.x(to) + lane / 2 - 4];
      const size = `width="${right - left}" height="${bottom - head}"`;
      return `<rect class="machine" x="${left}" y="${head}" ${size} rx="10"/>`;
    });
    const lines = LANES.map((one) => `<line class="lane" ${at(this.x(one), head, this.x(one), bottom)}/>`);
    const ways = WALK.slice(1).map((step, i) => {
      const { id, lane: from } = WALK[i]!;
      const ends = at(this.x(from), this.y(i), this.x(step.lane), this.y(i + 1));
      const isTunnel = TUNNEL.has(id) && TUNNEL.has(step.id);
      const tube = isTunnel ? `<line class="tunnel" ${ends} stroke-width="${this.shape.knob * 1.3}"/>` : "";
      return `${tube}<line class="${isReply(step.id) ? "down" : "up"}" ${ends} stroke-width="3"/>`;
    });
    return [...bands, ...lines, ...ways].join("\n");
  }

  /** A step: its knob, and beside it what happens, with `note` behind it. `missing`: without evidence. */
  step(index: number, note: string, missing: boolean): string {
    const { font, knob } = this.shape;
    const { id, lane, title } = WALK[index]!;
    const [cx, cy, middle] = [this.x(lane), this.y(index), font / 3];
    const right = LANES.indexOf(lane) < LANES.length / 2; // where the text is; opposite: the packet
    // clear of the lines, which come from above and leave below
    const aside = id === "10" ? 0 : (right === isReply(id) ? 0.4 : -0.4) * (this.shape.row - font * 0.75);
    const half = Math.max(knob, font * 0.85); // of the knob's width: "R9" fits
    const labelX = cx + (right ? 1 : -1) * (half + 8);
    const packetX = right ? cx - half - 4 - packetWidth(this.shape) : cx + half + 4;
    const name = `step ${id}: ${escape(title)}`;
    const dim = note && ` <tspan class="dim">${escape(note)}</tspan>`;
    return (
      `<g class="step" tabindex="0" role="button" aria-label="${name}" data-x="${packetX}" data-y="${cy}">` +
      `<rect class="knob ${isReply(id) ? "down" : "up"}${missing ? " missing" : ""}" stroke-width="3" ` +
      `x="${cx - half}" y="${cy - knob}" width="${half * 2}" height="${knob * 2}" rx="${knob}"/>` +
      `<text class="id" x="${cx}" y="${cy + middle}" text-anchor="middle" font-weight="600">${id}</text>` +
      `<text class="label" x="${labelX}" y="${cy + middle + aside}" ` +
      `text-anchor="${right ? "start" : "end"}">${escape(title)}${dim}</text></g>`
    );
  }

  /** The packet: its first four bytes, and a lock, closed while they are sealed. lanes.js moves it. */
  packet(): string {
    const { font, bytes } = this.shape;
    const [width, height] = [packetWidth(this.shape), font * 1.3];
    const box = `y="${-height / 2}" width="${width}" height="${height}" rx="5"`;
    const place = `transform="translate(${font * 0.48} ${font * -0.08}) scale(${font / 27})"`;
    const [shackle, body] = [
      "M -5 -2 v -4 a 5 5 0 0 1 10 0 v 4",
      'x="-8" y="-2" width="16" height="12" rx="2"',
    ];
    return (
      `<g id="packet" pointer-events="none"><rect ${box}/>` +
      `<g class="lock" ${place}><path d="${shackle}"/><rect ${body}/></g>` +
      `<text x="${width - 5}" y="${font / 3}" font-size="${bytes}" text-anchor="end"></text></g>`
    );
  }

  /** An svg element that shows the drawing from `top` to `bottom`. */
  svg(attributes: string, top: number, bottom: number, parts: string): string {
    const look = `font-family="system-ui, sans-serif" font-size="${this.shape.font}" stroke-linecap="round"`;
    const box = `0 ${top} ${widthOf(this.shape)} ${bottom - top}`;
    return `<svg ${attributes} viewBox="${box}" ${look}>${parts}</svg>`;
  }
}
/** A lock, and eleven letters of a monospace font. */
const packetWidth = ({ font, bytes }: Shape) => Math.round(font * 1.25 + bytes * 6.75);

/** What is written behind a step's title. undefined: there is no evidence of it. */
export type Note = (id: string) => string | undefined;

/** The picture as one svg, or, `parted`, the lanes' names and the rest in two: the names can stay in view. */
export function lanes(shape: Shape, note: Note, parted: boolean): string {
  const drawing = new Drawing(shape);
  const [head, bottom] = [shape.head, heightOf(shape)];
  const steps = WALK.map(({ id }, i) => drawing.step(i, note(id) ?? "", note(id) === undefined));
  const rest = [drawing.ground(), ...steps, drawing.packet()].join("\n");
  if (!parted) return drawing.svg('id="walk"', 0, bottom, `${drawing.names()}\n${rest}`);
  return drawing.svg('id="lanes"', 0, head, drawing.names()) + drawing.svg('id="walk"', head, bottom, rest);
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
