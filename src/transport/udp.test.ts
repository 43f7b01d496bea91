/**
 * A session over UDP on loopback, and somebody between its ends who loses, repeats, changes and forges what
 * he likes. What was sealed arrives, once; what was not does nothing.
 */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { test, type TestContext } from "node:test";
import { Control } from "../core/frame.ts";
import {
  dial,
  dialEnd,
  DatagramServer,
  freePort,
  message2For,
  Relay,
  session,
} from "../lab/tests/datagram-pair.ts";
import { packet, random, SEED, until } from "../lab/tests/peers.ts";
import { tcpPacket } from "../lab/tests/tcp-packets.ts";
import { counters } from "../base/counters.ts";
import { trace } from "../base/trace.ts";
import { byCode } from "../base/drops.ts";
import { ECONNREFUSED, EMSGSIZE } from "../base/errno.ts";
import { sockaddr } from "./addresses.ts";
import { Cookies } from "./cookie.ts";
import { DatagramSocket, Remote } from "./datagrams.ts";
import { Call } from "./udp-hello.ts";

const [HELLO, DATA, ANSWER, COOKIE, NO_SESSION] = [1, 2, 4, 5, 6];
const dropped = () => [...counters.drops.values()].reduce((sum, count) => sum + count, 0);
const turn = () => new Promise((resolve) => setImmediate(resolve));

/** An answer to that first message. */
function answerTo(hello: Buffer, type: number, message: Buffer): Buffer {
  const bytes = Buffer.alloc(hello.length);
  bytes[0] = type;
  bytes.writeUInt16BE(message.length, 2);
  hello.copy(bytes, 4, 20, 24);
  message.copy(bytes, 8);
  return bytes;
}

test("packets go both ways, and a goodbye ends both ends", async () => {
  const it = await session();
  for (const [from, to] of [
    [it.client, it.far],
    [it.far, it.client],
  ] as const) {
    const sent = [packet(84), packet(1400), packet(20)];
    const came: Buffer[] = [];
    for (const one of sent) from.send(one);
    await until(() => came.push(...to.take()) >= sent.length);
    assert.deepEqual(came, sent);
  }
  it.client.peer.sendControl(Control.goodbye);
  await until(() => it.far.reasons.length > 0);
  assert.deepEqual(it.far.reasons, ["it said goodbye"]);
  it.end();
});

test("a large TCP packet is cut, crosses as datagrams, and comes out as one", async () => {
  const it = await session();
  it.client.link.size = it.far.link.size = 1500;
  const large = tcpPacket({ payload: randomBytes(30_000), piece: 1372 });
  let datagrams = 0;
  it.relay.up = (datagram) => (datagrams++, [datagram]);
  it.client.send(large.subarray(10), large);
  const came: Buffer[] = [];
  await until(() => came.push(...it.far.take()) > 0);
  assert.ok(large.subarray(10).equals(Buffer.concat(came)));
  assert.ok(datagrams >= 22, `${datagrams} datagrams`);
  it.end();
});

