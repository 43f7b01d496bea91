/**
 * Taps: AF_PACKET sockets, what tcpdump uses, one on each device named. Runs on a host of the lab:
 *
 *     node --import tsx src/lab/walk/taps.ts HOST DEVICE…
 *
 * and prints one JSON object for each packet that passes, with the kernel's own time stamp, until it is
 * stopped.
 */
import { writeSync } from "node:fs";
import { errnoName } from "../../base/errno.ts";
import { Failure } from "../../base/failure.ts";
import { ioctl, Memory, thisProcess } from "../../base/libc.ts";
import { watch } from "../../core/loop.ts";
import { exit, program } from "../../host/program.ts";
import { bind, SOCK_CLOEXEC, SOCK_NONBLOCK, socket } from "../../transport/socket-calls.ts";

/** A packet that passed a tap. */
export interface TapPacket {
  time: bigint; // ns, CLOCK_MONOTONIC
  host: string;
  device: string;
  out: boolean; // leaves the host through this device; else it comes in
  link: number; // bytes of link-layer header before the IP header: 14 (Ethernet), or 0 on a TUN
  bytes: Buffer; // the packet, link-layer header included
}

// linux/if_packet.h, linux/if_ether.h, linux/sockios.h, time.h
const AF_PACKET = 17;
const SOCK_RAW = 3;
const ETH_P_ALL = 0x0003;
const PACKET_OUTGOING = 4; // sll_pkttype
const SIOCGSTAMPNS = 0x8907; // the time stamp of the last packet read: struct timespec, CLOCK_REALTIME
// family u16, protocol u16 big-endian, ifindex i32, hatype u16, pkttype u8, halen u8, addr[8]
const SIZEOF_SOCKADDR_LL = 20;
const ARPHRD_ETHER = 1; // net/if_arp.h: sll_hatype of an Ethernet device
const [CLOCK_REALTIME, CLOCK_MONOTONIC] = [0, 1];
const cNametoindex = thisProcess.func("unsigned int if_nametoindex(const char *name)");
const cRecvfrom = thisProcess.func(
  "int64_t recvfrom(int fd, void *buffer, size_t size, int flags, void *address, _Inout_ uint32_t *length)",
);
const cClockGettime = thisProcess.func("int clock_gettime(int clock, void *timespec)");

const timespec = Buffer.alloc(16); // seconds i64, nanoseconds i64
const nanoseconds = () => timespec.readBigInt64LE(0) * 1_000_000_000n + timespec.readBigInt64LE(8);
const clock = (which: number) => (cClockGettime(which, timespec), nanoseconds());

/**
 * ns to add to CLOCK_REALTIME for CLOCK_MONOTONIC: read between two reads of the other clock; the quickest of
 * 20 is the best.
 */
const TO_MONOTONIC = Array.from({ length: 20 }, () => {
  const [before, real, after] = [clock(CLOCK_MONOTONIC), clock(CLOCK_REALTIME), clock(CLOCK_MONOTONIC)];
  return { took: after - before, offset: (before + after) / 2n - real };
}).reduce((best, one) => (one.took < best.took ? one : best)).offset;

/** Opens a tap on `device`. Each packet is given to `handle`. */
function tap(host: string, device: string, handle: (packet: TapPacket) => void): void {
  const index: number = cNametoindex(device);
  if (index === 0) throw new Failure(`Cannot tap ${device}: there is no such device on ${host}`, "ip link");
  // protocol 0: nothing arrives before bind()
  const fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0)
    throw new Failure(`Cannot tap ${device}: ${errnoName(fd)}`, "it needs CAP_NET_RAW: run it in the lab");
  ioctl(fd, SIOCGSTAMPNS, timespec); // the first call, before any packet, switches time stamps on
  const address = Buffer.alloc(SIZEOF_SOCKADDR_LL);
  address.writeUInt16LE(AF_PACKET, 0);
  address.writeUInt16BE(ETH_P_ALL, 2);
  address.writeInt32LE(index, 4);
  const result = bind(fd, address, SIZEOF_SOCKADDR_LL);
  if (result < 0) throw new Failure(`Cannot tap ${device}: ${errnoName(result)}`, "ip link");

  const memory = new Memory(1 << 17);
  taps.push(
    watch(fd, {
      readable: () => {
        for (;;) {
          const count: number = cRecvfrom(fd, memory.address, memory.bytes.length, 0, address, [
            SIZEOF_SOCKADDR_LL,
          ]);
          if (count < 0) return;
          ioctl(fd, SIOCGSTAMPNS, timespec);
          const time = nanoseconds() + TO_MONOTONIC;
          const link = address.readUInt16LE(8) === ARPHRD_ETHER ? 14 : 0;
          handle({
            time,
            host,
            device,
            out: address[10] === PACKET_OUTGOING,
            link,
            bytes: Buffer.from(memory.bytes.subarray(0, count)),
          });
        }
      },
      error: () => exit(0), // the device is gone
    }),
  );
}
const taps: unknown[] = []; // kept, or the watches would be garbage-collected

/** What taps.ts has printed, as the packets that they were. */
export function decodeTaps(output: string): TapPacket[] {
  const lines = output.split("\n").slice(0, -1); // behind the last newline may be half a line
  return lines
    .filter((line) => line.startsWith("{"))
    .map((line) => {
      const { time, bytes, ...rest } = JSON.parse(line);
      return { ...rest, time: BigInt(time), bytes: Buffer.from(bytes, "hex") };
    });
}

if (/\btaps\.[jt]s$/.test(process.argv[1] ?? "")) {
  program(() => {
    const [host = "", ...devices] = process.argv.slice(2);
    for (const device of devices) {
      tap(host, device, ({ time, bytes, ...rest }) => {
        writeSync(1, `${JSON.stringify({ ...rest, time: String(time), bytes: bytes.toString("hex") })}\n`);
      });
    }
    writeSync(1, "ready\n");
  });
}
