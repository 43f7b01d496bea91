/**
 * Server only: what strangers may cost. Anyone who reaches the port can open connections. These limits bound
 * the memory, the work and the lines on the terminal that they take. Clients, which have the secret, have
 * other limits: --max-clients, and the size of an outbox.
 */
import { parseIPv6 } from "../base/address.ts";
import { counters } from "../base/counters.ts";

/** Connections that have not sent a sealed frame yet. For one more, another one must go. */
export const MAX_UNPROVEN = 128;
/** Handshakes that one address may begin at once. A class behind one NAT has one address. */
export const BURST = 40;
/** After that, handshakes a second. Each takes 20 s at most. 40 + 4 × 20 < 128, so others still find room. */
export const RATE = 4;
const CROWD = `more than ${MAX_UNPROVEN} have not proven themselves yet`;
export const MADE_ROOM = `made room: ${CROWD}, and no address has more of them`;
const MAX_SOURCES = 4096; // sources that are remembered; beyond that, the oldest one is forgotten
const MAX_FIRST_MESSAGES = 4096; // that are remembered: 400 KB
const TOLD = 10; // refusals in a second that are told one by one

/** What counts as one source: an IPv4 address, or a /64 of IPv6, because one machine can have all of it. */
export const sourceOf = (address: string) => parseIPv6(address)?.toString("hex", 0, 8) ?? address;

/** The connections that have not proven themselves yet, in order of arrival. */
export class Strangers {
  private readonly all = new Set<Visitor>();
  private readonly rate = new HandshakeRate();
  private readonly refusals: Refusals;

  constructor(refusals: Refusals) {
    this.refusals = refusals;
  }

  /**
   * One more has come. If its address comes too often, it is refused: undefined. Otherwise it always gets in.
   * If it is one too many, another one is ended, perhaps in the next turn of the loop. Those who have not
   * proven their address are counted by themselves: they may have forged it.
   */
  add(address: string, remote: string, end: () => void, isProven = true): Visitor | undefined {
    if (!this.rate.allows(address, performance.now(), isProven)) {
      const often = `more than ${BURST} connections at once from its address, or ${RATE} a second`;
      if (isProven) this.refusals.tell(remote, often);
      return undefined;
    }
    const visitor = new Visitor(this.all, this.refusals, address, remote, end);
    this.all.add(visitor);
    const leaving = oneTooMany(this.all);
    if (leaving) this.all.delete(leaving);
    leaving?.end();
    return visitor;
  }

  get size(): number {
    return this.all.size;
  }
}

/** A connection that has not proven itself yet. */
export class Visitor {
  readonly source: string;
  readonly remote: string;
  end: () => void; // ends it, at once or in the next turn of the loop: it makes room
  private readonly all: Set<Visitor>;
  private readonly refusals: Refusals;

  constructor(all: Set<Visitor>, refusals: Refusals, address: string, remote: string, end: () => void) {
    this.all = all;
    this.refusals = refusals;
    this.source = sourceOf(address);
    this.remote = remote;
    this.end = end;
  }

  /** It is none any more: it has proven itself, or has gone. False if it had to make room before. */
  settle(): boolean {
    return this.all.delete(this);
  }

  /** It has gone for that reason, or because it had to make room. */
  lost(reason: string): void {
    this.refusals.tell(this.remote, this.settle() ? reason : MADE_ROOM);
  }
}

/**
 * The one that must go if there is one too many: the oldest of the source that has the most. So a few sources
 * cannot keep others out.
 */
export function oneTooMany<Stranger extends { source: string }>(
  strangers: Set<Stranger>,
): Stranger | undefined {
  if (strangers.size <= MAX_UNPROVEN) return undefined;
  const counts = new Map<string, number>();
  for (const { source } of strangers) counts.set(source, (counts.get(source) ?? 0) + 1);
  const most = Math.max(...counts.values());
  return [...strangers].find(({ source }) => counts.get(source) === most);
}

/** A token bucket for each source, kept as one number: the time when it will be full again. */
export class HandshakeRate {
  private readonly fullAt = new Map<string, number>(); // ms, by source; in the order of the latest admission

  /** May `address` begin one more handshake? `now`: ms. */
  allows(address: string, now = performance.now(), isProven = true): boolean {
    const source = sourceOf(address) + (isProven ? "" : " unproven");
    const fullAt = Math.max(this.fullAt.get(source) ?? 0, now) + 1000 / RATE;
    if (fullAt - now > (BURST * 1000) / RATE) return false;
    this.fullAt.delete(source);
    this.fullAt.set(source, fullAt);
    if (this.fullAt.size > MAX_SOURCES) this.fullAt.delete(this.fullAt.keys().next().value!);
    return true;
  }

  /** Sources that are remembered. */
  get size(): number {
    return this.fullAt.size;
  }
}

/**
 * The latest first messages that were made with the secret, by their public keys. Whoever has recorded one
 * can send it again, and each would cost an X25519. A server that was started anew, or has seen many since,
 * does not know it any more: then it is answered, and the session never begins.
 */
export class FirstMessages {
  private readonly publicKeys = new Set<string>(); // in order of arrival

  /** Has this one never come before? */
  isNew(publicKey: Buffer): boolean {
    const key = publicKey.toString("latin1");
    if (this.publicKeys.has(key)) return false;
    this.publicKeys.add(key);
    if (this.publicKeys.size > MAX_FIRST_MESSAGES)
      this.publicKeys.delete(this.publicKeys.keys().next().value!);
    return true;
  }
}

/**
 * Tells what strangers cause: refused connections, and probes that leave. One by one while they are few, else
 * how many they were, once a second.
 */
export class Refusals {
  private readonly say: (text: string) => void;
  private count = 0; // in this second
  private latest = "";

  constructor(say: (text: string) => void) {
    this.say = say;
  }

  tell(remote: string, reason: string, what = "refused"): void {
    counters.handshakes.failed++;
    this.latest = what === "refused" ? `${what} ${remote}: ${reason}` : `${what} ${remote} ${reason}`;
    if (this.count++ === 0) setTimeout(() => this.sum(), 1000).unref();
    if (this.count <= TOLD) this.say(this.latest);
  }

  private sum(): void {
    if (this.count > TOLD) this.say(`${this.count - TOLD} more in this second, the latest: ${this.latest}`);
    this.count = 0;
  }
}
