/**
 * A hostile relay, for the tests and for class, in the lab: node --import tsx src/lab/fuzz/hostile-relay.ts
 * SERVER COUNT SEED. A client comes to port 5556, and it passes the datagrams of both on. It knows no secret.
 * With each true datagram it sends bad ones, from a port of its own, COUNT in all; and true ones change
 * places. At the end it prints how many it has sent, by the reason for which each must be dropped.
 */
import { createSocket } from "node:dgram";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { Failure } from "../../base/failure.ts";
import { program } from "../../host/program.ts";
import { KEY_AT, NUMBER_AT } from "../../transport/datagram-keys.ts";
import { CONTROL, DATA, HEADER, NO_SESSION } from "../../transport/udp-format.ts";
import { NETNS } from "../lab.ts";
import { random } from "../tests/peers.ts";

const [PORT, RELAY_PORT] = [5555, 5556];
const WITH_EACH = 50; // bad datagrams with a true one: an ordinary user's socket has room for 300
const FRESH = 10; // true datagrams that are not replayed yet: a replay that overtakes is no replay
const PATIENCE = 20; // ms that a true datagram waits for another, to come behind it

/**
 * A bad datagram for each reason. `next` is a copy of a true one that arrives later, `old` of one that has
 * arrived.
 */
type Make = (next: Buffer, old: Buffer, below: ReturnType<typeof random>) => Buffer;
const BAD: Record<string, Make> = {
  "a datagram that has come before (or much too late)": (_next, old) => old,
  "a datagram that is cut short": (next, old, below) =>
    below(2) ? next.subarray(0, HEADER + below(next.length - HEADER)) : Buffer.concat([next, old]),
  "a datagram that makes no sense here": (next, old, below) => {
    old[0] = 7 + below(249); // there is no such type
    return below(2) ? old : next.subarray(0, below(HEADER));
  },
  "a datagram of no session here": (next, _old, below) => {
    next.writeUInt32BE(below(2 ** 32), 4);
    return next;
  },
  "a datagram under a key that we do not have": (next, _old, below) => {
    next[KEY_AT] = 1 + below(255); // a session begins with 0
    return next;
  },
  "a datagram whose number is too large": (next, _old, below) => {
    next[NUMBER_AT + below(2)] = 1 + below(255);
    return next;
  },
  "a datagram that is damaged or forged": (next, old, below) => {
    next[HEADER + below(next.length - HEADER)]! ^= 1 << below(8);
    old.writeUInt32BE(2 ** 20 + below(2 ** 31), NUMBER_AT + 4); // believed, it would make all others late
    old[0] = below(2) ? DATA : CONTROL;
    return below(2) ? next : old;
  },
};
const REASONS = Object.keys(BAD);

/** One way of the relay, from client to server or back. */
class Way {
  swapped = 0; // true datagrams that came behind later ones
  readonly sent: Record<string, number> = Object.fromEntries(REASONS.map((reason) => [reason, 0]));
  private readonly below: ReturnType<typeof random>;
  private readonly send: (datagram: Buffer, isTrue: boolean) => void;
  private readonly passed: Buffer[] = [];
  private held: Buffer[] = [];

  constructor(seed: number, send: Way["send"]) {
    this.below = random(seed);
    this.send = send;
  }

  /** Passes a true datagram on, behind bad ones: how many, at most `left`. */
  pass(datagram: Buffer, left: number): number {
    const [type] = datagram;
    if (type === NO_SESSION) return 0; // the answer to a bad one
    if (type !== DATA && type !== CONTROL) {
      this.send(datagram, true); // of the handshake
      return 0;
    }
    const count = this.passed.length > FRESH ? Math.min(left, WITH_EACH) : 0;
    for (let i = 0; i < count; i++) this.sendBad(datagram);
    if (this.held.push(datagram) > 1 || count === 0 || this.below(4) > 0) this.letGo();
    else setTimeout(() => this.letGo(), PATIENCE);
    return count;
  }

  private sendBad(next: Buffer): void {
    const { below, passed, sent } = this;
    const reason = REASONS[below(REASONS.length)]!;
    sent[reason]!++;
    const old = passed[below(passed.length - FRESH)]!;
    this.send(BAD[reason]!(Buffer.from(next), Buffer.from(old), below), false);
  }

  /** Those that wait go on, the last one first. */
  private letGo(): void {
    this.swapped += Math.max(0, this.held.length - 1);
    for (const datagram of this.held.reverse()) this.send(datagram, true);
    this.passed.push(...this.held);
    this.held = [];
  }
}

program(() => {
  const [server = "", count, seed] = process.argv.slice(2);
  if (server === "" || !(Number(count) > 0) || !(Number(seed) >= 0))
    throw new Failure("Cannot relay: expected SERVER COUNT SEED", "192.168.1.1 100000 7", 2);
  if (!existsSync(join(NETNS, "internet")))
    throw new Failure(
      "Cannot relay: this is no host of the lab",
      'make on HOST=server CMD="node --import tsx src/lab/fuzz/hostile-relay.ts 192.168.1.1 100000 7"',
    );
  const [near, far, elsewhere] = [createSocket("udp4"), createSocket("udp4"), createSocket("udp4")];
  let client = { port: 0, address: "" };
  const up = new Way(Number(seed), (datagram, isTrue) =>
    (isTrue ? far : elsewhere).send(datagram, PORT, server),
  );
  const down = new Way(Number(seed) + 1, (datagram, isTrue) =>
    (isTrue ? near : elsewhere).send(datagram, client.port, client.address),
  );
  let left = Number(count);
  const pass = (way: Way, datagram: Buffer) => {
    const bad = way.pass(datagram, left);
    left -= bad;
    if (bad === 0 || left > 0) return;
    const sent = JSON.stringify({ up: up.sent, down: down.sent });
    console.log(`swapped ${up.swapped} up, ${down.swapped} down; sent ${sent}`);
  };
  near.on("message", (datagram, from) => {
    client = from;
    pass(up, datagram);
  });
  far.on("message", (datagram) => pass(down, datagram));
  near.bind(RELAY_PORT, () => console.log(`ready: seed ${seed}`));
});
