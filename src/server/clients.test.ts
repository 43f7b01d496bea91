/**
 * Who gets which inner address: the server's clients on loopback, without root; a SOCK_SEQPACKET pair stands
 * in for the TUN.
 */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { connect, type Socket } from "node:net";
import { after, type TestContext, test } from "node:test";
import { formatIPv4, parseCidr, parseIPv4 } from "../base/address.ts";
import { counters } from "../base/counters.ts";
import { type Client, Clients } from "./clients.ts";
import { aesFraming, Control, FrameType } from "../core/frame.ts";
import { Handshake } from "../session/handshake.ts";
import { decodeWish, encodeWish } from "../session/payloads.ts";
import { type Before, ClientHandshake } from "../session/session.ts";
import { close, Memory, read, write } from "../base/libc.ts";
import { ready } from "../core/loop.ts";
import { type ServerOptions, serverOptions } from "../host/options.ts";
import type { Peer } from "../core/peer.ts";
import type { Heartbeat } from "../session/pulse.ts";
import { connectTcp, type TcpSocket } from "../transport/sockets.ts";
import { tcp, type TcpLink, TcpPort } from "../transport/tcp.ts";
import { dialIdle, seal, SOCK_SEQPACKET, socketPair, until } from "../lab/tests/peers.ts";
import { trace } from "../base/trace.ts";

const SECRET = randomBytes(32);
const PORT = 5552;
const options = {
  secrets: [SECRET],
  subnet: parseCidr("10.8.0.0/29")!,
  mtu: 1400,
  maxClients: 253,
} as ServerOptions;

/** A server's clients on a port of loopback. */
function serve(number: number) {
  const port = tcp.open({ listen: "127.0.0.1", port: number, handshake: true });
  const clients = new Clients(options, { fd: socketPair(SOCK_SEQPACKET)[0], name: "tun0", header: 10 });
  port.serve(clients);
  return { clients, end: () => (port.end(), clients.end()) };
}
const { clients, end } = serve(PORT);
after(end);

const holder = (address: string) => clients.router.clientAt(parseIPv4(address)!);
const receive = (peer: Peer) => (peer.link as TcpLink).receive(peer);

/** A session whose client has not sent a sealed frame yet. */
async function shakeHands(before?: Before, number = PORT) {
  const { config, ...idle } = await dialIdle("127.0.0.1", number, SECRET, "tcp", before);
  return {
    ...config,
    ...idle,
    text: formatIPv4(config.address),
    leave: () => idle.peer.sendControl(Control.goodbye),
  };
}

/** A client that is connected, and holds its address. */
async function join(wish?: Before) {
  const client = await shakeHands(wish);
  const before = holder(client.text);
  client.peer.sendControl(Control.keepalive);
  await until(() => holder(client.text) !== before);
  return client;
}

/** Keeps what is noted from the screen; the function gives it back. */
function notes(t: TestContext): () => string {
  const { mock } = t.mock.method(trace, "note", () => {});
  return () => mock.calls.map((call) => call.arguments[0]).join("\n");
}

test("a client gets the lowest address, or the one that it wishes for, if that is free", async (t) => {
  notes(t);
  const { ok } = counters.handshakes;
  const [first, second] = [
    await join(),
    await join({ address: parseIPv4("10.8.0.5")!, token: "ab".repeat(16) }),
  ];
  assert.deepEqual([first.text, second.text], ["10.8.0.2", "10.8.0.5"]);
  assert.equal(counters.handshakes.ok - ok, 2);
  assert.deepEqual(
    clients.connected.map(({ lease }) => formatIPv4(lease.address)),
    ["10.8.0.2", "10.8.0.5"],
  );
  assert.match(first.token!, /^[0-9a-f]{32}$/);
  assert.notEqual(first.token, second.token);
  for (const one of [first, second]) one.leave();
  await until(() => clients.router.size === 0);
});

test("with its token, a client takes its address from its dead connection, once it is proven", async (t) => {
  const said = notes(t);
  const old = await join();
  const held = holder(old.text)!;
  const again = await shakeHands(old);
  assert.equal(again.text, old.text);
  assert.equal(holder(old.text), held, "not before it has proven itself");
  again.peer.sendControl(Control.keepalive);
  await until(() => holder(old.text) !== held);
  assert.ok(held.peer.closed);
  const left = /client 10\.8\.0\.2 from .* left: it connected again, from 127\.0\.0\.1:\d+ \(0 connected\)/;
  const came = /client 10\.8\.0\.2 connected .* \(1 connected\)/;
  assert.match(said(), new RegExp(`${left.source}\n${came.source}`));
  const once = await join(old);
  assert.equal(once.text, "10.8.0.3", "a token is good for one session");
  for (const one of [again, once]) one.leave();
  await until(() => clients.router.size === 0);
});

