/**
 * `make slides`: eleven slides for a class, slides.html, from the walk.html beside it: one run, its bytes and
 * its picture. One file that loads nothing. Arrow keys turn the pages.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { Failure } from "../../base/failure.ts";
import { writeNew } from "../../base/new-file.ts";
import { program } from "../../host/program.ts";
import { fill, lanes, LANES_CSS, LANES_JS, literal } from "../../picture/lanes.ts";
import type { Kind, WalkStep } from "../../picture/steps.ts";
import { ROOT } from "../lab.ts";
import { checkOutput } from "../output.ts";

interface Slide {
  title: string;
  text: string;
  at: string; // the step that the packet is at
  steps?: [from: string, to: string]; // these steps of the picture; else all of it
  bytes?: [name: string, step: string][]; // of our programs "6.xor"; of a tap "9 eth1 →"
}

const SLIDES: Slide[] = [
  {
    title: "Where does a ping go?",
    text: "ping -c 1 8.8.8.8, through a VPN: ten steps there, nine back. Follow one packet.",
    at: "1",
  },
  {
    title: "The kernel builds a packet",
    text: "45: IP version 4, a header of 5 × 4 bytes. 00 54: 84 bytes in all. Find 8.8.8.8.",
    at: "2",
    steps: ["1", "3"],
    bytes: [["packet", "6.read"]],
  },
  {
    title: "tun0: a card without a cable",
    text: "The route says tun0. What is sent there waits for a program. Which one?",
    at: "4",
    steps: ["2", "5"],
    bytes: [["packet", "6.read"]],
  },
  {
    title: "XOR: each byte ^ 42",
    text: "Both are hexadecimal. 45 becomes 07. What becomes of 00? What does that tell a listener?",
    at: "6",
    steps: ["5", "7"],
    bytes: [
      ["before", "6.read"],
      ["after", "6.xor"],
    ],
  },
  {
    title: "AES-256-GCM: a closed envelope",
    text: "No byte tells what it was. A tag of 16 bytes at the end: who changes one bit is found out.",
    at: "6",
    steps: ["5", "7"],
    bytes: [
      ["XORed", "6.xor"],
      ["sealed", "6.seal"],
    ],
  },
  {
    title: "A frame: where does it end?",
    text: "TCP is a stream, without borders between packets. So a header in front says how long it is.",
    at: "6",
    steps: ["5", "7"],
    bytes: [["frame", "6.frame"]],
  },
  {
    title: "What does a listener see?",
    text: "That these two machines talk, when, and how much. Not what, and not with whom behind the server.",
    at: "7",
    steps: ["6", "8"],
    bytes: [["wire", "6.write"]],
  },
  {
    title: "The server opens it",
    text: "The same, the other way around. The packet is what it was, to the last bit.",
    at: "8",
    steps: ["7", "9"],
    bytes: [
      ["opened", "8.open"],
      ["packet", "8.xor"],
    ],
  },
  {
    title: "NAT: another sender",
    text: "Nobody could answer 10.8.0.2. So the server's kernel writes its own address there. Find it.",
    at: "9",
    steps: ["8", "10"],
    bytes: [
      ["inside", "8.xor"],
      ["outside", "9 eth1 →"],
    ],
  },
  {
    title: "And back: the same with the answer",
    text: "NAT puts 10.8.0.2 back. The server seals, the client opens, and ping has noticed nothing.",
    at: "R6",
    steps: ["R3", "R8"],
    bytes: [["answer", "R6.xor"]],
  },
  {
    title: "Now you",
    text: "make demo · make walk · make terminals · make exercise N=1. What would you ask the packet?",
    at: "R9",
  },
];

interface Walk {
  command: string;
  steps: (WalkStep & { evidence: { source: string; text: string; hex: string; kind: Kind }[] })[];
}

program(async () => {
  const [folder = "."] = process.argv.slice(2);
  checkOutput(folder, ["slides.html"], "make slides OUT=FOLDER");
  const page = readFileSync(join(folder, "walk.html"), "utf8");
  const { command, steps }: Walk = JSON.parse(/^const WALK = (.*);$/m.exec(page)![1]!);
  /** The first 20 bytes, an IPv4 header; of what is sealed, a line. */
  const bytesOf = ([name, of]: [string, string]) => {
    const [, step, part] = /^(\w+)[. ](.*)/.exec(of)!;
    const { evidence } = steps.find(({ id }) => id === step)!;
    const found = evidence.find(({ text }) => text.startsWith(part!));
    if (!found || found.kind === "datagram" || !command.startsWith("ping "))
      throw new Failure(
        "Cannot make slides: they are about one ping over TCP, and its answer",
        "make slides",
      );
    const { hex, kind } = found;
    return { name, hex: hex.slice(0, kind === "sealed" ? 36 : 40), kind };
  };
  const data = SLIDES.map((slide) => ({ ...slide, bytes: (slide.bytes ?? []).map(bytesOf) }));
  const slides = fill(readFileSync(join(ROOT, "src/lab/walk/slides.html"), "utf8"), {
    CSS: LANES_CSS,
    LANES: LANES_JS,
    PICTURE: lanes(() => "", true),
    DATA: literal(data),
  });
  writeNew(join(folder, "slides.html"), slides, 0o644);
  console.log(`Open ${pathToFileURL(join(folder, "slides.html"))} in a browser: arrow keys turn the pages.`);
});
