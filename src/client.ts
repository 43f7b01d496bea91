/**
 * The client: the TUN on one side, the link to the server on the other, one loop between them. Compare with
 * server.ts, of the same shape: it listens where the client connects, and has many peers where the client has
 * one.
 */
import { ClientEnd, openSession, reconnect } from "./client/connect.ts";
import { Control } from "./core/frame.ts";
import { type Watch, watch } from "./core/loop.ts";
import { clientOptions } from "./host/options.ts";
import { ipVersion, refuseLinkLocal } from "./base/packet.ts";
import { Peer } from "./core/peer.ts";
import { atExit, fail, vpnProgram } from "./host/program.ts";
import { CHECK, Heartbeat } from "./session/pulse.ts";
import { keepFresh } from "./session/rekey.ts";
import { transports } from "./transport/transports.ts";
import { trace, XOR_WARNING } from "./base/trace.ts";
import { openTun } from "./core/tun.ts";
import { notRead } from "./base/tun-failure.ts";
import { outbound } from "./core/tunnel.ts";
import { DOWN, UP } from "./base/walk.ts";

vpnProgram(async () => {
  const options = clientOptions(process.argv.slice(2)); //         flags, or exit 2
  const { secrets } = options;
  trace.start("client", options.trace, options.traceFile);
  atExit(() => trace.stop());

  const tun = openTun(options.tun, options.offload); //            open() and ioctl(): tun0 and its fd
  const end = await ClientEnd.begin(options); //                   what this machine has
  await end.openStatus(); //                                       --status, --metrics: who asks is told
  end.openSocks(); //                                              --socks: programs ask for a connection
  const transport = transports[options.transport].open({ ...options, handshake: secrets !== undefined });
  let session = await openSession(options, end, transport); //     socket(), connect(): the other fd; keys
  if (!secrets) trace.note(XOR_WARNING);
  atExit(() => session.peer?.sendControl(Control.goodbye)); //     before the changes are undone
  setInterval(() => session.pulse?.check(), CHECK).unref(); //     does the server's program still answer?

  // Session after session. The loop that moves packets is Node's: see loop.ts.
  for (;;) {
    const { keys, config } = session;
    let lose: (reason: string) => void;
    const lost = new Promise<string>((resolve) => (lose = resolve));
    let tunWatch: Watch | undefined;
    const peer = session.attach(
      (link) =>
        new Peer(link, tun, [UP, DOWN], keys, {
          onBacklog: (waiting) => tunWatch?.want(!waiting, false), // packets wait in tun0
          refuse: refuseLinkLocal,
          onClose(reason) {
            tunWatch?.stop(); // tun0 stays open, and its queue waits
            lose(reason);
          },
        }),
    );
    session.peer = peer;
    session.pulse = peer.pulse = new Heartbeat(peer);
    if (session.secret) keepFresh(peer, session.secret, options.rekey);
    peer.sendControl(Control.keepalive); //                        our first sealed frame proves us
    await end.configure(session); //                               address and routes; may take long
    const peerFor = (packet: Buffer, at: number, size: number) =>
      config.subnet6 || ipVersion(packet, at, size) === 4 ? peer : "this tunnel carries no IPv6";
    // The loop: two fds, each with what to do when it is ready. The link's is watched in its transport.
    if (!peer.closed)
      tunWatch = watch(tun.fd, {
        readable: () => outbound(tun, peerFor),
        error: () => fail(notRead(tun.name)),
      });
    session = await reconnect(options, end, transport, session, await lost); // the next one, or the end
  }
});
