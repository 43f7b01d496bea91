/**
 * Reads an answer of one line, and compares it with what a run has shown. An answer may have several parts:
 * numbers, and words out of a list, such as yes and no, or the steps of the walk.
 */
import { DOWN, STAGES, UP } from "../../base/walk.ts";

interface Asked {
  ask: string; // what is asked for: "bytes at 6.read"
  label?: RegExp; // whoever writes it beside a value means this part
  mistakes?: Record<string, string>; // a wrong value that is often given: why it is wrong
}
export interface NumberPart extends Asked {
  kind: "number";
  within?: number; // so far from the measured one is right, too
  hex?: boolean; // read "42" as 0x42; 66 is right, too
  all?: number; // what "all" means
}
export interface ChoicePart extends Asked {
  kind: "choice";
  options: Record<string, RegExp>; // what may be answered, and how it may be written
  many?: boolean; // a list: none may be missing, none too many
  either?: string[]; // of a list: may be named, or not
}
export type Part = NumberPart | ChoicePart;

/** What a run has shown, for one part: the right answer, and how it was seen. */
export interface Seen {
  right: number | string | string[];
  seen: string;
}

export interface Verdict {
  ask: string;
  given: string; // as it was understood; "" if there is none
  right: boolean;
  why: string;
}

export const YES_NO = { yes: /\b(?:yes|y|yeah|yep)\b/i, no: /\b(?:no|n|nope)\b/i };
export const HOSTS = {
  client: /\bclient\b|\b10\.8\.0\.2\b|\b192\.168\.1\.100\b/i,
  server: /\bserver\b|\b10\.8\.0\.1\b|\b192\.168\.1\.1\b/i,
  internet: /\binternet\b|\b8\.8\.8\.8\b/i,
};
export const MODES = {
  xor: /\bxor\b/i,
  "xor+aes": /\bxor ?\+ ?aes\b|\baes\b/i,
  both: /\bboth\b|\bxor(?:,| and| &) (?:xor ?\+ ?)?aes\b/i,
  neither: /\bneither\b/i,
};

/** Our own steps, "6.read" or "6", and the kernel's. */
export const STEPS: Record<string, RegExp> = {};
for (const id of [1, 2, 3, 4, 5, 6, 7, 8, 9, 10].flatMap((n) => [`${n}`, ...(n < 10 ? [`R${n}`] : [])]))
  STEPS[id] = new RegExp(`(?<![\\w.])${id}\\b(?!\\.\\w)`, "i");
for (const name of STAGES.flatMap((stage) => [UP[stage], DOWN[stage]]).filter((one) => one.includes(".")))
  STEPS[name] = new RegExp(`(?<![\\w.])${name.replace(".", "[. :]*")}\\b`, "i");

const ADDRESS = /\b\d+\.\d+\.\d+\.\d+(?:\/\d+)?\b/g;
const ALL = /\ball\b/i;
const STEP_NAME = /\bR?\d+\.[a-z]+\b/gi;
const WORDS = [
  ["none", "zero", "nothing", "never"],
  ["one", "once"],
  ["two", "twice"],
  ...["three", "four", "five", "six", "seven", "eight", "nine", "ten"].map((word) => [word]),
];

/**
 * What an answer gives for each part: the numbers and words in it, in the order of the parts, unless a label
 * says which part is meant. undefined: nothing was found. `question`: its numbers may be repeated.
 */
export function read(parts: Part[], answer: string, question = ""): (string[] | undefined)[] {
  const found = parts.map((): string[] | undefined => undefined);
  let rest = answer.replace(/\b(?:ttl|terminal)[ =]*\d/gi, " ");
  for (const piece of rest.split(/;|,(?!\d)|\band\b|\n/)) {
    const [labelled, another] = parts.filter(({ label }) => label?.test(piece));
    if (!labelled || another) continue;
    const values = valuesOf(labelled, piece.replace(labelled.label!, " "));
    if (values.length === 0) continue;
    found[parts.indexOf(labelled)] = isList(labelled) ? values : values.slice(0, 1);
    rest = rest.replace(piece, " ");
  }
  for (const [i, part] of parts.entries()) {
    if (part.kind !== "choice" || found[i]) continue;
    const matches = choices(part, rest);
    if (matches.length === 0 && part.many && part.options !== STEPS && ALL.test(rest)) {
      found[i] = Object.keys(part.options);
      rest = rest.replace(ALL, " ");
    }
    if (matches.length === 0) continue;
    // "6, step 4": a number that is asked for before the step stands before it
    const before = parts.filter((one, k) => k < i && one.kind === "number" && !found[k]).length;
    const at = part.options === STEPS ? Math.min(before, matches.length - 1) : 0;
    const taken = part.many ? matches : matches.slice(at, at + 1);
    found[i] = [...new Set(taken.map(({ name }) => name))];
    for (const { text, at } of taken)
      rest = rest.slice(0, at) + " ".repeat(text.length) + rest.slice(at + text.length);
  }
  const numeric = parts
    .map((part, i) => [part, i] as const)
    .filter(([{ kind }, i]) => kind === "number" && !found[i]);
  if (numeric.length === 0) return found;
  const all = valuesOf(numeric[0]![0], rest);
  const repeated = new Set(valuesOf(numeric[0]![0], question));
  const own = all.filter((value) => !repeated.has(value));
  const values = own.length >= numeric.length ? own : all;
  for (const [k, [, i]] of numeric.entries()) if (values[k] !== undefined) found[i] = [values[k]];
  return found;
}