test(
  `10,000 forged, replayed, truncated, flipped datagrams while pings run: none of them lost (${SEED})`,
  {
    timeout: 120_000,
  },
  async () => {
    const MANY = 10_000; // udp.test.ts of the lab has ten times as many, and the real programs
    const below = random(SEED);
    const it = await session();
    const { relay, client, far } = it;
    const recorded = { up: [] as Buffer[], down: [] as Buffer[] };
    const held: Record<"up" | "down", Buffer[]> = { up: [], down: [] };
    // true frames are recorded, and often come in another order
    const pass = (way: "up" | "down") => (datagram: Buffer) => {
      if (datagram[0] === NO_SESSION) return []; // to one whose index was changed
      recorded[way].push(Buffer.from(datagram));
      held[way].push(datagram);
      return held[way].length < 1 + below(4) ? [] : held[way].splice(0).reverse();
    };
    relay.up = pass("up");
    relay.down = pass("down");
    const letGo = () => {
      for (const one of held.up.splice(0)) relay.toServer(one);
      for (const one of held.down.splice(0)) relay.toClient(one);
    };
    const bad = (way: "up" | "down"): Buffer => {
      const old = recorded[way][below(recorded[way].length)]!;
      const copy = Buffer.from(old);
      const kind = below(7);
      if (kind === 0) return copy; // a replay, unless it is held back
      if (kind === 1) return copy.subarray(0, below(copy.length)); // truncated
      if (kind === 2) copy[below(copy.length)]! ^= 1 << below(8);
      if (kind === 3) copy.writeUIntBE(below(2 ** 31), 10, 6); // another number, perhaps far ahead
      if (kind === 4) randomBytes(copy.length - 16).copy(copy, 16); // only the header is true
      if (kind === 5) return randomBytes(below(200)); // nothing is
      if (kind === 6) return Buffer.concat([copy, randomBytes(1 + below(20))]);
      return copy;
    };
    const pings: Record<"up" | "down", string[]> = { up: [], down: [] };
    const came: Record<"up" | "down", string[]> = { up: [], down: [] };
    const ping = () => {
      for (const [way, end] of [
        ["up", client],
        ["down", far],
      ] as const) {
        const one = packet(40 + below(200));
        pings[way].push(one.toString("hex"));
        end.send(one);
      }
    };
    const collect = () => {
      for (const one of far.take()) came.up.push(one.toString("hex"));
      for (const one of client.take()) came.down.push(one.toString("hex"));
    };
    const settle = async () => {
      letGo();
      await until(
        () => (
          letGo(),
          collect(),
          came.up.length >= pings.up.length && came.down.length >= pings.down.length
        ),
      );
    };
    for (let i = 0; i < 20; i++) ping();
    await settle();

    const before = dropped();
    const memory = process.memoryUsage().rss;
    let sent = 0;
    for (let round = 0; sent < MANY; round++) {
      for (const way of ["up", "down"] as const)
        for (let i = 0; i < 100; i++, sent++) {
          const datagram = bad(way);
          if (way === "up") relay.toServer(datagram);
          else relay.toClient(datagram);
        }
      await turn();
      if (round % 5 === 0) {
        ping();
        await settle(); // so what is replayed has come before
      }
    }
    await settle();
    await until(() => dropped() - before >= sent, 10_000).catch(() => {});
    for (const way of ["up", "down"] as const)
      assert.deepEqual(came[way].sort(), pings[way].sort(), `${way}: each ping once, and nothing else`);
    assert.deepEqual([client.reasons, far.reasons], [[], []], "no session ended");
    assert.equal(dropped() - before, sent, "each is counted");
    assert.ok(counters.drops.size <= 8, [...counters.drops.keys()].join("; "));
    assert.ok(!("other" in byCode(counters.drops)), [...counters.drops.keys()].join("; "));
    const more = (process.memoryUsage().rss - memory) / 1e6;
    assert.ok(more < 60, `${more.toFixed()} MB more`);
    assert.equal(it.server.hellos.length, 1);
    it.end();
  },
);

// ---- the handshake ----

test("message 1 is lost, then message 2: both come again, and it is one session", async () => {
  const server = new DatagramServer(await freePort());
  const relay = new Relay(await freePort(), server.port);
  const seen = { up: 0, down: 0 };
  relay.up = (datagram) => (seen.up++ === 0 ? [] : [datagram]);
  relay.down = (datagram) => (seen.down++ === 0 ? [] : [datagram]);
  const client = await dialEnd(relay.port);
  assert.deepEqual(seen, { up: 4, down: 3 }, "a shorter copy goes with the third");
  assert.equal(server.ends.length, 1);
  client.send(packet(84));
  const came: Buffer[] = [];
  await until(() => came.push(...server.ends[0]!.take()) > 0);
  client.end();
  server.end();
  relay.end();
});

test("who changes a byte of the first words delays the session: none begins that is deaf", async () => {
  const flips = [...Array(24).keys()].flatMap((at) => [
    { way: "up" as const, at },
    { way: "down" as const, at },
  ]);
  await Promise.all(
    flips.map(async ({ way, at }) => {
      const server = new DatagramServer(await freePort());
      const relay = new Relay(await freePort(), server.port);
      let seen = 0;
      relay[way] = (datagram) => {
        if (seen++ === 0) datagram[at]! ^= 1;
        return [datagram];
      };
      const client = await dialEnd(relay.port);
      client.peer.sendControl(Control.keepalive); // proves it
      const proven = () => server.ends.find(({ peer }) => peer.traffic.received.frames > 0);
      await until(() => proven() !== undefined).catch(() => assert.fail(`${way} ${at}: the server is deaf`));
      proven()!.send(packet(84));
      await until(() => client.take().length > 0).catch(() =>
        assert.fail(`${way} ${at}: the client is deaf`),
      );
      client.end();
      server.end();
      relay.end();
    }),
  );
});

