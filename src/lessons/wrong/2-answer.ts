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
    what: "the address of the task, whatever was asked",
    text: ["packet.writeUInt32BE(packet.readUInt32BE(16), 12);", "packet.writeUInt32BE(0x0a080063, 12);"],
    check: "to any address, with any checksum",
    hint: /and your answer 10\.8\.0\.99 → 10\.8\.0\.2\n.*bytes 12 to 15 are the source/,
  },
  {
    what: "carries added once only",
    text: ["while (sum > 0xffff)", "if (sum > 0xffff)"],
    check: "to any address, with any checksum",
    hint: /is ffff; fffe would be right\n.*until none left/,
  },
  {
    what: "each answer is written twice",
    text: ["if (answer(packet)) c.check", "if (answer(packet)) c.write(tun, packet), c.check"],
    check: [FIRST, "and so are the next three"],
    hint: /the same answer twice/,
  },
  {
    what: "no look at the protocol",
    text: [" || packet[9] !== 1", ""],
    check: "nothing else is answered",
    hint: /you answered a UDP packet: byte 9 is 17\n.*byte 9 is 1/,
  },
  {
    what: "no look at the header's length",
    text: ["packet[0] !== 0x45 || ", ""],
    check: "nothing else is answered",
    hint: /you answered a packet with IP options: byte 0 is 46\n.*byte 0 is 45/,
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
