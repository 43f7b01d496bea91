/**
 * Fresh keys between two peers, without root: as in tunnel.test.ts, a SOCK_SEQPACKET pair stands in for each
 * TUN.
 */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { test, type TestContext } from "node:test";
import { counters } from "../base/counters.ts";
import { Control } from "../core/frame.ts";
import { Handshake, REKEY_PROLOGUE } from "./handshake.ts";
import type { Peer } from "../core/peer.ts";
import { Heartbeat } from "./pulse.ts";
import { answerRekeys, keepFresh } from "./rekey.ts";
import { session as datagramSession } from "../lab/tests/datagram-pair.ts";
import { type End, random, SEED, session, until } from "../lab/tests/peers.ts";

const SECRET = randomBytes(32);
const NOTHING = Buffer.alloc(0);

/** A session whose server answers rekeys. */
function answering() {
  const it = session();
  answerRekeys(it.server.peer, SECRET);
  return it;
}

/** A clock that goes only when it is told to: by so many seconds. */
function clock(t: TestContext): (seconds: number) => void {
  let now = 0; // ms
  t.mock.timers.enable({ apis: ["setInterval"] });
  t.mock.method(performance, "now", () => now);
  return (seconds) => {
    now += seconds * 1000;
    t.mock.timers.tick(seconds * 1000);
  };
}

/** Sends an IPv4 packet with a number in it. */
function send(from: End, number: number): void {
  const packet = Buffer.alloc(40);
  packet[0] = 0x45;
  packet.writeUInt32BE(number, 20);
  from.send(packet);
}

/** What came out of the TUN since. */
function received(to: End): number[] {
  const numbers = [];
  for (let packet = to.take(); packet; packet = to.take()) numbers.push(packet.readUInt32BE(20));
  return numbers;
}

test(`fresh keys lose and reorder no packet, and both ends name frames alike (seed ${SEED})`, async (t) => {
  const seconds = clock(t);
  const it = answering();
  const below = random(SEED);
  keepFresh(it.client.peer, SECRET, 2);
  const got = { up: [] as number[], down: [] as number[] };
  const keys = new Set([it.server.peer.keys!.opener]);
  let sent = 0;
  await until(() => {
    for (let i = below(4); i > 0; i--, sent++) [it.client, it.server].forEach((one) => send(one, sent));
    if (below(3) === 0) it.server.receive(); // often something is on its way
    if (below(3) === 0) it.client.receive();
    got.up.push(...received(it.server));
    got.down.push(...received(it.client));
    keys.add(it.server.peer.keys!.opener);
    seconds(0.05);
    return keys.size === 4;
  }, 20_000);
  for (let turns = 0; turns < 10; turns++) {
    for (const one of [it.server, it.client]) (one.peer.flush(), one.receive());
    got.up.push(...received(it.server));
    got.down.push(...received(it.client));
  }
  const all = Array.from({ length: sent }, (_, number) => number);
  assert.deepEqual([got.up, got.down], [all, all]);
  const [client, server] = [it.client.peer, it.server.peer];
  assert.deepEqual(
    [client.traffic.sent.frames, server.traffic.sent.frames],
    [server.traffic.received.frames, client.traffic.received.frames],
  );
  assert.deepEqual(
    [client.keys!.sealer.counter, server.keys!.sealer.counter],
    [server.keys!.opener.counter, client.keys!.opener.counter],
  );
  assert.ok(client.keys!.sealer.counter < client.traffic.sent.frames / 2, "nonces began anew");
  assert.deepEqual([it.client.reason, it.server.reason], ["", ""]);
  it.end();
});

test("fresh keys are also asked for when a key has sealed or opened 64 GiB", (t) => {
  const seconds = clock(t);
  for (const cipher of ["sealer", "opener"] as const) {
    const it = answering();
    keepFresh(it.client.peer, SECRET, 86_400);
    const old = it.client.peer.keys!.sealer;
    const { rekeys } = counters;
    it.client.peer.keys![cipher].bytes = 2 ** 36;
    seconds(1);
    for (const end of [it.server, it.client]) end.receive();
    assert.notEqual(it.client.peer.keys!.sealer, old);
    const { keysSince, since } = it.client.peer.traffic;
    assert.deepEqual([counters.rekeys - rekeys, keysSince - since], [1, 1000], "counted, and as old as that");
    it.end();
  }
});

test("a session ends if no fresh keys come within 60 s, and after 15 s if the server is silent", (t) => {
  const seconds = clock(t);
  for (const way of ["no answer", "no answer to the second", "no room"]) {
    const it = answering();
    const { peer } = it.client;
    keepFresh(peer, SECRET, 10);
    if (way === "no room") peer.outbox["tail"] = peer.outbox["memory"].bytes.length;
    seconds(69);
    if (way === "no answer to the second") (it.server.receive(), it.client.receive(), seconds(69));
    assert.equal(it.client.reason, "", way);
    seconds(1);
    assert.match(
      it.client.reason,
      /no fresh keys within 60 s: it does not answer, or takes no bytes from us/,
      way,
    );
    it.end();
  }
  const it = answering();
  const pulse = (it.client.peer.pulse = new Heartbeat(it.client.peer));
  keepFresh(it.client.peer, SECRET, 10);
  seconds(10);
  for (let checks = 0; checks < 5; checks++) pulse.check();
  assert.match(it.client.reason, /it has not answered/);
  it.end();
});

