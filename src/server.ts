/**
 * The server: TUN on one side, a TCP connection to each client on the other, one loop between them. Compare with
 * client.ts, of the same shape: it connects where the server listens, and has one peer where the server has many.
 */
import { innerAddresses, insideOf, IPV6, serverChanges } from "./host/changes.ts";
import { Clients } from "./server/clients.ts";
import { findWalls } from "./host/firewall.ts";
import { watch } from "./core/loop.ts";
import { canCarryIPv6, checkDevice, checkFree, strays } from "./host/machine.ts";
import { serverOptions } from "./host/options.ts";
import { atExit, fail, program } from "./host/program.ts";
import { Setup } from "./host/setup.ts";
import { endpoint } from "./transport/addresses.ts";
import { tcp } from "./transport/tcp.ts";
import { trace, XOR_WARNING } from "./base/trace.ts";
import { openTun } from "./core/tun.ts";
import { outbound, tunGone } from "./core/tunnel.ts";

program(async () => {
  const options = serverOptions(process.argv.slice(2)); //       flags, or exit 2
  const { subnet, mtu, listen, port, secret } = options;
  trace.start("server", options.trace, options.traceFile);
  atExit(() => trace.stop());

  const tun = openTun(options.tun, options.offload); //          open() and ioctl(): tun0 and its fd
  const transport = tcp.open({ listen, port, handshake: secret !== undefined }); // socket(), bind(), listen(): the other fd
  if (!secret) trace.note(XOR_WARNING);

  const setup = new Setup(options.configure);
  const machine = await setup.begin(tun.name); //                what this machine has, before we change anything
  if (options.configure) checkDevice(machine, options.nat, tun.name);
  const wall = options.nat && (await findWalls(tun.name, machine));
  if (wall) trace.note(wall);
  const wish6 = secret && canCarryIPv6(tun.name, mtu) ? options.subnet6 : undefined; // no handshake, no IPv6 addresses
  const gateway = subnet.network + 1;
  const inside = insideOf({ address: gateway, prefix: subnet.prefix, mtu, subnet6: wish6 });
  const warning = checkFree(machine, inside, "--subnet BLOCK");
  if (warning) trace.note(warning);
  const { toDo, missing } = await setup.make(serverChanges({ ...options, subnet6: wish6 }, gateway, machine));
  const subnet6 = missing.has(IPV6) ? undefined : wish6;
  const stray = setup.runs && (await strays(subnet6 ? inside : inside.slice(0, 1), tun.name));
  if (stray) trace.note(stray);

  const clients = new Clients({ ...options, subnet6 }, tun); //  each will be one more fd; who has which inner address
  atExit(() => (transport.end(), clients.end())); //             before the changes are undone
  transport.serve(clients);
  setup.dropRoot(options.user);
  const addresses = innerAddresses(gateway, subnet.prefix, subnet6).join(" and ");
  trace.note(
    `listening on ${endpoint(listen, port)}: this end of the tunnel is ${addresses}, MTU ${mtu}${toDo}`,
  );

  // The loop: this fd, and the listener's and the clients', which tcp.ts watches in the same way.
  watch(tun.fd, {
    readable: () => outbound(tun, (packet, at, size) => clients.peerFor(packet, at, size)),
    error: () => fail(tunGone(tun)),
  });
});
