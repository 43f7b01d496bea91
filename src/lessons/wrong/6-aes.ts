/** Lesson 6 as students get it wrong. */
import type { Wrong } from "../trial.ts";

const CHANGED = 'if (!packet) return hangUp("a frame was changed on its way: its tag is wrong");';
const OUT = "what goes out is sealed";

export const WRONG: Wrong[] = [
  { what: "the starter", text: "the starter", check: OUT, hint: /is XORed only\nTODO 2, in seal/ },
  { what: "an empty file", text: "nothing", check: OUT, hint: /the file is empty/ },
  {
    what: "one nonce for all",
    text: ["key.number++", "key.number"],
    check: OUT,
    hint: /frame 1: .* nonce of frame 0/,
  },
  {
    what: "the first frame is 1",
    text: ["(key.number++)", "(++key.number)"],
    check: OUT,
    hint: /nonce 1\nTODO 1: the first frame's number is 0/,
  },
  {
    what: "a number of one byte",
    text: [
      'Buffer.from((key.number++).toString(16).padStart(24, "0"), "hex")',
      "Buffer.concat([Buffer.alloc(11), Buffer.of(key.number++)])",
    ],
    check: "300 frames, and no nonce comes twice",
    hint: /frame 256: .* nonce of frame 0.*\n.*4 bytes/,
  },
  {
    what: "both ends seal with one key",
    text: [
      '"server" : "client");\n  opener = newKey(role === "server" ? "client" : "server");',
      '"client" : "client");\n  opener = newKey("client");',
    ],
    check: "300 frames, and no nonce comes twice",
    hint: /from the server, and was sealed with the client's key/,
  },
  {
    what: "a tag of any length",
    text: [", { authTagLength: TAG }", ""],
    check: "and the server goes on",
    hint: /a tag of 4 bytes was taken.*\n.*authTagLength/,
  },
  {
    what: "a nonce of 8 bytes",
    text: ["padStart(24", "padStart(16"],
    check: OUT,
    hint: /does not open.*\nTODO 1: 12 bytes/,
  },
  {
    what: "no additional data",
    text: [".setAAD(header);\n  return", ";\n  return"],
    check: OUT,
    hint: /opens without its header.*\nTODO 2: cipher\.setAAD/,
  },
  {
    what: "a frame without room for a tag ends the server",
    text: [
      "  try {\n    cipher.setAAD(header).setAuthTag(body.subarray(-TAG));",
      "  cipher.setAAD(header).setAuthTag(body.subarray(-TAG));\n  try {",
    ],
    check: "and the server goes on",
    hint: /exit code 1 on server.*Invalid authentication tag length[^]*TODO 3/,
  },
  {
    what: "no tag",
    text: [", cipher.getAuthTag()]", "]"],
    check: OUT,
    hint: /the tag is not\nTODO 2: getAuthTag/,
  },
  {
    what: "a length without the tag",
    text: ["length + TAG", "length"],
    check: OUT,
    hint: /\n.*TODO 4: the length is/,
  },
  {
    what: "each frame is opened with the number 0",
    text: ["nonce(key), { authTagLength", "nonce({ ...key }), { authTagLength"],
    check: [OUT, "what comes in is opened"],
    hint: /the connection is over\nthe server has hung up: a frame did not open there/,
  },
  {
    what: "the wrong key opens",
    text: ['opener = newKey(role === "server" ? "client" : "server");', "opener = sealer;"],
    check: [OUT, "what comes in is opened"],
    hint: /the server has hung up: a frame did not open there/,
  },
  {
    what: "the tag is not compared",
    text: [
      "Buffer.concat([cipher.update(body.subarray(0, -TAG)), cipher.final()])",
      "cipher.update(body.subarray(0, -TAG))",
    ],
    check: "a flipped bit is refused",
    hint: /one bit was flipped.* got the packet\nTODO 3 and 5/,
  },
  {
    what: "a wrong tag ends the server",
    text: [
      "return undefined; // from final(), which compares the tags; or there is no room for one",
      "throw new Error('wrong tag');",
    ],
    check: "and the server goes on",
    hint: /exit code 1 on server.*wrong tag/,
  },
  {
    what: "a frame that was changed is passed over",
    text: [CHANGED, "if (!packet) { stream = stream.subarray(end); continue; }"],
    check: "a flipped bit is refused",
    hint: /the connection goes on.*\nTODO 5: hangUp/,
  },
  {
    what: "a frame that was changed is written as it came",
    text: [`;\n    ${CHANGED}`, " ?? stream.subarray(2, end);"],
    check: "a flipped bit is refused",
    hint: /TODO .*5.*(hangUp|not written)/,
  },
];
