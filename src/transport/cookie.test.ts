import assert from "node:assert/strict";
import { test } from "node:test";
import { sockaddr } from "./addresses.ts";
import { CALM, COOKIE, Cookies } from "./cookie.ts";

const LIFE = 120_000; // ms
const HERE = sockaddr("192.0.2.1", 4000);
const start = performance.now();

/** Cookies, and a clock that began with them. */
function begin(): { cookies: Cookies; at: (ms: number) => number } {
  const cookies = new Cookies();
  const now = performance.now();
  return { cookies, at: (ms) => now + ms };
}

test("a cookie is good for the address and port that it was made for, and for no other", () => {
  const cookies = new Cookies();
  const cookie = cookies.make(HERE, start);
  assert.equal(cookie.length, COOKIE);
  assert.ok(cookies.isGood(cookie, HERE, start));
  for (const other of [
    sockaddr("192.0.2.1", 4001),
    sockaddr("192.0.2.2", 4000),
    sockaddr("2001:db8::1", 4000),
  ])
    assert.ok(!cookies.isGood(cookie, other, start));
  for (let i = 0; i < COOKIE; i++) {
    const wrong = Buffer.from(cookie);
    wrong[i]! ^= 1;
    assert.ok(!cookies.isGood(wrong, HERE, start));
  }
  assert.ok(!cookies.isGood(Buffer.alloc(COOKIE), HERE, start));
});

test("another server's cookie is worth nothing, and neither is one from before a restart", () => {
  assert.ok(!new Cookies().isGood(new Cookies().make(HERE, start), HERE, start));
});

test("nothing is kept for it: a hundred thousand cookies cost no memory, and each is still good", () => {
  const cookies = new Cookies();
  const first = cookies.make(HERE, start);
  const state = JSON.stringify(cookies);
  for (let i = 0; i < 100_000; i++) cookies.make(sockaddr("192.0.2.9", i % 65_536), start);
  assert.equal(JSON.stringify(cookies), state);
  assert.ok(cookies.isGood(first, HERE, start));
});

test("the secret changes: a cookie lives for two to four minutes", () => {
  const { cookies, at } = begin();
  const cookie = cookies.make(HERE, at(1000));
  assert.ok(cookies.isGood(cookie, HERE, at(LIFE - 1000)));
  assert.ok(cookies.isGood(cookie, HERE, at(LIFE + 1000)), "the secret before is still good");
  assert.ok(!cookies.make(HERE, at(LIFE + 1000)).equals(cookie), "but no longer used");
  assert.ok(cookies.isGood(cookie, HERE, at(2 * LIFE)));
  assert.ok(!cookies.isGood(cookie, HERE, at(2 * LIFE + 2000)));
});

test("after a long rest, the former secret is not good for longer than it should be", () => {
  const { cookies, at } = begin();
  const cookie = cookies.make(HERE, at(0));
  assert.ok(!cookies.isGood(cookie, HERE, at(2 * LIFE + 1000)));
});

test("cookies are asked for when it is busy, and a second longer; a few first messages need none", () => {
  const cookies = new Cookies();
  const second = Math.ceil(start / 1000) * 1000 + 5000;
  for (let i = 0; i < CALM; i++) assert.ok(!cookies.needed(second + i), `${i}`);
  assert.ok(cookies.needed(second + 100));
  assert.ok(cookies.needed(second + 1050), "the next second, though it begins quietly");
  assert.ok(!cookies.needed(second + 1150));
  assert.ok(!cookies.needed(second + 2000));
});
