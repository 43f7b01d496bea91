/** Server only: this machine's end of the tunnel. Run, or printed to be typed. */
import { embed, formatIPv4, type Prefix96 } from "../base/address.ts";
import { MAX_PEERS, peerStatus } from "../base/status.ts";
import { trace } from "../base/trace.ts";
import type { Tun } from "../core/tun.ts";
import { innerAddresses, insideOf, IPV6, serverChanges } from "../host/changes.ts";
import { checkDevice, checkFree, strays } from "../host/checks.ts";
import { findWalls, withFirewall } from "../host/firewall.ts";
import { canCarryIPv6 } from "../host/machine.ts";
import type { ServerOptions } from "../host/options.ts";
import { Setup } from "../host/setup.ts";
import { openStatus } from "../host/status.ts";
import { endpoint } from "../transport/addresses.ts";
import type { Clients } from "./clients.ts";

export class ServerEnd {
  /** Of the clients' inner IPv6 addresses; undefined: there are none. */
  readonly subnet6: Prefix96 | undefined;
  /** Its addresses and MTU, and what the user has to type. */
  readonly description: string;
  private readonly setup: Setup;
  private readonly options: ServerOptions;

  /** Reads what this machine has, checks that the tunnel fits in, and sets it up. Errors: a Failure. */
  static async begin(options: ServerOptions, tun: Tun): Promise<ServerEnd> {
    const { secrets, subnet, mtu, nat } = options;
    const setup = new Setup(options.configure, options.configure || options.status !== undefined);
    const found = await setup.begin(tun.name);
    const machine = setup.runs ? await withFirewall(found, nat ? "nat" : "raw") : found;
    if (options.configure) checkDevice(machine, nat, tun.name);
    say(nat && (await findWalls(tun.name, machine)));
    const wish6 = secrets && canCarryIPv6(tun.name, mtu) ? options.subnet6 : undefined;
    const gateway = subnet.network + 1;
    const inside = insideOf({ address: gateway, prefix: subnet.prefix, mtu, subnet6: wish6 });
    say(checkFree(machine, inside, "--subnet BLOCK"));
    const changes = serverChanges({ ...options, subnet6: wish6 }, gateway, machine);
    const { toDo, missing } = await setup.make(changes);
    const subnet6 = missing.has(IPV6) ? undefined : wish6;
    if (setup.runs) say(await strays(subnet6 ? inside : inside.slice(0, 1), tun.name));
    const addresses = innerAddresses(gateway, subnet.prefix, subnet6).join(" and ");
    return new ServerEnd(options, setup, subnet6, `${addresses}, MTU ${mtu}${toDo}`);
  }

  private constructor(
    options: ServerOptions,
    setup: Setup,
    subnet6: Prefix96 | undefined,
    description: string,
  ) {
    this.options = options;
    this.setup = setup;
    this.subnet6 = subnet6;
    this.description = description;
  }

  /** From now on, who asks by --status or --metrics is told. Errors: a Failure. */
  openStatus(clients: Clients): Promise<void> {
    const { options, subnet6 } = this;
    const { tun, mtu, transport, listen, port, subnet } = options;
    const inner = innerAddresses(subnet.network + 1, subnet.prefix, subnet6);
    return openStatus(options, this.setup, () => {
      const { connected } = clients;
      return {
        role: "server",
        state: "listening",
        tun: { name: tun, mtu },
        transport,
        endpoint: endpoint(listen, port),
        inner,
        peers: connected.slice(0, MAX_PEERS).map(({ lease: { address }, peer }) => {
          const addresses = [formatIPv4(address), ...(subnet6 ? [embed(subnet6, address)] : [])];
          return peerStatus(addresses, peer.link.remote, peer.traffic, peer.keys !== undefined);
        }),
        peerCount: connected.length,
      };
    });
  }

  /** Gives up root, where --user asks for it. */
  dropRoot(): void {
    this.setup.dropRoot(this.options.user);
  }
}

const say = (warning: string | undefined) => warning && trace.note(warning);
