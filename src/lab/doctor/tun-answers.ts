/**
 * What the kernel answers a program that opens a TUN: each case of draft/tun-device-notes.md, tried. It works
 * in a private mount and network namespace of its own, so it touches no interface of this machine: node
 * --import tsx src/lab/doctor/tun-answers.ts
 */
import { spawnSync } from "node:child_process";
import { Failure } from "../../base/failure.ts";
import { errnoName } from "../../base/errno.ts";
import * as libc from "../../base/libc.ts";
import { program } from "../../host/program.ts";
import { CLONE_DEVICE } from "../../core/tun.ts";

// linux/if_tun.h, what the VPN itself does not use
const IFF_TAP = 0x0002,
  IFF_MULTI_QUEUE = 0x0100,
  IFF_VNET_HDR = 0x4000,
  IFF_TUN_EXCL = 0x8000;
const TUNSETPERSIST = 0x400454cb; // _IOW('T', 203, int): its argument is the value itself
const PLAIN = libc.IFF_TUN | libc.IFF_NO_PI;
const NOBODY = 65534;
const memory = new libc.Memory(2048);

const sh = (command: string) => spawnSync("sh", ["-c", command], { encoding: "utf8" }).stdout.trim();
const told = (answer: number) => (answer < 0 ? errnoName(answer) : answer === 0 ? "ok" : `${answer} bytes`);
const show = (what: string, answer: number | string) =>
  console.log(`${what.padEnd(62)} ${typeof answer === "string" ? answer : told(answer)}`);
const open = (path = CLONE_DEVICE) => libc.open(path, libc.O_RDWR | libc.O_NONBLOCK | libc.O_CLOEXEC);
const close = (...fds: number[]) => fds.forEach((fd) => fd >= 0 && libc.close(fd));
const read = (fd: number, size = 2048) => libc.read(fd, memory, 0, size);
const hex = (size: number) => (memory.bytes.toString("hex", 0, size).match(/../g) ?? []).join(" ");

function write(fd: number, ...bytes: number[]): number {
  memory.bytes.fill(0).set(bytes);
  return libc.write(fd, memory, 0, bytes.length);
}

/** TUNSETIFF: 0 or a negative errno, and the name that the kernel wrote back. */
function setIff(fd: number, name: string, flags: number): [result: number, name: string] {
  const request = Buffer.alloc(libc.SIZEOF_IFREQ);
  request.write(name, 0, libc.IFNAMSIZ, "latin1");
  request.writeUInt16LE(flags, libc.IFNAMSIZ);
  const result = libc.ioctl(fd, libc.TUNSETIFF, request);
  return [result, request.toString("latin1", 0, request.indexOf(0))];
}

/** TUNSETIFF on a new fd, shown. The fd stays open. */
function create(what: string, name: string, flags: number): number {
  const fd = open();
  const [result, made] = setIff(fd, name, flags);
  show(what, result === 0 ? `ok: ${made}` : result);
  return fd;
}

/** What `use` returns for a user who is not root. */
function asNobody<T>(use: () => T): T {
  process.seteuid!(NOBODY);
  try {
    return use();
  } finally {
    process.seteuid!(0);
  }
}

function opening(): void {
  console.log(`\n# open ${CLONE_DEVICE}`);
  const fd = open();
  show("root, the device is there", fd < 0 ? fd : 0);
  sh(
    "mount -t tmpfs tmpfs /mnt && mknod -m 600 /mnt/tun c 10 200 && " +
      "mknod /mnt/minor c 10 255 && mknod /mnt/major c 239 0",
  );
  show(
    "not root, mode 0600",
    asNobody(() => open("/mnt/tun")),
  );
  sh("mount -o remount,nodev /mnt");
  show("a file system mounted nodev", open("/mnt/tun"));
  sh("mount -o remount,dev /mnt");
  show("no driver for the minor number (module not loaded)", open("/mnt/minor"));
  show("no driver for the major number", open("/mnt/major"));
  show("no such file", open("/mnt/none"));
  sh("chmod 666 /mnt/tun");
  const unprivileged = asNobody(() => open("/mnt/tun"));
  show("not root, mode 0666", Math.min(unprivileged, 0));
  show(
    "  … then TUNSETIFF without CAP_NET_ADMIN",
    asNobody(() => setIff(unprivileged, "tun0", PLAIN)[0]),
  );
  show("read before TUNSETIFF", read(fd));
  close(fd, unprivileged);
  sh("umount /mnt");
}

