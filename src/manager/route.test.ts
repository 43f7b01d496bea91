/** What is sent, read field by field. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { nearest } from "../base/nearest.ts";
import { CREATE } from "./fields.ts";
import { PROGRESS } from "./progress.ts";
import { Refusal, take } from "./route.ts";

const refusal = (given: object, fields: Parameters<typeof take>[0] = CREATE) => {
  try {
    return take(fields, given);
  } catch (error) {
    assert.ok(error instanceof Refusal && error.status === 400);
    return error.message;
  }
};

test("take() reads each field, and leaves out what is not there", () => {
  const given = { name: "tun1", mtu: 1400, address6: "FD00:0::1/64", netmask: "255.255.255.252" };
  assert.deepEqual(take(CREATE, given), { ...given, address6: "fd00::1/64" });
  assert.deepEqual(take(CREATE, {}), {});
  assert.deepEqual(take(CREATE, { address6: "off" }), { address6: "" });
});

test("take() names the field that is wrong, the nearest one that there is, and one that is missing", () => {
  assert.match(String(refusal({ mtu: 67 })), /^mtu: 67 is no whole number from 68 to 65535$/);
  assert.match(String(refusal({ adress: "10.0.0.1" })), /^"adress": no such field, the nearest is address$/);
  assert.match(String(refusal({ student: "Ada" }, PROGRESS)), /^lesson: is missing$/);
});

test("take() shows what was sent in few characters, without orders to a terminal", () => {
  const message = String(refusal({ name: "\x1b[31m" + "x".repeat(500) }));
  assert.ok(message.length < 150 && /^[ -~…]*$/.test(message), message);
});

test("names of students are any text without orders to a terminal", () => {
  const one = { student: "José 🙂 王", lesson: "xor", passed: 0, total: 5 };
  assert.deepEqual(take(PROGRESS, one), one);
  for (const student of ["", "a\nb", "a\x1b[0m", "a\u202eb", "\ud800", "x".repeat(65)])
    assert.match(String(refusal({ ...one, student }, PROGRESS)), /^student: /);
});

test("nearest() counts letters", () => {
  assert.equal(nearest("prot", ["host", "port", "rate"]), ", the nearest is port");
  assert.equal(nearest("x".repeat(1e6), ["host"]), ", the nearest is host");
  assert.equal(nearest("x", []), "");
});
