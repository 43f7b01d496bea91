/**
 * Cookies: a client must show that it receives what is sent to its address. Anybody can write any sender into
 * a datagram. So a flood of first messages from invented addresses would cost an X25519 each. A server that
 * is asked too often answers with a cookie, and forgets the question. A client that sends the cookie back
 * gets an answer. The cookie is a MAC of the address under a secret that changes, so the server stores
 * nothing (as in WireGuard, section 5.4.7 of its paper; RFC 9000, section 8.1).
 */
import { createHmac, randomBytes, timingSafeEqual } from "node:crypto";

export const COOKIE = 16; // bytes
const LIFE = 120_000; // ms until the secret changes; the one before it is good as long again
/** First messages in a second: with more, a cookie is asked for. */
export const CALM = 20;

export class Cookies {
  private secrets = [randomBytes(32), randomBytes(32)];
  private changed = performance.now();
  private second = 0; // the one that is counted
  private count = 0; // first messages in it
  private busyUntil = 0; // ms

  /** One more first message has come: does it need a cookie? `now`: ms. */
  needed(now = performance.now()): boolean {
    const second = Math.floor(now / 1000);
    if (second !== this.second) this.count = 0;
    this.second = second;
    if (++this.count > CALM) this.busyUntil = now + 1000;
    return now < this.busyUntil;
  }

  /** For whoever receives at that address, `name`: a sockaddr. */
  make(name: Buffer, now = performance.now()): Buffer {
    this.turn(now);
    return mac(this.secrets[0]!, name);
  }

  isGood(cookie: Buffer, name: Buffer, now = performance.now()): boolean {
    this.turn(now);
    return this.secrets.some((secret) => timingSafeEqual(cookie, mac(secret, name)));
  }

  private turn(now: number): void {
    if (now - this.changed < LIFE) return;
    const isLate = now - this.changed >= 2 * LIFE;
    this.secrets = [randomBytes(32), isLate ? randomBytes(32) : this.secrets[0]!];
    this.changed = now;
  }
}

const mac = (secret: Buffer, name: Buffer) =>
  createHmac("sha256", secret).update(name).digest().subarray(0, COOKIE);
