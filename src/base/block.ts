/** Blocks of addresses as text, of both families: "10.8.0.0/24", "2001:db8::/32". */
import { BlockList, isIPv6 } from "node:net";
import { formatIPv6, parseIPv6 } from "./address.ts";

/** Bits. */
export const prefixOf = (block: string) => Number(block.split("/")[1]);

/**
 * Is `address` in the block? A link-local one (fe80::1%eth0) is in none: its interface is part of it, and no
 * route changes that.
 */
export function contains(block: string, address: string): boolean {
  const [network = "", prefix] = block.split("/");
  if (isIPv6(address) !== isIPv6(network) || address.includes("%")) return false;
  const family = isIPv6(network) ? "ipv6" : "ipv4";
  const list = new BlockList();
  list.addSubnet(network, Number(prefix), family);
  return list.check(address, family);
}

/** The command for its family. */
export const ipFor = (address: string) => (address.includes(":") ? "ip -6" : "ip");

/** The block that is this address alone. */
export const hostRoute = (address: string) => `${address}/${isIPv6(address) ? 128 : 32}`;

/**
 * "192.168.1.0/25" and "192.168.1.128/25" of 192.168.1.0/24: more specific than the whole, so they win over
 * it. None of one address.
 */
export function halvesOf(block: string): [string, string] | undefined {
  const [network = ""] = block.split("/");
  const prefix = prefixOf(block);
  const bytes = parseIPv6(network) ?? Buffer.from(network.split(".").map(Number));
  if (prefix === 8 * bytes.length) return undefined;
  bytes[prefix >> 3]! |= 0x80 >> (prefix & 7); // the first bit that is not the block's own
  const upper = bytes.length === 4 ? bytes.join(".") : formatIPv6(bytes, 0);
  return [`${network}/${prefix + 1}`, `${upper}/${prefix + 1}`];
}

/** Do they share an address? */
export const overlap = (one: string, other: string) =>
  contains(one, other.split("/")[0]!) || contains(other, one.split("/")[0]!);
