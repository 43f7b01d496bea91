/**
 * Server only: which client has which inner address. The kernel's routing table ends at tun0; this one goes
 * on from there. An address's life has four words:
 *
 *   wish    the address that a client had, and asks for again in its handshake
 *   offer   the address in the server's answer. An offer reserves nothing, so a replayed handshake cannot use
 *           up addresses. Later handshakes prefer the address with the fewest open offers
 *   lease   the client has sent a sealed frame, which proves it: the address is its own while it is connected
 *   kept    the lease ended without a goodbye. The client may come back, so others get it last
 */
import type { Cidr } from "../base/address.ts";

/**
 * The leases of a subnet: the server has its first address, clients the next ones; the last is the broadcast
 * address.
 */
export class Router<Client> {
  readonly gateway: number;
  private readonly last: number;
  private readonly max: number;
  private readonly leases = new Map<number, Client>(); // by address: signed, as packet.ts reads it
  private readonly offers = new Map<number, number>(); // address → open handshakes it was offered in
  private readonly kept = new Map<number, string>(); // by address, signed: the token of its client's session

  /** @param max leases at once; the subnet may have room for fewer */
  constructor(subnet: Cidr, max = Infinity) {
    this.gateway = subnet.network + 1;
    this.last = subnet.network + subnet.size - 2;
    this.max = max;
  }

  /**
   * An address for a handshake: its wish, if nobody has that, or if `mayTakeOver` says yes to who has it. A
   * kept one is for whom `isOwner` knows its token. Else the lowest free one with the fewest offers; a kept
   * one counts as offered to its client. Undefined if all are leased.
   */
  offer(
    wish = 0,
    mayTakeOver = (_client: Client) => false,
    isOwner = (_token: string) => false,
  ): number | undefined {
    const former = this.leases.get(wish | 0);
    const token = this.kept.get(wish | 0);
    const full = this.size >= this.max;
    const isFree = former === undefined && !full && (token === undefined || isOwner(token));
    let best =
      this.isClients(wish) && (isFree || (former !== undefined && mayTakeOver(former))) ? wish : undefined;
    if (best === undefined && full) return undefined;
    let fewest = best === undefined ? Infinity : 0;
    for (let address = this.gateway + 1; address <= this.last && fewest > 0; address++) {
      const offers = (this.offers.get(address) ?? 0) + Number(this.kept.has(address | 0));
      if (this.leases.has(address | 0) || offers >= fewest) continue;
      best = address;
      fewest = offers;
    }
    if (best !== undefined) this.offers.set(best, (this.offers.get(best) ?? 0) + 1);
    return best;
  }

  /** A handshake that was offered `address` is over, either way. */
  withdraw(address: number): void {
    const left = (this.offers.get(address) ?? 1) - 1;
    if (left > 0) this.offers.set(address, left);
    else this.offers.delete(address);
  }

  /**
   * `client` has `address` from now on. False if it cannot: another has it, or it is no client's address at
   * all.
   */
  lease(address: number, client: Client): boolean {
    if (!this.isClients(address) || this.leases.has(address | 0) || this.size >= this.max) return false;
    this.leases.set(address | 0, client);
    this.kept.delete(address | 0);
    return true;
  }

  /** May a client have it? */
  isClients(address: number): boolean {
    return address > this.gateway && address <= this.last;
  }

  /** Frees `address`, if it is `client`'s. `token`: it is kept for who has that, while there are others. */
  release(address: number, client: Client, token?: string): void {
    if (this.leases.get(address | 0) !== client) return;
    this.leases.delete(address | 0);
    if (token !== undefined) this.kept.set(address | 0, token);
  }

  /** Who has `address`. */
  clientAt(address: number): Client | undefined {
    return this.leases.get(address | 0);
  }

  get size(): number {
    return this.leases.size;
  }
}
