/**
 * Frames: how packets survive a TCP stream, which keeps bytes in order but not their borders. Step 6.frame
 * puts a header in front of each frame, step 8.deframe finds the frames again, however the stream was split
 * on its way.
 *
 *   --cipher xor+aes (the default)               --cipher xor (the original C programs)
 *   offset size                                  offset size
 *   0      1    type: a FrameType                0      2    length of the packet, big-endian
 *   1      3    length of the body, big-endian   2      …    one packet, XORed
 *   4      …    body; of data and control:
 *               sealed, then the tag
 *
 * The body of a data frame is a row of records. Each is one packet: as many as one wake-up of the loop
 * brought. The body of a control frame is a word, see Control.
 *   0      4    length of the next two together, big-endian
 *   4      10   offload.ts's header
 *   14     …    the packet, then 0–3 zero bytes, not counted, up to a multiple of 4
 */
import { TAG_LENGTH } from "./aes.ts";
import { BrokenStream } from "../base/failure.ts";
import { OFFLOAD_HEADER } from "./offload.ts";
import { MAX_PACKET } from "../base/packet.ts";

export const FrameType = { handshake: 1, data: 2, control: 3 } as const;
export type FrameType = (typeof FrameType)[keyof typeof FrameType];

/**
 * The words of a control frame: its plaintext is one of these as u32 big-endian. Behind `rekey` follows a
 * handshake message.
 */
export const Control = { keepalive: 1, goodbye: 2, rekey: 3, switch: 4, probe: 5, probed: 6 } as const;

/** A wake-up stops draining the TUN at this many bytes; the last packet may go over it. */
export const BATCH = 64 * 1024;

/** How one wire format lays out its bytes; all in bytes. */
export interface Framing {
  readonly header: number; // before the body
  readonly record: number; // before what read() gave, in each record
  readonly packet: number; // before the IP packet itself, in each record
  readonly align: number; // a record is padded to a multiple of this
  readonly tag: number; // after the body's records
  readonly ordered: boolean; // do frames come whole, and in the order they were sent in? TCP sees to that
  readonly typed: boolean; // does the header begin with a FrameType? Without one, every frame is data
  readonly batches: boolean; // may a frame carry several packets?
  readonly maxBody: number;
  putHeader(bytes: Buffer, at: number, type: FrameType, bodyLength: number): void;
  number?(bytes: Buffer, at: number): number; // of the frame at `at`, where its header has one
  /** The body's length, or a sentence on what is wrong with this header. */
  bodyLength(bytes: Buffer, at: number): number | string;
}

/** `length` rounded up to a multiple of `align`. */
export const pad = (length: number, align: number) => Math.ceil(length / align) * align;

const RECORD = 4;
export const aesFraming: Framing = {
  header: 4,
  record: RECORD,
  packet: RECORD + OFFLOAD_HEADER,
  align: 4, // so that every body starts at a multiple of 4 in memory, and XOR can go word by word
  tag: TAG_LENGTH,
  ordered: true,
  typed: true,
  batches: true,
  maxBody: BATCH + RECORD + pad(OFFLOAD_HEADER + MAX_PACKET, 4) + TAG_LENGTH,
  putHeader(bytes, at, type, bodyLength) {
    bytes.writeUInt32BE(((type << 24) | bodyLength) >>> 0, at);
  },
  bodyLength(bytes, at) {
    const type = bytes[at]!;
    const length = bytes.readUIntBE(at + 1, 3);
    if (type < FrameType.handshake || type > FrameType.control)
      return `unknown frame type ${type} (not our protocol, or --cipher xor at the other end?)`;
    if (type !== FrameType.handshake && length % 4 !== 0)
      return `frame length ${length} is not a multiple of 4`;
    return checkLength(length, 0, this.maxBody);
  },
};

/** Before there are keys, a peer may send only so much. */
export const handshakeFraming: Framing = { ...aesFraming, maxBody: 1024 };

export const xorFraming: Framing = {
  header: 2,
  record: 0,
  packet: 0,
  align: 1,
  tag: 0,
  ordered: true,
  typed: false,
  batches: false,
  maxBody: MAX_PACKET,
  putHeader(bytes, at, _type, bodyLength) {
    bytes.writeUInt16BE(bodyLength, at);
  },
  bodyLength(bytes, at) {
    return checkLength(bytes.readUInt16BE(at), 1, this.maxBody);
  },
};

function checkLength(length: number, min: number, max: number): number | string {
  return length < min || length > max ? `frame length ${length}, expected ${min} to ${max}` : length;
}

/**
 * The size of the frame that begins at bytes[from], header included; 0 while a part of it has not come yet.
 * Throws BrokenStream if its header makes no sense.
 */
export function wholeFrame(framing: Framing, bytes: Buffer, from: number, to: number): number {
  if (to - from < framing.header) return 0;
  const length = framing.bodyLength(bytes, from);
  if (typeof length === "string") throw new BrokenStream(length);
  const size = framing.header + length;
  return to - from < size ? 0 : size;
}
