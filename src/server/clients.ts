/**
 * Server only: the clients, from their message 1 to their end. What one of them does wrong costs it its
 * session, and the others nothing.
 */
import { randomBytes } from "node:crypto";
import { formatIPv4 } from "../base/address.ts";
import { counters } from "../base/counters.ts";
import { Control } from "../core/frame.ts";
import type { Wish } from "../session/payloads.ts";
import { Lease, type Offer, proves } from "./lease.ts";
import { FirstMessages, MADE_ROOM, Refusals, Strangers, type Visitor } from "./limits.ts";
import type { Link } from "../core/link.ts";
import type { ServerOptions } from "../host/options.ts";
import { innerDestination, innerSource } from "../base/packet.ts";
import { Peer } from "../core/peer.ts";
import { CHECK, Heartbeat } from "../session/pulse.ts";
import { answerRekeys } from "../session/rekey.ts";
import { Router } from "./router.ts";
import { answer, type Reply } from "../session/session.ts";
import { trace } from "../base/trace.ts";
import type { Caller, PortEvents } from "../transport/transport.ts";
import type { Tun } from "../core/tun.ts";
import { DOWN, UP } from "../base/walk.ts";
import { wipe } from "../base/wipe.ts";

const PROOF_DEADLINE = 10_000; // ms from the handshake to the client's first sealed frame

export class Clients implements PortEvents {
  readonly router: Router<Lease>;
  readonly options: ServerOptions;
  readonly tun: Tun;
  readonly all = new Set<Client>();
  readonly refusals = new Refusals((text) => trace.note(text));
  private readonly strangers = new Strangers(this.refusals);
  private readonly firstMessages = new FirstMessages();

  constructor(options: ServerOptions, tun: Tun) {
    this.options = options;
    this.tun = tun;
    this.router = new Router(options.subnet, options.maxClients);
    setInterval(() => this.all.forEach((client) => client.pulse.check()), CHECK).unref();
  }

  /** Downlink: the client that has the packet's inner destination address; a sentence if there is none. */
  peerFor(packet: Buffer, at: number, size: number): Peer | string {
    const address = innerDestination(packet, at, size, this.options.subnet6);
    return this.router.clientAt(address)?.peer ?? "no client holds its destination address";
  }

  /** Tells everybody who is connected that the server ends. */
  end(): void {
    for (const client of this.all) client.sendAway("the server stops");
  }

  /** Those who have an inner address. */
  get connected(): Client[] {
    return [...this.all].filter(({ lease }) => lease.address !== 0);
  }

  // ---- what the transport tells us ----

  onArrival(address: string, remote: string, end: () => void, isProven = true): Visitor | undefined {
    const { secrets, maxClients } = this.options;
    const full = !secrets && this.all.size >= maxClients; // with a secret, the handshake says so
    if (!full) return this.strangers.add(address, remote, end, isProven);
    this.refusals.tell(remote, `${maxClients} clients are connected (--max-clients)`);
    return undefined;
  }

  onMissed(remote: string, reason: string): void {
    this.refusals.tell(remote, reason);
  }

  onHello(caller: Caller, message1: Buffer): void {
    const { secrets } = this.options;
    let offer: Offer | undefined;
    const makeReply = (wish: Wish, publicKey: Buffer) => {
      offer = this.makeOffer(wish, publicKey);
      return offer ? this.configFor(offer) : { refused: this.whyFull() };
    };
    const isNew = (publicKey: Buffer) => this.firstMessages.isNew(publicKey);
    const reply = secrets ? answer(secrets, message1, isNew, makeReply, caller.isFree) : {};
    const { message2, refused } = reply;
    if (refused !== undefined) {
      if (message2) caller.refuse(message2);
      return caller.stranger.lost(refused);
    }
    try {
      caller.attach(message2, (link) => new Client(this, caller, link, reply, offer).peer);
    } catch (error) {
      if (offer) this.router.withdraw(offer.address);
      wipe(reply.keys?.send, reply.keys?.receive);
      throw error;
    }
  }

