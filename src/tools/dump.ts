/** Shows the crafted segments that pass this machine, and what is in them: the wire format, read aloud. */
import { close, Memory, read } from "../base/libc.ts";
import { errnoName } from "../base/errno.ts";
import { Failure } from "../base/failure.ts";
import { MAX_PACKET } from "../base/packet.ts";
import { watch } from "../core/loop.ts";
import { CLIENT, option, parse, whole } from "../host/options.ts";
import { exit } from "../host/program.ts";
import { endpoint, readSockaddr } from "../transport/addresses.ts";
import { Cmd, OVERHEAD } from "../transport/kcp.ts";
import { PING_HEADER, PONG_HEADER, Type } from "../transport/raw.ts";
import { openPacketSocket } from "../transport/raw-socket.ts";
import { Segment } from "../transport/tcp-segments.ts";

const { port, help } = CLIENT;
const count = option("N", undefined, "end after so many segments", whole(1, 1e9));

export function dump(args: string[]): void {
  const { values } = parse(args, { port, count, help }, "src/tools.ts dump");
  const [only, most] = [values.port!.at(-1)!, values.count?.at(-1) ?? Infinity];
  const fd = openPacketSocket();
  if (fd < 0) throw new Failure(`Cannot open a packet socket: ${errnoName(fd)}`, "start as root (sudo)");
  const memory = new Memory(MAX_PACKET + 1);
  const segment = new Segment();
  let shown = 0;
  console.log(`this listens to port ${only}; Ctrl-C ends it`);
  watch(fd, {
    readable() {
      const size = read(fd, memory, 0, memory.bytes.length);
      if (size < 0 || !segment.read(memory.bytes, 0, size)) return;
      const ends = segment.ends.map((name) => readSockaddr(name));
      if (!ends.some(([, port]) => port === only)) return;
      const [from, to] = ends.map(([address, port]) => endpoint(address, port));
      console.log(`${from} → ${to} ${describe(segment)}`);
      if (++shown >= most) exit(0);
    },
    error: () => void close(fd),
  });
}

const LETTERS = "FSRPAUEC"; // bit 0 to bit 7 of TCP's flags (RFC 9293, section 3.1)

/** One segment: "PA seq 17 ack 4 | TUN push 3 una 1 wnd 512 ts 99, 1376 bytes | …". */
export function describe({ bytes, tcp, payload, size, flags, ack }: Segment): string {
  const letters = [...LETTERS].filter((_, bit) => flags & (1 << bit)).join("");
  const parts = [`${letters} seq ${bytes.readUInt32BE(tcp + 4)} ack ${ack}`];
  return [...parts, ...payloadParts(bytes.subarray(payload, payload + size))].join(" | ");
}

const COMMANDS = Object.fromEntries(Object.entries(Cmd).map(([name, number]) => [number, name]));

function payloadParts(bytes: Buffer): string[] {
  if (bytes.length === 0) return [];
  const type = bytes[0]!;
  if (type === Type.tun) return kcpParts(bytes);
  const [name] = Object.entries(Type).find(([, number]) => number === type) ?? [];
  const header = type === Type.ping ? PING_HEADER : PONG_HEADER;
  if (!name || bytes.length < header) return [`no payload of ours: ${bytes.length} bytes`];
  return [`${name}, message of ${bytes.readUInt16BE(2)} bytes, ${bytes.length} with zeros`];
}

/** A row of KCP's segments: kcp.ts. */
function kcpParts(bytes: Buffer): string[] {
  const parts: string[] = [];
  let at = 0;
  while (bytes.length - at >= OVERHEAD) {
    const [conv, length] = [bytes.readUInt32LE(at), bytes.readUInt32LE(at + 20)];
    const command = COMMANDS[bytes[at + 4]!] ?? `command ${bytes[at + 4]}`;
    const [wnd, ts] = [bytes.readUInt16LE(at + 6), bytes.readUInt32LE(at + 8)];
    const [sn, una] = [bytes.readUInt32LE(at + 12), bytes.readUInt32LE(at + 16)];
    const first = at === 0 ? `TUN ${conv.toString(16).padStart(8, "0")} ` : "";
    const data = length > 0 ? `, ${length} bytes` : "";
    parts.push(`${first}${command} ${sn} una ${una} wnd ${wnd} ts ${ts}${data}`);
    at += OVERHEAD + length;
  }
  return at === bytes.length ? parts : [...parts, "a part that makes no sense"];
}
