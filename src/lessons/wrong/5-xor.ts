/** Lesson 5 as students get it wrong. */
import type { Wrong } from "../trial.ts";

const [OUT, IN] = ["what goes out is XORed", "what comes in is XORed back"];
const CALL = "xor(buffer.subarray(2, 2 + length));";

export const WRONG: Wrong[] = [
  {
    what: "the starter",
    text: "the starter",
    check: OUT,
    hint: /00 54 45 00 00 54 …: the packet is as it was\nTODO 2/,
  },
  { what: "an empty file", text: "nothing", check: OUT, hint: /the file is empty/ },
  {
    what: "the length, too",
    text: [CALL, "xor(buffer.subarray(0, 2 + length));"],
    check: OUT,
    hint: /length is XORed/,
  },
  {
    what: "42, not 0x42",
    text: ["XOR_KEY = 0x42", "XOR_KEY = 42"],
    check: OUT,
    hint: /XOR 0x2a\n.*hexadecimal/,
  },
  {
    what: "all but the last byte",
    text: ["at < bytes.length; at++", "at < bytes.length - 1; at++"],
    check: OUT,
    hint: /byte 83 of the packet is not XORed/,
  },
  {
    what: "nothing is XORed on the way in",
    text: ["    xor(packet);\n", ""],
    check: IN,
    hint: /answers came in.*EINVAL\nTODO 3/,
  },
  {
    what: "84 bytes, however long the packet is",
    text: ["at < bytes.length; at++", "at < Math.min(84, bytes.length); at++"],
    check: OUT,
    hint: /byte 84 of the packet is not XORed\nevery byte.*; 04 b0 07 42 46 f2/,
  },
  {
    what: "all that has come, for each packet",
    text: ["    xor(packet);\n", "    xor(stream.subarray(2));\n"],
    check: [IN, "your client talks to the real server"],
    hint: /TODO.* 3/,
  },
  {
    what: "the client only",
    text: [CALL, `if (role === "client") ${CALL}`],
    check: "the real client talks to your server",
    hint: /0 of 3 answered/,
  },
];
