/**
 * The exercises that another program does: an experiment, or the walk. What it has measured is right. The
 * questions, and the answers in words, are in walkthrough.md.
 */
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { stripVTControlCharacters } from "node:util";
import { Failure } from "../../base/failure.ts";
import { atExit } from "../../host/program.ts";
import * as breakFraming from "../../lab/experiments/break-framing.ts";
import * as breakXor from "../../lab/experiments/break-xor.ts";
import * as flipABit from "../../lab/experiments/flip-a-bit.ts";
import * as longestPrefix from "../../lab/experiments/longest-prefix.ts";
import * as mtu from "../../lab/experiments/mtu.ts";
import * as reorder from "../../lab/experiments/reorder.ts";
import * as replay from "../../lab/experiments/replay.ts";
import * as reuseNonce from "../../lab/experiments/reuse-nonce.ts";
import * as tcpInTcp from "../../lab/experiments/tcp-in-tcp.ts";
import { note, observations } from "../../lab/experiments/stage.ts";
import { ROOT, spawned, TARGET } from "../../lab/lab.ts";
import { Running } from "../../lab/running.ts";
import { provide } from "../../lab/tools.ts";
import { type Exercise, find, yes } from "./exercise-of.ts";
import { MODES, STEPS } from "./judge.ts";

const LOST = {
  yes: /\b(?:yes|y|lost|refused|dropped)\b/i,
  no: /\b(?:no|n|not (?:lost|refused|dropped)|accepted)\b/i,
};
const TRANSPORTS = { TCP: /\btcp\b/i, UDP: /\budp\b/i, both: /\bboth\b/i, neither: /\bneither\b/i };

