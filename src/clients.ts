/**
 * Server only: the clients, from accept() to their end. Each is one more fd in the loop; what one of them does wrong costs it
 * its connection, and the others nothing.
 */
import { randomBytes } from "node:crypto";
import { BrokenStream, Control } from "./frame.ts";
import type { SessionKeys, Wish } from "./handshake.ts";
import { close, EAGAIN, EMFILE, ENFILE, ENOBUFS, ENOMEM, errnoName, SHUT_RDWR, shutdown } from "./libc.ts";
import { BURST, HandshakeRate, MAX_UNPROVEN, oneTooMany, RATE, Refusals, sourceOf, type Stranger } from "./limits.ts";
import { type Watch, watch } from "./loop.ts";
import type { ServerOptions } from "./options.ts";
import { formatIPv4, innerDestination, innerSource } from "./packet.ts";
import { fail, Failure } from "./program.ts";
import { checkPulse, PULSE } from "./pulse.ts";
import { answerRekeys } from "./rekey.ts";
import { Router } from "./router.ts";
import { acceptSession } from "./session.ts";
import { acceptTcp, socketError, type TcpSocket } from "./tcp.ts";
import { DOWN, trace, UP } from "./trace.ts";
import type { Tun } from "./tun.ts";
import { flush, inbound, Peer, sendControl } from "./tunnel.ts";

const ACCEPTS = 16; // in one turn of the loop: a flood of connections must not hold up the packets
const PROOF_DEADLINE = 10_000; // ms from the handshake to the client's first sealed frame
const ACCEPT_PAUSE = 1_000; // ms without accept() when fds or memory have run out: those who are connected go on
const MADE_ROOM = `made room: more than ${MAX_UNPROVEN} have not proven themselves yet, and no address has more of them`;

export class Clients {
  readonly router: Router<Lease>;
  private readonly options: ServerOptions;
  private readonly tun: Tun;
  private readonly listener: number;
  private readonly listenerWatch: Watch;
  private readonly peers = new Set<Peer>();
  private readonly rate = new HandshakeRate();
  private readonly refusals = new Refusals((text) => trace.note(text));
  private readonly strangers = new Set<Stranger>(); // in order of arrival

  constructor(options: ServerOptions, tun: Tun, listener: number) {
    this.options = options;
    this.tun = tun;
    this.listener = listener;
    this.router = new Router(options.subnet, options.maxClients);
    setInterval(() => this.peers.forEach(checkPulse), PULSE).unref();
    this.listenerWatch = watch(listener, {
      readable: () => this.acceptSome(),
      error: () => fail(new Failure(`Cannot accept clients any more: ${errnoName(socketError(listener))}`, "start the server again")),
    });
  }

  /** Downlink: the client that holds the packet's inner destination address; a sentence if there is none. */
  peerFor(packet: Buffer, at: number, length: number): Peer | string {
    return this.router.clientAt(innerDestination(packet, at, length, this.options.subnet6))?.peer ?? "no client holds its destination address";
  }

  /** Takes no more clients, and tells those who are connected. */
  end(): void {
    this.listenerWatch.stop();
    close(this.listener);
    for (const peer of this.peers) {
      sendControl(peer, Control.goodbye);
      peer.close("the server stops");
    }
  }

  private acceptSome(): void {
    for (let i = 0; i < ACCEPTS; i++) {
      const socket = acceptTcp(this.listener);
      if (socket === -EAGAIN) return;
      if (typeof socket !== "number") this.serve(socket).catch(fail);
      else if ([EMFILE, ENFILE, ENOBUFS, ENOMEM].includes(-socket)) {
        trace.note(`cannot accept a client: ${errnoName(socket)}; trying again in ${ACCEPT_PAUSE / 1000} s`);
        this.listenerWatch.want(false, false);
        setTimeout(() => this.listenerWatch.want(true, false), ACCEPT_PAUSE).unref();
        return;
      } else this.refusals.tell("a connection", errnoName(socket)); // it is gone already (ECONNABORTED and the like, accept(2)): on to the next
    }
  }

