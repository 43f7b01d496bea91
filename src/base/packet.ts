/**
 * What an IP packet says of itself, and one line that describes it (RFC 791, 792, 768, 793; IPv6: 8200,
 * 4443).
 */
import { formatIPv4, formatIPv6, type Prefix96 } from "./address.ts";

export const MAX_PACKET = 65535; // bytes: the IPv4 header's total length is 16 bits

/** The IP version of the packet at `at`: 4 or 6; 0 if its header is cut short or it is neither. */
export function ipVersion(bytes: Buffer, at: number, length: number): 4 | 6 | 0 {
  const version = length > 0 ? bytes[at]! >> 4 : 0;
  if (version === 4 && length >= 20) return 4;
  return version === 6 && length >= 40 ? 6 : 0;
}

/**
 * Why a client takes no IPv6 packet from a link-local source. A router advertisement or a redirect must have
 * one (RFC 4861, sections 6.1.2 and 8.1), and would change this machine's routes.
 */
export function refuseLinkLocal(bytes: Buffer, at: number, size: number): string | undefined {
  const isLinkLocal = ipVersion(bytes, at, size) === 6 && (bytes.readUInt16BE(at + 8) & 0xffc0) === 0xfe80;
  return isLinkLocal ? "its source is link-local, as a router's" : undefined;
}

/**
 * Who sent the packet at `at`, and to whom, as the number of an inner IPv4 address; 0 if that is none of the
 * tunnel's: an IPv6 address outside `subnet6`, or no IP packet. Signed, since V8 allocates for numbers of
 * 2^31 and more (from 128.0.0.0 on). Source and destination stand at bytes 12 and 16 of an IPv4 header, 8 and
 * 24 of an IPv6 header.
 */
export const innerSource = (bytes: Buffer, at: number, length: number, subnet6: Prefix96 | undefined) =>
  innerAddress(bytes, at, length, subnet6, 12, 8);
export const innerDestination = (bytes: Buffer, at: number, length: number, subnet6: Prefix96 | undefined) =>
  innerAddress(bytes, at, length, subnet6, 16, 24);

function innerAddress(
  bytes: Buffer,
  at: number,
  length: number,
  subnet6: Prefix96 | undefined,
  offset4: number,
  offset6: number,
): number {
  const version = ipVersion(bytes, at, length);
  if (version === 4) return bytes.readInt32BE(at + offset4);
  if (version === 0 || subnet6 === undefined) return 0;
  for (let i = 0; i < 3; i++) if (bytes.readInt32BE(at + offset6 + 4 * i) !== (subnet6[i]! | 0)) return 0;
  return bytes.readInt32BE(at + offset6 + 12);
}

const ICMP_TYPES: Record<number, string> = {
  0: "echo reply",
  3: "destination unreachable",
  8: "echo request",
  11: "time exceeded",
};
const ICMP6_TYPES: Record<number, string> = {
  1: "destination unreachable",
  2: "packet too big",
  3: "time exceeded",
  4: "parameter problem",
  128: "echo request",
  129: "echo reply",
  130: "multicast listener query",
  131: "multicast listener report",
  132: "multicast listener done",
  133: "router solicitation",
  134: "router advertisement",
  135: "neighbour solicitation",
  136: "neighbour advertisement",
  137: "redirect",
  143: "multicast listener report",
};
const EXTENSIONS: Record<number, string> = {
  0: "hop-by-hop options",
  43: "routing header",
  44: "fragment",
  50: "ESP",
  51: "AH",
  59: "nothing",
  60: "destination options",
};
const TCP_FLAGS = ["FIN", "SYN", "RST", "PSH", "ACK"]; // bits 0–4 of byte 13

/**
 * One line about the packet: "10.8.0.2 → 8.8.8.8 ICMP echo request id 7 seq 1".
 * For any bytes at all: what does not parse is described as such.
 */
export function describe(bytes: Buffer, at: number, length: number): string {
  const version = ipVersion(bytes, at, length);
  if (version === 0) return "not an IP packet";
  if (version === 6) {
    const route = `${formatIPv6(bytes, at + 8)} → ${formatIPv6(bytes, at + 24)}`;
    const next = bytes[at + 6]!;
    return `${route} ${EXTENSIONS[next] ?? payload(bytes, next, at + 40, at + length)}`;
  }
  const header = (bytes[at]! & 15) * 4;
  const fragment = bytes.readUInt16BE(at + 6) & 0x1fff;
  const route = `${formatIPv4(bytes.readUInt32BE(at + 12))} → ${formatIPv4(bytes.readUInt32BE(at + 16))}`;
  if (fragment !== 0) return `${route} fragment at byte ${fragment * 8}`;
  return `${route} ${payload(bytes, bytes[at + 9]!, at + header, at + length)}`;
}

function payload(bytes: Buffer, protocol: number, at: number, end: number): string {
  const has = (count: number) => end - at >= count;
  const ports = () => `${bytes.readUInt16BE(at)} → ${bytes.readUInt16BE(at + 2)}`;
  if ((protocol === 1 || protocol === 58) && has(8)) {
    const type = bytes[at]!;
    const name = (protocol === 1 ? ICMP_TYPES : ICMP6_TYPES)[type] ?? `type ${type}`;
    const echo = name.startsWith("echo")
      ? ` id ${bytes.readUInt16BE(at + 4)} seq ${bytes.readUInt16BE(at + 6)}`
      : "";
    return `${protocol === 1 ? "ICMP" : "ICMPv6"} ${name}${echo}`;
  }
  if (protocol === 6 && has(20)) {
    const flags = TCP_FLAGS.filter((_, bit) => (bytes[at + 13]! >> bit) & 1).join(" ");
    return `TCP ${ports()} ${flags} ${Math.max(0, end - at - (bytes[at + 12]! >> 4) * 4)} bytes`;
  }
  if (protocol === 17 && has(8)) return `UDP ${ports()} ${end - at - 8} bytes`;
  return `IP protocol ${protocol}`;
}
