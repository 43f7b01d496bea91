/**
 * `make check`: do the documents still tell the truth? Every file, symbol, WALK marker, make target, option,
 * link and listing that they cite must be in the source. Every step must have its section. A drawn frame (a
 * fence marked `frame`) must have the offsets of draft/wire.md. A fresh run must print the lines of expected
 * output (a fence marked `output demo`, say), in their order, but for what differs from run to run. Prose
 * fits a projector. The walkthrough can be typed from top to bottom: follow.ts. A miss exits 1 with file and
 * line.
 */
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join, resolve } from "node:path";
import { Failure } from "../../base/failure.ts";
import { program } from "../../host/program.ts";
import { LAB_SECRET, ROOT, spawned } from "../lab.ts";
import { anchorOf } from "../walk/page.ts";
import { Running } from "../running.ts";
import { WALK } from "../../picture/steps.ts";
import { wrongToFollow } from "./follow.ts";

const read = (file: string) => readFileSync(resolve(ROOT, file), "utf8");
const list = (folder: string, ending: string) =>
  readdirSync(join(ROOT, folder), { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(ending))
    .map((name) => join(folder, name));

const DOCUMENTS = [
  ...["README.md", "walkthrough.md", "CONTRIBUTING.md", "CHANGELOG.md"],
  ...list("draft", ".md"),
  ...list("refs", ".md"),
];
const WIDTH = 110; // columns of prose: as many as a projector shows
const README_LENGTH = 120; // lines: two minutes
const GIVEN = process.argv.slice(2); // check these documents only
const ALL = list("src", ".ts")
  .filter((file) => !file.endsWith(".test.ts"))
  .map(read)
  .join("\n"); // the source, as one text
const KERNEL = new Set(
  read("refs/functions.txt")
    .trim()
    .split("\n")
    .map((line) => line.split(" ")[1]),
);
const EXPERIMENTS = new Set(
  [...read("src/lab/experiments/run.ts").matchAll(/^  "?([\w-]+)"?(?:,|: \w+,)$/gm)].map(([, name]) => name),
);
const HOSTS = ["client", "server", "internet"];
const TARGETS = new Set([...read("Makefile").matchAll(/^([\w-]+):/gm)].map(([, name]) => name));
const MARKERS = new Set(
  [...ALL.matchAll(/\/\/ .*?WALK ((?:R?\d[\w.]* ?)+)/g)].flatMap(([, names]) => names!.trim().split(" ")),
);

interface Miss {
  file: string;
  line: number;
  what: string;
}

/** Is `name` the name of a function, method, class or constant of ours? */
function isOurs(name: string): boolean {
  const declarations = [
    `(function\\*?|const|class|let|get|set|private|static|async|readonly) ${name}\\b`,
    `^  ${name}(<.*?>)?\\(`,
    `\\b${name}: ?[({]`,
    `\\b${name}\\(.*\\{$`,
  ];
  return new RegExp(declarations.join("|"), "m").test(ALL);
}

const FILES = list("src", "");

/** A cited path, as it is, beside the document, or the end of one in src/. */
const isFile = (path: string, document: string) =>
  ["", dirname(document)].some((folder) => existsSync(join(ROOT, folder, path))) ||
  FILES.some((file) => file.endsWith(`/${path}`));

/** What is wrong with one piece of `inline code`; undefined if nothing is. */
function wrongCode(code: string, document: string): string | undefined {
  const markers = /^WALK ([\w. ]+)$/.exec(code)?.[1]?.split(" ");
  if (markers)
    return markers.every((marker) => MARKERS.has(marker)) ? undefined : `no // ${code} in the source`;
  const target = /^make ([a-z][\w-]*)/.exec(code)?.[1];
  if (target && !TARGETS.has(target)) return `no target ${target} in the Makefile`;
  const [, name, host] = /^make \S+ (?:NAME=(\S+)|HOST=(\S+))/.exec(code) ?? [];
  if (name && !EXPERIMENTS.has(name)) return `no experiment ${name}`;
  if (host && !HOSTS.includes(host)) return `no host ${host} in the lab`;
  const flag = /^--([a-z][\w-]*)/.exec(code)?.[1];
  if (flag)
    return new RegExp(`["' ]?\\b${flag}"?: (option|flag)\\(|--${flag}\\b`).test(ALL)
      ? undefined
      : `no option --${flag}`;
  const path = /^((?:src|refs|draft|lab)\/[\w./-]*[\w/]|[\w-]+\.(?:ts|md|html|json|txt))$/.exec(code)?.[1];
  if (path && !/^(walk|secret)\./.test(path)) return isFile(path, document) ? undefined : `no file ${path}`;
  const symbol = /^(?:\w+\.)?([A-Za-z_]\w*)\(\)$/.exec(code)?.[1];
  if (symbol) {
    if (KERNEL.has(symbol) || (!document.startsWith("refs/") && isOurs(symbol))) return undefined;
    return document.startsWith("refs/")
      ? `${symbol}() is not in refs/functions.txt`
      : `${symbol}() is neither ours nor in refs/functions.txt`;
  }
  return undefined;
}

/** `tune()` in `sockets.ts`: the file has that name. The file may stand on the next line. */
function* wrongPlaces(line: string, next = ""): Generator<string> {
  for (const { index, 1: name, 2: path } of `${line} ${next.trim()}`.matchAll(IN_FILE)) {
    const files = FILES.filter((file) => file === path || file.endsWith(`/${path}`));
    if (index! >= line.length || files.length === 0) continue; // of the next line; or told as a path
    if (!files.some((file) => new RegExp(`\\b${name}\\b`).test(read(file)))) yield `no ${name} in ${path}`;
  }
}
const IN_FILE = /`(?:\w+\.)?(\w+)(?:\(\))?` in `([\w./-]+\.ts)`/g;

/** Prose that is too wide. Tables may be, and a link alone, which cannot be broken. */
function tooWide(line: string): string | undefined {
  const columns = [...line].length;
  if (columns <= WIDTH || line.startsWith("|") || /^\s*(?:[-*] )?!?\[[^\]]*\]\([^)]*\)$/.test(line))
    return undefined;
  return `${columns} columns; prose has at most ${WIDTH}`;
}

