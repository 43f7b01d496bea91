/**
 * The client: TUN on one side, the TCP connection to the server on the other, one loop between them. Compare with
 * server.ts, of the same shape: it listens where the client connects, and has many peers where the client has one.
 */
import { connect, OwnEnd, reconnect } from "./connect.ts";
import { Control } from "./frame.ts";
import { close, errnoName } from "./libc.ts";
import { type Watch, watch } from "./loop.ts";
import { clientOptions } from "./options.ts";
import { ipVersion } from "./packet.ts";
import { atExit, fail, program } from "./program.ts";
import { checkPulse, PULSE } from "./pulse.ts";
import { keepFresh } from "./rekey.ts";
import { socketError } from "./tcp.ts";
import { DOWN, trace, UP, XOR_WARNING } from "./trace.ts";
import { openTun } from "./tun.ts";
import { flush, inbound, outbound, Peer, sendControl, tunGone } from "./tunnel.ts";

program(async () => {
  const options = clientOptions(process.argv.slice(2)); //       flags, or exit 2
  trace.start("client", options.trace, options.traceFile);
  atExit(() => trace.stop());

  const tun = openTun(options.tun, options.offload); //          open() and ioctl(): tun0 and its fd
  const end = await OwnEnd.begin(options); //                    what this machine has, before we change anything
  let session = await connect(options, end); //                  socket() and connect(): the other fd; fresh keys, an inner address
  if (!options.secret) trace.note(XOR_WARNING);
  atExit(() => session.peer && sendControl(session.peer, Control.goodbye)); // before the changes are undone
  setInterval(() => session.peer && checkPulse(session.peer), PULSE).unref(); // does the server's program still answer?

  for (;;) {
    const { socket, keys, config } = session;
    let lose: (reason: string) => void;
    const lost = new Promise<string>((resolve) => (lose = resolve));
    // The loop: two fds, each with what to do when it is ready. Everything that follows happens in these lines.
    let tunWatch: Watch | undefined;
    const peer = new Peer(socket, UP, DOWN, keys, {
      onBacklog(waiting) {
        tunWatch?.want(!waiting, false); // a full socket: let packets wait in the TUN's queue, where the kernel counts drops
        socketWatch.want(true, waiting);
      },
      onClose(reason) {
        for (const watched of [tunWatch, socketWatch]) watched?.stop(); // tun0 stays open, and its queue waits
        close(socket.fd);
        lose(reason);
      },
    });
    const socketWatch = watch(socket.fd, {
      readable: () => inbound(peer, tun),
      writable: () => flush(peer),
      error: () => peer.close(errnoName(socketError(socket.fd))),
    });
    session.peer = peer;
    if (options.secret) keepFresh(peer, options.secret, options.rekey);
    sendControl(peer, Control.keepalive); //                     our first sealed frame proves us to the server: it waits, then
    await end.configure(session); //                             address and routes; may take long
    if (!peer.closed)
      tunWatch = watch(tun.fd, {
        readable: () => outbound(tun, (packet, at, length) => (config.subnet6 || ipVersion(packet, at, length) === 4 ? peer : "this tunnel carries no IPv6")),
        error: () => fail(tunGone(tun)),
      });
    session = await reconnect(options, end, session, await lost); // the next one, or the end
  }
});
