/**
 * UDP ASSOCIATE of SOCKS5 (RFC 1928, section 7): a program sends us datagrams, each with a header that says
 * where it goes. We send what is behind the header through the tunnel. What comes back gets such a header.
 */
import { createSocket, type RemoteInfo, type Socket as UdpSocket } from "node:dgram";
import { once } from "node:events";
import { isIP, isIPv6 } from "node:net";
import { counters } from "../base/counters.ts";
import { datagramHeader, readDatagram, type Target } from "./socks-messages.ts";
import { lookUp } from "./socks-names.ts";
import { isBeyond, udpThrough, type Way } from "./socks-sockets.ts";

const IDLE = 300_000; // ms without a datagram: RFC 4787, REQ-5
const MAX_KNOWN = 256; // names, and hosts that may answer: the oldest one makes room
const MAX_WAITING = 16; // names that are looked up at once

export class Association {
  readonly host: string; // where the program sends its datagrams to
  readonly port: number;
  private readonly way: Way;
  private readonly inside: UdpSocket; // the program's datagrams
  private readonly outside = new Map<boolean, UdpSocket>(); // through the tunnel, by "is it IPv6?"
  private readonly names = new Map<string, string>(); // their addresses
  private readonly hosts = new Map<string, true>(); // that were sent something, and may answer
  private waiting = 0; // names that are looked up
  private readonly program: { address: string; port: number }; // port 0: it is that of its first datagram
  private readonly idle: NodeJS.Timeout;
  private closed = false;

  /**
   * For the datagrams of `program`, which come to our address `host`. `onIdle`: there were none for long.
   * Errors: an Error.
   */
  static async open(way: Way, host: string, program: Target, onIdle: () => void): Promise<Association> {
    const inside = createSocket(isIPv6(host) ? "udp6" : "udp4");
    inside.bind(0, host);
    try {
      await once(inside, "listening");
    } catch (error) {
      inside.close();
      throw error;
    }
    return new Association(way, inside, program, onIdle);
  }

  private constructor(way: Way, inside: UdpSocket, program: Target, onIdle: () => void) {
    const { address, port } = inside.address();
    [this.host, this.port] = [address, port];
    this.way = way;
    this.inside = inside;
    this.program = { address: program.host, port: program.port };
    this.idle = setTimeout(onIdle, IDLE).unref();
    inside.on("error", () => {}).on("message", (bytes, from) => void this.fromProgram(bytes, from));
  }

  close(): void {
    this.closed = true;
    clearTimeout(this.idle);
    for (const socket of [this.inside, ...this.outside.values()]) socket.close();
  }

  /** Never throws. */
  private async fromProgram(bytes: Buffer, { address, port }: RemoteInfo): Promise<void> {
    const { program } = this;
    const isIts = address === program.address && (program.port === 0 || port === program.port);
    try {
      const found = isIts ? readDatagram(bytes) : undefined;
      if (!found) return counters.drop("a datagram for --socks that makes no sense, or is another program's");
      program.port = port;
      const [target, size] = found;
      const host = isIP(target.host) ? target.host : await this.addressOf(target.host);
      const socket = host && !this.closed && isBeyond(host, this.way.own()) && this.socketFor(host);
      if (!socket) return unreachable();
      this.idle.refresh();
      remember(this.hosts, host, true);
      socket.send(bytes.subarray(size), target.port, host, (error) => error && unreachable());
    } catch {
      unreachable(); // a host that no name server knows of, port 0
    }
  }

  private fromOutside(bytes: Buffer, { address, port }: RemoteInfo): void {
    const { program } = this;
    if (!this.hosts.has(address))
      return counters.drop("a datagram for --socks from a host that was asked nothing");
    this.idle.refresh();
    const answer = Buffer.concat([datagramHeader(address, port), bytes]);
    this.inside.send(answer, program.port, program.address, () => {});
  }

  private async addressOf(name: string): Promise<string | undefined> {
    const known = this.names.get(name);
    if (known !== undefined || this.waiting === MAX_WAITING) return known;
    this.waiting++;
    const [address] = await lookUp(this.way, name);
    this.waiting--;
    if (address !== undefined) remember(this.names, name, address);
    return address;
  }

  /** Made when it is needed. After another inner address, too: its source would not be ours any more. */
  private socketFor(host: string): UdpSocket | undefined {
    const six = isIPv6(host);
    const known = this.outside.get(six);
    if (known && this.way.own().includes(known.address().address)) return known;
    known?.close();
    this.outside.delete(six);
    const socket = udpThrough(this.way, host);
    if (typeof socket === "number") return undefined;
    socket.on("error", () => {}).on("message", (bytes, from) => this.fromOutside(bytes, from));
    this.outside.set(six, socket);
    return socket;
  }
}

function remember<T>(known: Map<string, T>, key: string, value: T): void {
  known.delete(key);
  known.set(key, value);
  if (known.size > MAX_KNOWN) known.delete(known.keys().next().value!);
}

const unreachable = () => counters.drop("a datagram of --socks to a host that cannot be reached");
