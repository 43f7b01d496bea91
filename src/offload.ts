/**
 * Offload: what lets one read() carry 64 KB. Without it, the kernel cuts a TCP stream into packets of the MTU and computes
 * each one's checksum before we read them. With it, the kernel leaves both to "the hardware", which is us, and we leave it
 * to the kernel at the other end: a packet of up to 64 KB travels whole, and is cut only where it leaves for a real wire.
 * What the next one must know to finish the work stands in front of each packet, 10 bytes that we carry along:
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
import { ipVersion } from "./packet.ts";

export const OFFLOAD_HEADER = 10; // bytes
const [NEEDS_CHECKSUM, CHECKSUM_GOOD] = [1, 2]; // VIRTIO_NET_HDR_F_NEEDS_CSUM, _F_DATA_VALID
const GSO: Record<number, 4 | 6 | undefined> = { 1: 4, 4: 6 }; // VIRTIO_NET_HDR_GSO_TCPV4, _TCPV6 → IP version
const MIN_PIECE = 48; // bytes; net/tcp.h, TCP_MIN_SND_MSS: no honest TCP sends smaller pieces, and there would be thousands
const TCP = 6;

/**
 * Why the kernel should not be handed the header at `at` and the packet behind it, `length` bytes in all; undefined if all is
 * well. A peer wrote them: they must not make our kernel do what we would not ask of it.
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
  if (flags & NEEDS_CHECKSUM) {
    const start = bytes.readUInt16LE(at + 6);
    if (start < headers || start + bytes.readUInt16LE(at + 8) + 2 > size) return "its offload header puts a checksum where none belongs";
  }
  if (cut === 0) return undefined;
  const protocol = bytes[packet + (version === 4 ? 9 : 6)];
  if (GSO[cut] !== version || protocol !== TCP || !(flags & NEEDS_CHECKSUM)) return "its offload header does not fit the packet";
  return bytes.readUInt16LE(at + 4) < MIN_PIECE ? "its offload header wants tiny pieces" : undefined;
}

/** What the header at `at` asks for, for the trace: ", to be cut into pieces of 1348 bytes"; "" for an ordinary packet. */
export function describeOffload(bytes: Buffer, at: number): string {
  return bytes[at + 1] === 0 ? "" : ` (offload: TCP payload still to be cut into pieces of ${bytes.readUInt16LE(at + 4)})`;
}
