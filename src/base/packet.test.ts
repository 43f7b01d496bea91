import assert from "node:assert/strict";
import { test } from "node:test";
import {
  embed,
  formatIPv4,
  formatIPv6,
  parseBlock6,
  parseCidr,
  parseIPv4,
  parseIPv6,
  parsePrefix96,
} from "./address.ts";
import { describe, innerDestination, innerSource, ipVersion } from "./packet.ts";
import { random, SEED } from "../lab/tests/peers.ts";

const line = (hex: string) => {
  const bytes = Buffer.from(hex.replace(/ /g, ""), "hex");
  return describe(bytes, 0, bytes.length);
};
const IP = (protocol: string, fragment = "4000") =>
  `45000054 6d2b${fragment} 40${protocol}0000 0a080002 08080808`;

test("parseIPv4() and formatIPv4() are each other's inverse", () => {
  assert.equal(parseIPv4("10.8.0.2"), 0x0a080002);
  for (const text of ["0.0.0.0", "10.8.0.2", "255.255.255.255"])
    assert.equal(formatIPv4(parseIPv4(text)!), text);
  for (const text of ["", "10.8.0", "10.8.0.256", "::1", "10.8.0.2 ", 5, null, undefined])
    assert.equal(parseIPv4(text), undefined);
});

test("parseCidr() finds the block's first address and size", () => {
  assert.deepEqual(parseCidr("10.8.0.2/24"), {
    address: 0x0a080002,
    prefix: 24,
    network: 0x0a080000,
    size: 256,
  });
  assert.deepEqual(parseCidr("255.255.255.255/32")?.size, 1);
  assert.deepEqual(parseCidr("0.0.0.0/0"), { address: 0, prefix: 0, network: 0, size: 2 ** 32 });
  for (const text of [
    "",
    "10.8.0.0",
    "10.8.0.0/33",
    "10.8.0.0/-1",
    "10.8.0/24",
    "10.8.0.0/24x",
    "::/0",
    "10.8.0.0/",
  ])
    assert.equal(parseCidr(text), undefined, text);
});

test("parseIPv6() reads any form, formatIPv6() writes RFC 5952's", () => {
  const written: Record<string, string> = {
    "::": "::",
    "::1": "::1",
    "1::": "1::",
    "2001:DB8:0:0:0:0:0:1": "2001:db8::1",
    "2001:db8:0:1:1:1:1:1": "2001:db8:0:1:1:1:1:1",
    "2001:0:0:1:0:0:0:1": "2001:0:0:1::1",
    "fd56:504e::10.8.0.2": "fd56:504e::a08:2",
    "fe80::1%eth0": "fe80::1",
    "1:2:3:4:5:6:7:8": "1:2:3:4:5:6:7:8",
    "::ffff:8.8.8.8": "::ffff:808:808",
  };
  for (const [text, short] of Object.entries(written))
    assert.equal(formatIPv6(parseIPv6(text)!), short, text);
  assert.equal(parseIPv6("2001:db8::8:800:200c:417a")!.toString("hex"), "20010db80000000000080800200c417a");
  for (const text of ["", "10.8.0.2", "1:2:3", ":::", "::g", "1::2::3", "::1 ", "[::1]", 5, null, undefined])
    assert.equal(parseIPv6(text), undefined, String(text));
});

test(`parseIPv6() and formatIPv6() are each other's inverse (seed ${SEED})`, () => {
  const below = random(SEED);
  for (let i = 0; i < 5_000; i++) {
    const bytes = Buffer.from(Array.from({ length: 16 }, () => (below(2) ? 0 : below(256))));
    assert.deepEqual(parseIPv6(formatIPv6(bytes)), bytes);
  }
});

test("parseBlock6() refuses host bits, parsePrefix96() other sizes; embed() appends an IPv4 address", () => {
  assert.equal(parseBlock6("2001:DB8:0::/32")!.text, "2001:db8::/32");
  for (const text of ["::/0", "8000::/1", "::1/128"]) assert.equal(parseBlock6(text)!.text, text);
  for (const text of [
    "",
    "::",
    "::/129",
    "::1/127",
    "8000::/0",
    "::/-1",
    "::/1x",
    "fe80::%eth0/64",
    "10.0.0.0/8",
    "::/",
  ])
    assert.equal(parseBlock6(text), undefined, text);
  const prefix = parsePrefix96("fd56:504e::/96")!;
  assert.deepEqual(prefix, [0xfd56504e, 0, 0]);
  assert.deepEqual([embed(prefix, 0x0a080002), embed(prefix, 0)], ["fd56:504e::a08:2", "fd56:504e::"]);
  for (const text of ["fd56:504e::/64", "fd56:504e::1/96", "off", 96, undefined])
    assert.equal(parsePrefix96(text), undefined, String(text));
});