test("a lost client's address is the last to go to another client: its own may come back", async (t) => {
  const said = notes(t);
  const [lost, other] = [await join(), await join()];
  holder(lost.text)!.peer.sendControl(Control.keepalive);
  assert.ok(await ready(lost.fd, "readable", 5000));
  close(lost.fd); // with a frame unread, so with a reset
  await until(() => clients.router.size === 1);
  assert.match(said(), /client 10\.8\.0\.2 from .* left: ECONNRESET/);
  const newcomers = [await join(), await join({ address: lost.address })]; // the wish proves nothing
  assert.deepEqual(
    newcomers.map(({ text }) => text),
    ["10.8.0.4", "10.8.0.5"],
  );
  const back = await join(lost);
  assert.equal(back.text, lost.text);
  for (const one of [other, ...newcomers, back]) one.leave();
  await until(() => clients.router.size === 0);
});

test("the address of a client that we disconnected is kept for it, not that of one that left", async (t) => {
  const said = notes(t);
  const ends: [left: RegExp, next: string, end: (client: Awaited<ReturnType<typeof join>>) => void][] = [
    [/wrong tag/, "10.8.0.3", ({ peer, leave }) => (peer.keys!.sealer.counter++, leave())],
    [
      /it has not answered/,
      "10.8.0.3",
      ({ text }) => {
        const pulse = holder(text)!.peer.pulse as Heartbeat;
        Object.assign(pulse, { awaitsAnswer: true, silentChecks: 4 });
        pulse.check();
      },
    ],
    [/without a goodbye/, "10.8.0.3", ({ fd }) => close(fd)], // nothing proves who has closed it
    [/it said goodbye/, "10.8.0.2", ({ leave }) => leave()],
  ];
  for (const [left, next, end] of ends) {
    const client = await join();
    end(client);
    await until(() => clients.router.size === 0);
    assert.match(said().split("left:").at(-1)!, left);
    for (const [wish, text] of [
      [undefined, next],
      [client, "10.8.0.2"],
    ] as const) {
      const one = await join(wish);
      assert.equal(one.text, text);
      one.leave();
      await until(() => clients.router.size === 0);
    }
  }
});

test("without the token, or with a wrong one, an address in use stays where it is", async (t) => {
  notes(t);
  const old = await join();
  for (const token of [undefined, "ab".repeat(16)]) {
    const other = await join({ address: old.address, token });
    assert.equal(other.text, "10.8.0.3");
    assert.ok(!holder(old.text)!.peer.closed);
    other.leave();
    await until(() => clients.router.size === 1);
  }
  old.leave();
  await until(() => clients.router.size === 0);
});

/** What a server says to a connection that sends this message 1; "" if it hangs up. */
async function answerTo(message1: Buffer): Promise<Buffer> {
  const { fd } = (await connectTcp("127.0.0.1", PORT, 5000)) as TcpSocket;
  const memory = new Memory(1024);
  aesFraming.putHeader(memory.bytes, 0, FrameType.handshake, message1.length);
  message1.copy(memory.bytes, 4);
  write(fd, memory, 0, 4 + message1.length);
  assert.ok(await ready(fd, "readable", 5000));
  const count = read(fd, memory, 0, 1024);
  close(fd);
  return memory.bytes.subarray(4, Math.max(count, 4));
}

test("a recorded message 1 is answered once, then refused: it takes nothing from anybody", async (t) => {
  const said = notes(t);
  const old = await join();
  const held = holder(old.text);
  const { message1 } = new ClientHandshake(SECRET, old);
  assert.ok((await answerTo(message1)).length > 48, "the first time, it may be the client itself");
  for (let i = 0; i < 3; i++) assert.equal((await answerTo(message1)).length, 0);
  assert.match(said(), /refused 127\.0\.0\.1:\d+: its first message has come before: a replay/);
  assert.equal(holder(old.text), held);
  assert.ok(!held!.peer.closed);
  const again = await join(old);
  assert.equal(again.text, old.text, "its owner can still have it");
  again.leave();
  await until(() => clients.router.size === 0);
});

