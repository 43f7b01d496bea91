/**
 * For fuzz.ts: fresh keys between two real peers, keepFresh() on one end and answerRekeys() on the other. In
 * half of the cases the holder of one end's keys adds control frames of its own, in turn and out of turn. A
 * model of the exchange says what each end must make of it: which frame ends the connection, when which key
 * changes, and which packets arrive.
 */
import assert from "node:assert/strict";
import { Control, FrameType } from "../../core/frame.ts";
import { Handshake, REKEY_PROLOGUE } from "../../session/handshake.ts";
import { close, Memory, write } from "../../base/libc.ts";
import { answerRekeys, keepFresh } from "../../session/rekey.ts";
import { type End, seal, session } from "../tests/peers.ts";
import type { Random } from "./random.ts";

const SECRET = Buffer.alloc(32, 0x5e);
const NOTHING = Buffer.alloc(0);
const memory = new Memory(4096);

/**
 * What a frame asks of whom it reaches. A `good` message 1 was made with the secret, whoever sent it; an
 * `own` one by keepFresh().
 */
type Sent = { key: number } & (
  | { what: "packet"; number: number }
  | { what: "message 1"; good: boolean; own: boolean }
  | { what: "message 2"; own: boolean }
  | { what: "switch" | "nothing" | "goodbye" }
);

/** One end: the peer as it is, and the model of it. */
class Modelled {
  readonly end: End;
  readonly sent: Sent[] = []; // by this end, not yet read by the other
  readonly keys = { send: 0, receive: 0 }; // the peer's, counted …
  // … and as they should be; waiting: for message 2, or for `switch`
  readonly model = { send: 0, receive: 0, closed: false, waiting: false };
  readonly expected: number[] = [];
  readonly got: number[] = [];

  constructor(end: End) {
    this.end = end;
    const keys = end.peer.keys!;
    const { sendWith, receiveWith } = keys;
    keys.sendWith = (key) => (this.keys.send++, sendWith.call(keys, key));
    keys.receiveWith = (key) => (this.keys.receive++, receiveWith.call(keys, key));
    end.peer.link.close = () => {}; // the other end shall read all that was sent before
  }

  /** Sends a packet with a number in it, as the program would. */
  packet(number: number): void {
    if (this.end.peer.closed) return;
    const packet = Buffer.alloc(40);
    packet[0] = 0x45;
    packet.writeUInt32BE(number, 20);
    this.end.send(packet);
    this.sent.push({ key: this.model.send, what: "packet", number });
  }

  /** Sends any control frame. */
  forge(body: Buffer, sent: Exclude<Sent, { what: "packet" }>): void {
    if (this.end.peer.closed) return;
    const frame = seal(this.end.peer, FrameType.control, body);
    frame.copy(memory.bytes);
    assert.equal(write(this.end.fd, memory, 0, frame.length), frame.length);
    this.sent.push({ ...sent, key: this.model.send });
  }

  /** One read(): everything that waits; then the peer must be what the model says. */
  receive(from: Modelled, takes: (one: Sent) => boolean): void {
    this.end.receive();
    for (let packet = this.end.take(); packet; packet = this.end.take())
      this.got.push(packet.readUInt32BE(20));
    for (const one of from.sent.splice(0)) {
      if (this.model.closed) break;
      this.model.closed = one.key !== this.model.receive || one.what === "goodbye" || !takes(one);
      if (one.what === "packet" && !this.model.closed) this.expected.push(one.number);
    }
    const { closed, send, receive } = this.model;
    assert.deepEqual(
      { closed: this.end.peer.closed, ...this.keys, got: this.got },
      { closed, send, receive, got: this.expected },
    );
  }
}

const word = (number: number, message: Buffer = NOTHING) =>
  Buffer.concat([Buffer.from([0, 0, 0, number]), message]);

const goodMessage1 = (payload: Buffer) => new Handshake("client", SECRET, REKEY_PROLOGUE).write(payload);

/** A first message that the server must refuse. */
function badMessage1(any: Random): Buffer {
  const foreign = () =>
    new Handshake("client", any.one(SECRET, Buffer.alloc(32)), Buffer.from("simple-vpn/1")).write(NOTHING);
  const cut = () => goodMessage1(NOTHING).subarray(0, 4 * any.below(12));
  const changed = () => {
    const message = goodMessage1(NOTHING);
    message[any.below(48)]! ^= 1 << any.below(8);
    return message;
  };
  const lowOrder = () => {
    const handshake = new Handshake("client", SECRET, REKEY_PROLOGUE);
    // 0 and 1 (RFC 7748, section 6.1)
    const e = Buffer.concat([Buffer.from([any.below(2)]), Buffer.alloc(31)]);
    handshake["mixHash"](e);
    handshake["mixKey"](e);
    return Buffer.concat([e, handshake["encryptAndHash"](NOTHING)]);
  };
  return any.one(foreign, cut, changed, lowOrder, () => any.bytes(4 * any.below(100)))();
}