test("who swaps an index, and swaps it back where it is told, keeps the session from beginning", async () => {
  const server = new DatagramServer(await freePort());
  const relay = new Relay(await freePort(), server.port);
  const flip = (at: number) => (datagram: Buffer) => ((datagram[at]! ^= 1), [datagram]);
  relay.up = flip(20); // the client's, in message 1
  relay.down = flip(4); // as message 2 tells it
  await assert.rejects(dial(relay.port, 1500), /ETIMEDOUT/);
  relay.up = (datagram) => [datagram];
  relay.down = flip(8); // the server's
  await assert.rejects(dial(relay.port, 1500), /ETIMEDOUT/);
  assert.ok(server.hellos.length >= 2);
  server.end();
  relay.end();
});

test("a public key whose index a session has already is not free", async () => {
  const server = new DatagramServer(await freePort());
  const first = await dialEnd(server.port);
  const taken = Buffer.alloc(32);
  taken.writeInt32BE(server.ends[0]!.link.index);
  const other = Buffer.from(taken);
  other[3]! ^= 1;
  const free: boolean[] = [];
  server.onHello = (caller) => {
    free.push(...[taken, other].map(caller.isFree!));
    caller.refuse(Buffer.alloc(0));
  };
  for (const end of [() => first.end(), () => server.ends[0]!.end()]) {
    (await dial(server.port))[0].hangUp();
    end();
  }
  await dial(server.port).then(([answer]) => answer.hangUp());
  assert.deepEqual(free, [false, true, false, true, true, true]);
  server.hub.close();
});

test("no answer to a first message is longer than it was; what is too short gets none", async () => {
  const server = new DatagramServer(await freePort());
  const relay = new Relay(await freePort(), server.port);
  const questions: number[] = [];
  const answers: number[] = [];
  relay.up = (datagram) => {
    const all = [507, 508, 1300, datagram.length].map((size) => {
      const one = Buffer.from(datagram.subarray(0, size));
      randomBytes(32).copy(one, 20); // each is another client's
      return one;
    });
    questions.push(...all.map(({ length }) => length));
    return all;
  };
  relay.down = (datagram) => (answers.push(datagram.length), []);
  await assert.rejects(dial(relay.port, 900));
  await until(() => answers.length >= 3);
  assert.deepEqual(answers.slice(0, 3), questions.slice(1, 4), "all but the first, and as long as they");
  server.end();
  relay.end();
});

test("a good message 1 that nothing follows draws no more than it had: no probe, no keepalive", async () => {
  const server = new DatagramServer(await freePort());
  const relay = new Relay(await freePort(), server.port);
  let [came, went] = [0, 0];
  relay.down = (datagram) => ((came += datagram.length), []);
  relay.up = (datagram) => ((went += datagram.length), went === datagram.length ? [datagram] : []);
  await assert.rejects(dial(relay.port, 500));
  const [end] = server.ends;
  for (let i = 0; i < 5; i++) end!.link.probe();
  end!.peer.sendControl(1);
  end!.send(packet(84));
  await new Promise((resolve) => setTimeout(resolve, 200));
  assert.ok(came > 0 && came <= went, `${came} bytes for ${went}`);
  server.end();
  relay.end();
});

test("forged answers, refusals and cookies while dialling: the session begins all the same", async () => {
  const server = new DatagramServer(await freePort());
  const relay = new Relay(await freePort(), server.port);
  let hellos = 0;
  relay.up = (hello) => {
    hellos++;
    const short = hello.subarray(0, 200);
    const good = message2For(hello.subarray(20, 68));
    for (let i = 0; i < 50; i++) {
      relay.toClient(answerTo(short, ANSWER, randomBytes(80)));
      relay.toClient(answerTo(short, ANSWER, Buffer.alloc(0)));
      relay.toClient(answerTo(short, COOKIE, randomBytes(16)));
      relay.toClient(answerTo(randomBytes(200), ANSWER, good));
      relay.toClient(answerTo(short, ANSWER, good).subarray(0, 40));
    }
    return [hello];
  };
  const client = await dialEnd(relay.port);
  assert.ok(hellos <= 4, `${hellos} first messages: a forged cookie brings few more`);
  client.send(packet(84));
  const came: Buffer[] = [];
  await until(() => came.push(...server.ends[0]!.take()) > 0);
  client.end();
  server.end();
  relay.end();
});

