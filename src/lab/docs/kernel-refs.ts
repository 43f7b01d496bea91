/**
 * Do the guides in refs/ still name what is there? Checks every function they cite against the kernel source
 * they are pinned to: node --import tsx src/lab/docs/kernel-refs.ts FOLDER, where FOLDER is that source. A
 * miss exits 1 with file and line.
 */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { Failure } from "../../base/failure.ts";
import { program } from "../../host/program.ts";
import { ROOT } from "../lab.ts";

const REFS = join(ROOT, "refs");
const LIST = "refs/functions.txt"; // "path function" a line, sorted
const CITED = /`([a-z_]\w*)\(\)`/g; // in the guides, a name with () is a kernel function
const PINNED = /linux-source-(\d+\.\d+)/;

const misses: string[] = [];
const miss = (file: string, index: number, what: string) => misses.push(`${file}:${index + 1}: ${what}`);
const lines = (file: string) => readFileSync(join(ROOT, file), "utf8").trimEnd().split("\n");

/**
 * Does this C text define the function? Its name stands in an unindented line, and `{`, not `;`, follows its
 * parameters.
 */
const defines = (text: string, name: string) =>
  new RegExp(`^(?![\\s#*/])[^\\n;{}=]*\\b${name}\\([^;{}]*\\)[^;{}()]*\\{`, "m").test(text);

/** Checks the list against the source; the functions in it, each with its line's index. */
function checkList(source: string): Map<string, number> {
  const listed = new Map<string, number>();
  lines(LIST).forEach((line, index, all) => {
    const [path = "", name = ""] = line.split(" ");
    listed.set(name, index);
    if (index > 0 && all[index - 1]! >= line) miss(LIST, index, `${line} is not in its place: sort -u`);
    if (!existsSync(join(source, path))) miss(LIST, index, `the source has no ${path}`);
    else if (!defines(readFileSync(join(source, path), "utf8"), name))
      miss(LIST, index, `${path} defines no ${name}()`);
  });
  return listed;
}

program(() => {
  const source = process.argv[2] ?? "";
  if (!existsSync(join(source, "Makefile")))
    throw new Failure(
      `Cannot check the guides: no kernel source in '${source}'`,
      "refs/README.md says how to get it",
      2,
    );
  const release = /^VERSION = (\d+)\nPATCHLEVEL = (\d+)/m
    .exec(readFileSync(join(source, "Makefile"), "utf8"))
    ?.slice(1)
    .join(".");
  const pinned = PINNED.exec(lines("refs/README.md").join("\n"))?.[1];
  if (release !== pinned)
    throw new Failure(
      `Cannot check the guides: they are pinned to ${pinned}, and this source is ${release}`,
      "refs/README.md says how to get it",
    );

  const [listed, cited] = [checkList(source), new Set<string>()];
  const guides = readdirSync(REFS, { recursive: true, encoding: "utf8" }).filter((name) =>
    name.endsWith(".md"),
  );
  for (const guide of guides.map((name) => `refs/${name}`)) {
    const path = /^refs\/linux\/(.*)\.md$/.exec(guide)?.[1];
    if (path !== undefined && !existsSync(join(source, path))) miss(guide, 0, `the source has no ${path}`);
    lines(guide).forEach((line, index) => {
      for (const [, name = ""] of line.matchAll(CITED)) {
        cited.add(name);
        if (!listed.has(name)) miss(guide, index, `${name}() is not in ${LIST}`);
      }
    });
  }
  for (const [name, index] of listed) if (!cited.has(name)) miss(LIST, index, `no guide names ${name}()`);
  for (const line of misses) console.error(line);
  if (misses.length > 0)
    throw new Failure(
      `Cannot vouch for refs/: ${misses.length} names do not resolve`,
      "correct them, or the list",
    );
  console.log(`${listed.size} functions in ${guides.length} guides: all in Linux ${release}.`);
});