function naming(): void {
  console.log("\n# TUNSETIFF");
  const first = create("tun0", "tun0", PLAIN);
  show("the same fd again", setIff(first, "tun1", PLAIN)[0]);
  close(create("tun0 while the first fd is open", "tun0", PLAIN));
  close(create("no name", "", PLAIN), create("vpn%d", "vpn%d", PLAIN));
  close(create("16 characters: abcdefghijklmnop", "abcdefghijklmnop", PLAIN));
  for (const name of ["a/b", "a b", "."]) close(create(`name '${name}'`, name, PLAIN));
  close(
    create("lo: it exists and is no TUN", "lo", PLAIN),
    create("neither IFF_TUN nor IFF_TAP", "tun9", libc.IFF_NO_PI),
  );
  show("TUNSETPERSIST on tun0", libc.ioctl(first, TUNSETPERSIST, 1));
  close(first);
  show("  … and after close()", sh("ip -o link show tun0 | cut -d: -f2"));
  close(
    create("  … IFF_TUN_EXCL on it", "tun0", PLAIN | IFF_TUN_EXCL),
    create("  … as TAP", "tun0", IFF_TAP),
    create("  … with IFF_MULTI_QUEUE", "tun0", PLAIN | IFF_MULTI_QUEUE),
  );
  close(create("  … as it is", "tun0", PLAIN));
  sh("ip link del tun0");
  close(
    create("IFF_MULTI_QUEUE, first fd", "mq0", PLAIN | IFF_MULTI_QUEUE),
    create("IFF_MULTI_QUEUE, second fd", "mq0", PLAIN | IFF_MULTI_QUEUE),
  );
}

function reading(): void {
  console.log("\n# read and write");
  const fd = create("tun0", "tun0", PLAIN);
  show("write while down", write(fd, 0x45, 0, 0, 20));
  sh("ip addr add 10.9.0.1/24 dev tun0; ip link set tun0 up");
  show("write with IP version 0", write(fd, 0x05, 0, 0, 20));
  show("write of no bytes", libc.write(fd, memory, 0, 0));
  show("write of 4 bytes that begin like IPv4", write(fd, 0x45, 0, 0, 20));
  while (read(fd) > 0); // what the kernel sent by itself
  show("read, nothing waits", read(fd));
  sh("ping -c 1 -W 0.1 10.9.0.2");
  show("read of 20 bytes, an 84-byte packet waits", read(fd, 20));
  show("  … and again: the rest is gone", read(fd));
  sh("ping -c 600 -l 600 -W 0.1 -w 1 10.9.0.2");
  let packets = 0;
  while (read(fd) > 0) packets++;
  show("600 packets while nobody reads: then read", `${packets} packets`);
  show(
    "  … and the interface's TX dropped",
    sh("ip -s link show tun0 | tail -1 | tr -s ' ' | cut -d' ' -f5"),
  );
  sh("ip link del tun0");
  show("read after 'ip link del'", read(fd));
  show("write after 'ip link del'", write(fd, 0x45, 0, 0, 20));
  close(fd);
}

function modes(): void {
  console.log("\n# the first bytes of one ping");
  const flags: [string, number][] = [
    ["IFF_TUN | IFF_NO_PI", PLAIN],
    ["IFF_TUN", libc.IFF_TUN],
    ["IFF_TUN | IFF_NO_PI | IFF_VNET_HDR", PLAIN | IFF_VNET_HDR],
    ["IFF_TAP | IFF_NO_PI", IFF_TAP | libc.IFF_NO_PI],
  ];
  for (const [name, bits] of flags) {
    const fd = open();
    setIff(fd, "dev0", bits);
    sh("sysctl -qw net.ipv6.conf.dev0.disable_ipv6=1");
    sh("ip addr add 10.9.0.1/24 dev dev0; ip link set dev0 up; ping -c 1 -W 0.1 10.9.0.2");
    const size = read(fd);
    show(name, `${String(size).padStart(3)} bytes: ${hex(16)} …`);
    close(fd);
  }
}

program(() => {
  if (process.argv[2] === "inside") return [opening, naming, reading, modes].forEach((part) => part());
  if (process.getuid?.() !== 0)
    throw new Failure(
      "Cannot try the kernel's answers: making device nodes needs root",
      "sudo, or read draft/tun-device-notes.md",
    );
  const inside = [...process.execArgv, process.argv[1]!, "inside"];
  const { status } = spawnSync("unshare", ["--mount", "--net", process.execPath, ...inside], {
    stdio: "inherit",
  });
  process.exitCode = status ?? 1;
});
