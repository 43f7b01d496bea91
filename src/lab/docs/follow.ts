/**
 * Can the walkthrough be followed from its first line to its last? No command needs terminals that are not
 * open yet, or that are busy. Each word of its list of words is linked there where it is first used. All
 * blocks of `output walk` are from one run.
 */

export type Wrong = [line: number, what: string];

export function* wrongToFollow(lines: string[]): Generator<Wrong> {
  yield* tooEarly(lines);
  yield* busy(lines);
  yield* unexplained(lines);
  yield* severalRuns(lines);
}

const TERMINALS = "## The five terminals";
const NEEDS_THEM = /`make (on|ping|doctor|client|configure-\w+|down)\b/;

/** Commands for the five terminals, above the chapter that opens them. */
function* tooEarly(lines: string[]): Generator<Wrong> {
  const opened = lines.indexOf(TERMINALS);
  if (opened < 0) yield [1, `no chapter "${TERMINALS}"`];
  for (const [i, line] of lines.slice(0, Math.max(opened, 0)).entries()) {
    const [command] = NEEDS_THEM.exec(line) ?? [];
    if (command) yield [i + 1, `${command}\` needs the five terminals, which are opened below`];
  }
}

/** A program that is to be started in another way, while its terminal still runs it. */
function* busy(lines: string[]): Generator<Wrong> {
  let paragraph = "";
  for (const [i, line] of lines.entries()) {
    if (line === "") paragraph = "";
    const [command] = /`make (server|client) [A-Z][^`]*=[^`]*`/.exec(line) ?? [];
    paragraph += line.slice(0, command ? line.indexOf(command) : undefined);
    const isFree = /`make down`|Ctrl-C/.test(paragraph) || /`make client N=/.test(line);
    if (command && !isFree) yield [i + 1, `${command}, but its terminal is busy: make down or Ctrl-C first`];
    if (/source document/i.test(line)) yield [i + 1, "readers do not have the source documents"];
  }
}

/** Words of the list whose first use in prose is no link to it. */
function* unexplained(lines: string[]): Generator<Wrong> {
  const list = lines.indexOf("## Words");
  const words = lines.slice(list).flatMap((line) => /^\| (?!word \|)(\w[\w ]*) \|/.exec(line)?.[1] ?? []);
  if (list < 0 || words.length === 0) yield [1, 'no list of "## Words"'];
  let isCode = false;
  const prose = lines.slice(0, list).map((line) => {
    if (/^ *```/.test(line)) isCode = !isCode;
    // headings and tables are no place for a link; what is code is no word
    return isCode || /^(#|\||<)/.test(line) ? "" : line.replace(/`[^`]*`/g, "");
  });
  for (const word of words) {
    const used = new RegExp(`\\b${word}s?\\b`, /[A-Z]/.test(word) ? "" : "i");
    const first = prose.findIndex((line) => used.test(line.replace(/\[[^\]]*\]\((?!#words)[^)]*\)/g, "")));
    const isLinked = new RegExp(`\\[${word}s?\\]\\(#words\\)`, "i").test(prose[first] ?? "");
    if (!isLinked)
      yield [Math.max(first, 0) + 1, `"${word}" is not linked to the list of words, first used here`];
  }
}

/** What one run has once: the ping's id, the client's port, and the ciphertext of each direction. */
const ONCE: Record<string, RegExp> = {
  "ICMP id": /echo \w+ id (\d+)/g,
  "port of the client": /192\.168\.1\.100:(\d+)|TCP (?!5555)(\d+) → 5555/g,
  "frame on its way up": /02 00 00 74 (.{11}).*(?:up1|→ 5555)/g,
  "frame on its way down": /02 00 00 74 (.{11}).*(?:down0|TCP 5555 →)/g,
};

function* severalRuns(lines: string[]): Generator<Wrong> {
  const seen = new Map<string, string>();
  let isWalk = false;
  for (const [i, line] of lines.entries()) {
    const fence = /^```(.*)$/.exec(line)?.[1];
    if (fence !== undefined) isWalk = fence === "output walk";
    if (!isWalk) continue;
    for (const [what, pattern] of Object.entries(ONCE)) {
      for (const [, ...groups] of line.matchAll(pattern)) {
        const value = groups.find((group) => group !== undefined)!;
        const before = seen.get(what) ?? value;
        seen.set(what, before);
        if (before !== value) yield [i + 1, `the ${what} is ${value} here, ${before} above: not one run`];
      }
    }
  }
}
