/**
 * A program at the other end that hangs is noticed, an honest one is never left, and a quiet tunnel stays
 * quiet.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Control } from "../core/frame.ts";
import { close, Memory, read, write } from "../base/libc.ts";
import { Heartbeat } from "./pulse.ts";
import { packet, random, SEED, session as plain, socketPair } from "../lab/tests/peers.ts";

/** A client's and a server's end of one session, whose pulse is checked. */
function session(cipher: "xor" | "xor+aes" = "xor+aes") {
  const it = plain(cipher);
  const [client, server] = [it.client, it.server].map((end) => {
    const pulse = (end.peer.pulse = new Heartbeat(end.peer));
    return {
      end,
      peer: end.peer,
      send: (size = 40) => end.send(packet(size)),
      receive: () => end.receive(),
      check: () => pulse.check(),
      get reason() {
        return end.reason;
      },
    };
  });
  return { client: client!, server: server!, end: it.end };
}
const times = (count: number, act: () => void) => Array.from({ length: count }).forEach(act);

test("an unused tunnel stays quiet; data without an answer gets one keepalive, which gets none", () => {
  const { client, server, end } = session();
  const both = () => [client, server].forEach((one) => (one.receive(), one.check(), one.receive()));
  times(10, both);
  assert.deepEqual([client.peer.traffic.sent.frames, server.peer.traffic.sent.frames], [0, 0]);
  (client.send(),
    server.receive(),
    server.send(),
    client.receive(),
    client.send(),
    server.receive(),
    server.send());
  times(10, both);
  assert.deepEqual(
    [client.peer.traffic.sent.frames, server.peer.traffic.sent.frames],
    [3, 2],
    "only the last data of all",
  );
  times(10, () => (client.send(), both()));
  assert.deepEqual([client.peer.traffic.sent.frames, server.peer.traffic.sent.frames], [13, 12]);
  assert.deepEqual([client.reason, server.reason], ["", ""]);
  end();
});

test("who gets no answer to data leaves at the fifth check; who needs none waits for ever", () => {
  for (const which of ["client", "server"] as const) {
    const { [which]: one, end } = session();
    one.peer.sendControl(Control.keepalive);
    times(10, one.check);
    assert.equal(one.reason, "");
    (one.send(), times(4, one.check));
    assert.equal(one.reason, "");
    (one.send(), one.check());
    assert.match(one.reason, /it has not answered for 12 s: its program hangs, or its machine is gone/);
    end();
  }
});

test("--cipher xor has no keepalive, so silence means nothing there", () => {
  const { client, server, end } = session("xor");
  times(10, () => (client.send(), client.check(), server.receive(), server.check()));
  assert.deepEqual([client.reason, server.reason, server.peer.traffic.sent.frames], ["", "", 0]);
  end();
});

test("a frame that takes long on a slow line is a sign of life, at both ends of it", () => {
  const { client, server, end } = session();
  const [slow, line] = socketPair(); // between the two, in the client's direction
  const { fd } = client.end;
  Object.assign(client.peer.link, { fd: slow });
  client.send(20_000);
  Object.assign(client.peer.link, { fd });
  const bytes = new Memory(1000);
  times(20, () => {
    const count = read(line, bytes, 0, 1000);
    write(fd, bytes, 0, count);
    (server.receive(), client.check(), server.check(), client.receive());
  });
  assert.deepEqual([client.reason, server.reason], ["", ""]);
  [slow, line].forEach((one) => close(one));
  end();
});

test(`honest ends never leave each other, whenever each sends, hears and checks (seed ${SEED})`, () => {
  const below = random(SEED);
  for (let round = 0; round < 200; round++) {
    const { client, server, end } = session();
    const ends = [client, server].map((one) => ({ one, phase: below(3), talks: below(10), delay: below(5) }));
    for (let second = 0; second < 120; second++) {
      for (const { one, phase, talks, delay } of below(2) ? ends : [...ends].reverse()) {
        if (below(40) < talks) one.send();
        if (second % (1 + delay) === 0) one.receive(); // what was sent in between was on its way
        if (second % 3 === phase) one.check();
      }
      assert.deepEqual([client.reason, server.reason], ["", ""], `round ${round}, second ${second}`);
    }
    end();
  }
});