  private makeOffer(wish: Wish, publicKey: Buffer): Offer | undefined {
    let former: Lease | undefined;
    const mayTakeOver = (lease: Lease) => {
      if (lease.isOf(wish.proof, publicKey)) former = lease;
      return former === lease;
    };
    const isOwner = (token: string) => proves(wish.proof, token, publicKey);
    const address = this.router.offer(wish.address, mayTakeOver, isOwner);
    return address === undefined ? undefined : { address, token: randomBytes(16).toString("hex"), former };
  }

  private configFor({ address, token }: Offer) {
    const { subnet, subnet6, mtu } = this.options;
    return { address, prefix: subnet.prefix, mtu, subnet6, token };
  }

  private whyFull(): string {
    const { maxClients } = this.options;
    if (this.router.size < maxClients) return "all inner addresses are taken";
    return `it has its ${maxClients} clients already (--max-clients)`;
  }
}

/** One client: its peer, its lease, and who it was before it had proven itself. */
export class Client {
  readonly peer: Peer;
  readonly lease: Lease;
  readonly pulse: Heartbeat;
  private readonly clients: Clients;
  private readonly stranger: Visitor;
  private readonly offer: Offer | undefined; // undefined: --cipher xor
  private readonly deadline: NodeJS.Timeout;

  constructor(
    clients: Clients,
    caller: Caller,
    link: Link,
    { keys, secret }: Reply,
    offer: Offer | undefined,
  ) {
    this.clients = clients;
    this.stranger = caller.stranger as Visitor;
    this.offer = offer;
    this.peer = new Peer(link, clients.tun, [DOWN, UP], keys, {
      onProven: () => this.onProven(),
      refuse: (packet, at, size) => this.refuse(packet, at, size),
      onClose: (reason, ended) => this.onClose(reason, ended),
    });
    this.peer.pulse = this.pulse = new Heartbeat(this.peer);
    this.lease = new Lease(clients.router, this.peer, offer);
    this.stranger.end = () => this.sendAway(MADE_ROOM);
    const late = `no sealed frame within ${PROOF_DEADLINE / 1000} s`;
    this.deadline = setTimeout(() => this.sendAway(late), PROOF_DEADLINE);
    clients.all.add(this);
    if (secret) answerRekeys(this.peer, secret);
    else this.settle(); // it can be silent for long, and its first packet tells its address
  }

  sendAway(reason: string): void {
    this.peer.sendControl(Control.goodbye);
    this.peer.close(reason);
  }

  /** It is no stranger any more. */
  private settle(): boolean {
    clearTimeout(this.deadline);
    return this.stranger.settle();
  }

  private onProven(): void {
    this.settle();
    counters.handshakes.ok++;
    if (this.offer && !this.lease.start(this.offer.address))
      this.sendAway("its place was taken by another client meanwhile");
  }

  /**
   * Only packets from the client's own address go on. With --cipher xor its first packet tells which one that
   * is. With --isolate none goes to another client: else the kernel forwards it.
   */
  private refuse(packet: Buffer, at: number, size: number): string | undefined {
    const { lease } = this;
    const { subnet6, isolate } = this.clients.options;
    const source = innerSource(packet, at, size, subnet6);
    // 0.0.0.0 itself is nobody's
    if (lease.address === 0 ? !lease.start(source >>> 0) : source !== (lease.address | 0))
      return "its source is not the client's own address";
    if (isolate && this.clients.router.isClients(innerDestination(packet, at, size, subnet6) >>> 0))
      return "it is for another client, and they are isolated";
    return undefined;
  }

  private onClose(reason: string, ended: boolean): void {
    const { clients, lease } = this;
    const { remote } = this.peer.link;
    const unproven = this.settle();
    clients.all.delete(this);
    lease.end(!ended);
    if (reason === MADE_ROOM) return clients.onMissed(remote, reason);
    const name = lease.address === 0 ? "client" : `client ${formatIPv4(lease.address)}`; // --cipher xor
    if (unproven) clients.refusals.tell(remote, `left: ${reason}`, "a probe from");
    else trace.note(`${name} from ${remote} left: ${reason} (${clients.router.size} connected)`);
  }
}
