import assert from "node:assert/strict";
import { test } from "node:test";
import { formatIPv4, parseCidr, parseIPv6, parsePrefix96 } from "../base/address.ts";
import { innerDestination } from "../base/packet.ts";
import { Router } from "./router.ts";

const router = (cidr: string) => new Router<string>(parseCidr(cidr)!);
const offered = (one: Router<string>) => {
  const address = one.offer();
  return address === undefined ? undefined : formatIPv4(address);
};

test("offer() gives the lowest free address after the server's own", () => {
  const one = router("10.8.0.0/24");
  assert.equal(formatIPv4(one.gateway), "10.8.0.1");
  assert.equal(offered(one), "10.8.0.2");
  assert.ok(one.lease(0x0a080002, "anna"));
  assert.equal(offered(one), "10.8.0.3");
  assert.equal(one.clientAt(0x0a080002), "anna");
});

test("an address that was released is offered again", () => {
  const one = router("10.8.0.0/24");
  one.lease(one.offer()!, "anna");
  one.withdraw(0x0a080002);
  one.release(0x0a080002, "ben");
  assert.equal(one.clientAt(0x0a080002), "anna", "only its holder can release it");
  one.release(0x0a080002, "anna");
  assert.equal(one.clientAt(0x0a080002), undefined);
  assert.equal(offered(one), "10.8.0.2");
});

test("an address whose client may come back is offered to others last, and to that client at once", () => {
  const one = router("10.8.0.0/29"); // clients: .2 to .6
  for (const address of [2, 3, 4]) one.lease(0x0a080000 + address, "anna");
  one.release(0x0a080002, "anna", "token 2");
  one.release(0x0a080003, "anna", "token 3");
  const wish = (token: string) =>
    one.offer(
      0x0a080003,
      () => false,
      (kept) => kept === token,
    );
  assert.equal(wish("token 3"), 0x0a080003);
  one.withdraw(0x0a080003);
  assert.notEqual(wish("token 2"), 0x0a080003, "it is for who has its token");
  one.withdraw(0x0a080005);
  assert.deepEqual(
    [1, 2, 3, 4].map(() => offered(one)),
    ["10.8.0.5", "10.8.0.6", "10.8.0.2", "10.8.0.3"],
  );
  assert.ok(one.lease(0x0a080002, "ben"));
  one.release(0x0a080002, "ben");
  for (const address of [2, 5, 6]) one.withdraw(0x0a080000 + address);
  assert.equal(offered(one), "10.8.0.2", "ben said goodbye");
});

test("offers do not use up addresses: replayed handshakes cost no lease", () => {
  const one = router("10.8.0.0/29"); // clients: .2 to .6
  assert.deepEqual(
    [1, 2, 3, 4, 5].map(() => offered(one)),
    ["10.8.0.2", "10.8.0.3", "10.8.0.4", "10.8.0.5", "10.8.0.6"],
  );
  assert.deepEqual(
    [offered(one), offered(one)],
    ["10.8.0.2", "10.8.0.3"],
    "all are offered, none is held: the one with the fewest offers",
  );
  assert.ok(one.lease(0x0a080002, "anna"));
  assert.equal(one.lease(0x0a080002, "ben"), false, "the first one to prove itself holds it");
});

test("a full subnet offers nothing", () => {
  const one = router("10.8.0.0/30"); // one client
  assert.ok(one.lease(one.offer()!, "anna"));
  assert.equal(one.offer(), undefined);
});

test("lease() refuses the server's own, the broadcast and foreign addresses", () => {
  const one = router("10.8.0.0/24");
  for (const address of [0x0a080000, 0x0a080001, 0x0a0800ff, 0x0a080102, 0, 0x08080808])
    assert.equal(one.lease(address, "eve"), false);
});

test("one table serves both families: an IPv6 packet finds the client by the IPv4 address in its own", () => {
  const one = router("10.8.0.0/24");
  one.lease(0x0a080002, "anna");
  const clientFor = (destination: string) => {
    const packet = Buffer.concat([
      Buffer.from("6000000000003b40", "hex"),
      parseIPv6("2001:db8::1")!,
      parseIPv6(destination)!,
    ]);
    return one.clientAt(innerDestination(packet, 0, packet.length, parsePrefix96("fd56:504e::/96")));
  };
  assert.equal(clientFor("fd56:504e::10.8.0.2"), "anna");
  for (const destination of ["fd56:504e::10.8.0.3", "fd56:504e::1:10.8.0.2", "::10.8.0.2", "ff02::1"])
    assert.equal(clientFor(destination), undefined, destination);
});

test("offer() gives the wished address if it is free, or if its holder may be replaced; else another", () => {
  const one = router("10.8.0.0/24");
  const wish = 0x0a080007;
  assert.equal(one.offer(wish), wish);
  assert.equal(
    one.offer(wish),
    wish,
    "an open handshake, perhaps a replayed one, does not keep it from its owner",
  );
  assert.ok(one.lease(wish, "anna"));
  assert.equal(formatIPv4(one.offer(wish)!), "10.8.0.2");
  assert.equal(
    one.offer(wish, (holder) => holder === "anna"),
    wish,
  );
  assert.equal(one.clientAt(wish), "anna", "an offer takes nothing away");
  for (const wrong of [0, 0x0a080000, 0x0a080001, 0x0a0800ff, 0x08080808])
    assert.notEqual(one.offer(wrong), wrong);
});

test("with max leases held, offer() and lease() refuse one more, until one is released", () => {
  const one = new Router<string>(parseCidr("10.8.0.0/24")!, 2);
  assert.ok(one.lease(0x0a080002, "anna") && one.lease(0x0a080003, "ben"));
  assert.deepEqual([one.offer(), one.lease(0x0a080004, "cleo"), one.size], [undefined, false, 2]);
  one.release(0x0a080002, "anna");
  assert.equal(offered(one), "10.8.0.2");
  assert.ok(one.lease(0x0a080002, "cleo"));
});
