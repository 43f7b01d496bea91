/**
 * Client only: a session with the server, and the next one when it is lost. tun0 stays as it is meanwhile, with its address and
 * its routes: what is inside the tunnel notices a pause, and goes on. Nobody reads tun0 then; its queue holds about 500 packets,
 * and the kernel counts what does not fit (ip -s link: TX dropped).
 */
import { setTimeout as sleep } from "node:timers/promises";
import { canCarryIPv6, innerAddresses } from "./changes.ts";
import type { ClientConfig } from "./handshake.ts";
import { close } from "./libc.ts";
import type { ClientOptions } from "./options.ts";
import { Failure } from "./program.ts";
import { keepFresh } from "./rekey.ts";
import { clientChanges, clientRenewal, wayAround } from "./routes.ts";
import { startSession, WrongSecret } from "./session.ts";
import { setUp } from "./setup.ts";
import { connectTcp, resolve } from "./tcp.ts";
import { DOWN, trace, UP } from "./trace.ts";
import { Peer } from "./tunnel.ts";

const FIRST_PAUSE = 500; // ms, at most, before the first try …
const LONGEST_PAUSE = 30_000; // … and before each of the later ones

export interface Session {
  peer: Peer;
  config: ClientConfig;
  answered: boolean; // has the server ever sent a frame, in this session or one before it?
  failures: number; // tries without a frame from the server, before this session
}

/** One try: a TCP connection, fresh keys, and an inner address, that of the session `before` if the server still has it. Errors: a Failure. */
export async function connect(options: ClientOptions, before?: Session, addresses?: string[]): Promise<Session> {
  const socket = await connectTcp(addresses ?? (await resolve(options.server)), options.port, (address) => before && spare(options, address));
  const answered = before !== undefined && (before.answered || before.peer.framesReceived > 0);
  if (!options.secret) return { peer: new Peer(socket, UP, DOWN), config: { ...options.address, mtu: options.mtu }, answered, failures: 0 };
  try {
    const { peer, config } = await startSession(socket, options.secret, before?.config);
    keepFresh(peer, options.secret, options.rekey);
    const mtu = Math.min(config.mtu, options.mtu);
    return { peer, config: { ...config, mtu, subnet6: canCarryIPv6(options.tun, mtu) ? config.subnet6 : undefined }, answered, failures: 0 };
  } catch (error) {
    close(socket.fd);
    throw error;
  }
}

/** Makes this machine's end of the tunnel what the session says, or tells the user how; says that we are connected. */
export function configure(options: ClientOptions, { peer, config }: Session, before?: Session): void {
  const { address, remote } = peer.socket;
  const changes = () => (before ? clientRenewal(options, config, before.config, address) : clientChanges(options, config, address));
  const toDo = setUp(changes, options.configure);
  spared.add(address);
  trace.note(`connected to ${remote}: this end of the tunnel is ${before ? "now " : ""}${describe(config)}${toDo}`);
}

const spared = new Set<string>(); // addresses of the server that its own tunnel's routes leave out

/** The server may be at another address now: its packets, too, must not be routed into the tunnel. Errors: a Failure. */
function spare(options: ClientOptions, address: string): void {
  if (spared.has(address)) return;
  const changes = wayAround(options.routes, address);
  const toDo = changes.length > 0 ? setUp(() => changes, options.configure) : "";
  spared.add(address);
  if (changes.length > 0) trace.note(`the server may be at ${address} now, and the way there must not go through the tunnel${toDo}`);
}

/**
 * Connects again, as often as it takes. Errors: a Failure with --once, where a new try is in vain, or where it was connected but
 * never heard.
 */
export async function reconnect(options: ClientOptions, before: Session, reason: string): Promise<Session> {
  const lostAt = performance.now();
  const lost = `Lost the server ${before.peer.socket.remote}: ${reason}`;
  // Without a handshake, two different ciphers show only so.
  if (!options.secret && !before.answered && before.peer.framesReceived === 0) throw new Failure(lost, "start both ends with --cipher xor, or both without; or is the server full?");
  if (options.once) throw new Failure(lost, "start the server, then this client again");

  let problem = lost;
  const names = new Names(options.server, before.peer.socket.address);
  for (let failures = before.peer.framesReceived > 0 ? 0 : before.failures; ; failures++) {
    const pause = backOff(failures);
    trace.note(`${problem}; trying again in ${seconds(pause)} s`);
    names.lookUp(); // nobody waits for it: the way to the name server may lead into the tunnel
    await sleep(pause);
    let session: Session | undefined;
    try {
      session = await connect(options, before, names.addresses);
      const same = describe(session.config) === describe(before.config);
      const again = `connected again after ${seconds(performance.now() - lostAt)} s`;
      trace.note(same ? `${again}: this end of the tunnel is still ${describe(session.config)}` : `${again}, but with another address or MTU`);
      if (!same) configure(options, session, before);
      return { ...session, failures: failures + 1 };
    } catch (error) {
      if (!(error instanceof Failure) || error instanceof WrongSecret) throw error;
      problem = error.message;
      if (session) leave(session.peer);
    }
  }
}

/** Ends a session that is of no use. Without a goodbye, which would prove us: so the server keeps our address for us. */
function leave(peer: Peer): void {
  peer.close("");
  close(peer.socket.fd);
}

/** The server's addresses: the one of before, until its name is found. */
class Names {
  addresses: string[];
  private readonly name: string;
  private busy = false;

  constructor(name: string, before: string) {
    this.name = name;
    this.addresses = [before];
  }

  async lookUp(): Promise<void> {
    if (this.busy) return;
    this.busy = true;
    try {
      this.addresses = await resolve(this.name);
    } catch {
      // those that we have stay; the next try looks again
    }
    this.busy = false;
  }
}

/**
 * How long to wait after so many failed tries, ms: twice as long each time, up to half a minute, and a random part of it less, so that
 * thirty clients of a server that restarts do not come all at once ("equal jitter" in M. Brooker, Exponential Backoff And Jitter,
 * AWS Architecture Blog, 2015). `random`: 0 to 1.
 */
export function backOff(failures: number, random = Math.random()): number {
  const longest = Math.min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** failures);
  return longest / 2 + (random * longest) / 2;
}

const seconds = (ms: number) => (ms / 1000).toFixed(1);
const describe = ({ address, prefix, mtu, subnet6 }: ClientConfig) => `${innerAddresses(address, prefix, subnet6).join(" and ")}, MTU ${mtu}`;
