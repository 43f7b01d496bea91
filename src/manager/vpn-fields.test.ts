import assert from "node:assert/strict";
import { test } from "node:test";
import { CLIENT, clientOptions, SERVER, serverOptions } from "../host/options.ts";
import { Refusal, take } from "./route.ts";
import { argumentsOf, CLIENT_FIELDS, SERVER_FIELDS } from "./vpn-fields.ts";

const options = (fields: typeof SERVER_FIELDS | typeof CLIENT_FIELDS, given: object) => {
  const { name, ...rest } = take(fields, given);
  return argumentsOf(rest);
};
const XOR = { cipher: "xor" }; // no secret is read

test("the programs' options are fields, but for the manager's own, and what opens something", () => {
  const withheld = ["status", "metrics", "trace-file", "help", "version"];
  for (const [table, fields, more] of [
    [SERVER, SERVER_FIELDS, ["name"]],
    [CLIENT, CLIENT_FIELDS, ["name", "server"]],
  ] as const)
    assert.deepEqual(
      Object.keys(fields).sort(),
      [...Object.keys(table).filter((name) => !withheld.includes(name)), ...more].sort(),
    );
  const types = Object.entries(SERVER_FIELDS).map(([name, { schema }]) => [name, schema.type]);
  const { port, subnet, isolate, secret } = Object.fromEntries(types);
  assert.deepEqual([port, subnet, isolate, secret], ["integer", "string", "boolean", "array"]);
  assert.equal(CLIENT_FIELDS.server.required, true);
});

test("fields become a command line that the program reads as they were meant", () => {
  const server = serverOptions(
    options(SERVER_FIELDS, { ...XOR, port: 7000, subnet: "10.9.0.0/24", isolate: true, configure: false }),
  );
  const { port, subnet, isolate, configure } = server;
  assert.deepEqual([port, subnet.prefix, isolate, configure], [7000, 24, true, false]);
  assert.deepEqual(options(CLIENT_FIELDS, { server: "--help" }), ["--", "--help"]);
  const client = clientOptions(
    options(CLIENT_FIELDS, { ...XOR, server: "--help", route: ["8.8.8.8/32", "::/0"], rekey: 5 }),
  );
  assert.deepEqual([client.server, client.routes, client.rekey], ["--help", ["8.8.8.8/32", "::/0"], 5]);
});

test("a secret in the place of its file is refused, and is not in the answer", () => {
  const secret = "0123456789abcdef".repeat(4);
  for (const given of [[secret], [` ${secret}`], ["/a", secret], secret])
    assert.throws(
      () => take(SERVER_FIELDS, { secret: given }),
      ({ message }: Refusal) => {
        assert.ok(!message.includes(secret.slice(0, 16)), message);
        return given === secret || /is the secret itself: name its file$/.test(message);
      },
    );
  assert.deepEqual(options(SERVER_FIELDS, { secret: [`/run/${secret}`] }), [`--secret=/run/${secret}`]);
});

test("no value becomes another option, and none that a program cannot be given is taken", () => {
  for (const value of ["--help", "-x", "$(id)", "a b", ";", "true", "false"])
    assert.ok(
      options(SERVER_FIELDS, { user: value, secret: [value] }).every((word) =>
        /^--(user|secret)=/.test(word),
      ),
      value,
    );
  for (const wrong of [
    { user: "a\0b" },
    { secret: ["/tmp/a\nb"] },
    { secret: ["a", 1] },
    { port: "5555" },
    { isolate: 1 },
  ])
    assert.throws(() => take(SERVER_FIELDS, wrong), Refusal, JSON.stringify(wrong));
  assert.throws(() => take(CLIENT_FIELDS, { server: "a\0b" }), Refusal);
});
