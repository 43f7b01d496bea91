/**
 * The server: TUN on one side, a TCP connection to each client on the other, one loop between them. Compare with
 * client.ts, of the same shape: it connects where the server listens, and has one peer where the server has many.
 */
import { BrokenStream, Control } from "./frame.ts";
import { HandshakeError } from "./handshake.ts";
import { close, EAGAIN, errnoName } from "./libc.ts";
import { watch } from "./loop.ts";
import { serverOptions } from "./options.ts";
import { destinationIPv4, formatIPv4, ipVersion, sourceIPv4 } from "./packet.ts";
import { atExit, fail, Failure, program } from "./program.ts";
import { Router } from "./router.ts";
import { acceptSession } from "./session.ts";
import { serverChanges, setUp } from "./setup.ts";
import { acceptTcp, listenTcp, socketError, type TcpSocket } from "./tcp.ts";
import { DOWN, trace, UP, XOR_WARNING } from "./trace.ts";
import { openTun } from "./tun.ts";
import { flush, inbound, outbound, Peer, sendControl, tunGone } from "./tunnel.ts";

const PROOF_DEADLINE = 10_000; // ms from the handshake to the client's first sealed frame
const ACCEPT_PAUSE = 1_000; // ms without accept() when fds have run out: the others go on

program(() => {
  const options = serverOptions(process.argv.slice(2)); //       flags, or exit 2
  trace.start("server", options.trace, options.traceFile);
  atExit(() => trace.stop());

  const tun = openTun(options.tun); //                           open() and ioctl(): tun0 and its fd
  const listener = listenTcp(options.listen, options.port); //   socket(), bind() and listen(): the other fd
  const router = new Router<Peer>(options.subnet); //            which client holds which inner address
  const peers = new Set<Peer>();
  if (!options.secret) trace.note(XOR_WARNING);
  atExit(() => peers.forEach((peer) => sendControl(peer, Control.goodbye)));

  setUp(serverChanges(options, router.gateway), options.configure);
  trace.note(`listening on ${options.listen}:${options.port}: this end of the tunnel is ${formatIPv4(router.gateway)}/${options.subnet.prefix}, MTU ${options.mtu}`);

  // The loop: the TUN, the listener, and one more fd for each client. Everything that follows happens in these lines.
  watch(tun.fd, {
    readable: () => outbound(tun, peerFor),
    error: () => fail(tunGone(tun)),
  });
  const listenerWatch = watch(listener, {
    readable: acceptAll,
    error: () => fail(new Failure(`Cannot accept clients any more: ${errnoName(socketError(listener))}`, "start the server again")),
  });

  /** Downlink: the client that holds the packet's inner destination address. */
  function peerFor(packet: Buffer, at: number, length: number): Peer | string {
    if (ipVersion(packet, at, length) !== 4) return "this tunnel carries IPv4 only";
    return router.clientAt(destinationIPv4(packet, at)) ?? "no client holds its destination address";
  }

  function acceptAll(): void {
    for (;;) {
      const socket = acceptTcp(listener);
      if (typeof socket !== "number") {
        serve(socket).catch(fail);
        continue;
      }
      if (socket !== -EAGAIN) {
        trace.note(`cannot accept a client: ${errnoName(socket)}; trying again in ${ACCEPT_PAUSE / 1000} s`);
        listenerWatch.want(false, false);
        setTimeout(() => listenerWatch.want(true, false), ACCEPT_PAUSE);
      }
      return;
    }
  }

  /** One client, from its handshake to its end. */
  async function serve(socket: TcpSocket): Promise<void> {
    const address = options.secret ? router.offer() : undefined;
    let offered = address;
    const withdraw = () => {
      if (offered !== undefined) router.withdraw(offered);
      offered = undefined;
    };
    const peer = await admit(socket, address);
    if (!peer) {
      withdraw();
      close(socket.fd);
      return;
    }
    let held = 0; // the inner address, once it is the client's
    const hold = (wanted: number) => {
      if (!router.claim(wanted, peer)) return false;
      held = wanted;
      trace.note(`client ${formatIPv4(held)} connected from ${socket.remote} (${router.size} connected)`);
      return true;
    };
    const proofDeadline = setTimeout(() => peer.close(`no sealed frame within ${PROOF_DEADLINE / 1000} s`), PROOF_DEADLINE);
    if (address === undefined) clearTimeout(proofDeadline); // --cipher xor: silence is all right, its first packet will tell

    peer.onProven = () => {
      clearTimeout(proofDeadline);
      if (address === undefined) return;
      withdraw();
      if (!hold(address)) peer.close("its address was taken by another client meanwhile");
    };
    peer.admit = (packet, at, length) => {
      if (ipVersion(packet, at, length) !== 4) return "it is no IPv4 packet";
      const source = sourceIPv4(packet, at);
      if (source === held || (held === 0 && address === undefined && hold(source))) return undefined;
      return "its source is not the client's own address";
    };
    const socketWatch = watch(socket.fd, {
      readable: () => inbound(peer, tun),
      writable: () => flush(peer),
      error: () => peer.close(errnoName(socketError(socket.fd))),
    });
    peer.onBacklog = (waiting) => socketWatch.want(true, waiting);
    peer.onClose = (reason) => {
      clearTimeout(proofDeadline);
      socketWatch.stop();
      close(socket.fd);
      peers.delete(peer);
      withdraw();
      router.release(held, peer);
      trace.note(`client ${held === 0 ? "" : `${formatIPv4(held)} `}from ${socket.remote} left: ${reason} (${router.size} connected)`);
    };
    peers.add(peer);
  }

  /** The handshake; undefined if it failed, which costs that client its connection and nobody else anything. */
  async function admit(socket: TcpSocket, address: number | undefined): Promise<Peer | undefined> {
    if (!options.secret) return new Peer(socket, DOWN, UP);
    try {
      const config = { gateway: router.gateway, prefix: options.subnet.prefix, mtu: options.mtu };
      return await acceptSession(socket, options.secret, address === undefined ? { refused: "all inner addresses are taken" } : { ...config, address });
    } catch (error) {
      if (!(error instanceof HandshakeError || error instanceof BrokenStream)) throw error;
      trace.note(`refused ${socket.remote}: ${error.message}`);
      return undefined;
    }
  }
});
