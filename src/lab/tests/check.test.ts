import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { ROOT, spawned } from "../lab.ts";
import { labTest } from "./testing.ts";
import { newFolder } from "./folder.ts";

/** Runs check.ts on a document with these lines; its exit code, and the misses as "LINE: what". */
const check = (...lines: string[]) => checkFile("document.md", lines);

function checkFile(name: string, lines: string[]) {
  const file = join(newFolder(), name);
  writeFileSync(file, lines.join("\n"));
  const { status, stderr } = spawnSync(...spawned("lab/docs/check", file), {
    cwd: ROOT,
    encoding: "utf8",
    timeout: 200_000,
  });
  return {
    status,
    misses: stderr
      .split("\n")
      .filter((line) => line.startsWith(file))
      .map((line) => line.slice(file.length + 1)),
    stderr,
  };
}

test("a document that cites what is there passes", () => {
  const { status, stderr } = check(
    "`outbound()` in `tunnel.ts`, `WALK 6.seal`, `make demo`, `make experiment NAME=mtu`, `--cipher`,",
    "`make on HOST=internet`, `src/lab/walk/walk.ts`, `tun_net_xmit()`, `sendto(2)`, `seal()` in",
    "`src/core/outbox.ts`",
    "```ts src/core/xor.ts",
    "export const XOR_KEY = 0x42;",
    "…",
    "let done = 0;",
    "```",
  );
  assert.equal(status, 0, stderr);
});

test("what is not there is named, with file and line, and the exit code is 1", () => {
  const { status, misses } = check(
    "`outbond()`",
    "`tunel.ts`",
    "`WALK 6.seel`",
    "`make demonstration`",
    "`--cypher`",
    "`src/lab/wakl.ts`",
    "[a link](nowhere.md)",
    "[a section](#nowhere)",
    "`make experiment NAME=break-it`",
    '`make on HOST=sever CMD="ip route"`',
    "```ts src/core/xor.ts",
    "export const XOR_KEY = 0x42;",
    "let done = 0;",
    "```",
  );
  assert.equal(status, 1);
  assert.deepEqual(
    misses.map((miss) => miss.split(":")[0]),
    ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "13"],
    misses.join("\n"),
  );
});

test("a name that is not in the file where the document says it is, is a miss", () => {
  const { misses } = check(
    "`tune()` in `tcp.ts`, `tune()` in `sockets.ts`",
    "`makeRoom` in",
    "`src/core/tunnel.ts`",
    "`makeRoom` in",
    "`src/core/outbox.ts`",
  );
  assert.deepEqual(misses, ["1: no tune in tcp.ts", "2: no makeRoom in src/core/tunnel.ts"]);
});

test("prose of more than 110 columns is a miss; tables, listings and a link alone may be wider", () => {
  const { misses } = check(
    "ü".repeat(110),
    "ü".repeat(111),
    `| ${"x".repeat(110)} |`,
    `- [${"x".repeat(110)}](https://example.org)`,
    `See [${"x".repeat(110)}](https://example.org)`,
    "```",
    "x".repeat(111),
    "```",
  );
  assert.deepEqual(
    misses.map((miss) => miss.replace(/;.*/, "")),
    ["2: 111 columns", "5: 137 columns"],
  );
});

test("a README of more than 120 lines is a miss", () => {
  const lines = (count: number) => Array<string>(count).fill("line").concat("");
  assert.equal(checkFile("README.md", lines(120)).status, 0);
  assert.deepEqual(checkFile("README.md", lines(121)).misses, ["121: 121 lines; a README has at most 120"]);
});