/** Links to our own files and their sections. */
function wrongLink(target: string, document: string): string | undefined {
  if (/^[a-z]+:/.test(target)) return undefined;
  const [path = "", anchor] = target.split("#");
  const file = path === "" ? document : join(dirname(document), path);
  if (!existsSync(resolve(ROOT, file))) return `no file ${file}`;
  if (anchor === undefined || !file.endsWith(".md")) return undefined;
  const text = read(file);
  const headings = [...text.matchAll(/^#+ (.*)$/gm)].map(([, title]) =>
    title!
      .toLowerCase()
      .replace(/[^\p{L}\p{N} _-]/gu, "")
      .replace(/ /g, "-"),
  );
  return headings.includes(anchor) || text.includes(`id="${anchor}"`)
    ? undefined
    : `no section ${anchor} in ${file}`;
}

/**
 * A listing's lines must stand in its source, one after the other; `…` alone marks a gap. Indentation does
 * not count.
 */
function wrongListing(lines: string[], file: string): number | undefined {
  if (!existsSync(join(ROOT, file))) return 0;
  const source = read(file)
    .split("\n")
    .map((line) => line.trim());
  let at = -1;
  for (const [i, line] of lines.map((one) => one.trim()).entries()) {
    const gap = i === 0 || lines[i - 1]!.trim() === "…";
    if (line === "…" || (line === "" && gap)) continue;
    const next = gap ? source.indexOf(line, at + 1) : source[at + 1] === line ? at + 1 : -1;
    if (next < 0) return i;
    at = next;
  }
  return undefined;
}

const TAG = 16; // bytes, at the end of a sealed body

/**
 * A drawn frame: its offsets, each above its wall; the walls; the bytes. The offsets must be those of the
 * table in a section of draft/wire.md, then the tag's, if a cell says so, and the end.
 */
function wrongFrame([offsets = "", walls = "", bytes = ""]: string[], section: string): string | undefined {
  const drawn = [...offsets.matchAll(/\d+/g)];
  const at = drawn.map(Number);
  const text = read("draft/wire.md").split(`# ${section}\n`)[1]?.split(/^#/m)[0] ?? "";
  const fields = [...text.matchAll(/^\| (\d+) \|/gm)].map(([, offset]) => Number(offset));
  const tag = /│ tag /.test(bytes) ? [at.at(-1)! - TAG] : [];
  const expected = [...fields, ...tag, at.at(-1)!];
  if (String(at) !== String(expected)) return `offsets ${at}; by "${section}" of wire.md, ${expected}`;
  const places = [...walls.matchAll(/[┌┬┐]/g)].map(({ index }) => index);
  if (String(drawn.map(({ index }) => index)) !== String(places)) return "an offset is not above its wall";
  const cells = bytes.split("│").slice(1, -1);
  const wrong = cells.find((cell, i) => {
    const hex = /^( [0-9a-f]{2})+ +$/.test(cell) ? cell.trim().split(" ") : undefined;
    return hex && hex.length !== at[i + 1]! - at[i]!;
  });
  return wrong && `not as many bytes as its offsets say: ${wrong.trim()}`;
}

/**
 * Colours away, spaces folded, and masked what differs from run to run: times, ICMP ids, clients' ports, and
 * bytes. Over UDP also the numbers of frames: on a busy machine keepalives come between.
 */
const mask = (line: string, run: string) =>
  (run.endsWith("-udp") ? line.replace(/\b(up|down|number |nonce )\d+/g, "$1N") : line)
    .replace(/\x1b\[[\d;]*m/g, "")
    .replace(/\+\d+ µs|time=[\d.]+ ms/g, "TIME")
    .replace(/\bid \d+/g, "id N")
    .replace(/(:|TCP |UDP |→ )(?!5555\b)\d{4,5}\b/g, "$1PORT")
    .replace(/\b[0-9a-f]{2}( [0-9a-f]{2}){7}\b/g, maskBytes)
    .replace(/\s+/g, " ")
    .trim();

/**
 * The first eight bytes: of a packet, plain or XORed, bytes 4 and 5 are its identification; a data frame has
 * four bytes before the ciphertext, or before a datagram's index.
 */
function maskBytes(hex: string): string {
  if (/^(45 00 00|07 42 42)/.test(hex)) return `${hex.slice(0, 11)} ID ${hex.slice(18)}`;
  return hex.startsWith("02 00 00") ? `${hex.slice(0, 11)} CIPHERTEXT` : "CIPHERTEXT";
}

/** What is wrong with a block of expected output, as [line of the block, sentence]. */
function wrongOutput(block: string[], run: string, printed: string[]): [number, string][] {
  const wrong: [number, string][] = [];
  let [after, micros] = [0, 0];
  block.forEach((line, i) => {
    const masked = mask(line, run);
    if (masked === "" || masked === "…") return;
    const before = micros;
    // of a step's evidence; a step's title begins anew
    const isWalk = run.startsWith("walk");
    if (isWalk) micros = Number(/\+(\d+) µs/.exec(line)?.[1] ?? 0);
    if (micros > 0 && micros < before) wrong.push([i, `+${micros} µs is earlier than the line above`]);
    const at = printed.indexOf(masked, after);
    if (at < 0) {
      const does = printed.includes(masked) ? "prints this, but not after the line above" : "does not print";
      wrong.push([i, `make ${run.replace("-udp", " TRANSPORT=udp")} ${does}: ${line.trim()}`]);
    }
    // a step's evidence comes from several clocks
    else if (!isWalk || !line.includes("µs")) after = at + 1;
  });
  return wrong;
}

/**
 * What each program prints, line by line, from one fresh run of each: the demo and the walk, over TCP and
 * over UDP, and the five terminals.
 */
async function freshRuns(): Promise<Map<string, string[]>> {
  const folder = mkdtempSync(join(tmpdir(), "simple-vpn-check-"));
  const lab = { SIMPLE_VPN_LAB: folder, SIMPLE_VPN_SECRET: LAB_SECRET, NO_COLOR: "1" };
  const over = (TRANSPORT: string, ...args: [name: string, ...args: string[]]) =>
    new Running(spawn(...spawned(...args), { cwd: ROOT, env: { ...process.env, ...lab, TRANSPORT } }));
  const start = (...args: [name: string, ...args: string[]]) => over("tcp", ...args);
  const terminal = (...args: string[]) => start("lab/terminals/terminal", ...args);
  const runs: Record<string, Running> = { demo: start("lab/walk/demo") };
  try {
    await runs.demo!.ended;
    await (runs.walk = start("lab/walk/walk", "--out", folder)).ended;
    await (runs["demo-udp"] = over("udp", "lab/walk/demo")).ended;
    await (runs["walk-udp"] = over("udp", "lab/walk/walk", "--out", folder)).ended;
    await (runs.server = terminal("server")).until(/listening on/);
    await (runs["configure-server"] = terminal("configure-server")).ended;
    await (runs.client = terminal("client")).until(/connected to/);
    await (runs["configure-client"] = terminal("configure-client")).ended;
    await (runs.ping = terminal("ping", "-c", "2", "8.8.8.8")).ended;
    await runs.client!.until(/R6\.write/);
    await terminal("down").ended;
    await Promise.all([runs.server!.ended, runs.client!.ended]);
  } finally {
    await terminal("down").ended;
    rmSync(folder, { recursive: true, force: true });
  }
  return new Map(
    Object.entries(runs).map(([name, { output }]) => [
      name,
      output.split("\n").map((line) => mask(line, name)),
    ]),
  );
}

function checkDocument(file: string, outputs: Map<string, string[]>): Miss[] {
  const misses: Miss[] = [];
  const lines = read(file).split("\n");
  const length = lines.length - 1; // a newline ends the last one
  if (basename(file) === "README.md" && length > README_LENGTH)
    misses.push({ file, line: length, what: `${length} lines; a README has at most ${README_LENGTH}` });
  for (let i = 0; i < lines.length; i++) {
    const fence = /^ *```(.*)$/.exec(lines[i]!)?.[1];
    if (fence !== undefined) {
      const start = i + 1;
      const length = lines.slice(start).findIndex((line) => /^ *```$/.test(line));
      const block = lines.slice(start, start + length);
      i = start + length;
      const listed = /^(?:ts|c) ((?:src|refs)\/\S+)/.exec(fence)?.[1];
      const wrong = listed === undefined ? undefined : wrongListing(block, listed);
      if (wrong !== undefined)
        misses.push({
          file,
          line: start + wrong + 1,
          what: `not in ${listed}, or not there: ${block[wrong]}`,
        });
      const section = /^frame (.+)/.exec(fence)?.[1];
      const notSo = section === undefined ? undefined : wrongFrame(block, section);
      if (notSo !== undefined) misses.push({ file, line: start + 1, what: notSo });
      const run = /^output (\S+)/.exec(fence)?.[1];
      if (run === undefined) continue;
      const printed = outputs.get(run);
      if (!printed) misses.push({ file, line: start, what: `no run is called ${run}` });
      else
        for (const [i, what] of wrongOutput(block, run, printed))
          misses.push({ file, line: start + i + 1, what });
      continue;
    }
    const found = [
      tooWide(lines[i]!),
      ...wrongPlaces(lines[i]!, lines[i + 1]),
      ...[...lines[i]!.matchAll(/`([^`]+)`/g)].map(([, code]) => wrongCode(code!, file)),
      ...[...lines[i]!.replace(/`[^`]*`/g, "").matchAll(/\]\(([^)\s]+)\)/g)].map(([, target]) =>
        wrongLink(target!, file),
      ),
    ];
    for (const what of found) if (what !== undefined) misses.push({ file, line: i + 1, what });
  }
  return misses;
}

program(async () => {
  const documents = GIVEN.length > 0 ? GIVEN : DOCUMENTS;
  const needsRuns = documents.some((file) => /^ *```output /m.test(read(file)));
  const outputs = needsRuns ? await freshRuns() : new Map<string, string[]>();
  const misses = documents.flatMap((file) => checkDocument(file, outputs));
  const steps = documents.includes("walkthrough.md") ? WALK : [];
  for (const { id } of steps)
    if (!read("walkthrough.md").includes(`<a id="${anchorOf(id)}"></a>`))
      misses.push({ file: "walkthrough.md", line: 1, what: `no section for step ${id}` });
  if (steps.length > 0)
    for (const [line, what] of wrongToFollow(read("walkthrough.md").split("\n")))
      misses.push({ file: "walkthrough.md", line, what });
  for (const { file, line, what } of misses) console.error(`${file}:${line}: ${what}`);
  if (misses.length > 0)
    throw new Failure(
      `Cannot vouch for the documents: ${misses.length} of their claims do not hold`,
      "correct the document, or the code",
    );
  console.log(
    `${documents.length} documents checked against the source and fresh runs: all that they cite is there.`,
  );
});
