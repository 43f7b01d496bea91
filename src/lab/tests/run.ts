/**
 * Runs test files (its arguments), some at a time, and says how far it is. Those with labs and those of the
 * transports come first, the longest of them before the others: they take longest. node --test would take
 * them by their names.
 *
 * Those about what a transport carries run a second time, over UDP; one of them over QUIC, where this Node
 * has it, and the cheapest over raw. TRANSPORT=udp, quic or raw runs all of those over that one alone;
 * TRANSPORT=tcp none.
 */
import { statSync, writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { basename } from "node:path";
import { run } from "node:test";
import { spec as Spec } from "node:test/reporters";
import { hasQuic } from "../../host/options.ts";

const OVER = / \(\w+\)/; // in the name of a file that runs another one over another transport
// These take a minute or more, however short they are. Who begins one of them last waits for it alone.
const NAMES =
  "around|closed|dns|doctor|experiments|firewall|hostile|path|places|raw|reconnect|roaming|routing";
const LONG = new RegExp(`/(${NAMES}|vpn|walk)[.]test`);
const weight = (file: string) =>
  statSync(file.replace(OVER, "")).size +
  (/\/(lab|transport)\//.test(file) ? 1e6 : 0) +
  (LONG.test(file.replace(OVER, "")) ? 1e6 : 0);
const given = process.argv.slice(2);
const { TRANSPORT = "" } = process.env;
// Not dns, firewall, undo: set-up knows of a transport its name only. Not second, status: they use both.
const SOME: Record<string, RegExp> = {
  udp: process.env.CI // which has 12 minutes
    ? /\/lab\/tests\/(vpn|bulk|reconnect|roaming|hostile)\.test\.js$/
    : /\/lab\/tests\/(vpn|bulk|reconnect|roaming|hostile|ipv6|mtu)\.test\.js$/,
  ...(hasQuic() && { quic: /\/lab\/tests\/vpn\.test\.js$/ }),
  raw: /\/bulk\.test\.js$/,
};
// Over each of them. What makes no sense over one of them is skipped, and says why: labTest().
const CARRIED = "vpn|bulk|reconnect|roaming|hang|closed|hostile|ipv6|isolate|mtu|user|soak";
const these = (names: string) => new RegExp(`/lab/tests/(${names})[.]test[.]js$`);
const ALL: Record<string, RegExp> = {
  udp: these(CARRIED),
  raw: these(`${CARRIED}|raw`),
  ...(hasQuic() && { quic: these(`${CARRIED}|quic`) }),
};
const ALONE = /^(udp|quic|raw)$/.test(TRANSPORT);

/** Those that run over that transport, too: makes the files that do, beside the others. */
const over = ([transport, which]: [string, RegExp]) =>
  given
    .filter((file) => which.test(file))
    .map((file) => {
      const other = file.replace(/\.test\.js$/, ` (${transport}).test.js`);
      writeFileSync(other, `process.env.TRANSPORT = "${transport}";\nawait import("./${basename(file)}");\n`);
      return other;
    });

const chosen = ALONE ? { [TRANSPORT]: ALL[TRANSPORT] ?? /$^/ } : TRANSPORT === "" ? SOME : {};
const carried = Object.entries(chosen).flatMap(over);
const files = [...(ALONE ? [] : given), ...carried].sort((a, b) => weight(b) - weight(a));
const AT_A_TIME = availableParallelism() + 4; // most of the time they wait: for a lab, a deadline, an answer

const LONGEST = 600_000; // ms, for a file: one that hangs must not hang the rest

const report = new Spec(); // Node's own
const totals = new Map<string, number>(); // "tests", "pass", "fail" and so on, of all files
let done = 0;

/** One file. What its tests say is printed when it has ended. */
async function runFile(file: string): Promise<void> {
  const since = performance.now();
  const events = [];
  for await (const event of run({ files: [file], timeout: LONGEST })) {
    const [, name, count] =
      (event.type === "test:diagnostic" && /^([a-z]+) (\d+)$/.exec(event.data.message)) || [];
    if (name) totals.set(name, (totals.get(name) ?? 0) + Number(count));
    else if (event.type !== "test:diagnostic" && event.type !== "test:summary") events.push(event);
    if (event.type === "test:fail") process.exitCode = 1;
  }
  const seconds = ((performance.now() - since) / 1000).toFixed(0);
  const name = basename(file).replace(/\.test\.js$/, "");
  process.stdout.write(`\n${++done} of ${files.length}: ${name} (${seconds} s)\n`);
  for (const event of events) report.write(event);
  print();
}

function print(): void {
  for (let text = report.read(); text !== null; text = report.read()) process.stdout.write(text);
}

const queue = [...files];
async function worker(): Promise<void> {
  for (let file = queue.shift(); file; file = queue.shift()) await runFile(file);
}
await Promise.all(Array.from({ length: AT_A_TIME }, worker));
report.end(); // it repeats what has failed
for await (const text of report) process.stdout.write(text);
const counts = ["tests", "pass", "fail", "cancelled", "skipped"].map(
  (name) => `${totals.get(name) ?? 0} ${name}`,
);
console.log(`\n${counts.join(", ")}, in ${(performance.now() / 1000).toFixed(0)} s`);
