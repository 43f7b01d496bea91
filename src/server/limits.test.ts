import assert from "node:assert/strict";
import { test } from "node:test";
import { BURST, HandshakeRate, MAX_UNPROVEN, oneTooMany, RATE, Refusals } from "./limits.ts";

test("allows() lets each address begin BURST handshakes at once, then RATE a second", () => {
  const rate = new HandshakeRate();
  const begin = (address: string, now: number, attempts = 200) =>
    Array.from({ length: attempts }, () => rate.allows(address, now)).filter(Boolean).length;
  assert.equal(begin("10.0.0.1", 5000), BURST);
  assert.equal(begin("10.0.0.1", 5000), 0);
  assert.equal(begin("10.0.0.1", 6000), RATE, "attempts that were refused cost nothing more");
  assert.equal(begin("10.0.0.2", 6000), BURST);
  assert.equal(begin("10.0.0.1", 600_000), BURST, "full again, and no more than full");
});

test("those who have not proven their address use up nothing of those who have", () => {
  const rate = new HandshakeRate();
  for (let i = 0; i < 200; i++) rate.allows("10.0.0.1", 5000, false);
  assert.ok(!rate.allows("10.0.0.1", 5000, false));
  assert.ok(rate.allows("10.0.0.1", 5000));
});

test("a class of 30 behind one address begins at once; one address cannot take all places in 20 s", () => {
  assert.ok(BURST >= 30);
  const rate = new HandshakeRate();
  let begun = 0;
  for (let now = 0; now < 20_000; now += 10) begun += Number(rate.allows("10.0.0.1", now));
  assert.ok(begun < MAX_UNPROVEN, `${begun} handshakes in 20 s`);
});

test("the memory for addresses is bounded, and the one that goes on trying is not forgotten", () => {
  const rate = new HandshakeRate();
  for (let i = 0; i < BURST; i++) assert.ok(rate.allows("10.0.0.1", 0));
  for (let i = 0; i < 20_000; i++) {
    rate.allows(`source ${i}`, i);
    if (i % 250 === 0) rate.allows("10.0.0.1", i);
  }
  assert.ok(rate.size <= 4096, `${rate.size} addresses`);
  assert.equal(rate.allows("10.0.0.1", 20_000) && rate.allows("10.0.0.1", 20_000), false);
});

test("an IPv6 source counts as its /64, for whoever has one address of it has 2^64", () => {
  const rate = new HandshakeRate();
  for (let i = 0; i < BURST; i++) assert.ok(rate.allows(`2001:db8::${i.toString(16)}`, 0));
  for (const address of ["2001:db8::ffff:ffff:ffff:ffff", "2001:db8:0:0:1::"])
    assert.ok(!rate.allows(address, 0), address);
  assert.ok(rate.allows("2001:db8:0:1::", 0), "another network");
  assert.equal(rate.size, 2);
  for (let i = 0; i < BURST; i++) assert.ok(rate.allows("fe80::1%2", 0));
  assert.ok(!rate.allows("fe80::2%2", 0), "with its scope, too");
});

/**
 * A server's strangers: lets one from each source in, one after the other, and gives back who made room: its
 * source, and the number of its arrival.
 */
function door(): (...sources: string[]) => string[] {
  const [strangers, left] = [new Set<{ source: string; end: () => void }>(), [] as string[]];
  let arrivals = 0;
  return (...sources) => {
    const before = left.length;
    for (const source of sources) {
      const name = `${source} ${++arrivals}`;
      strangers.add({ source, end: () => left.push(name) });
      const leaving = oneTooMany(strangers);
      leaving?.end();
      strangers.delete(leaving!);
    }
    assert.equal(strangers.size, arrivals - left.length);
    assert.ok(strangers.size <= MAX_UNPROVEN);
    return left.slice(before);
  };
}
const times = (count: number, source: (i: number) => string) =>
  Array.from({ length: count }, (_, i) => source(i));

test("the oldest connection of the source with the most makes room; on a tie, the oldest of all", () => {
  const arrive = door();
  assert.deepEqual(
    arrive("early", ...times(60, () => "a"), ...times(60, () => "b"), ...times(7, (i) => `${i}`)),
    [],
  );
  assert.deepEqual(arrive("new", "new", "b", "c"), ["a 2", "b 62", "b 63", "a 3"]);
});

test("four sources never displace an honest handshake; 128 connections of many sources do", () => {
  const few = door();
  few(...times(200, (i) => `hostile ${i % 4}`), "honest");
  assert.doesNotMatch(few(...times(1000, (i) => `hostile ${i % 4}`)).join(), /honest/);
  const many = door();
  many(...times(200, (i) => `hostile ${i}`), "honest");
  assert.doesNotMatch(many(...times(MAX_UNPROVEN - 1, (i) => `more ${i}`)).join(), /honest/);
  assert.deepEqual(many("one more"), ["honest 201"]);
});

test("few refusals are told one by one, a flood of them as a number once a second", (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const said: string[] = [];
  const refusals = new Refusals((text) => said.push(text));
  for (let i = 0; i < 3; i++) refusals.tell(`10.0.0.${i}:1`, "why");
  assert.deepEqual(said, ["refused 10.0.0.0:1: why", "refused 10.0.0.1:1: why", "refused 10.0.0.2:1: why"]);
  t.mock.timers.tick(1000);
  assert.equal(said.length, 3);
  for (let i = 0; i < 5000; i++) refusals.tell("10.0.0.9:1", "too many");
  t.mock.timers.tick(1000);
  assert.equal(said.length, 14);
  assert.equal(said.at(-1), "4990 more in this second, the latest: refused 10.0.0.9:1: too many");
});
