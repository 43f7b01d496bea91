/**
 * Offload: what lets one read() carry 64 KB. Without it, the kernel cuts a TCP stream into packets of the MTU
 * and computes each one's checksum before we read them. With it, the kernel leaves both to "the hardware",
 * which is us, and we leave it to the kernel at the other end: a packet of up to 64 KB travels whole, and is
 * cut only where it leaves for a real wire. What the next one must know to finish the work stands in front of
 * each packet, 10 bytes that we carry along:
 *
 *   struct virtio_net_hdr (linux/virtio_net.h), little-endian on the machines that koffi runs us on
 *   offset size
 *   0      1    flags        1: the checksum is still to be computed; 2: it was checked
 *   1      1    gso_type     how to cut it: 0 not at all, 1 as TCP over IPv4, 4 as TCP over IPv6
 *   2      2    hdr_len      headers that each piece gets, bytes; a hint
 *   4      2    gso_size     payload of each piece, bytes
 *   6      2    csum_start   where the bytes that the checksum covers begin
 *   8      2    csum_offset  where, after csum_start, the checksum goes
 */
import { ipVersion } from "../base/packet.ts";

export const OFFLOAD_HEADER = 10; // bytes
const [NEEDS_CHECKSUM, CHECKSUM_GOOD] = [1, 2]; // VIRTIO_NET_HDR_F_NEEDS_CSUM, _F_DATA_VALID
const GSO: Record<number, 4 | 6 | undefined> = { 1: 4, 4: 6 }; // …_GSO_TCPV4, _TCPV6 → IP version
export const MIN_PIECE = 48; // bytes (net/tcp.h, TCP_MIN_SND_MSS): of smaller pieces there would be thousands
const BY_FRAGMENTS = 0xffff; // linux/skbuff.h, GSO_BY_FRAGS: no size, but a sign among the kernel's own parts
const TCP = 6;
const TCP_CHECKSUM = 16; // where it stands in the TCP header (RFC 9293, section 3.1)

/**
 * Why the kernel should not be handed the header at `at` and the packet behind it, `length` bytes in all;
 * undefined if all is well. A peer wrote them: they must not make our kernel do what we would not ask of it.
 */
export function refuseOffload(bytes: Buffer, at: number, length: number): string | undefined {
  const packet = at + OFFLOAD_HEADER;
  const size = length - OFFLOAD_HEADER;
  const version = ipVersion(bytes, packet, size);
  if (version === 0) return "it is no IP packet";
  const headers = version === 4 ? (bytes[packet]! & 15) * 4 : 40;
  if (headers < 20 || headers > size) return "its IP header has an impossible length";
  const flags = bytes[at]!;
  const cut = bytes[at + 1]!;
  if ((flags & ~(NEEDS_CHECKSUM | CHECKSUM_GOOD)) !== 0) return "its offload header has unknown flags";
  const piece = bytes.readUInt16LE(at + 4);
  const start = bytes.readUInt16LE(at + 6);
  const offset = bytes.readUInt16LE(at + 8);
  if (flags & NEEDS_CHECKSUM && (start < headers || start + offset + 2 > size))
    return "its offload header puts a checksum where none belongs";
  if (cut === 0) return undefined;
  // To be cut: TCP, whole, with its checksum where TCP has it, and with something to cut behind its header.
  const protocol = bytes[packet + (version === 4 ? 9 : 6)];
  const fragment = version === 4 && (bytes.readUInt16BE(packet + 6) & 0x3fff) !== 0; // more, or an offset
  if (GSO[cut] !== version || protocol !== TCP || fragment || !(flags & NEEDS_CHECKSUM))
    return "its offload header does not fit the packet";
  const tcpHeader = start + 20 <= size ? (bytes[packet + start + 12]! >> 4) * 4 : 0;
  if (start !== headers || offset !== TCP_CHECKSUM || tcpHeader < 20 || start + tcpHeader >= size)
    return "its offload header does not fit its TCP header";
  return piece < MIN_PIECE || piece === BY_FRAGMENTS
    ? "its offload header wants pieces of no sensible size"
    : undefined;
}

/**
 * What the header at `at` asks for, for the trace: " (offload: … pieces of 1348)"; "" for an
 * ordinary packet.
 */
export function describeOffload(bytes: Buffer, at: number): string {
  return bytes[at + 1] === 0
    ? ""
    : ` (offload: TCP payload still to be cut into pieces of ${bytes.readUInt16LE(at + 4)})`;
}
