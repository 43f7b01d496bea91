/** Lesson 2 as students get it wrong. */
import type { Wrong } from "../trial.ts";

const FIRST = "a ping is answered";

export const WRONG: Wrong[] = [
  {
    what: "the starter",
    text: "the starter",
    check: FIRST,
    hint: /0 of 1 answered; you wrote 0 packets.*\nTODO 1/,
  },
  { what: "an empty file", text: "nothing", check: FIRST, hint: /the file is empty/ },
  {
    what: "the addresses as they were",
    text: ["packet.writeUInt32BE(source, 16);", ""],
    check: FIRST,
    hint: /10\.8\.0\.2 → 10\.8\.0\.99, and your answer 10\.8\.0\.99 → 10\.8\.0\.99\n.*keep one in a copy/,
  },
  {
    what: "the type forgotten",
    text: ["packet[20] = 0;", ""],
    check: FIRST,
    hint: /byte 20 is 08\n.*echo reply is 0/,
  },
  {
    what: "the checksum forgotten",
    text: ["packet.writeUInt16BE(checksum(packet.subarray(20)), 22);", "checksum(packet);"],
    check: FIRST,
    hint: /is 0000; [\da-f]{4} would be right/,
  },
  {
    what: "the old checksum in the new one",
    text: ["packet.writeUInt16BE(0, 22);", ""],
    check: FIRST,
    hint: /set the two bytes to 0 before/,
  },
  { what: "no bits turned over", text: ["~sum & 0xffff", "sum"], check: FIRST, hint: /turn every bit over/ },
  {
    what: "the whole buffer is written",
    text: ["c.write(tun, packet)", "c.write(tun, buffer)"],
    check: FIRST,
    hint: /has 84 bytes, your answer 2048\n.*as many bytes as read\(\) gave/,
  },
  {
    what: "an odd last byte in the wrong half",
    text: [
      "bytes[at]! * 256 + (bytes[at + 1] ?? 0)",
      "bytes.length - at > 1 ? bytes.readUInt16BE(at) : bytes[at]!",
    ],
    check: "of any size",
    hint: /would be right\n.*an odd last byte/,
  },
  {
    what: "one packet only",
    text: [
      'if (answer(packet)) c.check(c.write(tun, packet), "write tun0");',
      "if (answer(packet)) c.write(tun, packet); for (const _ of [1, 2, 3]) c.read(tun, buffer);",
    ],
    check: "and so are the next three",
    hint: /0 of 3 answered; you wrote 0 packets.*\nTODO 3: .*for \(;;\)/,
  },
  {
    what: "whatever comes is answered",
    text: ["if (packet[0] !== 0x45 || packet[9] !== 1 || packet[20] !== 8) return false;", ""],
    check: "nothing else is answered",
    hint: /you answered a UDP packet/,
  },
  {
    what: "an echo reply is answered",
    text: [" || packet[20] !== 8", ""],
    check: "nothing else is answered",
    hint: /you answered an echo reply: byte 20 is 0\n.*byte 20 is 8/,
  },
];
