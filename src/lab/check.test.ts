import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { ROOT } from "./lab.ts";
import { labTest } from "./testing.ts";

/** Runs check.ts on a document with these lines; its exit code, and the misses as "LINE: what". */
function check(...lines: string[]) {
  const file = join(mkdtempSync(join(tmpdir(), "simple-vpn-check-test-")), "document.md");
  writeFileSync(file, lines.join("\n"));
  const { status, stderr } = spawnSync(process.execPath, ["--import", "tsx", "src/lab/check.ts", file], { cwd: ROOT, encoding: "utf8", timeout: 60_000 });
  return { status, misses: stderr.split("\n").filter((line) => line.startsWith(file)).map((line) => line.slice(file.length + 1)), stderr };
}

test("a document that cites what is there passes", () => {
  const { status, stderr } = check(
    "`outbound()` in `tunnel.ts`, `WALK 6.seal`, `make demo`, `--cipher`, `src/lab/walk.ts`, `tun_net_xmit()`, `sendto(2)`",
    "```ts src/xor.ts", "export const XOR_KEY = 0x42;", "…", "let done = 0;", "```",
  );
  assert.equal(status, 0, stderr);
});

test("what is not there is named, with file and line, and the exit code is 1", () => {
  const { status, misses } = check(
    "`outbond()`", "`tunel.ts`", "`WALK 6.seel`", "`make demonstration`", "`--cypher`", "`src/lab/wakl.ts`", "[a link](nowhere.md)", "[a section](#nowhere)",
    "```ts src/xor.ts", "export const XOR_KEY = 0x42;", "let done = 0;", "```",
  );
  assert.equal(status, 1);
  assert.deepEqual(misses.map((miss) => miss.split(":")[0]), ["1", "2", "3", "4", "5", "6", "7", "8", "11"], misses.join("\n"));
});

labTest("expected output must come from a real run: numbers may differ, words may not", async () => {
  const { status, misses, stderr } = check(
    "```output demo", " +999 µs client 6.xor     up9.0   07 42 42 16 00 00 00 00  84 bytes ^ 0x42", "```",
    "```output ping", "64 bytes from 8.8.8.8: icmp_seq=1 ttl=63 time=12.5 ms", "64 bytes from 8.8.4.4: icmp_seq=1 ttl=63 time=12.5 ms", "```",
    "```output nothing", "```",
  );
  assert.equal(status, 1, stderr);
  assert.deepEqual(misses, ["6: make ping does not print: 64 bytes from 8.8.4.4: icmp_seq=1 ttl=63 time=12.5 ms", "8: no run is called nothing"]);
});
