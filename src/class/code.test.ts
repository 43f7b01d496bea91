import assert from "node:assert/strict";
import { test } from "node:test";
import { ALPHABET, newCode, secretOf } from "./code.ts";

test("newCode() makes codes of more than 40 bits, of every letter, and none twice", () => {
  const codes = Array.from({ length: 500 }, newCode);
  for (const code of codes) assert.match(code, new RegExp(`^[${ALPHABET}]{4}(-[${ALPHABET}]{4}){2}$`));
  assert.ok(12 * Math.log2(ALPHABET.length) > 40);
  assert.equal(new Set(ALPHABET).size, ALPHABET.length);
  assert.equal(new Set(codes.join("")).size, ALPHABET.length + 1, "and the gap");
  assert.equal(new Set(codes).size, codes.length);
});

test("no code has letters that are mistaken for each other on a blackboard", () => {
  assert.doesNotMatch(ALPHABET, /[0O1IL2Z5SGBU]/);
});

test("secretOf() makes the same 32 bytes on both ends, however the code is typed", () => {
  const secret = secretOf("ACDE-FHJK-MNPQ");
  // by python3: hashlib.scrypt(b"ACDEFHJKMNPQ", salt=b"simple-vpn: a class", n=2**17, r=8, p=1, dklen=32, …)
  assert.equal(secret, "d69ef340ad32212632e2c38ff9989896b7bc07d92ea6aca82bb647552460b907");
  assert.equal(secretOf(" acde fhjk mnpq "), secret);
  assert.notEqual(secretOf("ACDE-FHJK-MNPR"), secret);
});

test("secretOf() refuses what can be no code, and says what is wrong with it", () => {
  assert.throws(() => secretOf("ACDE-FHJK-MNP"), /ACDE-FHJK-MNP: it has 11 letters and digits/);
  assert.throws(() => secretOf("ACDE-FHJK-MNP0"), /0 is in no code/);
  assert.throws(() => secretOf("ACDE-FHJK-MNPß"), /Cannot use the code/); // two letters, once large
});
