import assert from "node:assert/strict";
import { test } from "node:test";
import { counters } from "../base/counters.ts";
import { close, Memory, read, write } from "../base/libc.ts";
import { ready } from "../core/loop.ts";
import { put, random, SEED, socketPair, take, until } from "../lab/tests/peers.ts";
import { SHUT_WR, shutdown } from "../transport/socket-calls.ts";
import { Socks } from "./socks.ts";
import * as messages from "./socks-messages.ts";
import { Refusal } from "./socks-messages.ts";
import { A, AAAA, answerTo, queryOf } from "./socks-names.ts";
import { Relay } from "./socks-relay.ts";
import { isBeyond } from "./socks-sockets.ts";

const hex = (text: string) => Buffer.from(text.replaceAll(" ", ""), "hex");
const NAME = "09 31 2e 65 78 61 6d 70 6c 65"; // "1.example", with its length

/** Messages of programs, and what they say. */
const MESSAGES: [string, (bytes: Buffer) => messages.Parsed<unknown>, unknown][] = [
  ["05 02 00 02", messages.readMethods, [0, 2]],
  ["05 00", messages.readMethods, []],
  ["01 01 75 02 70 77", messages.readLogin, hex("01 01 75 02 70 77")],
  ["05 01 00 01 08 08 08 08 00 50", messages.readRequest, { command: 1, host: "8.8.8.8", port: 80 }],
  [`05 01 00 03 ${NAME} 01 bb`, messages.readRequest, { command: 1, host: "1.example", port: 443 }],
  [
    "05 03 00 04 20 01 0d b8 00 00 00 00 00 00 00 00 00 00 00 01 00 35",
    messages.readRequest,
    { command: 3, host: "2001:db8::1", port: 53 },
  ],
  ["00 00 00 01 08 08 04 04 00 35", messages.readDatagram, { host: "8.8.4.4", port: 53 }],
];

test("each message is read as soon as its last byte is there; what comes behind it stays", () => {
  for (const [text, parse, value] of MESSAGES) {
    const bytes = hex(text);
    for (let i = 0; i < bytes.length; i++)
      assert.equal(parse(bytes.subarray(0, i)), undefined, `${i} of ${text}`);
    const found = parse(Buffer.concat([bytes, hex("05 ff")]));
    assert.deepEqual(found, [value, bytes.length]);
  }
});

test("our own messages, byte by byte", () => {
  const { replyIs, Reply, datagramHeader, loginMessage } = messages;
  assert.deepEqual(replyIs(Reply.refused), hex("05 05 00 01 00 00 00 00 00 00"));
  assert.deepEqual(replyIs(Reply.ok, "10.8.0.2", 40000), hex("05 00 00 01 0a 08 00 02 9c 40"));
  const six = "04 fd 56 50 4e 00 00 00 00 00 00 00 00 0a 08 00 02 00 35";
  assert.deepEqual(datagramHeader("fd56:504e::a08:2", 53), hex(`00 00 00 ${six}`));
  assert.deepEqual(loginMessage("u:p:w"), hex("01 01 75 03 70 3a 77"), "the first colon parts them");
});

test("what is not SOCKS5 is refused at its first wrong byte", () => {
  const refuses = (text: string, parse: (bytes: Buffer) => unknown, answer?: string) =>
    assert.throws(
      () => parse(hex(text)),
      (error) => error instanceof Refusal && error.answer?.toString("hex") === answer?.replaceAll(" ", ""),
    );
  refuses("04", messages.readMethods); // SOCKS4
  refuses("47 45 54 20", messages.readMethods); // GET of a page in a browser
  refuses("05 01", messages.readLogin);
  refuses("05 01 00 02 00 00", messages.readRequest, "05 08 00 01 00 00 00 00 00 00");
  refuses("05 01 00 03 00 00", messages.readRequest, "05 08 00 01 00 00 00 00 00 00");
  refuses("05 01 00 03 02 61 0a 00 50", messages.readRequest, "05 04 00 01 00 00 00 00 00 00");
  assert.equal(messages.readDatagram(hex("00 00 01 01 08 08 04 04 00 35")), undefined, "a fragment");
});