test("who has the secret reads the proof in a message 1, and cannot use it for another", async (t) => {
  notes(t);
  const old = await join();
  const { message1 } = new ClientHandshake(SECRET, old);
  const wish = decodeWish(new Handshake("server", SECRET).read(message1));
  assert.equal(wish.address, old.address);
  assert.ok(!message1.includes(old.token!) && wish.proof !== old.token);
  const thief = new Handshake("client", SECRET);
  const reply = JSON.parse(thief.read(await answerTo(thief.write(encodeWish(wish)))).toString());
  assert.equal(reply.address, "10.8.0.3", "not the one that it wished for");
  assert.ok(!holder(old.text)!.peer.closed);
  old.leave();
  await until(() => clients.router.size === 0);
});

test("a wish that makes no sense is refused", async (t) => {
  const said = notes(t);
  const { failed } = counters.handshakes;
  const message1 = new Handshake("client", SECRET).write(encodeWish({ address: 1, proof: "no proof" }));
  assert.equal((await answerTo(message1)).length, 0);
  assert.equal(counters.handshakes.failed - failed, 1);
  assert.match(said(), /refused 127\.0\.0\.1:\d+: the client's wish makes no sense/);
});

test("among 128 strangers, a silent or unproven one makes room for a newcomer, and we say so", async (t) => {
  const said = notes(t);
  const crowded = serve(PORT + 1);
  t.after(crowded.end);
  const strangers = crowded.clients["strangers"];
  const silent = (count: number, localAddress: string) =>
    Promise.all(
      Array.from(
        { length: count },
        () =>
          new Promise<Socket>((resolve) => {
            const socket = connect({ port: PORT + 1, host: "127.0.0.1", localAddress }, () =>
              resolve(socket),
            ).resume();
          }),
      ),
    );
  const unproven = [];
  for (let i = 0; i < 33; i++) unproven.push(await shakeHands({}, PORT + 1));
  const waiting = [
    ...(await silent(33, "127.0.0.2")),
    ...(await silent(31, "127.0.0.3")),
    ...(await silent(31, "127.0.0.4")),
  ];
  await until(() => strangers.size === 128);
  assert.equal(said(), "");
  waiting.push(...(await silent(2, "127.0.0.5")));
  await until(() => said().includes("127.0.0.2") && waiting.some(({ readableEnded }) => readableEnded));
  const first = /^refused 127\.0\.0\.1:\d+: made room: more than 128 .*, and no address has more of them/;
  const second = /refused 127\.0\.0\.2:\d+: made room: [^\n]*$/;
  assert.match(said(), new RegExp(`${first.source}\n${second.source}`));
  const { peer } = unproven[0]!;
  receive(peer);
  assert.ok(peer.closed, "it was told goodbye");
  assert.equal(strangers.size, 128);
  for (const socket of waiting) socket.destroy();
  for (const { leave } of unproven) leave();
  await until(() => strangers.size === 0);
});

test("--cipher xor: a client's first packet fixes its address; 0.0.0.0 is never anyone's", async (t) => {
  const [tunFd, kernel] = socketPair(SOCK_SEQPACKET);
  const [near, far] = socketPair();
  const tun = { fd: tunFd, name: "tun0", header: 0 };
  const clients = new Clients(serverOptions(["--cipher", "xor"]), tun);
  t.after(() => {
    clients.end();
    for (const fd of [tunFd, kernel, far]) close(fd);
  });
  const socket = { fd: near, address: "192.168.1.100", remote: "192.168.1.100:40000" };
  await new TcpPort(PORT, false).answer(socket, clients);
  const [{ peer }] = [...clients.all] as [Client];
  const passes = (source: string) => {
    const frame = seal(peer, FrameType.data, Buffer.from(`450000144000400040010000${source}08080808`, "hex"));
    const memory = new Memory(64);
    frame.copy(memory.bytes);
    write(far, memory, 0, frame.length);
    receive(peer);
    return read(kernel, memory, 0, 64) > 0;
  };
  assert.deepEqual(["00000000", "0a080001", "0a080007", "0a080002", "00000000", "0a080007"].map(passes), [
    false,
    false,
    true,
    false,
    false,
    true,
  ]);
  assert.equal(clients.router.clientAt(0x0a080007)?.peer, peer);
});