export const BY_EXPERIMENT: Record<number, Exercise> = {
  7: {
    parts: [
      {
        kind: "number",
        hex: true,
        ask: "the key",
        label: /\bkey\b/i,
        mistakes: {
          "07": "That is what 45 became. The key turns one into the other.",
          45: "That is what 07 must have been. The key turns one into the other.",
        },
      },
      {
        kind: "choice",
        ask: "what the first two bytes say",
        options: {
          length: /\b(?:length|long|size)\b|\b0x0?0?54\b|\b84\b/i,
          version: /\b(?:version|type|header)\b/i,
          key: /\bkey\b/i,
        },
      },
    ],
    async measure() {
      await breakXor.run();
      const key = observed(/(all \d+ guesses agree: the key is 0x\w+)/);
      const length = observed(/are the length of the rest: (\d+)/);
      return [
        { right: Number(find(/(0x\w+)/, key)), seen: `07 must have been 45. In this run ${key}.` },
        { right: "length", seen: `In each captured frame they are the length of the rest: ${length}.` },
      ];
    },
  },

  8: {
    parts: [
      {
        kind: "choice",
        ask: "the mode in which 0100 arrives",
        options: MODES,
        mistakes: { "xor+aes": "There the tag does not fit, and nothing arrives." },
      },
    ],
    async measure() {
      await flipABit.run();
      const [sent, received] = [observed(/sent "(.*?)"/), observed(/received "(.*?)"/)];
      return [
        {
          right: sent === received ? "xor+aes" : "xor",
          seen:
            `With xor, "${sent}" arrived as "${received}". ` +
            `With xor+aes, ${observed(/(nothing was received)/)}.`,
        },
      ];
    },
  },

  9: {
    parts: [
      {
        kind: "number",
        ask: "how many of 300 it finds",
        within: 15,
        all: 300,
        mistakes: { 300: "It would, if each read brought one frame." },
      },
    ],
    async measure() {
      await breakFraming.run();
      const burst = observations.filter((one) => one.includes("the naive receiver found")).at(-1)!;
      const found = find(/the naive receiver found (\d+)/, burst);
      return [{ right: Number(found), seen: `In this run: ${burst}.` }];
    },
  },

  10: {
    parts: [
      { kind: "number", ask: "packets that curl sends into tun0", label: /\bpackets?\b/i, within: 1 },
      { kind: "choice", ask: "the first step that shows the SYN", label: /\bsyn\b/i, options: STEPS },
    ],
    async measure() {
      provide({ curl: "curl" }, "do this exercise");
      const folder = mkdtempSync(join(tmpdir(), "simple-vpn-exercise-"));
      atExit(() => rmSync(folder, { recursive: true, force: true }));
      note(`$ make walk FOLLOW="curl -s http://${TARGET}/"`);
      const follow = ["--out", folder, "--follow", "curl", "-s", `http://${TARGET}/`];
      const walk = new Running(spawn(...spawned("lab/walk/walk", ...follow), { cwd: ROOT }));
      await walk.until(/steps seen/, 30_000);
      const lines = stripVTControlCharacters(walk.output).split("\n");
      const sent = lines.filter((line) => / tap .* tun0 → 10\.8\.0\.2 /.test(line));
      const syn = lines.findIndex((line) => /\bSYN\b/.test(line));
      const step = lines
        .slice(0, syn)
        .filter((line) => /^ {1,2}R?\d+ {2}\S/.test(line))
        .at(-1)!
        .trim();
      for (const line of sent) note(find(/(tun0 → .*)/, line));
      return [
        { right: sent.length, seen: `The tap at tun0 has seen ${sent.length} go out.` },
        { right: find(/^(\S+)/, step), seen: `The walk shows SYN first at step ${step}.` },
      ];
    },
  },

  11: {
    parts: [
      { kind: "choice", ask: "overtaken by 1,000: is it lost", label: /\b1,?000\b/, options: LOST },
      { kind: "choice", ask: "overtaken by 2,100: is it lost", label: /\b2,?100\b/, options: LOST },
      {
        kind: "number",
        ask: "of two copies, how many are accepted",
        label: /\b(?:twice|cop(?:y|ies))\b/i,
        mistakes: { 2: "The window knows which numbers have come." },
      },
    ],
    async measure() {
      await reorder.run();
      const accepted = observations.find((one) => /it was accepted/.test(one))!;
      const refused = observations.find((one) => /it was refused/.test(one));
      const twice = observations.find((one) => /sent twice/.test(one))!;
      const [sent, lost, again] = twice.match(/\d+/g)!.map(Number) as [number, number, number];
      return [
        { right: yes(!accepted), seen: `In this run ${accepted}.` },
        { right: yes(refused !== undefined), seen: `In this run ${refused}.` },
        { right: (sent - lost + again) / sent, seen: `In this run, ${twice}.` },
      ];
    },
  },

  14: {
    parts: [
      { kind: "number", ask: "packets to 8.8.8.8 in tun0, with both routes", all: 3 },
      { kind: "number", ask: "packets to 8.8.4.4 in tun0", all: 3 },
      {
        kind: "number",
        ask: "packets to 8.8.8.8 in tun0, without the /32",
        all: 3,
        mistakes: { 3: "Without the /32, the /8 is the longest that fits." },
      },
    ],
    async measure() {
      await longestPrefix.run();
      return observations
        .filter((one) => /packets left by tun0/.test(one))
        .map((one) => ({ right: Number(find(/: (\d+) packets/, one)), seen: `In this run: ${one}.` }));
    },
  },

  15: {
    parts: [
      {
        kind: "number",
        ask: "fragments",
        label: /\b(?:fragments?|pieces?)\b/i,
        mistakes: { 2: "Two of 1,400 bytes hold 2,752 bytes of data at most." },
      },
      {
        kind: "number",
        ask: "the MSS in the SYN",
        label: /\bmss\b/i,
        mistakes: {
          1400: "That is the MTU. IP's header has 20 bytes, TCP's 20.",
          1460: "That is the MSS of a link of 1,500 bytes.",
        },
      },
    ],
    async measure() {
      await mtu.run();
      const [cut, syn] = [/went as (\d+) fragments/, /the SYN says MSS (\d+)/];
      return [cut, syn].map((pattern) => ({
        right: Number(observed(pattern)),
        seen: `In this run: ${observations.find((one) => pattern.test(one))}.`,
      }));
    },
  },

  16: {
    parts: [
      {
        kind: "choice",
        ask: "the mode in which a packet arrives twice",
        options: MODES,
        mistakes: { "xor+aes": "There the copy meets the next nonce, and its tag does not fit." },
      },
      {
        kind: "number",
        ask: "of 5 copies of message 1, how many are answered",
        all: 5,
        mistakes: {
          5: "The server remembers the public key in message 1.",
          0: "A server that was started anew has forgotten which messages it knows.",
        },
      },
    ],
    async measure() {
      await replay.run();
      const doubled = observations.find((one) => /answers came back/.test(one))!;
      const [sent, came] = doubled.match(/\d+/g)!.map(Number) as [number, number];
      const refused = observations.find((one) => /closed the connection/.test(one))!;
      const copies = observations.find((one) => /copies of message 1/.test(one))!;
      return [
        {
          right: came > sent ? "xor" : "xor+aes",
          seen: `With xor, ${doubled}. With xor+aes, ${refused}.`,
        },
        { right: Number(find(/, (\d+) got/, copies)), seen: `In this run, ${copies}.` },
      ];
    },
  },

  17: {
    parts: [
      {
        kind: "number",
        ask: "bytes found out, with one nonce for both",
        all: 69,
        mistakes: { 0: "Both are XORed with the same key stream: it cancels out." },
      },
      { kind: "number", ask: "bytes found out, each with its own", all: 69, within: 10 },
    ],
    async measure() {
      await reuseNonce.run();
      const [whole, guessed] = [/recovered whole, (\d+) bytes/, /now gets (\d+) of/];
      return [whole, guessed].map((pattern) => ({
        right: Number(observed(pattern)),
        seen: `In this run: ${observations.find((one) => pattern.test(one))}.`,
      }));
    },
  },

  18: {
    parts: [
      {
        kind: "choice",
        ask: "the tunnel that loses more",
        label: /\b(?:los[est]+)\b/i,
        options: TRANSPORTS,
        mistakes: { TCP: "What TCP has lost, it sends again." },
      },
      {
        kind: "choice",
        ask: "the tunnel in which more come late",
        label: /\b(?:late\w*|slow\w*|wait\w*)\b/i,
        options: TRANSPORTS,
        mistakes: { UDP: "Over UDP nothing waits for what was lost." },
      },
    ],
    async measure() {
      const { tcp, udp } = await tcpInTcp.pings(0.05, 40);
      const seen = `In this run: ${observations.slice(-2).join("; ")}.`;
      return [0, 1].map((i) => {
        const [less, more] = [tcp[i]!, udp[i]!].sort((a, b) => a - b) as [number, number];
        if (more < 1.5 * less)
          throw new Failure(
            `Cannot judge: ${less} and ${more} are too near`,
            "again, when this machine is less busy",
          );
        return { right: more === tcp[i] ? "TCP" : "UDP", seen };
      });
    },
  },
};

/** What an experiment has measured. */
const observed = (pattern: RegExp) => find(pattern, observations.join("\n"));
