/** Client only: the addresses of the server's name. */
import { promises as dns } from "node:dns";
import { isIPv4, isIPv6 } from "node:net";
import { formatIPv4, parseIPv6 } from "../base/address.ts";
import { MAPPED } from "../transport/addresses.ts";
import { Failure } from "../base/failure.ts";

const MAX_ADDRESSES = 8; // of a name: each is tried, and gets a way around the tunnel

/**
 * The addresses of a name, of both families, in the resolver's order; an address is its own only one. Errors:
 * a Failure.
 */
export async function resolve(name: string): Promise<string[]> {
  const host = name.replace(/^\[(.*)\]$/, "$1");
  if (host === "")
    throw new Failure(`Cannot connect to "": no name and no address`, "give the server's name or address");
  const ipv6 = parseIPv6(host);
  // its packets are IPv4
  if (ipv6?.toString("hex", 0, 12) === MAPPED) return [formatIPv4(ipv6.readUInt32BE(12))];
  if (isIPv4(host) || isIPv6(host)) return [host];
  try {
    const found = await dns.lookup(host, { all: true });
    return found.slice(0, MAX_ADDRESSES).map(({ address }) => address);
  } catch (error) {
    throw new Failure(
      `Cannot find ${host}: ${(error as NodeJS.ErrnoException).code}`,
      "check the name, or give the server's address",
    );
  }
}

/** The server's addresses: the one of before, until its name is found. */
export class Names {
  addresses: string[];
  private readonly name: string;
  private busy = false;

  constructor(name: string, before: string) {
    this.name = name;
    this.addresses = [before];
  }

  async lookUp(): Promise<void> {
    if (this.busy) return;
    this.busy = true;
    try {
      this.addresses = await resolve(this.name);
    } catch {
      // those that we have stay; the next try looks again
    }
    this.busy = false;
  }
}
