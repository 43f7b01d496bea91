/** The checksum of IP, ICMP, UDP and TCP: the ones' complement of a sum of 16-bit words (RFC 1071). */

/** The sum of the words in bytes[from, to); an odd last byte counts as the upper half of one. Not folded. */
export function sumOf(bytes: Buffer, from: number, to: number): number {
  let sum = 0;
  let i = from;
  for (; i + 1 < to; i += 2) sum += bytes.readUInt16BE(i);
  return i < to ? sum + bytes[i]! * 256 : sum;
}

/** A sum with its carries added in: 16 bits. */
export function fold(sum: number): number {
  while (sum > 0xffff) sum = (sum & 0xffff) + Math.floor(sum / 0x10000);
  return sum;
}

/** The sum's ones' complement: what stands in the header. */
export const complement = (sum: number) => ~fold(sum) & 0xffff;
