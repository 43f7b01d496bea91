/** Server only: which client holds which inner address. The kernel's routing table ends at tun0; this one goes on from there. */
import type { Cidr } from "./packet.ts";

/** Leases of a subnet: the server has its first address, clients the next ones; the last is the broadcast address. */
export class Router<Client> {
  readonly gateway: number;
  private readonly last: number;
  private readonly max: number;
  private readonly holders = new Map<number, Client>(); // by address as a signed number, as packet.ts reads it from a packet
  private readonly offers = new Map<number, number>(); // address → open handshakes it was offered in
  private readonly missed = new Set<number>(); // addresses, signed: the connection died, and the client may come back

  /** @param max leases at once; the subnet may have room for fewer */
  constructor(subnet: Cidr, max = Infinity) {
    this.gateway = subnet.network + 1;
    this.last = subnet.network + subnet.size - 2;
    this.max = max;
  }

  /**
   * An address for a handshake: the one it wishes for, if nobody holds it or `mayTakeOver` says yes to its holder; else the lowest
   * that is free; undefined if all are taken. An offer is no lease: a replayed handshake must cost nothing. It only steers other
   * handshakes to other addresses: to those with the fewest offers. One that is missed counts as if it were offered to its client.
   */
  offer(wish = 0, mayTakeOver = (_holder: Client) => false): number | undefined {
    const holder = this.holders.get(wish | 0);
    const full = this.size >= this.max;
    let best = this.isClients(wish) && (holder === undefined ? !full : mayTakeOver(holder)) ? wish : undefined;
    if (best === undefined && full) return undefined;
    let fewest = best === undefined ? Infinity : 0;
    for (let address = this.gateway + 1; address <= this.last && fewest > 0; address++) {
      const offers = (this.offers.get(address) ?? 0) + Number(this.missed.has(address | 0));
      if (this.holders.has(address | 0) || offers >= fewest) continue;
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

  /** `client` holds `address` from now on; false if it cannot: held by another, or no client's address at all. */
  claim(address: number, client: Client): boolean {
    if (!this.isClients(address) || this.holders.has(address | 0) || this.size >= this.max) return false;
    this.holders.set(address | 0, client);
    this.missed.delete(address | 0);
    return true;
  }

  private isClients(address: number): boolean {
    return address > this.gateway && address <= this.last;
  }

  /** Frees `address`, if `client` holds it. `missed`: as long as there are others, it is for this client only, which may come back. */
  release(address: number, client: Client, missed = false): void {
    if (this.holders.get(address | 0) !== client) return;
    this.holders.delete(address | 0);
    if (missed) this.missed.add(address | 0);
  }

  /** Who holds `address`. */
  clientAt(address: number): Client | undefined {
    return this.holders.get(address | 0);
  }

  get size(): number {
    return this.holders.size;
  }
}