  /** One client: the handshake, and then what happens when its socket is ready. */
  private async serve(socket: TcpSocket): Promise<void> {
    const refusal = this.tooMany(socket.address);
    if (refusal !== undefined) {
      this.refusals.tell(socket.remote, refusal);
      close(socket.fd);
      return;
    }
    const stranger: Stranger = { source: sourceOf(socket.address), leave: () => shutdown(socket.fd, SHUT_RDWR) }; // its read() will be 0
    this.letIn(stranger);
    const admitted = await this.admit(socket, stranger);
    if (!admitted) {
      this.strangers.delete(stranger);
      close(socket.fd);
      return;
    }
    const { keys, grant } = admitted;
    const peer: Peer = new Peer(socket, DOWN, UP, keys, {
      onBacklog: (waiting) => socketWatch.want(true, waiting),
      onProven: () => proven(),
      admit: (packet, at, length) => {
        const source = innerSource(packet, at, length, this.options.subnet6);
        // 0.0.0.0 itself is nobody's
        if (lease.address === 0 ? lease.hold(source >>> 0) : source === (lease.address | 0)) return undefined;
        return "its source is not the client's own address";
      },
      onClose: (reason, ended) => {
        const unproven = this.strangers.delete(stranger);
        clearTimeout(deadline);
        socketWatch.stop();
        close(socket.fd);
        this.peers.delete(peer);
        lease.end(!ended);
        if (reason === MADE_ROOM) return this.refusals.tell(socket.remote, reason); // these can be many
        const name = lease.address !== 0 ? `client ${formatIPv4(lease.address)}` : unproven ? "a probe" : "client"; // --cipher xor
        trace.note(`${name} from ${socket.remote} left: ${reason} (${this.router.size} connected)`);
      },
    });
    stranger.leave = () => this.sendAway(peer, MADE_ROOM);
    const lease = new Lease(this.router, peer, grant);
    const proven = () => {
      this.strangers.delete(stranger);
      clearTimeout(deadline);
      peer.onProven = () => {};
      if (grant && !lease.hold(grant.address)) this.sendAway(peer, "its place was taken by another client meanwhile");
    };
    const deadline = setTimeout(() => this.sendAway(peer, `no sealed frame within ${PROOF_DEADLINE / 1000} s`), PROOF_DEADLINE);
    const socketWatch = watch(socket.fd, {
      readable: () => inbound(peer, this.tun),
      writable: () => flush(peer),
      error: () => peer.close(errnoName(socketError(socket.fd))),
    });
    this.peers.add(peer);
    if (this.options.secret) answerRekeys(peer, this.options.secret);
    if (!grant) proven(); // --cipher xor: it can be silent for long, its first packet tells its address
  }

  /** Why a connection from `address` gets no handshake at all; undefined if it does. */
  private tooMany(address: string): string | undefined {
    const { secret, maxClients } = this.options;
    if (!secret && this.peers.size >= maxClients) return `${maxClients} clients are connected (--max-clients)`;
    return this.rate.allows(address) ? undefined : `more than ${BURST} connections at once from its address, or ${RATE} a second`;
  }

  /** A newcomer always gets in. So for a moment there are a few more of them: as many as a turn of the loop accepts. */
  private letIn(stranger: Stranger): void {
    this.strangers.add(stranger);
    const leaving = oneTooMany(this.strangers);
    if (!leaving) return;
    this.strangers.delete(leaving);
    leaving.leave();
  }

  private sendAway(peer: Peer, reason: string): void {
    sendControl(peer, Control.goodbye);
    peer.close(reason);
  }

  /** The handshake; undefined if it failed, and its reason has been told. No keys and no grant: --cipher xor. */
  private async admit(socket: TcpSocket, stranger: Stranger): Promise<{ keys?: SessionKeys; grant?: Grant } | undefined> {
    const { secret, subnet, subnet6, mtu, maxClients } = this.options;
    if (!secret) return {};
    let grant: Grant | undefined;
    const reply = (wish: Wish) => {
      const address = this.router.offer(wish.address, (holder) => holder.isFor(wish.token));
      if (address === undefined) return { refused: this.router.size < maxClients ? "all inner addresses are taken" : `it has its ${maxClients} clients already (--max-clients)` };
      grant = { address, token: randomBytes(16).toString("hex"), former: wish.token };
      return { address, prefix: subnet.prefix, mtu, subnet6, token: grant.token };
    };
    try {
      const keys = await acceptSession(socket, secret, reply);
      return { keys, grant: grant! };
    } catch (error) {
      if (!(error instanceof BrokenStream)) throw error;
      this.refusals.tell(socket.remote, this.strangers.has(stranger) ? error.message : MADE_ROOM);
      if (grant) this.router.withdraw(grant.address);
      return undefined;
    }
  }
}

/** What the handshake gave a client. */
interface Grant {
  address: number;
  token: string; // of this session: with it, the same client may take the address over from a connection that died unnoticed
  former: string | undefined; // the token of its session before
}

/** A client's address: offered in the handshake, held once it has proven itself, free again when it ends. */
class Lease {
  address = 0; // 0: none is held
  readonly peer: Peer;
  private readonly router: Router<Lease>;
  private readonly grant: Grant | undefined; // undefined: --cipher xor
  private offered: number | undefined;

  constructor(router: Router<Lease>, peer: Peer, grant: Grant | undefined) {
    this.router = router;
    this.peer = peer;
    this.grant = grant;
    this.offered = grant?.address;
  }

  /** Is this the session whose token that is? */
  isFor(token: string | undefined): boolean {
    return token !== undefined && token === this.grant?.token;
  }

  hold(address: number): boolean {
    const learned = !this.grant; // --cipher xor: from a packet, whose steps are shown first
    this.withdraw();
    const holder = this.router.clientAt(address);
    if (holder?.isFor(this.grant?.former)) holder.peer.close(`it connected again, from ${this.peer.socket.remote}`);
    if (!this.router.claim(address, this)) return false;
    this.address = address;
    const text = `client ${formatIPv4(address)} connected from ${this.peer.socket.remote} (${this.router.size} connected)`;
    if (learned) queueMicrotask(() => trace.note(text));
    else trace.note(text);
    return true;
  }

  /** `missed`: the client may come back, and wish for its address. */
  end(missed: boolean): void {
    this.withdraw();
    this.router.release(this.address, this, missed);
  }

  private withdraw(): void {
    if (this.offered !== undefined) this.router.withdraw(this.offered);
    this.offered = undefined;
  }
}
