/** Fresh keys between two peers, without root: as in tunnel.test.ts, a SOCK_SEQPACKET pair stands in for each TUN. */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { test } from "node:test";
import { Control } from "./frame.ts";
import { Handshake, REKEY_PROLOGUE } from "./handshake.ts";
import { close, Memory, read, write } from "./libc.ts";
import { OFFLOAD_HEADER } from "./offload.ts";
import { checkPulse } from "./pulse.ts";
import { answerRekeys, keepFresh } from "./rekey.ts";
import { random, SEED, SOCK_SEQPACKET, socketPair, until } from "./testing.ts";
import { DOWN, UP } from "./trace.ts";
import { flush, inbound, outbound, Peer, sendControl } from "./tunnel.ts";

const SECRET = randomBytes(32);
const NOTHING = Buffer.alloc(0);
const memory = new Memory(4096);

/** A client's and a server's end of one session; each with its TUN, and that TUN's kernel. */
function session() {
  const [near, far] = socketPair();
  const keys = { send: randomBytes(32), receive: randomBytes(32) };
  const end = (fd: number, peer: Peer) => {
    const [tun, kernel] = socketPair(SOCK_SEQPACKET);
    const one = { peer, tun: { fd: tun, name: "tun0", header: OFFLOAD_HEADER }, kernel, reason: "", fds: [fd, tun, kernel] };
    peer.onClose = (reason) => (one.reason = reason);
    return one;
  };
  const client = end(near, new Peer({ fd: near, address: "", remote: "the server" }, UP, DOWN, keys));
  const server = end(far, new Peer({ fd: far, address: "", remote: "the client" }, DOWN, UP, { send: keys.receive, receive: keys.send }));
  answerRekeys(server.peer, SECRET);
  return { client, server, end: () => [client, server].forEach((one) => (one.peer.close("the test is over"), one.fds.forEach((fd) => close(fd)))) };
}
type End = ReturnType<typeof session>["client"];

/** Sends an IPv4 packet with a number in it. */
function send(from: End, number: number): void {
  memory.bytes.fill(0, 0, OFFLOAD_HEADER + 40);
  memory.bytes[OFFLOAD_HEADER] = 0x45;
  memory.bytes.writeUInt32BE(number, OFFLOAD_HEADER + 20);
  write(from.kernel, memory, 0, OFFLOAD_HEADER + 40);
  outbound(from.tun, () => from.peer);
}

/** What came out of the TUN since. */
function received(to: End): number[] {
  const numbers = [];
  while (read(to.kernel, memory, 0, 4096) > 0) numbers.push(memory.bytes.readUInt32BE(OFFLOAD_HEADER + 20));
  return numbers;
}

test(`fresh keys on a schedule: no packet is lost or out of order, frames are still named alike (seed ${SEED})`, async () => {
  const it = session();
  const below = random(SEED);
  keepFresh(it.client.peer, SECRET, 1);
  const got = { up: [] as number[], down: [] as number[] };
  const keys = new Set([it.server.peer.opener]);
  let sent = 0;
  await until(() => {
    for (let i = below(4); i > 0; i--, sent++) [it.client, it.server].forEach((one) => send(one, sent));
    if (below(3) === 0) inbound(it.server.peer, it.server.tun); // often something is on its way
    if (below(3) === 0) inbound(it.client.peer, it.client.tun);
    got.up.push(...received(it.server));
    got.down.push(...received(it.client));
    keys.add(it.server.peer.opener);
    return keys.size === 4;
  }, 20_000);
  for (let turns = 0; turns < 10; turns++) {
    for (const one of [it.server, it.client]) flush(one.peer), inbound(one.peer, one.tun);
    got.up.push(...received(it.server));
    got.down.push(...received(it.client));
  }
  const all = Array.from({ length: sent }, (_, number) => number);
  assert.deepEqual([got.up, got.down], [all, all]);
  const [client, server] = [it.client.peer, it.server.peer];
  assert.deepEqual([client.framesSent, server.framesSent], [server.framesReceived, client.framesReceived]);
  assert.deepEqual([client.sealer!.counter, server.sealer!.counter], [server.opener!.counter, client.opener!.counter]);
  assert.ok(client.sealer!.counter < client.framesSent / 2, "nonces began anew");
  assert.deepEqual([it.client.reason, it.server.reason], ["", ""]);
  it.end();
});

test("fresh keys are also asked for when a key has sealed or opened 64 GiB", async () => {
  for (const cipher of ["sealer", "opener"] as const) {
    const it = session();
    keepFresh(it.client.peer, SECRET, 86_400);
    const old = it.client.peer.sealer;
    it.client.peer[cipher]!.bytes = 2 ** 36;
    await until(() => (inbound(it.server.peer, it.server.tun), inbound(it.client.peer, it.client.tun), it.client.peer.sealer !== old));
    it.end();
  }
});

