/** Lesson 1 as students get it wrong. */
import type { Wrong } from "../trial.ts";

const [OPEN, FLAGS] = [
  'c.open("/dev/net/tun", c.O_RDWR)',
  "request.writeUInt16LE(c.IFF_TUN | c.IFF_NO_PI, 16);",
];
const READ = 'const length = c.check(c.read(tun, packet), "read tun0");';
const PRINT = "console.log(`${length} bytes: ${c.hex(packet, 20)}`);";

// a program that ends: tun0 is there for a moment, and it is chance how far the checks get meanwhile
const ANY = ["tun0 is there", "it gives plain IP packets", "a ping is read, and printed"];

export const WRONG: Wrong[] = [
  { what: "the starter", text: "the starter", check: "tun0 is there", hint: /has ended.*\nTODO 1/ },
  { what: "an empty file", text: "nothing", check: "tun0 is there", hint: /the file is empty/ },
  {
    what: "another file is opened",
    text: [OPEN, 'c.open("/dev/null", c.O_RDWR)'],
    check: "tun0 is there",
    hint: /TUNSETIFF: ENOTTY\n.*TODO 1 opens \/dev\/net\/tun/,
  },
  {
    what: "the flags with the high byte first",
    text: [FLAGS, "request.writeUInt16BE(c.IFF_TUN | c.IFF_NO_PI, 16);"],
    check: "tun0 is there",
    hint: /TUNSETIFF: EINVAL\n.*writeUInt16LE/,
  },
  {
    what: "no ioctl()",
    text: ['c.check(c.ioctl(fd, c.TUNSETIFF, request), "ioctl TUNSETIFF");', "c.hex(request);"],
    check: "tun0 is there",
    hint: /EBADFD\n.*TUNSETIFF/,
  },
  {
    what: "a TAP",
    text: [FLAGS, "request.writeUInt16LE(2 | c.IFF_NO_PI, 16);"],
    check: "it gives plain IP packets",
    hint: /is a TAP.*\n.*IFF_TUN/,
  },
  {
    what: "IFF_NO_PI forgotten",
    text: [FLAGS, "request.writeUInt16LE(c.IFF_TUN, 16);"],
    check: "it gives plain IP packets",
    hint: /packet information.*\n.*IFF_NO_PI/,
  },
  {
    what: "it ends without a read()",
    text: [READ, "const length = 0;"],
    check: ANY,
    hint: /your program has ended/,
  },
  {
    what: "nothing is printed",
    text: [PRINT, "c.read(tun, packet, length);"],
    check: "a ping is read, and printed",
    hint: /no bytes were printed\n.*TODO 3/,
  },
  {
    what: "hex of another shape",
    text: ["c.hex(packet, 20)", "packet.toString('hex', 0, 20)"],
    check: "a ping is read, and printed",
    hint: /but "84 bytes: 45000054\w+" was printed.*\nc\.hex/,
  },
  {
    what: "the same bytes whatever was read",
    text: ["${c.hex(packet, 20)}", "45 00 00 54 00 00 40 00 40 01 00 00 0a 08 00 02 0a 08 00 01"],
    check: "and so is any other",
    hint: /was printed.*\n.*what read\(\) put into the buffer/,
  },
  {
    what: "an exception",
    text: [READ, "const length = (undefined as unknown as string[]).length;"],
    check: ANY,
    hint: /exit code 1 on client.*: TypeError: Cannot read properties/,
  },
  {
    what: "a loop that does not end",
    text: [READ, "let length = 0; for (;;) length++;"],
    check: "a ping is read, and printed",
    hint: /busy all the time/,
  },
  {
    what: "it is killed by a signal",
    text: [READ, 'const length = 0; process.kill(process.pid, "SIGSEGV");'],
    check: ANY,
    hint: /ended by SIGSEGV/,
  },
];
