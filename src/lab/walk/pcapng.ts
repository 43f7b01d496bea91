/**
 * The taps as one pcapng file (IETF draft-ietf-opsawg-pcapng): an interface for each tap, and a comment on
 * each packet that names its step. The inner packet stands beside the outer one: same file, other interface.
 * For Wireshark and tshark.
 */
import type { TapPacket } from "./taps.ts";

const [SECTION, INTERFACE, PACKET] = [0x0a0d0d0a, 1, 6]; // block types
const [OPT_COMMENT, IF_NAME, IF_TSRESOL, EPB_FLAGS] = [1, 2, 9, 2];
const [LINKTYPE_ETHERNET, LINKTYPE_RAW] = [1, 101];
const BYTE_ORDER_MAGIC = 0x1a2b3c4d;

// host byte order: the magic tells readers
const u32 = (...values: number[]) => Buffer.from(Uint32Array.from(values).buffer);
const u16 = (...values: number[]) => Buffer.from(Uint16Array.from(values).buffer);
const padded = (bytes: Buffer) => Buffer.concat([bytes, Buffer.alloc(-bytes.length & 3)]);
const option = (code: number, value: Buffer) => Buffer.concat([u16(code, value.length), padded(value)]);
const END_OF_OPTIONS = u16(0, 0);

function block(type: number, ...parts: Buffer[]): Buffer {
  const body = Buffer.concat(parts);
  const length = u32(body.length + 12);
  return Buffer.concat([u32(type), length, body, length]);
}

/**
 * `comment`: what to say about a packet; undefined leaves it out. Times become nanoseconds since 1970 by
 * `epochOffset`.
 */
export function pcapng(
  packets: TapPacket[],
  epochOffset: bigint,
  comment: (packet: TapPacket) => string | undefined,
): Buffer {
  const blocks = [block(SECTION, u32(BYTE_ORDER_MAGIC), u16(1, 0), u32(0xffffffff, 0xffffffff))];
  const interfaces: string[] = [];
  for (const packet of [...packets].sort((a, b) => (a.time < b.time ? -1 : 1))) {
    const text = comment(packet);
    if (text === undefined) continue;
    const name = `${packet.host} ${packet.device}`;
    let index = interfaces.indexOf(name);
    if (index < 0) {
      index = interfaces.push(name) - 1;
      const resolution = option(IF_TSRESOL, Buffer.of(9)); // 10^-9 s
      blocks.push(
        block(
          INTERFACE,
          u16(packet.link > 0 ? LINKTYPE_ETHERNET : LINKTYPE_RAW, 0),
          u32(0),
          option(IF_NAME, Buffer.from(name)),
          resolution,
          END_OF_OPTIONS,
        ),
      );
    }
    const time = packet.time + epochOffset;
    blocks.push(
      block(
        PACKET,
        u32(index, Number(time >> 32n), Number(time & 0xffffffffn), packet.bytes.length, packet.bytes.length),
        padded(packet.bytes),
        option(OPT_COMMENT, Buffer.from(text)),
        option(EPB_FLAGS, u32(packet.out ? 2 : 1)),
        END_OF_OPTIONS,
      ),
    );
  }
  return Buffer.concat(blocks);
}
