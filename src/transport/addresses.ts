/** Socket addresses: as the kernel takes them, and as people write them. */
import { isIPv6 } from "node:net";
import { formatIPv4, formatIPv6, parseIPv4, parseIPv6 } from "../base/address.ts";
import { AF_INET, AF_INET6, if_nametoindex } from "./socket-calls.ts";

export const SIZEOF_SOCKADDR_IN = 16;
export const SIZEOF_SOCKADDR_IN6 = 28;
// ::ffff:0:0/96, then the IPv4 address of an IPv6 socket's IPv4 client (ipv6(7))
export const MAPPED = "00000000000000000000ffff";

/**
 * What connect() and bind() take: an address of either family, "fe80::1%eth0" with its scope, and a port.
 *
 *   struct sockaddr_in (ip(7))                      struct sockaddr_in6 (ipv6(7))
 *   offset size                                     offset size
 *   0      2    AF_INET, host order                 0      2    AF_INET6, host order
 *   2      2    port, big-endian                    2      2    port, big-endian
 *   4      4    address, big-endian                 4      4    flow information: 0
 *   8      8    zeros                               8      16   address
 *                                                   24     4    scope, host order: an interface's index
 */
export function sockaddr(address: string, port: number): Buffer {
  const ipv4 = parseIPv4(address);
  const bytes = Buffer.alloc(ipv4 === undefined ? SIZEOF_SOCKADDR_IN6 : SIZEOF_SOCKADDR_IN);
  bytes.writeUInt16LE(ipv4 === undefined ? AF_INET6 : AF_INET, 0);
  bytes.writeUInt16BE(port, 2);
  if (ipv4 !== undefined) bytes.writeUInt32BE(ipv4, 4);
  else {
    const scope = address.split("%")[1] ?? "";
    parseIPv6(address)!.copy(bytes, 8);
    bytes.writeUInt32LE(/^\d{1,9}$/.test(scope) ? Number(scope) : if_nametoindex(scope), 24);
  }
  return bytes;
}

/** The address and port in a sockaddr that the kernel wrote. */
export function readSockaddr(bytes: Buffer): [address: string, port: number] {
  const port = bytes.readUInt16BE(2);
  if (bytes.readUInt16LE(0) === AF_INET) return [formatIPv4(bytes.readUInt32BE(4)), port];
  if (bytes.toString("hex", 8, 20) === MAPPED) return [formatIPv4(bytes.readUInt32BE(20)), port];
  const scope = bytes.readUInt32LE(24);
  return [`${formatIPv6(bytes, 8)}${scope ? `%${scope}` : ""}`, port];
}

/** An address as it is written before a ":", "192.168.1.1" or "[2001:db8::1]"; and with its port. */
export const bracketed = (address: string) => (isIPv6(address) ? `[${address}]` : address);
export const endpoint = (address: string, port: number) => `${bracketed(address)}:${port}`;