test("a refusal that nothing better follows is one", async () => {
  const server = new DatagramServer(await freePort());
  server.onHello = (caller) => caller.refuse(Buffer.alloc(0));
  const [answer] = await dial(server.port);
  assert.equal(answer.message2.length, 0);
  answer.hangUp();
  server.end();
});

test("nobody listens there, or nobody answers: Unreachable, with the reason", async () => {
  await assert.rejects(dial(await freePort()), /ECONNREFUSED/);
  const silent = new DatagramServer(await freePort());
  silent.onHello = () => {};
  await assert.rejects(dial(silent.port, 1500), /ETIMEDOUT/);
  assert.ok(silent.hellos.length >= 2);
  silent.end();
});

test("ICMP errors without end, which anybody can forge, do not hold up a dial beyond its time", async (t) => {
  const silent = new DatagramServer(await freePort());
  silent.onHello = () => {};
  let now = 0; // ms
  t.mock.timers.enable({ apis: ["setTimeout"] });
  t.mock.method(performance, "now", () => now);
  const socket = DatagramSocket.open(false) as DatagramSocket;
  const to = new Remote(sockaddr("127.0.0.1", silent.port));
  const call = new Call(socket, to, randomBytes(48), () => true);
  let reason = "";
  const over = call.answer(1500).catch((error: Error) => (reason = error.message));
  for (const [from, errno] of [
    [0, EMSGSIZE], // "try again, with less": more questions, and not more time
    [900, ECONNREFUSED],
  ] as const)
    for (now = from; now < from + 900 && !reason; now += 10) {
      t.mock.timers.tick(10);
      await turn();
      if (!reason) call["hub"]["onError"](errno);
    }
  assert.match(reason, /ECONNREFUSED/);
  assert.ok(now <= 1520, `${now} ms`);
  await over;
  t.mock.timers.reset();
  silent.end();
});

/** All first messages come in one second: a server counts them by the second. */
function inOneSecond(t: TestContext): void {
  const { needed } = Cookies.prototype;
  t.mock.method(Cookies.prototype, "needed", function (this: Cookies) {
    return needed.call(this, 5000);
  });
}

test("a busy server asks for a cookie, and keeps nothing of who does not send it back", async (t) => {
  inOneSecond(t);
  const server = new DatagramServer(await freePort());
  const relay = new Relay(await freePort(), server.port);
  const answers: number[] = [];
  relay.down = (datagram) => (answers.push(datagram[0]!), []);
  let hello: Buffer | undefined;
  relay.up = (datagram) => ((hello = Buffer.from(datagram)), []);
  await assert.rejects(dial(relay.port, 300));
  for (let i = 0; i < 60; i++) {
    randomBytes(32).copy(hello!, 20);
    relay.toServer(hello!);
  }
  await until(() => answers.length === 60);
  assert.equal(answers.filter((type) => type === COOKIE).length, 40);
  assert.equal(server.hellos.length, 20);
  relay.up = (datagram) => [datagram];
  relay.down = (datagram) => (answers.push(datagram[0]!), [datagram]);
  const client = await dialEnd(relay.port); // while it is busy
  assert.deepEqual(answers.slice(60), [COOKIE, ANSWER]);
  assert.equal(server.hellos.length, 21);
  client.end();
  server.end();
  relay.end();
});

test("a recorded message 1 sent again and again draws cookies, too: its sender may be forged", async (t) => {
  inOneSecond(t);
  const server = new DatagramServer(await freePort());
  const relay = new Relay(await freePort(), server.port);
  const answers: Buffer[] = [];
  relay.down = (datagram) => (answers.push(datagram), []);
  let hello: Buffer | undefined;
  relay.up = (datagram) => ((hello = Buffer.from(datagram)), []);
  await assert.rejects(dial(relay.port, 300));
  for (let i = 0; i < 60; i++) relay.toServer(hello!);
  await until(() => answers.length === 60);
  const cookies = answers.filter(([type]) => type === COOKIE);
  assert.equal(cookies.length, 40);
  cookies[0]!.copy(hello!, 4, 8, 24);
  relay.toServer(hello!);
  await until(() => answers.length === 61);
  assert.equal(answers[60]![0], ANSWER, "who receives there is answered");
  assert.equal(server.hellos.length, 1);
  server.end();
  relay.end();
});