test("a key that is used up ends the connection, on either end, before a nonce is used twice", () => {
  for (const cipher of ["sealer", "opener"] as const) {
    const it = answering();
    const [used, other] = cipher === "sealer" ? [it.client, it.server] : [it.server, it.client];
    used.peer.keys![cipher].counter = 2 ** 32;
    send(it.client, 1);
    it.server.receive();
    assert.match(used.reason, /its key is used up/);
    assert.deepEqual(received(it.server), [], "nothing was sent, or taken");
    assert.match(other.reason, /^$|without a goodbye/);
    it.end();
  }
});

const message1 = (secret = SECRET, prologue: Buffer | undefined = REKEY_PROLOGUE) =>
  new Handshake("client", secret, prologue).write(NOTHING);

test("a client that asks out of turn, too often or wrongly breaks its own stream only", () => {
  const attacks: [RegExp, (client: Peer) => void][] = [
    [/out of turn/, (client) => client.sendControl(Control.switch)],
    [/out of turn/, (client) => [1, 2].forEach(() => client.sendControl(Control.rekey, message1()))],
    [/handshake message of 0 bytes/, (client) => client.sendControl(Control.rekey)],
    [/handshake message of 44 bytes/, (client) => client.sendControl(Control.rekey, message1().subarray(4))],
    [/another secret/, (client) => client.sendControl(Control.rekey, message1(randomBytes(32)))],
    [
      /another secret/,
      (client) => client.sendControl(Control.rekey, message1(SECRET, Buffer.from("simple-vpn/1"))),
    ],
    [/another secret/, (client) => client.sendControl(Control.rekey, randomBytes(10_000))],
    [
      /wrong tag/,
      (client) => (
        client.sendControl(Control.rekey, message1()),
        client.sendControl(Control.switch),
        client.sendControl(Control.keepalive)
      ),
    ],
  ];
  for (const [reason, attack] of attacks) {
    const it = answering();
    attack(it.client.peer);
    it.server.receive();
    assert.match(it.server.reason, reason);
    it.end();
  }
});

test("the server makes fresh keys at most once a second for a client", () => {
  const it = answering();
  const { peer } = it.client;
  for (const round of [1, 2]) {
    const handshake = new Handshake("client", SECRET, REKEY_PROLOGUE);
    peer.events.onRekey = (_word, message) => {
      handshake.read(message);
      const { send, receive } = handshake.split();
      peer.keys!.receiveWith(receive);
      peer.sendControl(Control.switch);
      peer.keys!.sendWith(send);
    };
    peer.sendControl(Control.rekey, handshake.write(NOTHING));
    it.server.receive();
    it.client.receive();
    it.server.receive();
    if (round === 1) assert.equal(it.server.reason, "");
    else assert.match(it.server.reason, /more than once a second/);
  }
  it.end();
});

test("over UDP, an answer that comes twice, or during the next rekey, is no fault", async (t) => {
  const seconds = clock(t);
  const it = await datagramSession();
  const { client, far, relay } = it;
  answerRekeys(far.peer, SECRET);
  keepFresh(client.peer, SECRET, 2);
  const { onRekey } = client.peer.events;
  const answers: Buffer[] = [];
  client.peer.events.onRekey = (word, message) => (answers.push(message), onRekey(word, message));
  const { rekeys } = counters;
  const before = new Map(counters.drops);
  const held: Buffer[] = [];
  const wait = async (asked: number, late?: Buffer) => {
    relay.down = (datagram) => (held.push(datagram), []);
    for (let second = 1; second <= asked; second++) {
      seconds(second === 1 ? 2 : 1); // due after 2 s; then it asks again each second
      await until(() => held.length === second);
    }
    if (late) far.peer.sendControl(Control.rekey, late);
    await until(() => held.length === asked + (late ? 1 : 0));
    relay.down = (datagram) => [datagram];
    for (const datagram of held.splice(0).reverse()) relay.toClient(datagram);
  };
  await wait(2);
  await until(() => answers.length === 2);
  assert.deepEqual(answers[0], answers[1]);
  await until(() => far.peer.keys!.settled);
  far.peer.sendControl(Control.keepalive);
  await until(() => client.peer.keys!.settled);
  await wait(1, answers[0]);
  await until(() => answers.length === 4);
  assert.deepEqual(answers[2], answers[0]);
  assert.equal(counters.rekeys - rekeys, 4, "two rekeys, at both ends");
  for (const [reason, count] of counters.drops) before.set(reason, count - (before.get(reason) ?? 0));
  const counted = [...before].filter(([, count]) => count > 0);
  assert.deepEqual(counted, [["an answer to a rekey that has come before", 2]]);
  it.end();
});

test("a server that sends a rekey that nobody asked for, or a wrong one, is left", (t) => {
  const seconds = clock(t);
  for (const asked of [false, true]) {
    const it = answering();
    keepFresh(it.client.peer, SECRET, 1);
    if (asked) seconds(1);
    it.server.peer.sendControl(Control.rekey, randomBytes(48));
    it.client.receive();
    assert.match(it.client.reason, asked ? /another secret|not valid/ : /did not ask/);
    it.end();
  }
});
