/** What tcp.ts says to the kernel, byte by byte. Its sockets are tested in the lab, and in loop.test.ts. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { if_nametoindex } from "./libc.ts";
import { endpoint, readSockaddr, resolve, sockaddr } from "./tcp.ts";

test("sockaddr() lays out both families as ip(7) and ipv6(7) say, and readSockaddr() reads them", () => {
  const layouts: Record<string, string> = {
    "192.168.1.1": "0200 15b3 c0a80101 0000000000000000",
    "2001:db8::1": "0a00 15b3 00000000 20010db8000000000000000000000001 00000000",
    "fe80::1%7": "0a00 15b3 00000000 fe800000000000000000000000000001 07000000",
  };
  for (const [address, layout] of Object.entries(layouts)) {
    const bytes = Buffer.from(layout.replace(/ /g, ""), "hex");
    assert.deepEqual(sockaddr(address, 5555), bytes);
    assert.deepEqual(readSockaddr(bytes), [address, 5555]);
  }
  assert.ok(if_nametoindex("lo") > 0);
  assert.equal(sockaddr("fe80::1%lo", 1).readUInt32LE(24), if_nametoindex("lo"));
});

test("readSockaddr() shows an IPv4 client of an IPv6 socket as what it is, and nothing else as such", () => {
  for (const address of ["192.168.1.100", "0.0.1.2", "1.2.0.0"]) assert.deepEqual(readSockaddr(sockaddr(`::ffff:${address}`, 40312)), [address, 40312]);
  for (const address of ["::ffff:0:102:304", "::102:304"]) assert.deepEqual(readSockaddr(sockaddr(address, 1)), [address, 1]);
});

test("sockaddr() takes any scope that Node takes: a number that is no interface's index is a name, and an unknown one is 0", () => {
  for (const scope of ["-1", "99999999999", "1.5", "0x10", "1e9", "no-such-dev"]) assert.equal(sockaddr(`fe80::1%${scope}`, 1).readUInt32LE(24), 0, scope);
  assert.equal(sockaddr("fe80::1%999999999", 1).readUInt32LE(24), 999999999);
});

test("resolve() knows an IPv4 address in IPv6's clothes, whose packets are IPv4", async () => {
  for (const [name, address] of [["::ffff:203.0.113.1", "203.0.113.1"], ["[2001:db8::1]", "2001:db8::1"], ["fe80::1%eth0", "fe80::1%eth0"], ["192.168.1.1", "192.168.1.1"]] as const) assert.deepEqual(await resolve(name), [address]);
});

test("endpoint() puts brackets around an IPv6 address", () => {
  assert.deepEqual(["192.168.1.1", "2001:db8::1", "fe80::1%eth0", "*"].map((address) => endpoint(address, 5555)), ["192.168.1.1:5555", "[2001:db8::1]:5555", "[fe80::1%eth0]:5555", "*:5555"]);
});
