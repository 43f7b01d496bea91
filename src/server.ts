/**
 * The server: TUN on one side, a TCP connection to each client on the other, one loop between them. Compare with
 * client.ts, of the same shape: it connects where the server listens, and has one peer where the server has many.
 */
import { canCarryIPv6, innerAddresses, serverChanges } from "./changes.ts";
import { Clients } from "./clients.ts";
import { watch } from "./loop.ts";
import { serverOptions } from "./options.ts";
import { atExit, fail, program } from "./program.ts";
import { checkDevice, dropRoot, setUp } from "./setup.ts";
import { endpoint, listenTcp } from "./tcp.ts";
import { trace, XOR_WARNING } from "./trace.ts";
import { openTun } from "./tun.ts";
import { outbound, tunGone } from "./tunnel.ts";

program(() => {
  const options = serverOptions(process.argv.slice(2)); //       flags, or exit 2
  trace.start("server", options.trace, options.traceFile);
  atExit(() => trace.stop());

  const tun = openTun(options.tun, options.offload); //          open() and ioctl(): tun0 and its fd
  if (!options.secret || !canCarryIPv6(tun.name, options.mtu)) options.subnet6 = undefined; // no handshake, no IPv6 addresses
  const listener = listenTcp(options.listen, options.port); //   socket(), bind() and listen(): the other fd
  if (!options.secret) trace.note(XOR_WARNING);

  if (options.configure) checkDevice(options.nat);
  const clients = new Clients(options, tun, listener); //        each will be one more fd; who holds which inner address
  const { gateway } = clients.router;
  const toDo = setUp(() => serverChanges(options, gateway), options.configure);
  atExit(() => clients.end()); //                                before the changes are undone
  dropRoot(options.user);
  const addresses = innerAddresses(gateway, options.subnet.prefix, options.subnet6).join(" and ");
  trace.note(`listening on ${endpoint(options.listen, options.port)}: this end of the tunnel is ${addresses}, MTU ${options.mtu}${toDo}`);

  // The loop: this fd, and the listener's and the clients', which clients.ts watches in the same way.
  watch(tun.fd, {
    readable: () => outbound(tun, (packet, at, length) => clients.peerFor(packet, at, length)),
    error: () => fail(tunGone(tun)),
  });
});
