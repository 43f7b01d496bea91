import assert from "node:assert/strict";
import { readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { stripVTControlCharacters } from "node:util";
import { counters } from "./counters.ts";
import { Memory } from "./libc.ts";
import { describe } from "./packet.ts";
import { decode, Screen } from "./render.ts";
import { Steps, trace } from "./trace.ts";
import { DOWN, STAGES, UP } from "./walk.ts";
import { newFolder } from "../lab/tests/folder.ts";

const FILE = join(newFolder(), "trace");
const events = () => readFileSync(FILE, "utf8").trim().split("\n").map(decode);

test("UP and DOWN name each step once, in the order of the walk", () => {
  assert.deepEqual(
    STAGES.map((stage) => UP[stage]),
    [
      "5",
      "6.read",
      "6.xor",
      "6.seal",
      "6.frame",
      "6.write",
      "8.read",
      "8.deframe",
      "8.open",
      "8.xor",
      "8.write",
    ],
  );
  assert.deepEqual(
    STAGES.map((stage) => DOWN[stage]),
    [
      "R3.wake",
      "R3.read",
      "R4.xor",
      "R4.seal",
      "R4.frame",
      "R4.write",
      "R5.read",
      "R5.deframe",
      "R6.open",
      "R6.xor",
      "R6.write",
    ],
  );
});

test("the trace file holds what was recorded; a flood folds into summaries until it is quiet", async () => {
  const memory = new Memory(84);
  Buffer.from("45000054", "hex").copy(memory.bytes);
  writeFileSync(FILE, "an old one, which everybody may read\n", { mode: 0o644 });
  trace.start("client", "walk", FILE);
  assert.equal(statSync(FILE).mode & 0o777, 0o600);
  let shown = 0;
  const traffic = counters.begin();
  for (let i = 0; i < 100; i++) {
    traffic.sent.packets++;
    if (!trace.mayShow()) continue;
    shown++;
    trace.packet("6.read", `up${i}.0`, 84, "read 84 bytes", memory, 0);
  }
  memory.bytes.fill(0); // what is recorded must not change with the memory
  assert.equal(shown, 20, "a person's traffic is shown, a flood is not");
  for (const end = Date.now() + 5000; !trace.mayShow(); await sleep(20))
    assert.ok(Date.now() < end, "it unfolds");
  // its clock was asked in the flood: 0
  new Steps(UP, "up99").write(memory, 0, 84, "192.168.1.1:5555", 0n);
  trace.drop("test", "from someone", memory, 0, 84);
  trace.stop();

  const all = events();
  const first = all[0]!;
  assert.deepEqual(
    [first.host, first.step, first.id, first.bytes, first.hex.slice(0, 8)],
    ["client", "6.read", "up0.0", 84, "45000054"],
  );
  assert.match(first.text, /read 84 bytes: 0\.0\.0\.0 → 0\.0\.0\.0 IP protocol 0|read 84 bytes: /);
  assert.ok(
    all.every(({ time }, i) => i === 0 || time >= all[i - 1]!.time),
    "in time order",
  );
  assert.equal(all.filter(({ step }) => step === "6.read").length, 20);
  assert.match(all.find(({ step }) => step === "summary")!.text, /sent 100 packets/);
  assert.match(all.find(({ step }) => step === "drop")!.text, /test \(from someone\)/);
  assert.match(all.at(-1)!.text, /in all: sent 100 packets .* dropped 1 \(test\)/);
});

test("render() shows time since the walk began, host, step, id and bytes", () => {
  const event = { host: "client", bytes: 84, text: "read 84 bytes", hex: "45000054aabbccdd11", id: "up1.0" };
  const screen = new Screen();
  screen.render({ ...event, time: 5_000_000n, step: "5", hex: "" });
  const line = screen.render({ ...event, time: 5_042_999n, step: "6.read" }).replace(/\x1b\[\d+m/g, "");
  assert.equal(line, "   +42 µs client 6.read     up1.0   45 00 00 54 aa bb cc dd  read 84 bytes");
});

test("a large packet's step keeps its words in a terminal of 120 columns", () => {
  const large = " (offload: TCP payload still to be cut into pieces of 1348)";
  const text = `read 6792 bytes${large}: 10.8.0.2 → 8.8.8.8 TCP 34370 → 80 ACK 6740 bytes`;
  const event = {
    time: 0n,
    host: "client",
    step: "6.read",
    id: "up3.1",
    bytes: 6792,
    text,
    hex: "",
  } as const;
  const line = stripVTControlCharacters(new Screen([]).render(event, 120));
  assert.match(line, /read 6792 B \(offload, cut to 1348\): 10\.8\.0\.2→8\.8\.8\.8/);
});

test("a step is one line in a terminal of 80 columns, and of 59: shorter words, fewer bytes", (t) => {
  const echo = Buffer.from("45000054554e400040010b54" + "0a080002" + "08080808" + "0800a0a0350e0001", "hex");
  const memory = { bytes: Buffer.concat([echo, Buffer.alloc(56)]) } as Memory;
  const texts: string[] = [];
  const show: typeof trace.step = (step, id, bytes, text) => {
    const described = /^read 84 bytes$|0x42$/.test(text) ? `${text}: ${describe(echo, 0, 84)}` : text;
    for (const columns of [59, 80]) {
      const event = {
        time: 1_258_000n,
        host: "client",
        step,
        id,
        bytes,
        text: described,
        hex: "02000074ba34",
      };
      const line = stripVTControlCharacters(new Screen([]).render(event, columns));
      assert.ok(line.length <= columns, line);
      if (columns === 80) assert.doesNotMatch(line, /…/, "no word is lost");
      texts.push(line);
    }
  };
  t.mock.method(trace, "step", show);
  t.mock.method(trace, "packet", show);
  for (const walk of [UP, DOWN]) {
    const steps = new Steps(walk, `${walk.name}12`);
    steps.wake(0n);
    steps.packet(0).read(memory, 0, 84, "");
    steps.packet(0).xor(memory, 0, 84);
    steps.seal(memory, 0, 84, 12);
    for (const ordered of [true, false]) steps.frame(memory, 0, 120, 4, ordered);
    steps.write(memory, 0, 120, "192.168.1.1:5555", 0n);
    steps.receive(memory, 0, 120, "192.168.1.1:5555", 0n);
    for (const ordered of [true, false]) steps.deframe(memory, 0, 120, 4, ordered);
    steps.open(memory, 0, 100);
    steps.packet(0).unxor(memory, 0, 84, "");
    steps.packet(0).inject(memory, 0, 84, "tun0", 0n);
  }
  assert.ok(texts.includes("+1258 client 6.read     up12.0  02 00 00 74 read 84 B 10.8.0.2→8.8.8.8 echo 1"));
});
