/** For fuzz.ts: what programs send to --socks, and what name servers answer it. */
import assert from "node:assert/strict";
import { isIP } from "node:net";
import {
  type Parsed,
  readDatagram,
  readLogin,
  readMethods,
  readRequest,
  Refusal,
} from "../../client/socks-messages.ts";
import { A, AAAA, answerTo, queryOf } from "../../client/socks-names.ts";
import type { Random } from "./random.ts";

const READERS: ((bytes: Buffer) => Parsed<unknown>)[] = [readMethods, readLogin, readRequest, readDatagram];

/** Which reader; then a message for it, or nearly. */
export function makeSocks(any: Random): Buffer {
  const which = any.below(READERS.length);
  const name = Buffer.from(any.one("a.example", "8.8.8.8", "x", "a b", "\n", "é"));
  const size = any.one(name.length, name.length, 0, any.below(256));
  const host = any.one(
    Buffer.concat([Buffer.from([1]), any.bytes(4)]),
    Buffer.concat([Buffer.from([3, size]), name]),
    Buffer.concat([Buffer.from([4]), any.bytes(16)]),
  );
  const count = any.below(6);
  const message = [
    Buffer.concat([Buffer.from([5, count]), any.bytes(count)]),
    Buffer.concat([Buffer.from([1, count]), any.bytes(count), Buffer.from([3, 1, 2, 3])]),
    Buffer.concat([Buffer.from([5, any.one(1, 2, 3), 0]), host, any.bytes(2)]),
    Buffer.concat([Buffer.alloc(3), host, any.bytes(2 + any.below(20))]),
  ][which]!;
  return Buffer.concat([Buffer.from([which]), any.mutate(message)]);
}

/** As it comes, byte by byte: nothing for long, then a message or a refusal, and that stays so. */
export function checkSocks(input: Buffer): void {
  const parse = READERS[input[0]!]!;
  const bytes = input.subarray(1, 700);
  const outcome = (size: number) => {
    try {
      return parse(bytes.subarray(0, size));
    } catch (error) {
      assert.ok(error instanceof Refusal, String(error));
      return "refused";
    }
  };
  let first: ReturnType<typeof outcome>;
  for (let size = 0; size <= bytes.length; size++) {
    const now = outcome(size);
    if (first !== undefined) assert.deepEqual(now, first, `at byte ${size} it changes its mind`);
    first = now;
    if (now === undefined || now === "refused") continue;
    assert.ok(now[1] <= size, "a message ends behind its bytes");
    const { host, port } = now[0] as { host?: string; port?: number };
    if (host !== undefined) assert.ok(/^[\w.:-]{1,255}$/.test(host) && port! <= 0xffff, host);
  }
  if (bytes.length > 513 && parse !== readDatagram) assert.ok(first !== undefined, "still no message");
}

/** A byte for the type; then an answer to query(), or nearly. */
export function makeDns(any: Random): Buffer {
  const six = any.below(2);
  const question = query(six);
  const records = Array.from({ length: any.below(4) }, () => {
    const type = any.one(A, AAAA, 5, any.below(300));
    const data = any.bytes(type === A ? 4 : type === AAAA ? 16 : any.below(20));
    const name = any.one([0xc0, 12], [0xc0, any.below(256)], [1, 97, 0], [0], [63], [0xff, 0xff]);
    return Buffer.from([...name, type >> 8, type & 255, 0, 1, 0, 0, 14, 16, 0, data.length, ...data]);
  });
  const header = Buffer.from([0x12, 0x34, 0x81, 0x80, 0, 1, 0, records.length, 0, 0, 0, 0]);
  const answer = Buffer.concat([header, question.subarray(12, -11), ...records]);
  return Buffer.concat([Buffer.from([six]), any.below(4) ? mutateTail(any, answer) : any.mutate(answer)]);
}

/** The query's copy stays, so that the rest is looked at. */
const mutateTail = (any: Random, answer: Buffer) =>
  Buffer.concat(
    [answer.subarray(0, 6), any.mutate(answer.subarray(6, 12)), answer.subarray(12, 32)].concat(
      any.mutate(answer.subarray(32)),
    ),
  );

const query = (six: number) => queryOf("www.a.example", six ? AAAA : A, 0x1234)!;

export function checkDns(input: Buffer): void {
  const six = input[0]! & 1;
  const found = answerTo(query(six), input.subarray(1)) ?? [];
  for (const address of found) assert.equal(isIP(address), six ? 6 : 4, address);
  assert.ok(found.length * (six ? 28 : 16) <= input.length, "more addresses than bytes");
}
