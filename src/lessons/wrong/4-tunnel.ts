/** Lesson 4 as students get it wrong. */
import type { Wrong } from "../trial.ts";

const KEPT = "stream = Buffer.concat([stream, buffer.subarray(0, count)]);";

export const WRONG: Wrong[] = [
  {
    what: "the starter",
    text: "the starter",
    check: "the client connects",
    hint: /no socket is connected.*\nTODO 1/,
  },
  { what: "an empty file", text: "nothing", check: "the client connects", hint: /the file is empty/ },
  {
    what: "packets without a length",
    text: ["send(buffer.subarray(0, 2 + length));", "send(buffer.subarray(2, 2 + length));"],
    check: "a packet leaves as a frame",
    hint: /got 84 bytes, 45 00 00 54.*\n.*2 bytes, the high byte first/,
  },
  {
    what: "the low byte first",
    text: ["buffer.writeUInt16BE(length, 0);", "buffer.writeUInt16LE(length, 0);"],
    check: "a packet leaves as a frame",
    hint: /54 00 45 00.*\n.*high byte first/,
  },
  {
    what: "the length is written into the TUN, too",
    text: ["stream.subarray(2, end)", "stream.subarray(0, end)"],
    check: "a frame comes, and is a packet again",
    hint: /no packet came out of tun0; it printed: dropped a packet: write tun0: EINVAL/,
  },
  {
    what: "an address of its own",
    text: ["c.sockaddr_in(address, PORT)", 'c.sockaddr_in(address && "192.168.1.1", PORT)'],
    check: "the client connects",
    hint: /connects to 192\.168\.1\.1, and the command line said 203\.0\.113\.1\n.*`address`/,
  },
  {
    what: "the whole buffer each time",
    text: [KEPT, "stream = Buffer.concat([stream, buffer]);"],
    check: "a frame comes, and is a packet again",
    hint: /3 frames came in, and \d+ packets out of them\n.*first `count` bytes of `buffer` are new/,
  },
  {
    what: "one read is one packet",
    text: [KEPT, "if (count > 0) return void c.write(tun, buffer.subarray(2, count));"],
    check: "300 quick pings",
    hint: /\d+ of 30 answered.*\n.*may bring many/,
  },
  {
    what: "whole frames only: the rest is forgotten",
    text: [KEPT, "stream = Buffer.from(buffer.subarray(0, count));"],
    check: ["300 quick pings", "a stream that comes one byte at a time"],
    hint: /end in one|while a whole frame is at its start/,
  },
  {
    what: "the client sends, the server does not",
    text: [
      "send(buffer.subarray(0, 2 + length));",
      'if (role === "client") send(buffer.subarray(0, 2 + length));',
    ],
    check: "one ping, from host to host",
    hint: /on the server, and no reply on the client.*\nboth roles do both/,
  },
  {
    what: "a bad packet ends it",
    text: [
      "if (result < 0) console.log(`dropped a packet: write tun0: ${c.errorName(result)}`);",
      'c.check(result, "write tun0");',
    ],
    check: "a stream that comes one byte at a time",
    hint: /exit code 1 on server.*write tun0: EINVAL\n.*must not end the tunnel/,
  },
  {
    what: "the end of a client is not seen",
    text: ["if (count <= 0) return hangUp();", ""],
    check: "the next client is served",
    hint: /busy all the time.*\n.*accept\(\) the next/,
  },
];
