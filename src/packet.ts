/** IPv4 addresses as numbers, CIDR blocks, and one line that describes an IP packet (RFC 791, 792, 768, 793; 8200). */
import { isIPv4 } from "node:net";

/** "10.8.0.2" → 0x0a080002; undefined if it is no IPv4 address in dotted form. */
export function parseIPv4(text: unknown): number | undefined {
  if (typeof text !== "string" || !isIPv4(text)) return undefined;
  return text.split(".").reduce((value, part) => value * 256 + Number(part), 0);
}

/** 0x0a080002 → "10.8.0.2" */
export function formatIPv4(address: number): string {
  return [24, 16, 8, 0].map((shift) => (address >>> shift) & 255).join(".");
}

export interface Cidr {
  readonly address: number; // as given, host bits included
  readonly prefix: number; // 0–32
  readonly network: number; // first address of the block
  readonly size: number; // addresses in the block
}

/** "10.8.0.2/24" → its parts; undefined if it is not ADDRESS/PREFIX. */
export function parseCidr(text: string): Cidr | undefined {
  const [, host = "", bits = ""] = /^([\d.]+)\/(\d{1,2})$/.exec(text) ?? [];
  const address = parseIPv4(host);
  const prefix = Number(bits);
  if (address === undefined || prefix > 32) return undefined;
  const size = 2 ** (32 - prefix);
  return { address, prefix, network: address - (address % size), size };
}

/** The IP version of the packet at `at`: 4 or 6; 0 if its header is cut short or it is neither. */
export function ipVersion(bytes: Buffer, at: number, length: number): 4 | 6 | 0 {
  const version = length > 0 ? bytes[at]! >> 4 : 0;
  if (version === 4 && length >= 20) return 4;
  return version === 6 && length >= 40 ? 6 : 0;
}

/** Source and destination stand at bytes 12 and 16 of an IPv4 header, big-endian. */
export const sourceIPv4 = (bytes: Buffer, at: number) => bytes.readUInt32BE(at + 12);
export const destinationIPv4 = (bytes: Buffer, at: number) => bytes.readUInt32BE(at + 16);

const ICMP_TYPES: Record<number, string> = { 0: "echo reply", 3: "destination unreachable", 8: "echo request", 11: "time exceeded" };
const ICMP6_TYPES: Record<number, string> = { 128: "echo request", 129: "echo reply", 133: "router solicitation", 143: "multicast listener report" };
const TCP_FLAGS = ["FIN", "SYN", "RST", "PSH", "ACK"]; // bits 0–4 of byte 13

/**
 * One line about the packet: "10.8.0.2 → 8.8.8.8 ICMP echo request id 7 seq 1".
 * For any bytes at all: what does not parse is described as such.
 */
export function describe(bytes: Buffer, at: number, length: number): string {
  const version = ipVersion(bytes, at, length);
  if (version === 0) return "not an IP packet";
  if (version === 6) {
    const address = (from: number) => new URL(`http://[${bytes.toString("hex", from, from + 16).replace(/(....)(?=.)/g, "$1:")}]`).hostname.slice(1, -1);
    return `${address(at + 8)} → ${address(at + 24)} ${payload(bytes, bytes[at + 6]!, at + 40, at + length)}`;
  }
  const header = (bytes[at]! & 15) * 4;
  const fragment = bytes.readUInt16BE(at + 6) & 0x1fff;
  const route = `${formatIPv4(sourceIPv4(bytes, at))} → ${formatIPv4(destinationIPv4(bytes, at))}`;
  if (fragment !== 0) return `${route} fragment at byte ${fragment * 8}`;
  return `${route} ${payload(bytes, bytes[at + 9]!, at + header, at + length)}`;
}

function payload(bytes: Buffer, protocol: number, at: number, end: number): string {
  const has = (count: number) => end - at >= count;
  const ports = () => `${bytes.readUInt16BE(at)} → ${bytes.readUInt16BE(at + 2)}`;
  if ((protocol === 1 || protocol === 58) && has(8)) {
    const type = bytes[at]!;
    const name = (protocol === 1 ? ICMP_TYPES : ICMP6_TYPES)[type] ?? `type ${type}`;
    const echo = name.startsWith("echo") ? ` id ${bytes.readUInt16BE(at + 4)} seq ${bytes.readUInt16BE(at + 6)}` : "";
    return `${protocol === 1 ? "ICMP" : "ICMPv6"} ${name}${echo}`;
  }
  if (protocol === 6 && has(20)) {
    const flags = TCP_FLAGS.filter((_, bit) => (bytes[at + 13]! >> bit) & 1).join(" ");
    return `TCP ${ports()} ${flags} ${Math.max(0, end - at - (bytes[at + 12]! >> 4) * 4)} bytes`;
  }
  if (protocol === 17 && has(8)) return `UDP ${ports()} ${end - at - 8} bytes`;
  return `IP protocol ${protocol}`;
}
