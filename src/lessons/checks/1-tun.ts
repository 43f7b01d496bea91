/** Lesson 1: a TUN. What its checks see. */
import { type Lesson, Miss, type Program, type Stage } from "../check.ts";

const UNDONE =
  "TODO 1 opens /dev/net/tun, TODO 2 fills the request and calls ioctl() with TUNSETIFF. " +
  "The name is tun0. With c.check() around both, a call that fails says why";
const READ =
  "TODO 3: read(tun, packet) waits for a packet; then print its first 20 bytes with c.hex(packet, 20)";

const GONE = `it lives as long as its fd is open: the program must not end yet. ${READ}`;

/** The program, with tun0 up and an address on it. */
async function started(stage: Stage): Promise<Program> {
  const program = stage.start("client");
  await stage.tun(program, UNDONE);
  return program;
}

/** Pings `address` through tun0, and waits until the program has printed that packet's first 20 bytes. */
async function printed(stage: Stage, program: Program, address: string, size: number): Promise<string> {
  await stage.configure("client", "10.8.0.2/24");
  const ping = stage.run("client", `ping -c 1 -W 1 -s ${size} ${address}`);
  const total = 20 + 8 + size; // the headers of IP and ICMP
  const start = `45 00 ${hex(total >> 8)} ${hex(total & 255)}`;
  const end = `01 (.. ){2}0a 08 00 02 ${address
    .split(".")
    .map((part) => hex(Number(part)))
    .join(" ")}`;
  const pattern = new RegExp(`${start} (.. ){5}${end}`);
  const found = await stage.until(
    () => pattern.test(program.said) && start,
    () => {
      const said = /[\da-f]{2}( [\da-f]{2}){3,}/.exec(program.said)?.[0];
      const wanted = `${start} … ${hex(10)} 08 00 02 … are the first bytes of that ping`;
      const other = program.said.trim().split("\n").at(-1);
      if (!said && other)
        return new Miss(
          `${wanted}, but "${other.slice(0, 40)}" was printed`,
          "c.hex(packet, 20) prints them so",
        );
      if (!said) return new Miss(`ping ${address} went into tun0, and no bytes were printed`, READ);
      return new Miss(
        `${wanted}, but "${said}" was printed`,
        "print the first 20 bytes of what read() put into the buffer: c.hex(packet, 20)",
      );
    },
  );
  await ping;
  return found;
}

const hex = (byte: number) => byte.toString(16).padStart(2, "0");

export const lesson: Lesson = {
  file: "1-tun",
  title: "a TUN",
  about: [
    "You make tun0, a network interface whose cable ends in your program,",
    "and read the first packet that the kernel sends into it.",
  ],
  write: [
    "open /dev/net/tun",
    "the request: name and flags; ioctl(TUNSETIFF)",
    "read one packet, print its first bytes",
  ],
  read: ["man 7 netdevice (struct ifreq)", "walkthrough.md, Making a TUN"],
  crashes: [
    [
      /TUNSETIFF: EINVAL/,
      "EINVAL: the flags stand at byte 16, low byte first (writeUInt16LE), and need IFF_TUN",
    ],
    [
      /TUNSETIFF: (ENOTTY|EBADF)/,
      "the fd is no TUN: TODO 1 opens /dev/net/tun. c.check() around open() says why it failed",
    ],
    [/is out of range/, "first what, then where: request.writeUInt16LE(flags, 16)"],
    [/EBADFD/, "the fd is no interface yet: ioctl() with TUNSETIFF comes before read()"],
    [/TUNSETIFF: E(PERM|BUSY)/, "another program has a tun0 here: end it"],
    [/EISDIR|ENOENT|EACCES/, "the file is /dev/net/tun, and it is opened with O_RDWR"],
  ],
  checks: [
    {
      name: "tun0 is there",
      async run(stage) {
        await started(stage);
        const [shown] = /tun0: <.*?>/.exec(await stage.run("client", "ip -o link show tun0")) ?? [];
        await stage.until(
          () => shown,
          () => new Miss("tun0 was there, and is gone again", GONE),
        );
        return `ip link: ${shown}`;
      },
    },
    {
      name: "it gives plain IP packets",
      async run(stage) {
        const shown = await stage.run("client", "ip -d -o link show tun0");
        const [, type, info] = /\btun type (\w+) pi (\w+)/.exec(shown) ?? [];
        await stage.until(
          () => type,
          () => new Miss("tun0 is gone again", GONE),
        );
        if (type === "tap")
          throw new Miss("tun0 is a TAP: it gives Ethernet frames", "the flag is IFF_TUN, not IFF_TAP (2)");
        if (info === "on")
          throw new Miss(
            "4 bytes of packet information stand before each packet",
            "one flag is missing in the request: IFF_TUN | IFF_NO_PI",
          );
        return `ip -d link: tun type ${type} pi ${info}`;
      },
    },
    {
      name: "a ping is read, and printed",
      async run(stage) {
        return `${await printed(stage, stage.programs[0]!, "10.8.0.1", 56)}: IPv4, 84 bytes`;
      },
    },
    {
      name: "and so is any other",
      async run(stage) {
        await stage.end();
        const [last, size] = [100 + Math.floor(Math.random() * 100), 500 + Math.floor(Math.random() * 500)];
        const bytes = await printed(stage, await started(stage), `10.8.0.${last}`, size);
        return `ping -s ${size} 10.8.0.${last}: ${bytes}`;
      },
    },
  ],
};
