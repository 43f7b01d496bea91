/** `make bench`: its arithmetic and its chart, and one short run of it. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { type Bar, chart, type Section } from "../bench/chart.ts";
import { CONTENDERS, lacks } from "../bench/contenders.ts";
import { judge, ratio, show, spread, TARGETS } from "../bench/figures.ts";
import { loadedPing } from "../bench/measure.ts";
import type { WireName } from "../bench/wires.ts";
import { roads } from "../bench/tables.ts";
import { ROOT, spawned } from "../lab.ts";
import { labTest } from "./testing.ts";
import { has } from "../tools.ts";
import { newFolder } from "./folder.ts";

test("spread() gives median, least and greatest; holes of repeats that failed do not count", () => {
  assert.deepEqual(spread([5, 1, 3]), { median: 3, min: 1, max: 5 });
  assert.deepEqual(spread([4, 1]), { median: 2.5, min: 1, max: 4 });
  assert.deepEqual(spread([, 2] as number[]), { median: 2, min: 2, max: 2 });
  assert.equal(spread([]), undefined);
  assert.equal(spread(undefined), undefined);
});

test("ratio() divides repeat by repeat, so a slow spell that hits both leaves it as it is", () => {
  assert.deepEqual(ratio([8, 4, 2], [2, 1, 0.5]), { median: 4, min: 4, max: 4 });
  assert.deepEqual(ratio([8, 4], [, 2] as number[]), { median: 2, min: 2, max: 2 });
  assert.equal(ratio(undefined, [1]), undefined);
});

test("judge() knows where more is better and where less is, and what was not measured", () => {
  const verdicts = judge({
    plain: {
      ours: { up: [4], down: [3.9], idle: [0.12], loaded: [0.7] },
      openvpn: { up: [1], down: [1], idle: [0.1], loaded: [1] },
    },
  });
  const of = (measure: string) =>
    verdicts.find((one) => one.measure === measure && one.row === "ours" && one.than === "openvpn")!;
  assert.deepEqual(
    [of("up"), of("down"), of("idle"), of("loaded")].map(({ reached }) => reached),
    [true, false, true, false],
  );
  assert.equal(of("udp").ratio, undefined);
  assert.equal(of("udp").reached, false);
  assert.equal(verdicts.length, TARGETS.length);
});

test("judge() holds each wire's targets against that wire's table", () => {
  const rows = { udp: { up: [4] }, openvpn: { up: [1] } };
  const reached = (wire: WireName) =>
    judge({ plain: rows, honest: rows }).find(
      (one) => one.wire === wire && one.measure === "up" && one.row === "udp" && one.than === "openvpn",
    )!.reached;
  assert.deepEqual([reached("plain"), reached("honest")], [false, true]);
});

test("roads() are a line of panels for each network, our four transports in each, and nobody else", () => {
  const rows = (figure: number) => ({ upLossy: [figure, 3 * figure], downLossy: [figure] });
  const all = { raw: rows(4), ours: rows(1), openvpn: rows(9), quic: rows(3), udp: rows(2) };
  const { panels } = roads({ honest: all, loss10: all, near: { ours: { upLossy: [7] } } });
  assert.deepEqual(
    panels.map(({ where, measure, bars }) => [where, measure, ...bars.map(({ median }) => median)]),
    [
      ["near", "upLossy", 7],
      ["far, 10 % lost", "upLossy", 2, 4, 6, 8],
      ["far, 10 % lost", "downLossy", 1, 2, 3, 4],
    ],
  );
});

test("judge(): raw is held against OpenVPN over TCP, and at 3 % loss against our TCP", () => {
  const reached = (raw: number, other: number) =>
    judge({
      honest: { raw: { up: [raw] }, "openvpn-tcp": { up: [1] }, openvpn: { up: [100] } },
      loss3: { raw: { upLossy: [other] }, ours: { upLossy: [1] } },
    })
      .filter(({ row, ratio }) => row === "raw" && ratio)
      .map(({ reached }) => reached);
  assert.deepEqual(
    [reached(2, 1.4), reached(1.9, 1.5)],
    [
      [true, false],
      [false, true],
    ],
  );
});

test("show() keeps to about three digits", () => {
  assert.deepEqual([0.0681, 1.559, 87.04, 689.7, 1234].map(show), ["0.068", "1.56", "87.0", "690", "1234"]);
});

test("lacks() names the command that installs what is missing", () => {
  const [first] = CONTENDERS;
  assert.equal(lacks(first!), undefined);
  assert.match(
    lacks({ ...first!, needs: { "no-such-tool": "its-package", sh: "dash" } })!,
    /apt-get install .* its-package$/,
  );
});

/** Every element closed, in order, and no bare & or < in text: what a browser asks of an SVG. */
function assertWellFormed(xml: string): void {
  const open: string[] = [];
  for (const [, slash, name, attributes, empty] of xml.matchAll(
    /<(\/?)(\w+)((?: [\w:-]+="[^"<]*")*)(\/?)>/g,
  )) {
    if (slash) assert.equal(open.pop(), name);
    else if (!empty) open.push(name!);
    assert.doesNotMatch(attributes!, /NaN|undefined|Infinity/);
  }
  assert.deepEqual(open, []);
  assert.doesNotMatch(xml.replace(/<\/?\w+(?: [\w:-]+="[^"<]*")*\/?>|&#\d+;/g, ""), /[<&]|NaN|undefined/);
}

test("chart() is a well-formed SVG with a bar and a figure for each contender, whatever their titles", () => {
  const bar = { median: 5, min: 4, max: 6, ours: false };
  const up: Bar[] = [
    { ...bar, title: '<a> & "b"' },
    { ...bar, title: "this project", ours: true },
  ];
  const idle: Bar[] = [{ ...bar, title: "c", max: 0.5, median: 0.068, min: 0.01 }];
  const panels: Section["panels"] = [
    { measure: "up", bars: up },
    { measure: "udp", bars: [] },
    { measure: "idle", bars: idle },
  ];
  const lossy: Section["panels"] = [{ measure: "upLossy", bars: idle }];
  const svg = chart(
    [
      { title: "plain wire", explained: "<64 KB>", panels },
      { title: "1 % lost", explained: "far", panels: lossy },
    ],
    "when & where",
  );
  assertWellFormed(svg);
  assert.equal([...svg.matchAll(/<rect class="(ours|other)"/g)].length, 4);
  for (const text of [
    "5.00",
    "0.068",
    "TCP up, Gbit/s",
    "less is better",
    "this project",
    "plain wire:",
    "1 % lost:",
  ])
    assert.ok(svg.includes(text), text);
  assert.doesNotMatch(svg, /small UDP/);
  assertWellFormed(chart([], ""));
});

const MISSING = ["iperf3", "ethtool"].filter((tool) => !has(tool)).join(", ");
if (MISSING) {
  const why = `${MISSING} not installed`;
  test("make bench", (t) => (process.env.CI ? assert.fail(why) : t.skip(why)));
} else {
  labTest(
    "make bench measures this project on each wire, prints it, and writes bench.json and bench.svg",
    async (lab) => {
      // nobody listens there: one failed measurement does not end the program
      await assert.rejects(loadedPing(lab, "192.168.1.1", 1), /Cannot measure 'iperf3 .*refused/);
      const folder = newFolder();
      const { status, stdout, stderr } = spawnSync(
        ...spawned("lab/bench/bench", "--only", "ours", "--seconds", "1", "--repeats", "1", "--out", folder),
        { cwd: ROOT, encoding: "utf8", timeout: 200_000 },
      );
      assert.equal(status, 0, stdout + stderr);
      const { wires } = JSON.parse(readFileSync(join(folder, "bench.json"), "utf8"));
      assert.deepEqual(
        wires.map(({ name }: { name: string }) => name),
        ["plain", "honest"],
      );
      for (const { title, contenders } of wires) {
        assert.ok(stdout.includes(` ${title} `), title);
        assert.deepEqual(Object.keys(contenders[0].measures), [
          "up",
          "down",
          "udp",
          "idle",
          "loaded",
          "cpu",
          "memory",
        ]);
        for (const [measure, { median }] of Object.entries<{ median: number }>(contenders[0].measures))
          assert.ok(median > 0, `${title}: ${measure}`);
      }
      assertWellFormed(readFileSync(join(folder, "bench.svg"), "utf8"));
    },
  );
}

test("make bench refuses wrong options in one line, with exit code 2", () => {
  for (const [args, words] of [
    [["--only", "ours,pptp"], /'pptp', which is not one of none, ours/],
    [["--seconds", "0"], /no whole number/],
    [["--wire", "wet"], /is not one of plain, honest, both/],
    [["--wire", "plain", "--only", "loss"], /Cannot measure loss on the plain wire/],
    [["now"], /unexpected argument now/],
  ] as const) {
    const { status, stderr } = spawnSync(...spawned("lab/bench/bench", ...args), {
      cwd: ROOT,
      encoding: "utf8",
    });
    assert.equal(status, 2);
    assert.match(stderr, words);
    assert.equal(stderr.trim().split("\n").length, 1);
  }
});