const isList = (part: Part) => part.kind === "choice" && part.many;

/** All that could be a value of this part, in order. */
function valuesOf(part: Part, text: string): string[] {
  if (part.kind === "choice") return [...new Set(choices(part, text).map(({ name }) => name))];
  let plain = text
    .replace(ADDRESS, " ")
    .replace(STEP_NAME, " ")
    .replace(/\bof \d+/gi, " ");
  for (const [value, words] of WORDS.entries())
    plain = plain.replace(new RegExp(`\\b(?:${words.join("|")})\\b`, "gi"), `${value}`);
  if (part.all !== undefined) plain = plain.replace(/\ball(?: \d+)?\b/gi, `${part.all}`);
  const numbers = part.hex
    ? /\b(?:0x[0-9a-f]{2}|\d[0-9a-f]|[a-f]\d)\b/gi
    : /(?<![\w.])(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)/g;
  return (plain.match(numbers) ?? []).map((number) => number.replaceAll(",", "").toLowerCase());
}

/** The options that stand in a text, in its order; of two at one place, the longer one. */
function choices({ options }: ChoicePart, text: string): { name: string; text: string; at: number }[] {
  const found = [];
  for (let from = 0; from < text.length;) {
    const matches = Object.entries(options).flatMap(([name, pattern]) => {
      const match = new RegExp(pattern, pattern.flags.replace("g", "") + "g");
      match.lastIndex = from;
      const one = match.exec(text);
      return one ? [{ name, text: one[0], at: one.index }] : [];
    });
    matches.sort((a, b) => a.at - b.at || b.text.length - a.text.length);
    const [first] = matches;
    if (!first) break;
    found.push(first);
    from = first.at + Math.max(1, first.text.length);
  }
  return found;
}

/** How a part may be answered: "a number"; "one of client, server, internet". */
export function form(part: Part): string {
  if (part.kind === "number") return part.hex ? "a byte in hex, such as 0x1f" : "a number";
  if (part.options === STEPS) return part.many ? "the steps, such as 5, 6, R1" : "a step, such as 6.read";
  const names = Object.keys(part.options).join(", ");
  if (names === "yes, no") return "yes or no";
  return part.many ? `those that it is true of: ${names}` : `one of: ${names}`;
}

/** A verdict for each part. */
export function judge(parts: Part[], given: (string[] | undefined)[], seen: Seen[]): Verdict[] {
  return parts.map((part, i) => {
    const [values, { seen: how }] = [given[i], seen[i]!];
    const wrongs = values ? wrong(part, values, seen[i]!) : `not answered (${form(part)}).`;
    const isRight = wrongs === "" || wrongs.startsWith(EXACTLY);
    const other = values && wrongs === NO ? meantFor(parts, i, values, seen) : undefined;
    const said = other ? `That is the answer to: ${other.ask}.` : wrongs;
    return {
      ask: part.ask,
      given: values?.join(", ") ?? "",
      right: isRight,
      why: `${said} ${how}`.trim(),
    };
  });
}

const EXACTLY = "More exactly, "; // right, but
const NO = "No."; // nobody has thought of this mistake

/** What is wrong with the values of one part; "" if nothing is. */
function wrong(part: Part, values: string[], { right }: Seen): string {
  const [value] = values as [string];
  const rights = [right].flat().map(String);
  if (part.kind === "number") return isNear(part, value, Number(right)) ? "" : mistake(part, value);
  if (!part.many) {
    if (rights[0] === value) return "";
    // a step's number alone will do
    return rights[0]!.startsWith(`${value}.`) ? `${EXACTLY}${rights[0]}.` : mistake(part, value);
  }
  // of a list of steps, the numbers will do, too
  const named = new Set(values.map((one) => (part.options === STEPS ? one.replace(/\..*/, "") : one)));
  const missing = rights.filter((name) => !named.has(name) && !part.either?.includes(name));
  const more = [...named].filter((name) => !rights.includes(name) && !part.either?.includes(name));
  return [
    missing.length > 0 ? `Missing: ${missing.join(", ")}.` : "",
    more.length > 0 ? `Too many: ${more.join(", ")}.` : "",
    ...more.map((name) => part.mistakes?.[name] ?? ""),
  ]
    .filter((sentence) => sentence !== "")
    .join(" ");
}

/** Another part, of which the number would be right: they were given the other way round. */
function meantFor(parts: Part[], i: number, [value]: string[], seen: Seen[]): Part | undefined {
  if (parts[i]!.kind !== "number") return undefined;
  return parts.find(
    (part, k) => k !== i && part.kind === "number" && isNear(part, value!, Number(seen[k]!.right)),
  );
}

/** Why a value that is often given is wrong. */
const mistake = ({ mistakes }: Part, value: string) => mistakes?.[value.replace(/^0x/, "")] ?? NO;

function isNear({ hex, within = 0 }: NumberPart, value: string, right: number): boolean {
  const readings = hex ? [parseInt(value, 16), Number(value)] : [Number(value)];
  return readings.some((one) => Math.abs(one - right) <= within);
}
