/** IP addresses and CIDR blocks, as text and as the kernel has them (IPv6 text: RFC 5952). */
import { isIPv4, isIPv6 } from "node:net";

/** "10.8.0.2" → 0x0a080002; undefined if it is no IPv4 address in dotted form. */
export function parseIPv4(text: unknown): number | undefined {
  if (typeof text !== "string" || !isIPv4(text)) return undefined;
  return text.split(".").reduce((value, part) => value * 256 + Number(part), 0);
}

/** 0x0a080002 → "10.8.0.2" */
export function formatIPv4(address: number): string {
  return [24, 16, 8, 0].map((shift) => (address >>> shift) & 255).join(".");
}

/** Is it an address of this machine alone? */
export const isLoopback = (address: string) => address === "::1" || (parseIPv4(address) ?? 0) >>> 24 === 127;

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

/**
 * "fd56:504e::a08:2" → its 16 bytes; undefined if it is no IPv6 address. A scope ("%eth0") is no part of
 * them.
 */
export function parseIPv6(text: unknown): Buffer | undefined {
  if (typeof text !== "string" || !isIPv6(text)) return undefined;
  // no dotted part any more
  const short = new URL(`http://[${text.replace(/%.*/, "")}]`).hostname.slice(1, -1);
  const [left, right] = short.split("::").map((part) => part.split(":").filter(Boolean)) as [
    string[],
    string[]?,
  ];
  const groups = right
    ? [...left, ...Array<string>(8 - left.length - right.length).fill("0"), ...right]
    : left;
  return Buffer.from(groups.map((group) => group.padStart(4, "0")).join(""), "hex");
}

/** The 16 bytes at `at` as RFC 5952 writes them: "fd56:504e::a08:2". */
export function formatIPv6(bytes: Buffer, at = 0): string {
  return new URL(
    `http://[${bytes.toString("hex", at, at + 16).replace(/(....)(?=.)/g, "$1:")}]`,
  ).hostname.slice(1, -1);
}

/**
 * "2001:db8::/32" → the same as RFC 5952 writes it, and its parts; undefined if it is not ADDRESS/PREFIX, or
 * has host bits set.
 */
export function parseBlock6(text: string): { text: string; address: Buffer; prefix: number } | undefined {
  const [, host, bits] = /^([\da-f:.]+)\/(\d{1,3})$/i.exec(text) ?? [];
  const address = parseIPv6(host);
  const prefix = Number(bits);
  if (!address || prefix > 128 || BigInt.asUintN(128 - prefix, BigInt(`0x${address.toString("hex")}`)) !== 0n)
    return undefined;
  return { text: `${formatIPv6(address)}/${prefix}`, address, prefix };
}

/**
 * The first 96 bits of the tunnel's IPv6 addresses, as three numbers. The last 32 are the inner IPv4 address
 * (as in RFC 6052): so whoever holds 10.8.0.2 also holds fd56:504e::a08:2, and one number names both.
 */
export type Prefix96 = readonly [number, number, number];

/** "fd56:504e::/96" → [0xfd56504e, 0, 0]; undefined if it is no IPv6 block of that size. */
export function parsePrefix96(text: unknown): Prefix96 | undefined {
  const block = typeof text === "string" ? parseBlock6(text) : undefined;
  return block?.prefix === 96
    ? [block.address.readUInt32BE(0), block.address.readUInt32BE(4), block.address.readUInt32BE(8)]
    : undefined;
}

/**
 * The IPv6 address that goes with the inner IPv4 address 0x0a080002: "fd56:504e::a08:2". With 0, the block's
 * first one.
 */
export function embed(prefix: Prefix96, address: number): string {
  const bytes = Buffer.alloc(16);
  [...prefix, address].forEach((word, i) => bytes.writeUInt32BE(word, 4 * i));
  return formatIPv6(bytes);
}
