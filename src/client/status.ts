/** Client only: what it tells by --status. */
import { embed, formatIPv4, parseCidr } from "../base/address.ts";
import { counters } from "../base/counters.ts";
import { type OwnStatus, peerStatus } from "../base/status.ts";
import type { Peer } from "../core/peer.ts";
import { addressesOf } from "../host/changes.ts";
import type { ClientOptions } from "../host/options.ts";
import type { ClientConfig } from "../session/payloads.ts";
import { endpoint } from "../transport/addresses.ts";

/** `session`: the latest; undefined before the first. */
export function clientStatus(
  { tun, mtu, transport, server, port, socks }: ClientOptions,
  session: { config: ClientConfig; peer?: Peer } | undefined,
): OwnStatus {
  const { config, peer } = session ?? {};
  const isConnected = peer !== undefined && !peer.closed;
  const peers = isConnected
    ? [peerStatus(serverOf(config!), peer.link.remote, peer.traffic, peer.keys !== undefined)]
    : [];
  return {
    role: "client",
    state: isConnected ? "connected" : session ? "reconnecting" : "connecting",
    tun: { name: tun, mtu: config?.mtu ?? mtu },
    transport,
    endpoint: peer?.link.remote ?? endpoint(server, port),
    inner: config ? addressesOf(config) : [],
    peers,
    peerCount: peers.length,
    ...(socks && { socks: counters.socks }),
  };
}

/** The server's inner addresses: it takes the first of each block. */
export function serverOf({ address, prefix, subnet6 }: ClientConfig): string[] {
  const gateway = parseCidr(`${formatIPv4(address)}/${prefix}`)!.network + 1;
  return [formatIPv4(gateway), ...(subnet6 ? [embed(subnet6, gateway)] : [])];
}
