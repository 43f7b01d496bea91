/**
 * Do crafted segments get to a server, and back? If they do not: how far? A router that has to drop a packet
 * because its hops are used up says so (ICMP "time exceeded"). So pings of 1, 2, 3 … hops show the way.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { formatIPv4, formatIPv6 } from "../base/address.ts";
import { ECONNREFUSED } from "../base/errno.ts";
import { Failure } from "../base/failure.ts";
import { close, Memory, read } from "../base/libc.ts";
import { resolve } from "../client/names.ts";
import { ready } from "../core/loop.ts";
import { CLIENT, option, parse, whole } from "../host/options.ts";
import { exit } from "../host/program.ts";
import { readSecrets, takeFromEnvironment } from "../host/secret.ts";
import { ClientHandshake } from "../session/session.ts";
import { endpoint, sockaddr } from "../transport/addresses.ts";
import { RawPort } from "../transport/raw.ts";
import { reserve } from "../transport/raw-socket.ts";
import * as calls from "../transport/socket-calls.ts";
import { Flow } from "../transport/tcp-segments.ts";
import { Unreachable } from "../transport/transport.ts";

const DEADLINE = 3_000; // ms for a pong
const [HOPS, PER_HOP] = [30, 1_000]; // at most, and ms
const SILENT = 5; // hops without a word one after the other: that is the end

const { port, secret, help } = CLIENT;
const tcpFlags = CLIENT["tcp-flags"];
const count = option("N", "3", "how many pings", whole(1, 1000));

export async function ping(args: string[]): Promise<void> {
  const environment = takeFromEnvironment();
  const table = { port, secret, "tcp-flags": tcpFlags, count, help };
  const { values, positionals } = parse(args, table, "src/tools.ts ping <server>");
  if (positionals.length !== 1)
    throw new Failure("Cannot start: expected one server", "npx tsx src/tools.ts ping 192.168.1.1", 2);
  const [number, flags] = [values.port!.at(-1)!, values["tcp-flags"]!.at(-1)!];
  const [key] = readSecrets(values.secret, environment);
  const [address = ""] = await resolve(positionals[0]!);
  const raw = new RawPort({ port: number, handshake: true, tcpFlags: flags });
  const there = endpoint(address, number);
  let pongs = 0;
  for (let i = values.count!.at(-1)!; i > 0; i--) {
    const handshake = new ClientHandshake(key!);
    const since = performance.now();
    try {
      const { message2, hangUp } = await raw.dial(address, DEADLINE, handshake.message1, handshake.isGood);
      const ms = (performance.now() - since).toFixed(1);
      hangUp();
      if (message2.length > 0) pongs++;
      const secrets = message2.length > 0 ? "the same secret" : "it refuses our secret: check --secret";
      console.log(`pong from ${there}: ${ms} ms, ${secrets}`);
    } catch (error) {
      if (!(error instanceof Unreachable)) throw error;
      console.log(`no pong from ${error.message}`);
      console.log(await whyNoPong(error.errno, raw, address, number, flags, console.log));
      return exit(1);
    } finally {
      handshake.end();
    }
    if (i > 1) await sleep(300); // a server lets an address begin four handshakes a second, and a few more
  }
  exit(pongs > 0 ? 0 : 1);
}

/** Why there was no pong, and where to look; `errno` is what dial() said. Each hop is told as it is seen. */
export async function whyNoPong(
  errno: number,
  { socket }: RawPort,
  address: string,
  port: number,
  flags: readonly number[],
  tell: (hop: string) => void = () => {},
): Promise<string> {
  if (errno === -ECONNREFUSED)
    return "segments arrive, and its kernel answers RST: --transport raw is not enabled on the server";
  const there = sockaddr(address, port);
  const here = socket.own(there, 0);
  const isIPv6 = there.length > 16;
  const [family, protocol] = isIPv6
    ? [calls.AF_INET6, calls.IPPROTO_ICMPV6]
    : [calls.AF_INET, calls.IPPROTO_ICMP];
  const icmp = calls.socket(family, calls.SOCK_RAW | calls.SOCK_NONBLOCK | calls.SOCK_CLOEXEC, protocol);
  if (typeof here === "number" || icmp < 0) return "there is no way to it at all";
  let last = "nobody";
  // Pings with few hops: which routers drop them?
  for (let hops = 1, silent = 0; hops <= HOPS && silent < SILENT; hops++, silent++) {
    const taken = reserve(isIPv6 ? formatIPv6(here, 8) : formatIPv4(here.readUInt32BE(4)), 0);
    if (typeof taken === "number") break;
    here.writeUInt16BE(taken.port, 2);
    const flow = new Flow(here, there, flags);
    flow.hops = hops;
    socket.put(flow, Buffer.alloc(64), 0, 64);
    socket.flush();
    const router = await whoDropped(icmp, taken.port, isIPv6);
    close(taken.fd);
    tell(`hop ${hops}: ${router ?? "no word"}`);
    if (router) [last, silent] = [router, -1];
  }
  close(icmp);
  return `the last that said a word is ${last}: look behind it for what drops them, and on the server itself`;
}

/** The router whose ICMP error quotes a segment from that port of ours; undefined if none came in time. */
async function whoDropped(icmp: number, port: number, isIPv6: boolean): Promise<string | undefined> {
  const memory = new Memory(2048);
  const name = Buffer.alloc(28);
  for (const deadline = performance.now() + PER_HOP; ;) {
    const left = deadline - performance.now();
    if (left <= 0 || !(await ready(icmp, "readable", left))) return undefined;
    const size = isIPv6 ? receiveFrom(icmp, memory, name) : read(icmp, memory, 0, memory.bytes.length);
    const { bytes } = memory;
    const at = isIPv6 ? 0 : (bytes[0]! & 15) * 4; // a raw socket of IPv4 gives the IP header, too (raw(7))
    const quoted = at + 8 + (isIPv6 ? 40 : 20);
    if (size < quoted + 4 || bytes.readUInt16BE(quoted) !== port) continue;
    return isIPv6 ? formatIPv6(name, 8) : formatIPv4(bytes.readUInt32BE(12));
  }
}

const receiveFrom = (fd: number, { bytes }: Memory, name: Buffer) =>
  calls.recvfrom(fd, bytes, bytes.length, 0, name, [name.length]);