test("a drawn frame must have the offsets of wire.md, each above its wall, and as many bytes", () => {
  const frame = (offsets: string, type: string, section = "Frames") => [
    `\`\`\`frame ${section}`,
    offsets,
    "┌────┬──────────┬──────┬─────┐",
    `│ ${type} │ 00 00 74 │ body │ tag │`,
    "```",
  ];
  const { misses } = check(
    ...frame("0    1          4      104   120", "02"), // 1
    ...frame("0    2          4      104   120", "02"), // 6
    ...frame("0    1          4      105   120", "02"), // 11
    ...frame("0    1         4       104   120", "02"), // 16
    ...frame("0    1          4      104   120", "02 00"), // 21
    ...frame("0    1          4      104   120", "02", "Nothing"), // 26
  );
  assert.deepEqual(misses, [
    '7: offsets 0,2,4,104,120; by "Frames" of wire.md, 0,1,4,104,120',
    '12: offsets 0,1,4,105,120; by "Frames" of wire.md, 0,1,4,104,120',
    "17: an offset is not above its wall",
    "22: not as many bytes as its offsets say: 02 00",
    '27: offsets 0,1,4,104,120; by "Nothing" of wire.md, 104,120',
  ]);
});

labTest(
  "expected output must come from a run: only times, ids, ports and ciphertext may differ",
  async () => {
    const request = "8.8.8.8 ICMP echo request id 1 seq 1";
    const reply = "203.0.113.1 ICMP echo reply id 1 seq 1";
    const { status, misses, stderr } = check(
      "```output demo",
      `+9 µs client 6.read  up1.0   45 00 00 54 ff ff 40 00  read 84 bytes: 10.8.0.2 → ${request}`,
      "+9 µs client 6.xor   up1.0   07 42 42 16 00 00 02 42  84 bytes ^ 0x42",
      // 4: "don't fragment" is not set
      "+9 µs client 6.xor   up1.0   07 42 42 16 00 00 00 00  84 bytes ^ 0x42",
      // 5
      "+9 µs client 6.seal  up1     00 00 00 00 00 00 00 00  AES-256-GCM, nonce 7, tag of 16 bytes appended",
      "+9 µs client 6.frame up1     02 00 00 74 00 00 00 00  header of 4 bytes in front: 120 bytes",
      // 7
      "+9 µs client 6.frame up1     02 00 00 75 00 00 00 00  header of 4 bytes in front: 120 bytes",
      "+9 µs server 8.read  up1     02 00 00 74 00 00 00 00  read 120 bytes from 192.168.1.100:65535",
      // 9: it was earlier
      "+9 µs client 6.frame up1     02 00 00 74 00 00 00 00  header of 4 bytes in front: 120 bytes",
      "```",
      "```output ping",
      "64 bytes from 8.8.8.8: icmp_seq=1 ttl=63 time=12.5 ms",
      "64 bytes from 8.8.8.8: icmp_seq=2 ttl=64 time=12.5 ms",
      "```", // 13
      "```output walk",
      `   +5 µs  client   tap        45 00 00 54 00 00 40 00 tun0 → 10.8.0.2 → ${request}`,
      `   +9 µs  internet tap        45 00 00 54 00 00 40 00 eth0 ← 203.0.113.1 → ${request}`,
      `   +8 µs  internet tap        45 00 00 54 00 00 00 00 eth0 → 8.8.8.8 → ${reply}`,
      "```", // 18
      "```output nothing",
      "```", // 21
      "```output demo-udp",
      "+9 µs client 6.frame up9 02 00 00 74 00 00 00 00 header of 16 bytes in front, " +
        "with number 9: a datagram of 132 bytes",
      "+9 µs client 6.write up9 02 00 00 74 00 00 00 00 wrote 133 bytes to 192.168.1.1:5555", // 24
      "```",
    );
    assert.equal(status, 1, stderr);
    assert.deepEqual(
      misses.map((miss) => miss.replace(/^(\d+: [^:]*).*/, "$1")),
      [
        "4: make demo does not print",
        "5: make demo does not print",
        "7: make demo does not print",
        "9: make demo prints this, but not after the line above",
        "13: make ping does not print",
        "18: +8 µs is earlier than the line above",
        "20: no run is called nothing",
        "24: make demo TRANSPORT=udp does not print",
      ],
      misses.join("\n"),
    );
  },
);
