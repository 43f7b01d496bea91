/**
 * bench.svg: a section for each wire, in it a panel for each measure, a bar for each contender, a line from
 * the least to the greatest of its repeats.
 */
import { MEASURES, type Measure, show, type Spread } from "./figures.ts";

export interface Bar extends Spread {
  title: string;
  ours: boolean; // is it this project, in one way or another?
}

/** The bars of one wire; a panel without any is left out. */
export interface Section {
  title: string;
  explained: string;
  panels: { measure: Measure; bars: Bar[]; where?: string }[]; // `where`: if not on that wire
}

const [WIDTH, MARGIN, ROW, LABEL, BAR] = [470, 20, 23, 170, 230]; // px; of a panel
const COLUMNS = 2;

const escape = (text: string) => text.replace(/[&<>"]/g, (sign) => `&#${sign.charCodeAt(0)};`);

/** One panel, its top left corner at 0,0. */
function panel({ measure, bars, where }: Section["panels"][number]): string {
  const { unit, better } = MEASURES[measure];
  const title = (where ? `${escape(where)}: ` : "") + MEASURES[measure].title;
  const scale = BAR / Math.max(...bars.map(({ max }) => max));
  const x = (value: number) => (LABEL + value * scale).toFixed(1);
  const head = `<tspan class="head">${title}, ${unit}</tspan> <tspan class="dim">${better} is better</tspan>`;
  const parts = [`<text y="14">${head}</text>`];
  bars.forEach(({ title, ours, median, min, max }, i) => {
    const middle = 36 + ROW * i;
    const size = `width="${(median * scale).toFixed(1)}" height="16"`;
    parts.push(
      `<text x="${LABEL - 8}" y="${middle + 4}" text-anchor="end">${escape(title)}</text>`,
      `<rect class="${ours ? "ours" : "other"}" x="${LABEL}" y="${middle - 8}" ${size} rx="2"/>`,
      `<line x1="${x(min)}" x2="${x(max)}" y1="${middle}" y2="${middle}"/>`,
      `<text x="${Number(x(max)) + 6}" y="${middle + 4}">${show(median)}</text>`,
    );
  });
  return parts.join("\n");
}

/**
 * The chart, as a file that loads nothing and follows the reader's light or dark setting. `caption`: when,
 * where, how.
 */
export function chart(sections: Section[], caption: string): string {
  const width = MARGIN + COLUMNS * (WIDTH + MARGIN);
  const placed: string[] = [];
  let y = MARGIN + 24;
  for (const { title, explained, panels } of sections) {
    const name = `<tspan class="wire">${escape(title)}:</tspan> ${escape(explained)}`;
    placed.push(`<text x="${MARGIN}" y="${y + 14}">${name}</text>`);
    y += 36;
    const drawn = panels.filter(({ bars }) => bars.length > 0);
    for (let i = 0; i < drawn.length; i += COLUMNS) {
      const line = drawn.slice(i, i + COLUMNS);
      line.forEach((one, k) => {
        const x = MARGIN + k * (WIDTH + MARGIN);
        placed.push(`<g transform="translate(${x} ${y})">\n${panel(one)}\n</g>`);
      });
      y += 48 + ROW * Math.max(...line.map(({ bars }) => bars.length));
    }
  }
  const shape = `viewBox="0 0 ${width} ${y}" font-family="system-ui, sans-serif" font-size="13"`;
  return `<svg xmlns="http://www.w3.org/2000/svg" ${shape} role="img" aria-label="${escape(caption)}">
<style>
  .page { fill: #fff } text { fill: #1a1c20 } .dim { fill: #5f6773 } .head { font-weight: 600 }
  .wire { font-weight: 600; font-size: 16px }
  .ours { fill: #1d4ed8 } .other { fill: #a3acba } line { stroke: #1a1c20; stroke-width: 1.5 }
  @media (prefers-color-scheme: dark) {
    .page { fill: #14161a } text { fill: #e8eaee } .dim { fill: #9aa3b0 }
    .ours { fill: #6ea0ff } .other { fill: #59616e } line { stroke: #e8eaee }
  }
</style>
<rect class="page" width="100%" height="100%"/>
<text class="dim" x="${MARGIN}" y="${MARGIN + 4}">${escape(caption)}</text>
${placed.join("\n")}
</svg>
`;
}