const IP6 = (
  next: string,
  source = "fd56504e 00000000 00000000 0a080002",
  destination = "20014860486000000000000000008888",
) => `60000000 0040${next}40 ${source} ${destination}`;

test("innerSource() and innerDestination() give one number for both families; 0 is not the tunnel's", () => {
  const prefix = parsePrefix96("fd56:504e::/96");
  const inner = (hex: string, subnet6 = prefix, cut = 0) => {
    const bytes = Buffer.from(`ffffff${hex.replace(/ /g, "")}`, "hex"); // not at offset 0
    return [innerSource, innerDestination].map((find) => find(bytes, 3, bytes.length - 3 - cut, subnet6));
  };
  assert.deepEqual(inner(IP("01")), [0x0a080002, 0x08080808]);
  assert.deepEqual(inner(IP6("3a")), [0x0a080002, 0]);
  assert.deepEqual(
    inner(IP6("3a", "20014860486000000000000000008888", "fd56504e00000000000000000a080003")),
    [0, 0x0a080003],
  );
  for (const source of [
    "fd56504f00000000000000000a080002",
    "fd56504e00000001000000000a080002",
    "fd56504e00000000000000010a080002",
    "fe80000000000000000000000a080002",
  ])
    assert.deepEqual(inner(IP6("3a", source)), [0, 0], source);
  assert.deepEqual(
    [
      innerSource(Buffer.from(IP6("3a").replace(/ /g, ""), "hex"), 0, 40, undefined),
      ...inner(IP6("3a"), prefix, 1),
      ...inner(IP("01"), prefix, 1),
      ...inner(""),
    ],
    Array(7).fill(0),
  );
});

test("describe() says what an IPv6 packet is", () => {
  const route = "fd56:504e::a08:2 → 2001:4860:4860::8888";
  assert.equal(line(`${IP6("3a")} 8000f7ff 0c920001`), `${route} ICMPv6 echo request id 3218 seq 1`);
  assert.equal(line(`${IP6("3a")} 8100f7ff 0c920001`), `${route} ICMPv6 echo reply id 3218 seq 1`);
  assert.equal(line(`${IP6("3a")} 02000000 00000500`), `${route} ICMPv6 packet too big`);
  assert.equal(line(`${IP6("3a")} 87000000 00000000`), `${route} ICMPv6 neighbour solicitation`);
  assert.equal(
    line(`${IP6("06")} d4310050 00000000 00000000 5012faf0 00000000`),
    `${route} TCP 54321 → 80 SYN ACK 0 bytes`,
  );
  assert.equal(line(`${IP6("11")} 00350050 000c0000 61626364`), `${route} UDP 53 → 80 4 bytes`);
  assert.equal(line(`${IP6("00")} 3a000502 00000100`), `${route} hop-by-hop options`);
  assert.equal(line(`${IP6("2c")} 11000000 00000001`), `${route} fragment`);
  assert.equal(line(`${IP6("84")} 00000000`), `${route} IP protocol 132`);
  for (const cut of ["3a", "06", "11"])
    assert.equal(line(IP6(cut)), `${route} IP protocol ${parseInt(cut, 16)}`, "nothing behind the header");
  assert.equal(line(IP6("3a").slice(0, -2)), "not an IP packet");
});

test("describe() says what a packet is, in one line", () => {
  assert.equal(line(`${IP("01")} 0800f7ff 0c920001`), "10.8.0.2 → 8.8.8.8 ICMP echo request id 3218 seq 1");
  assert.equal(
    line(`${IP("06")} d4310050 00000000 00000000 5002faf0 00000000`),
    "10.8.0.2 → 8.8.8.8 TCP 54321 → 80 SYN 0 bytes",
  );
  assert.equal(line(`${IP("11")} 00350050 000c0000 61626364`), "10.8.0.2 → 8.8.8.8 UDP 53 → 80 4 bytes");
  assert.equal(line(`${IP("11", "00b9")} 61626364`), "10.8.0.2 → 8.8.8.8 fragment at byte 1480");
  assert.equal(
    line(
      `60000000 00083aff fe800000000000000000000000000001 ff020000000000000000000000000002 85000000 00000000`,
    ),
    "fe80::1 → ff02::2 ICMPv6 router solicitation",
  );
  assert.equal(
    line(`${IP("06")} d4310050 00000000 00000000 f002faf0 00000000`),
    "10.8.0.2 → 8.8.8.8 TCP 54321 → 80 SYN 0 bytes",
    "a header said to be longer than the packet",
  );
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
