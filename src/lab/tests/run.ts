/**
 * Runs test files (its arguments), some at a time, and says how far it is. Those with labs come first, the
 * longest of them before the others: they take longest. node --test would take them by their names.
 */
import { statSync } from "node:fs";
import { availableParallelism } from "node:os";
import { basename } from "node:path";
import { run } from "node:test";
import { spec as Spec } from "node:test/reporters";

const weight = (file: string) => statSync(file).size + (file.includes("lab/") ? 1e6 : 0);
const files = process.argv.slice(2).sort((a, b) => weight(b) - weight(a));
const concurrency = availableParallelism() + 1; // while one waits for its lab, another can go on

/** Node's own report, and the number of each file whose tests follow. */
async function* report(events: ReturnType<typeof run>) {
  const spec = new Spec();
  const begun = new Set<string>();
  for await (const event of events) {
    const { file } = event.data as { file?: string };
    const name = basename(file ?? "").replace(/\.test\.[jt]s$/, ""); // compiled or not: both occur
    const isResult =
      ["test:pass", "test:fail"].includes(event.type) && files.some((one) => one.includes(name));
    if (isResult && !begun.has(name)) yield `\n${begun.add(name).size} of ${files.length}: ${name}\n`;
    if (event.type === "test:fail") process.exitCode = 1;
    spec.write(event);
    for (let text = spec.read(); text !== null; text = spec.read()) yield String(text);
  }
  spec.end();
  for await (const text of spec) yield String(text);
}

for await (const text of report(run({ files, concurrency }))) process.stdout.write(text);