test("a server that answers late to a long question: the path takes what has come", async () => {
  const server = new DatagramServer(await freePort());
  const relay = new Relay(await freePort(), server.port);
  const questions: Buffer[] = [];
  relay.up = (datagram) => {
    if (questions.length === 4) return [datagram];
    return questions.push(Buffer.from(datagram)) === 4 ? questions : [];
  };
  const client = await dialEnd(relay.port);
  assert.deepEqual([questions[1]!.length, questions[2]!.length], Array(2).fill(questions[0]!.length));
  assert.ok(questions[3]!.length < questions[0]!.length, "a short one follows the third");
  assert.equal(client.link.size, questions[0]!.length + 28);
  const far = server.ends[0]!.link;
  assert.equal(far.size, 1280, "the server does not know yet which answer has come");
  client.peer.sendControl(Control.keepalive);
  await until(() => far.size === client.link.size, 10_000); // its probe tells
  client.end();
  server.end();
  relay.end();
});

test("a path on which nothing came for seconds is used as wide as it is", async () => {
  const server = new DatagramServer(await freePort());
  const relay = new Relay(await freePort(), server.port);
  const lost: number[] = [];
  relay.up = (datagram) => (lost.length < 4 && lost.push(datagram.length) ? [] : [datagram]);
  const client = await dialEnd(relay.port);
  assert.equal(client.link.size, lost[0]! + 28);
  client.end();
  server.end();
  relay.end();
});

test("a short copy of somebody's message 1 from elsewhere does not narrow the path to him", async () => {
  const server = new DatagramServer(await freePort());
  const relay = new Relay(await freePort(), server.port);
  let hello: Buffer | undefined;
  relay.up = (datagram) => ((hello ??= Buffer.from(datagram)), [datagram]);
  const [answer] = await dial(relay.port);
  const far = server.ends[0]!.link;
  const { size } = far;
  const other = new Relay(await freePort(), server.port);
  other.down = () => [];
  other.toServer(hello!.subarray(0, 600));
  const bad = Buffer.from(hello!.subarray(0, 600));
  bad[20 + 40]! ^= 1; // another message with the same public key
  other.toServer(bad);
  await until(() => server.hellos.length === 2); // the second is none that was answered
  assert.equal(far.size, size);
  answer.hangUp();
  server.end();
  for (const one of [relay, other]) one.end();
});

test("a flood that forges a client's address does not keep that client out: it has a cookie", async () => {
  const server = new DatagramServer(await freePort());
  server.mayCome = (isProven) => isProven; // what its address may ask without a proof is used up
  const relay = new Relay(await freePort(), server.port);
  const answers: number[] = [];
  relay.down = (datagram) => (answers.push(datagram[0]!), [datagram]);
  const client = await dialEnd(relay.port);
  assert.deepEqual(answers.slice(0, 2), [COOKIE, ANSWER]);
  client.end();
  server.end();
  relay.end();
});

// ---- roaming, and the other end's end ----

test("answers go where the newest good frame came from; old and forged ones move nobody", async () => {
  const it = await session();
  const other = new Relay(await freePort(), it.server.port);
  const recorded: Buffer[] = [];
  it.relay.up = (datagram) => (recorded.push(Buffer.from(datagram)), [datagram]);
  const came: Buffer[] = [];
  it.client.send(packet(84));
  await until(() => came.push(...it.far.take()) > 0);
  const home = it.far.link.remote;
  const forged = Buffer.from(recorded[0]!);
  forged.writeUIntBE(500, 10, 6);
  const before = dropped();
  for (const one of [recorded[0]!, forged]) other.toServer(one);
  await until(() => dropped() === before + 2);
  assert.equal(it.far.link.remote, home);
  it.relay.up = (datagram) => (recorded.push(Buffer.from(datagram)), []);
  it.client.send(packet(84));
  await until(() => recorded.length >= 2);
  other.toServer(recorded.at(-1)!); // the same frame over another way: the client is there now
  await until(() => it.far.link.remote !== home);
  await until(() => came.push(...it.far.take()) > 0);
  other.end();
  it.end();
});

test("a session's datagrams leave from the address that the client writes to now", async () => {
  const server = new DatagramServer(await freePort(), "*");
  const relay = new Relay(await freePort(), server.port);
  const client = await dialEnd(relay.port);
  for (const address of ["127.0.0.1", "127.0.0.2"]) {
    relay.server = new Remote(sockaddr(address, server.port));
    client.send(packet(84));
    await until(() => server.ends[0]!.take().length > 0);
    server.ends[0]!.send(packet(84));
    await until(() => client.take().length > 0);
    assert.equal(relay.back.from().address, address);
  }
  client.end();
  server.end();
  relay.end();
});

