/**
 * The code of a class, K7QF-MAXW-PD34: short enough for a blackboard. Both ends make the shared secret of it.
 * Noise_NNpsk0's first message lets whoever records it try codes at home, so each try must be dear: scrypt
 * (RFC 7914) takes 128 MB and about 0.4 s of a core. draft/security-notes.md has the sum.
 */
import { randomInt, scryptSync } from "node:crypto";
import { KEY_LENGTH } from "../core/aes.ts";
import { Failure } from "../base/failure.ts";

/** Without what is mistaken on a blackboard: 0 O, 1 I L, 2 Z, 5 S, 6 G, 8 B, U V. */
export const ALPHABET = "ACDEFHJKMNPQRTVWXY346789";
const LENGTH = 12; // 24^12 codes: 55 bits
const COST = { N: 2 ** 17, r: 8, p: 1, maxmem: 256 * 1024 * 1024 }; // bytes; N × r × 128 are used
const SALT = "simple-vpn: a class"; // the same for all: nobody is told another one before the code

/** A new one, of cryptographic randomness. */
export function newCode(): string {
  const text = Array.from({ length: LENGTH }, () => ALPHABET[randomInt(ALPHABET.length)]).join("");
  return text.replace(/.{4}(?=.)/g, "$&-");
}

/** The shared secret, 64 hex digits. Small letters and other gaps are taken. Errors: a Failure. */
export function secretOf(code: string): string {
  const text = code.toUpperCase().replace(/[\s-]/g, "");
  const problem =
    [...text].length === LENGTH ? strange(text) : `it has ${[...text].length} letters and digits`;
  if (problem)
    throw new Failure(
      `Cannot use the code ${code}: ${problem}`,
      `read it again: ${LENGTH} of ${ALPHABET}`,
      2,
    );
  return scryptSync(text, SALT, KEY_LENGTH, COST).toString("hex");
}

function strange(text: string): string | undefined {
  const one = [...text].find((letter) => !ALPHABET.includes(letter));
  return one && `${one} is in no code`;
}
