/**
 * The client: TUN on one side, the TCP connection to the server on the other, one loop between them. Compare with
 * server.ts, of the same shape: it listens where the client connects, and has many peers where the client has one.
 */
import { configure, connect, reconnect } from "./connect.ts";
import { Control } from "./frame.ts";
import { close, errnoName } from "./libc.ts";
import { watch } from "./loop.ts";
import { clientOptions } from "./options.ts";
import { ipVersion } from "./packet.ts";
import { atExit, fail, program } from "./program.ts";
import { checkPulse, PULSE } from "./pulse.ts";
import { dropRoot } from "./setup.ts";
import { socketError } from "./tcp.ts";
import { trace, XOR_WARNING } from "./trace.ts";
import { openTun } from "./tun.ts";
import { flush, inbound, outbound, sendControl, tunGone } from "./tunnel.ts";

program(async () => {
  const options = clientOptions(process.argv.slice(2)); //       flags, or exit 2
  trace.start("client", options.trace, options.traceFile);
  atExit(() => trace.stop());

  const tun = openTun(options.tun, options.offload); //          open() and ioctl(): tun0 and its fd
  let session = await connect(options); //                       socket() and connect(): the other fd; fresh keys, an inner address
  if (!options.secret) trace.note(XOR_WARNING);
  configure(options, session);
  atExit(() => sendControl(session.peer, Control.goodbye)); //   before the changes are undone
  dropRoot(options.user);
  setInterval(() => checkPulse(session.peer), PULSE).unref(); //  does the server's program still answer?

  for (;;) {
    const { peer, config } = session;
    const { socket } = peer;
    // The loop: two fds, each with what to do when it is ready. Everything that follows happens in these lines.
    const tunWatch = watch(tun.fd, {
      readable: () => outbound(tun, (packet, at, length) => (config.subnet6 || ipVersion(packet, at, length) === 4 ? peer : "this tunnel carries no IPv6")),
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
    const reason = await new Promise<string>((lost) => {
      peer.onClose = (reason) => {
        for (const watched of [tunWatch, socketWatch]) watched.stop(); // tun0 stays open, and its queue waits
        close(socket.fd);
        lost(reason);
      };
      sendControl(peer, Control.keepalive); //                   our first sealed frame proves us to the server
    });
    session = await reconnect(options, session, reason); //      the next one, or the end
  }
});