test("a server that was started anew is noticed in seconds; one that lives stays", async () => {
  const it = await session();
  const { client, relay } = it;
  let frame: Buffer | undefined;
  relay.up = (datagram) => ((frame = Buffer.from(datagram)), [datagram]);
  const came: Buffer[] = [];
  client.send(packet(84));
  await until(() => came.push(...it.far.take()) > 0);
  const forged = Buffer.from(frame!.subarray(0, 16));
  forged[0] = NO_SESSION;
  for (let i = 0; i < 50; i++) {
    relay.toClient(forged);
    await sleep(100);
  }
  assert.deepEqual(client.reasons, [], "it was asked, and it has answered");
  const { port } = it.server;
  it.server.end();
  const again = new DatagramServer(port);
  client.send(packet(84));
  await until(() => client.reasons.length > 0, 10_000);
  assert.deepEqual(client.reasons, ["it was started anew, and does not know this session"]);
  assert.equal(again.ends.length, 0);
  again.end();
  client.end();
  relay.end();
});

test("a frame of no session is answered with its own 16 bytes, once a turn; that, with nothing", async () => {
  const server = new DatagramServer(await freePort());
  const relay = new Relay(await freePort(), server.port);
  const answers: Buffer[] = [];
  relay.up = () => [];
  relay.down = (datagram) => (answers.push(datagram), []);
  await assert.rejects(dial(relay.port, 300)); // now the relay knows a client
  const frame = Buffer.alloc(100, 9);
  frame[0] = DATA;
  const before = dropped();
  relay.toServer(frame);
  await until(() => answers.length === 1);
  const expected = Buffer.alloc(16, 9);
  expected[0] = NO_SESSION;
  assert.deepEqual(answers[0], expected);
  for (const type of [NO_SESSION, ANSWER, COOKIE, HELLO, 0, 7, 255]) {
    frame[0] = type;
    relay.toServer(frame);
  }
  await until(() => dropped() === before + 8);
  assert.equal(answers.length, 1);
  server.end();
  relay.end();
});

test("nobody listens there any more: noticed within seconds, where ICMP says so", async () => {
  const server = new DatagramServer(await freePort());
  const client = await dialEnd(server.port);
  client.send(packet(84));
  const came: Buffer[] = [];
  await until(() => came.push(...server.ends[0]!.take()) > 0);
  server.end();
  client.send(packet(84));
  await until(() => client.reasons.length > 0, 10_000);
  assert.deepEqual(client.reasons, ["nobody listens there any more"]);
  client.end();
});

test("probes of the path end when no large packet is sent any more", async () => {
  const it = await session();
  const { client, far } = it;
  client.send(packet(1200));
  await until(() => far.take().length === 1);
  const sent = () => client.peer.traffic.sent.frames;
  for (let i = 0; i < 4; i++) {
    client.link.probe();
    await new Promise((resolve) => setTimeout(resolve, 30));
  }
  const before = sent();
  for (let i = 0; i < 4; i++) {
    client.link.probe();
    await new Promise((resolve) => setTimeout(resolve, 30));
  }
  assert.equal(sent(), before);
  it.end();
});

test("the trace shows 6.write for what was sent, and not for what the network refused", async (t) => {
  const it = await session();
  const shown: string[] = [];
  t.mock.method(trace, "record" as "note", ({ step }: { step: string } & string) => void shown.push(step));
  trace["mode"] = "walk";
  const outcome = () => shown.splice(0).filter((step) => step === "6.write" || step === "drop");
  it.client.send(packet(84));
  assert.deepEqual(outcome(), ["6.write"]);
  t.mock.method(it.client.link["hub"].socket, "send", () => -EMSGSIZE, { times: 1 });
  it.client.send(packet(84));
  assert.deepEqual(outcome(), ["drop"]);
  it.client.send(packet(84));
  assert.deepEqual(outcome(), ["6.write"]);
  trace["mode"] = "off";
  it.end();
});

test("what a server says because of a client's first frame reaches it: a goodbye", async () => {
  const server = new DatagramServer(await freePort());
  const client = await dialEnd(server.port);
  const far = server.ends[0]!;
  far.peer.events.onProven = () => far.peer.close(`${far.peer.sendControl(Control.goodbye)}`);
  client.peer.sendControl(Control.keepalive);
  await until(() => client.reasons.length > 0);
  assert.deepEqual(client.reasons, ["it said goodbye"]);
  client.end();
  server.end();
});