test("this machine, links and groups are not beyond the tunnel, in whichever form", () => {
  const own = ["10.8.0.2", "fd56:504e::a08:2"];
  for (const address of ["8.8.8.8", "10.8.0.1", "192.168.1.1", "2001:db8::1", "fd56:504e::a08:1"])
    assert.ok(isBeyond(address, own), address);
  for (const address of ["127.0.0.1", "0.0.0.0", "169.254.1.1", "224.0.0.1", "255.255.255.255", ...own])
    assert.ok(!isBeyond(address, own), address);
  for (const address of ["::", "::1", "::ffff:7f00:1", "::ffff:8.8.8.8", "fe80::1", "ff02::1"])
    assert.ok(!isBeyond(address, own), address);
});

// www.a.example is an alias of a.example, which has 192.0.2.1: RFC 1035, section 4.1.4, pointers and all
const QUERY = queryOf("www.a.example", A, 0x1234)!;
const QUESTION = QUERY.subarray(12, 31);
const ANSWER = Buffer.concat([
  hex("1234 8180 0001 0002 0000 0000"),
  QUESTION,
  hex("c00c 0005 0001 00000e10 0002 c010"),
  hex("c010 0001 0001 00000e10 0004 c0000201"),
]);

test("queryOf() asks for a name as RFC 1035 says; none that cannot be", () => {
  const expected = "1234 0100 0001 0000 0000 0001 03777777 0161 076578616d706c65 00 0001 0001";
  assert.deepEqual(QUERY, hex(`${expected} 00 0029 04d0 0000 0000 0000`));
  assert.deepEqual(queryOf("www.a.example.", A, 0x1234), QUERY, "a dot at the end");
  for (const name of ["", ".", "a..b", "x".repeat(64), "abc.".repeat(64)])
    assert.equal(queryOf(name, A), undefined, name);
});

test("answerTo() finds the addresses, an alias's too, and takes no other query's answer", () => {
  assert.deepEqual(answerTo(QUERY, ANSWER), ["192.0.2.1"]);
  for (const [at, byte] of [
    [0, 0x13],
    [2, 0x01],
    [14, 0x78],
    [28, 0x1c],
  ] as const) {
    const wrong = Buffer.from(ANSWER);
    wrong[at] = byte;
    assert.equal(answerTo(QUERY, wrong), undefined, `byte ${at}`);
  }
  const six = queryOf("www.a.example", AAAA, 0x1234)!;
  const sixAnswer = Buffer.concat([
    hex("1234 8180 0001 0001 0000 0000"),
    six.subarray(12, 31),
    hex("c00c 001c 0001 00000e10 0010 20010db8000000000000000000000001"),
  ]);
  assert.deepEqual(answerTo(six, sixAnswer), ["2001:db8::1"]);
  for (let i = 0; i < ANSWER.length; i++)
    assert.ok((answerTo(QUERY, ANSWER.subarray(0, i)) ?? []).length === 0, `cut after ${i} bytes`);
});

const WAY = { tun: "lo", own: () => ["10.8.0.2"], nameServers: () => [] };
const program = (login?: string) => {
  const [theirs, fd] = socketPair();
  const socks = new Socks({ host: "127.0.0.1", port: 1, login }, WAY);
  return { theirs, served: socks.serve({ fd, address: "" }) };
};
/** All that comes, until the other end has said its last word; then it hears ours. */
async function answers(fd: number): Promise<string> {
  const memory = new Memory(4096);
  let have = 0;
  for (let count = 1; count !== 0;) {
    assert.ok(await ready(fd, "readable", 5000));
    count = read(fd, memory, have, 4096 - have);
    have += Math.max(count, 0);
  }
  close(fd);
  return memory.bytes.toString("hex", 0, have);
}

