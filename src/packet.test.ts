import assert from "node:assert/strict";
import { test } from "node:test";
import { describe, formatIPv4, ipVersion, parseCidr, parseIPv4 } from "./packet.ts";
import { random, SEED } from "./testing.ts";

const line = (hex: string) => {
  const bytes = Buffer.from(hex.replace(/ /g, ""), "hex");
  return describe(bytes, 0, bytes.length);
};
const IP = (protocol: string, fragment = "4000") => `45000054 6d2b${fragment} 40${protocol}0000 0a080002 08080808`;

test("parseIPv4() and formatIPv4() are each other's inverse", () => {
  assert.equal(parseIPv4("10.8.0.2"), 0x0a080002);
  for (const text of ["0.0.0.0", "10.8.0.2", "255.255.255.255"]) assert.equal(formatIPv4(parseIPv4(text)!), text);
  for (const text of ["", "10.8.0", "10.8.0.256", "::1", "10.8.0.2 ", 5, null, undefined]) assert.equal(parseIPv4(text), undefined);
});

test("parseCidr() finds the block's first address and size", () => {
  assert.deepEqual(parseCidr("10.8.0.2/24"), { address: 0x0a080002, prefix: 24, network: 0x0a080000, size: 256 });
  assert.deepEqual(parseCidr("255.255.255.255/32")?.size, 1);
  assert.deepEqual(parseCidr("0.0.0.0/0"), { address: 0, prefix: 0, network: 0, size: 2 ** 32 });
  for (const text of ["", "10.8.0.0", "10.8.0.0/33", "10.8.0.0/-1", "10.8.0/24", "10.8.0.0/24x", "::/0", "10.8.0.0/"]) assert.equal(parseCidr(text), undefined, text);
});

test("describe() says what a packet is, in one line", () => {
  assert.equal(line(`${IP("01")} 0800f7ff 0c920001`), "10.8.0.2 → 8.8.8.8 ICMP echo request id 3218 seq 1");
  assert.equal(line(`${IP("06")} d4310050 00000000 00000000 5002faf0 00000000`), "10.8.0.2 → 8.8.8.8 TCP 54321 → 80 SYN 0 bytes");
  assert.equal(line(`${IP("11")} 00350050 000c0000 61626364`), "10.8.0.2 → 8.8.8.8 UDP 53 → 80 4 bytes");
  assert.equal(line(`${IP("11", "00b9")} 61626364`), "10.8.0.2 → 8.8.8.8 fragment at byte 1480");
  assert.equal(line(`60000000 00083aff fe800000000000000000000000000001 ff020000000000000000000000000002 85000000 00000000`), "fe80::1 → ff02::2 ICMPv6 router solicitation");
  assert.equal(line(`${IP("06")} d4310050 00000000 00000000 f002faf0 00000000`), "10.8.0.2 → 8.8.8.8 TCP 54321 → 80 SYN 0 bytes", "a header said to be longer than the packet");
  assert.equal(line("45"), "not an IP packet");
  assert.equal(line(""), "not an IP packet");
});

test(`describe() takes any bytes at all (seed ${SEED})`, () => {
  const below = random(SEED);
  for (let i = 0; i < 20_000; i++) {
    const bytes = Buffer.from(Array.from({ length: below(100) }, () => below(256)));
    if (bytes.length > 0) bytes[0] = [0x45, 0x60, 0x4f, 0x40, bytes[0]!][below(5)]!;
    assert.equal(typeof describe(bytes, 0, bytes.length), "string");
    ipVersion(bytes, 0, bytes.length);
  }
});