/** What a holder of an end's keys can add, and what it asks of the other end. */
const FORGED: Record<string, (any: Random) => [Buffer, Exclude<Sent, { what: "packet" }>]> = {
  nothing: (any) => [
    any.one(word(Control.keepalive), NOTHING, word(77), word(77, any.bytes(48))),
    { key: 0, what: "nothing" },
  ],
  goodbye: () => [word(Control.goodbye), { key: 0, what: "goodbye" }],
  switch: (any) => [
    word(Control.switch, any.one(NOTHING, any.bytes(8), goodMessage1(NOTHING))),
    { key: 0, what: "switch" },
  ],
  "message 1": (any) => [
    word(Control.rekey, goodMessage1(any.bytes(4 * any.below(30)))),
    { key: 0, what: "message 1", good: true, own: false },
  ],
  "bad message 1": (any) => [
    word(Control.rekey, badMessage1(any)),
    { key: 0, what: "message 1", good: false, own: false },
  ],
};

/** What happens in a session, a line for each step. */
export function makeRekey(any: Random): Buffer {
  const hostile = any.below(2) === 0;
  const steps = Array.from({ length: 4 + any.below(30) }, () => {
    const step = any.below(hostile ? 14 : 12);
    if (step < 2) return "a second passes";
    if (step < 6) return any.one("client sends", "server sends");
    if (step < 12) return any.one("client reads", "server reads");
    return `${any.one("client", "server")} forges ${any.one(...Object.keys(FORGED))}`;
  });
  return Buffer.from(steps.join("\n"));
}

export function checkRekey(input: Buffer, any: Random): void {
  const it = session("xor+aes", [Buffer.alloc(32, 1), Buffer.alloc(32, 2)]);
  const [client, server] = [new Modelled(it.client), new Modelled(it.server)];
  const { setInterval } = globalThis;
  let now = 1_000_000; // ms
  let earliest = 0;
  let second = () => {}; // what keepFresh() does each second
  try {
    performance.now = () => now;
    globalThis.setInterval = ((run: () => void) => (
      (second = run),
      {
        unref() {
          return this;
        },
        refresh() {},
      }
    )) as never;
    keepFresh(it.client.peer, SECRET, 1);
    globalThis.setInterval = setInterval;
    answerRekeys(it.server.peer, SECRET);

    const tick = () => {
      now += 1000;
      second();
      if (client.model.closed || client.model.waiting) return;
      client.model.waiting = true;
      client.sent.push({ key: client.model.send, what: "message 1", good: true, own: true });
    };
    const serverReads = () =>
      server.receive(client, (one) => {
        const { model } = server;
        if (one.what === "message 2") return false;
        if (one.what === "switch") {
          if (!model.waiting) return false;
          model.receive++;
          model.waiting = false;
        }
        if (one.what === "message 1") {
          if (model.waiting || now < earliest || !one.good) return false;
          earliest = now + 900;
          server.sent.push({ key: model.send++, what: "message 2", own: one.own });
          model.waiting = true;
        }
        return true;
      });
    const clientReads = () =>
      client.receive(server, (one) => {
        const { model } = client;
        if (one.what === "message 1" || one.what === "switch") return false;
        if (one.what === "message 2") {
          if (!model.waiting || !one.own) return false;
          model.receive++;
          client.sent.push({ key: model.send++, what: "switch" });
          model.waiting = false;
        }
        return true;
      });
    let number = 0;
    const steps: Record<string, () => void> = {
      "a second passes": tick,
      "client sends": () => client.packet(++number),
      "server sends": () => server.packet(++number),
      "client reads": clientReads,
      "server reads": serverReads,
    };
    let hostile = false;
    for (const line of input.toString().split("\n")) {
      const [, end, what] = /^(client|server) forges (.*)$/.exec(line) ?? [];
      if (what === undefined) steps[line]!();
      else (end === "client" ? client : server).forge(...FORGED[what]!(any));
      hostile ||= what !== undefined;
    }
    for (let turns = 0; turns < 3; turns++) (serverReads(), clientReads());
    if (hostile) return;
    assert.deepEqual(
      [client.model.closed, server.model.closed, client.got.length + server.got.length],
      [false, false, number],
      "honest ends lose nothing",
    );
    assert.deepEqual([client.keys.send, client.keys.receive], [server.keys.receive, server.keys.send]);
  } finally {
    globalThis.setInterval = setInterval;
    delete (performance as { now?: unknown }).now;
    it.end();
    for (const { end } of [client, server]) close(end.fd);
  }
}