test("a login is asked for where there is one, and a wrong one is told so; one byte at a time", async () => {
  for (const [login, sent, expected] of [
    ["u:pw", "05 01 00", "05ff"],
    [undefined, "05 01 02", "05ff"],
    ["u:pw", "05 02 00 02 01 01 75 02 70 78", "0502 0101"],
    ["u:pw", "05 01 02 01 01 75 02 70 77 05 01 00 01 7f 00 00 01 00 50", "0502 0100 0502 000100000000 0000"],
    [undefined, "05 01 00 05 02 00 01 08 08 08 08 00 50", "0500 0507 000100000000 0000"], // BIND
  ] as const) {
    const { theirs, served } = program(login);
    for (const byte of hex(sent)) {
      put(theirs, Buffer.from([byte]));
      await new Promise(setImmediate);
    }
    assert.equal(await answers(theirs), expected.replaceAll(" ", ""), sent);
    await served;
  }
});

test("the 65th program without a request makes the oldest one leave, and is served itself", async () => {
  const socks = new Socks({ host: "127.0.0.1", port: 1, login: undefined }, WAY);
  const pairs = Array.from({ length: 65 }, () => socketPair());
  const served = pairs.map(([, fd]) => socks.serve({ fd, address: "" }));
  await served[0];
  assert.equal(await answers(pairs[0]![0]), "", "the first one is sent away");
  const latest = pairs[64]![0];
  put(latest, hex("05 01 00"));
  await until(() => take(latest)?.toString("hex") === "0500");
  for (const [theirs] of pairs.slice(1)) close(theirs);
  await Promise.all(served);
  assert.equal(counters.socks.open, 0);
});

test(`no hostile bytes end it, and each connection ends (seed ${SEED})`, async () => {
  const below = random(SEED);
  const starts = ["", "05", "0501", "050100", "05010005", "0501000501", "050100050100", "05020002"];
  const before = counters.socks.failed;
  const all = Array.from({ length: 300 }, async () => {
    const { theirs, served } = program(below(2) ? "u:pw" : undefined);
    const some = Buffer.from(Array.from({ length: below(40) }, () => below(256)));
    put(theirs, Buffer.concat([hex(starts[below(starts.length)]!), some]));
    shutdown(theirs, SHUT_WR);
    await answers(theirs);
    await served;
  });
  await Promise.all(all);
  assert.equal(counters.socks.open, 0);
  assert.equal(counters.socks.failed, before + 300);
});

test("Relay copies both ways whatever fits, ends by halves, and begins with what had come", async () => {
  const [program, one] = socketPair();
  const [remote, other] = socketPair();
  let ended = false;
  new Relay(one, other, Buffer.from("first "), () => (ended = true));
  const size = 3_000_000; // more than the sockets and the relay hold together
  const sent = Buffer.alloc(size, "0123456789");
  const got: Buffer[] = [];
  let at = 0;
  const memory = new Memory(1 << 16);
  while (at < size || Buffer.concat(got).length < size + 6) {
    sent.copy(memory.bytes, 0, at, Math.min(at + memory.bytes.length, size));
    const count = at < size ? write(program, memory, 0, Math.min(memory.bytes.length, size - at)) : 0;
    at += Math.max(count, 0);
    await new Promise(setImmediate);
    if (at < 1_000_000 && count > 0) continue; // the remote end is slow at first
    for (let some = take(remote); some && some.length > 0; some = take(remote)) got.push(some);
  }
  assert.ok(Buffer.concat(got).equals(Buffer.concat([Buffer.from("first "), sent])));
  shutdown(program, SHUT_WR);
  await until(() => take(remote)?.length === 0);
  assert.ok(!ended, "the other half goes on");
  put(remote, Buffer.from("answer"));
  close(remote);
  assert.equal(await answers(program), Buffer.from("answer").toString("hex"));
  await until(() => ended);
});