test("fresh keys that do not come within 60 s end the session, whether the server does not answer or takes no bytes; 15 s if it is silent", (t) => {
  t.mock.timers.enable({ apis: ["setInterval"] });
  const seconds = (count: number) => t.mock.timers.tick(count * 1000);
  for (const way of ["no answer", "no answer to the second", "no room"]) {
    const it = session();
    const { peer, tun } = it.client;
    keepFresh(peer, SECRET, 10);
    if (way === "no room") peer.tail = peer.outbox.bytes.length;
    seconds(69);
    if (way === "no answer to the second") inbound(it.server.peer, it.server.tun), inbound(peer, tun), seconds(69);
    assert.equal(it.client.reason, "", way);
    seconds(1);
    assert.match(it.client.reason, /no fresh keys within 60 s: it does not answer, or takes no bytes from us/, way);
    it.end();
  }
  const it = session();
  keepFresh(it.client.peer, SECRET, 10);
  seconds(10);
  for (let checks = 0; checks < 5; checks++) checkPulse(it.client.peer);
  assert.match(it.client.reason, /it has not answered/);
  it.end();
});

test("a key that is used up ends the connection, on either end, before a nonce is used twice", () => {
  for (const cipher of ["sealer", "opener"] as const) {
    const it = session();
    const [used, other] = cipher === "sealer" ? [it.client, it.server] : [it.server, it.client];
    used.peer[cipher]!.counter = 2 ** 32;
    send(it.client, 1);
    inbound(it.server.peer, it.server.tun);
    assert.match(used.reason, /its key is used up/);
    assert.deepEqual([other.reason, received(it.server)], ["", []], "nothing was sent, or taken");
    it.end();
  }
});

const message1 = (secret = SECRET, prologue: Buffer | undefined = REKEY_PROLOGUE) => new Handshake("client", secret, prologue).write(NOTHING);

test("a client that asks out of turn, too often or wrongly breaks its own stream only", () => {
  const attacks: [RegExp, (client: Peer) => void][] = [
    [/out of turn/, (client) => sendControl(client, Control.switch)],
    [/out of turn/, (client) => [1, 2].forEach(() => sendControl(client, Control.rekey, message1()))],
    [/handshake message of 0 bytes/, (client) => sendControl(client, Control.rekey)],
    [/handshake message of 44 bytes/, (client) => sendControl(client, Control.rekey, message1().subarray(4))],
    [/another secret/, (client) => sendControl(client, Control.rekey, message1(randomBytes(32)))],
    [/another secret/, (client) => sendControl(client, Control.rekey, message1(SECRET, Buffer.from("simple-vpn/1")))],
    [/another secret/, (client) => sendControl(client, Control.rekey, randomBytes(10_000))],
    [/wrong tag/, (client) => (sendControl(client, Control.rekey, message1()), sendControl(client, Control.switch), sendControl(client, Control.keepalive))],
  ];
  for (const [reason, attack] of attacks) {
    const it = session();
    attack(it.client.peer);
    inbound(it.server.peer, it.server.tun);
    assert.match(it.server.reason, reason);
    it.end();
  }
});

test("the server makes fresh keys at most once a second for a client", () => {
  const it = session();
  const { peer, tun } = it.client;
  for (const round of [1, 2]) {
    const handshake = new Handshake("client", SECRET, REKEY_PROLOGUE);
    peer.onRekey = (_word, message) => {
      handshake.read(message);
      peer.receiveWith(handshake.split().receive);
      sendControl(peer, Control.switch);
      peer.sendWith(handshake.split().send);
    };
    sendControl(peer, Control.rekey, handshake.write(NOTHING));
    inbound(it.server.peer, it.server.tun);
    inbound(peer, tun);
    inbound(it.server.peer, it.server.tun);
    if (round === 1) assert.equal(it.server.reason, "");
    else assert.match(it.server.reason, /more than once a second/);
  }
  it.end();
});

test("a server that sends a rekey that nobody asked for, or a wrong one, is left", async () => {
  for (const asked of [false, true]) {
    const it = session();
    keepFresh(it.client.peer, SECRET, 1);
    if (asked) await until(() => it.client.peer.framesSent === 1);
    sendControl(it.server.peer, Control.rekey, randomBytes(48));
    inbound(it.client.peer, it.client.tun);
    assert.match(it.client.reason, asked ? /another secret|not valid/ : /did not ask/);
    it.end();
  }
});
