/** What a program tells about itself: by --status as a line of JSON each second, by --metrics as text. */
import { type Counter, counters, type Traffic } from "./counters.ts";
import { byCode } from "./drops.ts";

/** Bytes and packets of one direction of a session. */
export type Amount = Pick<Counter, "packets" | "bytes">;

/** The other end of one session. Times are ages, in seconds. */
export interface PeerStatus {
  inner: string; // its address in the tunnel
  inner6?: string; // where the tunnel carries IPv6
  remote: string; // its address and port outside
  sent: Amount; // to it
  received: Amount; // from it
  keyAge?: number; // of its newest keys; --cipher xor has none
  lastSeen: number; // of the latest frame from it
  connected: number; // of its session
}

/** What only the program itself knows; the rest is the same in both. */
export interface OwnStatus {
  role: "server" | "client";
  state: "listening" | "connecting" | "connected" | "reconnecting";
  tun: { name: string; mtu: number }; // bytes
  transport: string;
  endpoint: string; // where the server listens, or where the client's server is
  inner: string[]; // this end's addresses in the tunnel: "10.8.0.1/24"; a client gets them with its session
  peers: PeerStatus[]; // MAX_PEERS at most
  peerCount: number; // of all
  socks?: typeof counters.socks; // of a client with --socks
}

export interface Status extends OwnStatus {
  type: "status";
  time: string; // ISO 8601
  pid: number;
  version: string;
  counters: { sent: Counter; received: Counter }; // of all sessions so far
  drops: Record<string, number>; // packets, by a code of drops.ts
  handshakes: { ok: number; failed: number };
  rekeys: number;
  reconnects: number;
  loop: { p50: number; p99: number; max: number }; // how late the event loop was in the last second, ms
  memory: { rss: number; heapUsed: number }; // bytes
}

/** So many peers are told one by one: a line has at most some 70 KB, whatever --max-clients is. */
export const MAX_PEERS = 256;

/** One session's part. `inner`: the other end's addresses; `now`: performance.now(). */
export function peerStatus(
  [inner = "", inner6]: string[],
  remote: string,
  { sent, received, since, keysSince, lastSeen }: Traffic,
  hasKeys: boolean,
  now = performance.now(),
): PeerStatus {
  const age = (time: number) => Math.round(Math.max(0, now - time) / 100) / 10;
  return {
    inner,
    ...(inner6 !== undefined && { inner6 }),
    remote,
    sent: { packets: sent.packets, bytes: sent.bytes },
    received: { packets: received.packets, bytes: received.bytes },
    ...(hasKeys && { keyAge: age(keysSince) }),
    lastSeen: age(lastSeen),
    connected: age(since),
  };
}

/** The whole of it. */
export function statusOf(own: OwnStatus, version: string, loop: Status["loop"]): Status {
  const { rss, heapUsed } = process.memoryUsage();
  const { role, state, tun, transport, endpoint, inner, peers, peerCount, socks } = own;
  return {
    type: "status",
    time: new Date().toISOString(),
    role,
    pid: process.pid,
    version,
    state,
    tun,
    transport,
    endpoint,
    inner,
    counters: { sent: counters.sum("sent"), received: counters.sum("received") },
    drops: byCode(counters.drops),
    handshakes: { ...counters.handshakes },
    rekeys: counters.rekeys,
    reconnects: counters.reconnects,
    ...(socks && { socks: { ...socks } }),
    peers,
    peerCount,
    loop,
    memory: { rss, heapUsed },
  };
}
