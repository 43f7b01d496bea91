/**
 * The server: TUN on one side, a link to each client on the other, one loop between them. Compare
 * with client.ts, of the same shape: it connects where the server listens, and has one peer where the server
 * has many.
 */
import { Clients } from "./server/clients.ts";
import { watch } from "./core/loop.ts";
import { serverOptions } from "./host/options.ts";
import { atExit, fail, vpnProgram } from "./host/program.ts";
import { ServerEnd } from "./server/own-end.ts";
import { endpoint } from "./transport/addresses.ts";
import { transports } from "./transport/transports.ts";
import { trace, XOR_WARNING } from "./base/trace.ts";
import { openTun } from "./core/tun.ts";
import { notRead } from "./base/tun-failure.ts";
import { outbound } from "./core/tunnel.ts";

vpnProgram(async () => {
  const options = serverOptions(process.argv.slice(2)); //    flags, or exit 2
  const { listen, port, secrets } = options;
  trace.start("server", options.trace, options.traceFile);
  atExit(() => trace.stop());

  const tun = openTun(options.tun, options.offload); //       open() and ioctl(): tun0 and its fd
  const handshake = secrets !== undefined;
  const transport = transports[options.transport].open({ listen, port, secrets, handshake }); // the other fd
  if (!secrets) trace.note(XOR_WARNING);

  const end = await ServerEnd.begin(options, tun); //         addresses, forwarding, NAT

  const clients = new Clients({ ...options, subnet6: end.subnet6 }, tun); // who has which inner address
  atExit(() => (transport.end(), clients.end())); //          before the changes are undone
  await end.openStatus(clients); //                           --status, --metrics: who asks is told
  transport.serve(clients); //                                over TCP, each client: one more fd
  end.dropRoot();
  trace.note(`listening on ${endpoint(listen, port)}: this end of the tunnel is ${end.description}`);

  // The loop: this fd, and the transport's, which tcp.ts or udp.ts watches in the same way.
  watch(tun.fd, {
    readable: () => outbound(tun, (packet, at, size) => clients.peerFor(packet, at, size)),
    error: () => fail(notRead(tun.name)),
  });
});
