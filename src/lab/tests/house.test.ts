/**
 * The house: which folder may import which, that no imports go in a circle, that each line fits a projector,
 * and that the lesson stays short.
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { join, normalize } from "node:path";
import { test } from "node:test";
import { ROOT } from "../lab.ts";

const SRC = join(ROOT, "src");
const BELOW: Record<string, string[]> = {
  base: [],
  core: ["base"],
  session: ["core", "base"],
  transport: ["core", "base"],
  host: ["core", "base"],
  picture: ["base"],
  client: ["session", "transport", "host", "core", "base"],
  server: ["session", "transport", "host", "core", "base"],
  manager: ["picture", "host", "core", "base"],
  tools: ["client", "session", "transport", "host", "core", "base"],
  "tools.ts": ["tools", "host", "base"],
  class: ["manager", "host", "core", "base"],
  "client.ts": ["client", "session", "transport", "host", "core", "base"],
  "server.ts": ["server", "session", "transport", "host", "core", "base"],
  lessons: ["lab", "session", "host", "core", "base"],
  lab: "class,manager,picture,tools,client,server,session,transport,host,core,base".split(","),
};
const LESSON = ["client.ts", "server.ts", "base/libc.ts", "core/"];
const LONGEST_LESSON = 1200; // lines, comments included

const files = readdirSync(SRC, { recursive: true, encoding: "utf8" });
const all = files.filter((file) => file.endsWith(".ts"));
const pages = files.filter((file) => /\.(js|css|html)$/.test(file));
const sources = all.filter((file) => !file.endsWith(".test.ts"));
const text = (file: string) => readFileSync(join(SRC, file), "utf8");

/** What each file imports of ours, types included. */
const IMPORTS = new Map(
  sources.map((file) => {
    const found = text(file).matchAll(/^(?:import|export) [^;]*?from "(\.[^"]+)"/gms);
    return [file, [...found].map(([, path]) => normalize(join(file, "..", path!)))];
  }),
);

test("every file imports from its own folder, and from those below it", () => {
  const folderOf = (file: string) => file.split("/")[0]!;
  const wrong = [...IMPORTS].flatMap(([file, imports]) => {
    const from = folderOf(file);
    const allowed = [from, ...BELOW[from]!];
    return imports.filter((one) => !allowed.includes(folderOf(one))).map((one) => `${file} imports ${one}`);
  });
  assert.deepEqual(wrong, []);
});

test("no imports go in a circle", () => {
  const done = new Set<string>();
  const visit = (file: string, path: string[]): void => {
    assert.ok(!path.includes(file), `a circle: ${[...path, file].join(" → ")}`);
    if (done.has(file)) return;
    for (const next of IMPORTS.get(file) ?? []) visit(next, [...path, file]);
    done.add(file);
  };
  for (const file of sources) visit(file, []);
});

test("no line of any source is longer than 110 columns: a projector shows no more", () => {
  const long = [...all, ...pages].flatMap((file) =>
    text(file)
      .split("\n")
      .flatMap((line, i) => ([...line].length > 110 ? [`${file}:${i + 1}`] : [])),
  );
  assert.deepEqual(long, []);
});

test("no line of make help is longer than that", () => {
  const { stdout } = spawnSync("make", ["help"], { cwd: ROOT, encoding: "utf8" });
  assert.match(stdout, /^ {2}make demo {15}/m);
  assert.doesNotMatch(stdout, /^.{111}/m);
});

test(`the lesson, ${LESSON.join(", ")}, has at most ${LONGEST_LESSON} lines`, () => {
  const lesson = sources.filter((file) => LESSON.some((start) => file.startsWith(start)));
  const lines = lesson.map((file) => text(file).split("\n").length - 1);
  const sum = lines.reduce((a, b) => a + b);
  assert.ok(
    sum <= LONGEST_LESSON,
    `${sum} lines: ${lesson.map((file, i) => `${file} ${lines[i]}`).join(", ")}`,
  );
});
