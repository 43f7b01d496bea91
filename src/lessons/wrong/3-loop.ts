/** Lesson 3 as students get it wrong. */
import type { Wrong } from "../trial.ts";

const [PING, ENTER] = ["a ping is answered while nobody types", "Enter is answered while nobody pings"];
const MANY = "40 pings at once, and 5 times Enter between";
const END = "after Ctrl-D it goes on, and sleeps when there is nothing to do";
const WATCH = "c.watch(tun, onPacket);";

export const WRONG: Wrong[] = [
  { what: "the starter", text: "the starter", check: ENTER, hint: /no line.*\nTODO 2 and 3/ },
  { what: "an empty file", text: "nothing", check: PING, hint: /the file is empty/ },
  {
    what: "it sleeps at the keyboard",
    text: [WATCH, "c.read(0, keys); c.watch(tun, onPacket);"],
    check: PING,
    hint: /nothing may sleep in read\(\) of the keyboard/,
  },
  {
    what: "the keyboard is not watched",
    text: ["c.watch(0, onKey)", "onKey"],
    check: ENTER,
    hint: /TODO 2 and 3/,
  },
  {
    what: "EAGAIN taken for a mistake",
    text: ["if (length === -c.EAGAIN) return;", ""],
    check: [PING, ENTER],
    hint: /read tun0: EAGAIN\n-EAGAIN is no mistake/,
  },
  {
    what: "it asks again and again",
    text: ["if (length === -c.EAGAIN) return;", "if (length === -c.EAGAIN) continue;"],
    check: ENTER,
    hint: /busy all the time.*\n.*-EAGAIN/,
  },
  { what: "it does not count", text: ["answered++;", ""], check: ENTER, hint: /says 0\n.*answered\+\+/ },
  {
    what: "whatever comes is counted",
    text: [
      "    if (!answer(packet)) continue;",
      "    if (!answer(packet)) {\n      answered++;\n      continue;\n    }",
    ],
    check: MANY,
    hint: /so far: 41; your program says 42\n.*nothing else/,
  },
  {
    what: "one key for each read",
    text: ["c.read(0, keys)", "c.read(0, keys, 1)"],
    check: MANY,
    hint: /answered more often\n.*takes all of it out/,
  },
  {
    what: "a timer looks for packets",
    text: [WATCH, "c.watch(tun, () => {})();\nsetInterval(onPacket, 20);"],
    check: END,
    hint: /has called read\(\) \d+ times\n.*no timer/,
  },
  {
    what: "the keys are not read",
    text: ["const count = c.read(0, keys);", "const count = 1;"],
    check: MANY,
    hint: /answered more often\n.*c\.read\(0, keys\) takes all of it out/,
  },
  {
    what: "the end of the keyboard is watched on",
    text: ["return stopKeys();", "return;"],
    check: END,
    hint: /busy all the time now.*\n.*has returned/,
  },
  {
    what: "the end of the keyboard ends it",
    text: ["return stopKeys();", "process.exit();"],
    check: END,
    hint: /your program has ended.*\n.*go on with tun0/,
  },
  {
    what: "one read for each wake-up",
    text: ["for (;;) {", "for (const _ of [1]) {"],
    check: "it reads until there is nothing more",
    hint: /calls 1 read\(\).*\nTODO 1: .*until -c\.EAGAIN/,
  },
];
