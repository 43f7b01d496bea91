/** The judge: right answers in many forms, wrong ones with their reason. And the lab sheet, as a table. */
import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { fill, fold } from "../../lab/columns.ts";
import { ROOT } from "../../lab/lab.ts";
import { BY_EXPERIMENT } from "./by-experiment.ts";
import { IN_TERMINALS } from "./in-terminals.ts";
import { judge, read, type Seen } from "./judge.ts";
import { parseSheet, readSheet, shown } from "./sheet.ts";

const EXERCISES = { ...IN_TERMINALS, ...BY_EXPERIMENT };
const sheet = readSheet();

/** What a run would show, by exercise. */
const SEEN: Record<number, Seen["right"][]> = {
  1: [["8.8.8.8", "10.8.0.77"]],
  2: [1028, 1064],
  3: ["server", ["8", "R3", "R4"]],
  4: ["8.write", "yes"],
  5: ["drops it", "source"],
  6: [20, "a line a second"],
  7: [0x42, "length"],
  8: ["xor"],
  9: [2],
  10: [6, "4"],
  11: ["no", "yes", 1],
  12: [1424, 1500, 1176, 2],
  13: [["outer port", "inner address", "index"], "8.write", 0, "yes"],
  14: [3, 0, 0],
  15: [3, 1360],
  16: ["xor", 1],
  17: [69, 1],
  18: ["UDP", "TCP"],
};

function verdicts(number: number, answer: string) {
  const { parts } = EXERCISES[number]!;
  const seen = SEEN[number]!.map((right) => ({ right, seen: "" }));
  return judge(parts, read(parts, answer, sheet[number - 1]!.question), seen);
}
const rights = (number: number, answer: string) => verdicts(number, answer).map(({ right }) => right);

const RIGHT: [number, ...string[]][] = [
  [1, "8.8.8.8 and 10.8.0.77", "10.8.0.77, 8.8.8.8", "8.8.8.8/32; 10.8.0.77"],
  [2, "1028 and 1064", "1,028 / 1,064 bytes", "6.frame: 1064, 6.read: 1028", "read 1028bytes, frame 1064"],
  [3, "the server: 8, R3 and R4", "10.8.0.1, steps 8.read to 8.write, R3.wake to R4.write", "server 8 r3 r4"],
  [4, "8.write, and yes", "Yes; the last one is 8.write", "8, yes", "step 8 write. y"],
  [5, "it is dropped: the source is wrong", "Refuses it, because of the sender's address"],
  [6, "20, then one line a second", "the first twenty... 20 packets, then a summary every second"],
  [
    7,
    "0x42, the length",
    "key 42; length 84",
    "the first two are the length, and the key is 0x42",
    "66 and size",
  ],
  [8, "xor", "in XOR mode", "--cipher xor"],
  [9, "none", "0", "2", "about 10"],
  [10, "6, step 4", "5 packets, the SYN at 4", "six; 4", "SYN: step 4, packets: 7"],
  [
    11,
    "no, yes, one",
    "1,000: no, 2,100: yes, twice: accepted once",
    "No. Yes. 1",
    "not lost, lost, accepted once",
  ],
  [12, "1424, 1500, 1176, 2", "1,424 in tun0 and 1,500 on the wire; -s 1176; two fragments"],
  [
    13,
    "port, inner address, index; 8.write; none; yes",
    "the outer port, the inner address, index and numbers, 8, 0 over UDP, yes over TCP",
  ],
  [14, "3, 0, 0", "all, none and none", "three; 0; 0"],
  [15, "3 and 1360", "MSS 1,360, 3 fragments", "three pieces; 1360"],
  [16, "xor, 1", "xor; only one of them", "1 of 5, in xor mode"],
  [17, "all, none", "69 and 0", "all 69; about 3"],
  [18, "UDP and TCP", "TCP is slower, UDP loses some", "udp, tcp"],
];
for (const [number, ...answers] of RIGHT)
  test(`exercise ${number} takes ${answers.map((answer) => `"${answer}"`).join(", ")}`, () => {
    for (const answer of answers)
      assert.ok(
        rights(number, answer).every(Boolean),
        `${answer}: ${JSON.stringify(verdicts(number, answer))}`,
      );
  });

