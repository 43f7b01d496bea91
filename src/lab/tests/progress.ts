/** What `make test` shows: Node's own report, and how far it is: before the tests of a file, its number. */
import { spec as Spec } from "node:test/reporters";

const total = process.argv.slice(1).length; // node --test FILE...

/** @param events of node:test (its documentation: "Custom reporters") */
export default async function* progress(events: AsyncIterable<{ data: { file?: string } }>) {
  const report = new Spec();
  const files = new Set<string>();
  for await (const event of events) {
    const name = /([^/]+)\.test\.[jt]s$/.exec(event.data.file ?? "")?.[1]; // compiled or not: both occur
    if (name && !files.has(name)) yield `\n${files.add(name).size} of ${total}: ${name}\n`;
    report.write(event);
    for (let text = report.read(); text !== null; text = report.read()) yield String(text);
  }
  report.end();
  for await (const text of report) yield String(text);
}
