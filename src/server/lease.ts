/**
 * Server only: a client's address, from the offer in its handshake to the end of its lease. The words are
 * router.ts's.
 */
import { timingSafeEqual } from "node:crypto";
import { formatIPv4 } from "../base/address.ts";
import type { Peer } from "../core/peer.ts";
import { proofOf } from "../session/payloads.ts";
import type { Router } from "./router.ts";
import { trace } from "../base/trace.ts";

/** What the handshake offered a client. */
export interface Offer {
  address: number;
  // of this session: with it, the same client may take the address over from a connection that died unnoticed
  token: string;
  former: Lease | undefined; // its session before, which it may take over
}

/** Does a message 1 with this public key prove that its sender knows the token? */
export function proves(proof: string | undefined, token: string, publicKey: Buffer): boolean {
  if (proof === undefined || token === "") return false;
  return timingSafeEqual(Buffer.from(proof), Buffer.from(proofOf(token, publicKey)));
}

export class Lease {
  address = 0; // 0: none yet
  readonly peer: Peer;
  private readonly router: Router<Lease>;
  private readonly offer: Offer | undefined; // undefined: --cipher xor
  private isOpen: boolean; // is the offer?

  constructor(router: Router<Lease>, peer: Peer, offer: Offer | undefined) {
    this.router = router;
    this.peer = peer;
    this.offer = offer;
    this.isOpen = offer !== undefined;
  }

  /** Does its message 1 prove that a caller is the client of this session? */
  isOf(proof: string | undefined, publicKey: Buffer): boolean {
    return this.offer !== undefined && proves(proof, this.offer.token, publicKey);
  }

  /**
   * Leases the address: of the offer, once the client has proven itself; without one, of its first packet.
   * False: another has it.
   */
  start(address: number): boolean {
    const learned = !this.offer; // from a packet, whose steps are shown first
    this.withdraw();
    const former = this.router.clientAt(address);
    if (former && former === this.offer?.former)
      former.peer.close(`it connected again, from ${this.peer.link.remote}`);
    if (!this.router.lease(address, this)) return false;
    this.address = address;
    const { remote } = this.peer.link;
    const text = `client ${formatIPv4(address)} connected from ${remote} (${this.router.size} connected)`;
    if (learned) queueMicrotask(() => trace.note(text));
    else trace.note(text);
    return true;
  }

  /** `keep`: the client may come back, and wish for its address. */
  end(keep: boolean): void {
    this.withdraw();
    this.router.release(this.address, this, keep ? (this.offer?.token ?? "") : undefined);
  }

  private withdraw(): void {
    if (this.isOpen) this.router.withdraw(this.offer!.address);
    this.isOpen = false;
  }
}