const WRONG: [number, string, boolean[], RegExp][] = [
  [1, "8.8.8.8, 8.8.4.4 and 10.8.0.77", [false], /^Too many: 8\.8\.4\.4\. It looks like/],
  [1, "all of them", [false], /^Too many: 8\.8\.4\.4, 192\.168\.1\.1\./],
  [1, "only 8.8.8.8", [false], /^Missing: 10\.8\.0\.77\./],
  [1, "all: 8.8.8.8 8.8.4.4 10.8.0.77 192.168.1.1", [false], /round and round/],
  [2, "1000 and 1064", [false, true], /ICMP has a header of 8 bytes/],
  [2, "1028 and 1060", [true, false], /The header is missing/],
  [2, "1064 and 1028", [false, false], /That is the answer to: bytes at 6\.frame/],
  [2, "1028", [true, false], /not answered \(a number\)/],
  [3, "the internet; 8", [false, false], /never gets that far.*\n.*Missing: R3, R4/],
  [3, "server, 8, 9, R3, R4", [true, false], /Too many: 9\. Step 9 is the kernel's/],
  [4, "9, yes", [false, true], /it drops the packet there/],
  [4, "8.read, no", [false, false], /No\./],
  [5, "it passes on the packet, whatever its destination", [false, false], /No\./],
  [6, "300, every packet", [false, false], /longer than to send/],
  [7, "07, the version", [false, false], /That is what 45 became/],
  [7, "0x66, length", [false, true], /No\./],
  [8, "xor and xor+aes", [false], /No\./],
  [8, "aes", [false], /the tag does not fit/],
  [9, "all of them", [false], /if each read brought one frame/],
  [10, "3, step 7", [false, false], /No\./],
  [11, "yes, yes, 2", [false, true, false], /knows which numbers have come/],
  [12, "1372, 1400, 1252, 2", [false, false, false, true], /76 bytes are around/],
  [
    13,
    "outer address, port, inner address, index; 8.read; 0; no",
    [false, false, true, false],
    /what you have changed/,
  ],
  [14, "3, 0, 3", [true, true, false], /the \/8 is the longest/],
  [15, "2 and 1400", [false, false], /2,752.*\n.*That is the MTU/],
  [16, "both, 5", [false, false], /remembers the public key/],
  [17, "none, none", [false, true], /it cancels out/],
  [18, "tcp, udp", [false, false], /it sends again/],
];
for (const [number, answer, expected, why] of WRONG)
  test(`exercise ${number} says what is wrong with "${answer}"`, () => {
    const judged = verdicts(number, answer);
    assert.deepEqual(
      judged.map(({ right }) => right),
      expected,
    );
    assert.match(judged.map((one) => one.why).join("\n"), why);
  });

test("an answer in which there is nothing gives no part of any exercise", () => {
  for (const [number, { parts }] of Object.entries(EXERCISES))
    for (const answer of ["", "   ", "I do not know"])
      assert.deepEqual(new Set(read(parts, answer)), new Set([undefined]), `${number}: ${answer}`);
});

test("each exercise of the lab sheet can be done, and each experiment has one", () => {
  assert.deepEqual(
    sheet.map(({ number }) => number),
    Object.keys(EXERCISES).map(Number),
  );
  const files = readdirSync(join(ROOT, "src/lab/experiments")).map((file) => file.replace(/\.ts$/, ""));
  const others = ["relay", "relay-program", "run", "stage"];
  const experiments = files.filter((file) => !others.includes(file));
  assert.deepEqual(sheet.flatMap(({ experiment }) => experiment ?? []).sort(), experiments);
});

test("what a run shows stands in the sheet's own answer", () => {
  const words: Record<string, RegExp> = {
    0: /\b(?:none|no)\b/i,
    1: /\bone\b/i,
    2: /\btwo\b/i,
    3: /\b(?:3|three)\b/i,
  };
  for (const [number, seen] of Object.entries(SEEN))
    for (const right of seen.flat().filter((one) => typeof one === "number" && one !== 0x42) as number[]) {
      if (["9", "17", "10"].includes(number)) continue; // differs from run to run
      const { answer } = sheet[Number(number) - 1]!;
      assert.match(
        answer,
        words[right] ?? new RegExp(right.toLocaleString("en") + "|" + right),
        `${number}: ${right}`,
      );
    }
});

test("the sheet's questions and answers belong together, and what is left over is refused", () => {
  const of = (...lines: string[]) => parseSheet(["# x", "## Lab sheet", "", ...lines].join("\n"));
  const question = "**1. One.** What? Check: `make experiment NAME=mtu`.";
  assert.deepEqual(
    of(
      question,
      "",
      "<details><summary><b>Answers</b></summary>",
      "",
      "1. This",
      "   and `that`.",
      "",
      "The end.",
    ),
    [
      {
        number: 1,
        title: "One",
        question: "What? Check: `make experiment NAME=mtu`.",
        answer: "This\nand `that`.",
        experiment: "mtu",
      },
    ],
  );
  assert.throws(
    () => of(question, "", "<details><summary><b>Answers</b></summary>", "", "2. This"),
    /no answer 1/,
  );
  assert.throws(() => of("", "<details><summary><b>Answers</b></summary>", "", "2. This"), /no question 2/);
});

test("fill() keeps to the columns, and code on one line; a listing stays as it is", () => {
  assert.equal(fill("one two `three four` five", 12), "one two\n`three four`\nfive");
  assert.equal(fill("one two three", 9, "  "), "one two\n  three");
  const long = `read${" ".repeat(40)}1028 bytes: 10.8.0.2 → 8.8.8.8 ICMP echo request`;
  assert.equal(fold(`short\n${long}`, "  ", "", 80), `short\n${long.slice(0, -13)}\n  echo request`);
  assert.equal(fold("x".repeat(99), "", "", 80), "x".repeat(99));
  const text = shown("A line\nand `code`:\n\n```\nip  addr\n```\n\nThe [end](#x).", 80);
  assert.equal(text.replace(/\x1b\[\d+m/g, ""), "A line and code:\n\n  ip  addr\n\nThe end.");
});
