/** A program at the other end that hangs is noticed, an honest one is never left, and a quiet tunnel stays quiet. */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { test } from "node:test";
import { Control } from "./frame.ts";
import { close, Memory, read, write } from "./libc.ts";
import { OFFLOAD_HEADER } from "./offload.ts";
import { checkPulse } from "./pulse.ts";
import { random, SEED, SOCK_SEQPACKET, socketPair } from "./testing.ts";
import { DOWN, UP } from "./trace.ts";
import { inbound, outbound, Peer, sendControl } from "./tunnel.ts";

const memory = new Memory(OFFLOAD_HEADER + 20_000);

/** A client's and a server's end of one session, each with its TUN. */
function session(cipher: "xor" | "xor+aes" = "xor+aes") {
  const [near, far] = socketPair();
  const keys = { send: randomBytes(32), receive: randomBytes(32) };
  const header = cipher === "xor" ? 0 : OFFLOAD_HEADER;
  const end = (fd: number, peer: Peer) => {
    const [tun, kernel] = socketPair(SOCK_SEQPACKET);
    const one = {
      peer, reason: "", fds: [fd, tun, kernel],
      /** A packet from its kernel goes to the other end. */
      send(size = 40) {
        memory.bytes.fill(0, 0, header + size);
        memory.bytes[header] = 0x45;
        write(kernel, memory, 0, header + size);
        outbound({ fd: tun, name: "tun0", header }, () => peer);
      },
      receive: () => inbound(peer, { fd: tun, name: "tun0", header }),
      check: () => checkPulse(peer),
    };
    peer.onClose = (reason) => (one.reason = reason);
    return one;
  };
  const [up, down] = cipher === "xor" ? [] : [keys, { send: keys.receive, receive: keys.send }];
  const client = end(near, new Peer({ fd: near, address: "", remote: "the server" }, UP, DOWN, up));
  const server = end(far, new Peer({ fd: far, address: "", remote: "the client" }, DOWN, UP, down));
  return { client, server, end: () => [client, server].forEach((one) => (one.peer.close("the test is over"), one.fds.forEach((fd) => close(fd)))) };
}
const times = (count: number, act: () => void) => Array.from({ length: count }).forEach(act);

test("a tunnel that nobody uses stays quiet; data that was answered needs no keepalive, other data gets one, which gets none", () => {
  const { client, server, end } = session();
  const both = () => [client, server].forEach((one) => (one.receive(), one.check(), one.receive()));
  times(10, both);
  assert.deepEqual([client.peer.framesSent, server.peer.framesSent], [0, 0]);
  client.send(), server.receive(), server.send(), client.receive(), client.send(), server.receive(), server.send();
  times(10, both);
  assert.deepEqual([client.peer.framesSent, server.peer.framesSent], [3, 2], "only the last data of all");
  times(10, () => (client.send(), both()));
  assert.deepEqual([client.peer.framesSent, server.peer.framesSent], [13, 12]);
  assert.deepEqual([client.reason, server.reason], ["", ""]);
  end();
});

test("who gets no answer to its data leaves at the fifth check; who only said what needs none waits for ever", () => {
  for (const which of ["client", "server"] as const) {
    const { [which]: one, end } = session();
    sendControl(one.peer, Control.keepalive);
    times(10, one.check);
    assert.equal(one.reason, "");
    one.send(), times(4, one.check);
    assert.equal(one.reason, "");
    one.send(), one.check();
    assert.match(one.reason, /it has not answered for 12 s: its program hangs, or its machine is gone/);
    end();
  }
});

test("--cipher xor has no keepalive, so silence means nothing there", () => {
  const { client, server, end } = session("xor");
  times(10, () => (client.send(), client.check(), server.receive(), server.check()));
  assert.deepEqual([client.reason, server.reason, server.peer.framesSent], ["", "", 0]);
  end();
});

test("a frame that takes long on a slow line is a sign of life, at both ends of it", () => {
  const { client, server, end } = session();
  const [slow, line] = socketPair(); // between the two, in the client's direction
  const { fd } = client.peer.socket;
  Object.assign(client.peer.socket, { fd: slow });
  client.send(20_000);
  Object.assign(client.peer.socket, { fd });
  const bytes = new Memory(1000);
  times(20, () => {
    const count = read(line, bytes, 0, 1000);
    write(fd, bytes, 0, count);
    server.receive(), client.check(), server.check(), client.receive();
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
