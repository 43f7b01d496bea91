/**
 * The client: TUN on one side, the TCP connection to the server on the other, one loop between them. Compare with
 * server.ts, of the same shape: it listens where the client connects, and has many peers where the client has one.
 */
import { Control } from "./frame.ts";
import { errnoName } from "./libc.ts";
import { watch } from "./loop.ts";
import { clientOptions } from "./options.ts";
import { formatIPv4, ipVersion } from "./packet.ts";
import { atExit, fail, Failure, program } from "./program.ts";
import { startSession } from "./session.ts";
import { clientChanges, dropRoot, setUp } from "./setup.ts";
import { connectTcp, socketError } from "./tcp.ts";
import { DOWN, trace, UP, XOR_WARNING } from "./trace.ts";
import { openTun } from "./tun.ts";
import { flush, inbound, outbound, Peer, sendControl, tunGone } from "./tunnel.ts";

program(async () => {
  const options = clientOptions(process.argv.slice(2)); //       flags, or exit 2
  trace.start("client", options.trace, options.traceFile);
  atExit(() => trace.stop());

  const tun = openTun(options.tun, options.offload); //          open() and ioctl(): tun0 and its fd
  const socket = await connectTcp(options.server, options.port); // socket() and connect(): the other fd
  const { peer, config } = options.secret
    ? await startSession(socket, options.secret) //              fresh keys, and an inner address
    : { peer: new Peer(socket, UP, DOWN), config: { ...options.address, mtu: options.mtu } };
  peer.onClose = (reason) => {
    const neverAnswered = !options.secret && peer.framesReceived === 0; // without a handshake, two ciphers show only so
    fail(new Failure(`Lost the server ${socket.remote}: ${reason}`, neverAnswered ? "start both ends with --cipher xor, or both without" : "start the server, then this client again"));
  };
  if (!options.secret) trace.note(XOR_WARNING);
  sendControl(peer, Control.keepalive); //                       our first sealed frame proves us to the server

  const mtu = Math.min(config.mtu, options.mtu);
  const toDo = setUp(clientChanges(options, { ...config, mtu }, socket.address), options.configure);
  atExit(() => sendControl(peer, Control.goodbye)); //           before the changes are undone
  dropRoot(options.user);
  trace.note(`connected to ${socket.remote}: this end of the tunnel is ${formatIPv4(config.address)}/${config.prefix}, MTU ${mtu}${toDo}`);

  // The loop: two fds, each with what to do when it is ready. Everything that follows happens in these lines.
  const tunWatch = watch(tun.fd, {
    readable: () => outbound(tun, (packet, at, length) => (ipVersion(packet, at, length) === 4 ? peer : "this tunnel carries IPv4 only")),
    error: () => fail(tunGone(tun)),
  });
  const socketWatch = watch(socket.fd, {
    readable: () => inbound(peer, tun),
    writable: () => flush(peer),
    error: () => peer.close(errnoName(socketError(socket.fd))),
  });
  peer.onBacklog = (waiting) => {
    tunWatch.want(!waiting, false); // a full socket: let packets wait in the TUN's queue, where the kernel counts drops
    socketWatch.want(true, waiting);
  };
});
