/**
 * Client only: a session with the server, and the next one when it is lost. Meanwhile tun0 keeps its address
 * and its routes. Programs inside the tunnel notice a pause, and go on. Nobody reads tun0 then: its queue
 * holds about 500 packets, and the kernel counts what does not fit (ip -s link: TX dropped).
 */
import { setTimeout as sleep } from "node:timers/promises";
import { ECONNREFUSED, EINVAL } from "../base/errno.ts";
import { hostRoute, ipFor } from "../base/block.ts";
import { addressesOf, type Change, innerAddresses, insideOf, keepKernelOut } from "../host/changes.ts";
import { checkFree, strays } from "../host/checks.ts";
import { run } from "../host/command.ts";
import { withFirewall } from "../host/firewall.ts";
import type { SessionKeys } from "../core/aes.ts";
import { counters } from "../base/counters.ts";
import { Failure } from "../base/failure.ts";
import type { ClientConfig } from "../session/payloads.ts";
import { canCarryIPv6, type Machine } from "../host/machine.ts";
import type { ClientOptions } from "../host/options.ts";
import { UNBLOCK } from "./guard.ts";
import { resolver } from "./resolver.ts";
import { clientChanges, isBlocked, ofSocks, renewal, spare, tunnelTo, withoutPrefix } from "./routes.ts";
import { Names, resolve } from "./names.ts";
import { serveSocks } from "./socks.ts";
import { clientStatus, serverOf } from "./status.ts";
import type { Peer } from "../core/peer.ts";
import type { Heartbeat } from "../session/pulse.ts";
import { ClientHandshake, noSession, WrongSecret } from "../session/session.ts";
import { Setup } from "../host/setup.ts";
import { openStatus } from "../host/status.ts";
import { LINK_LOCAL } from "../transport/sockets.ts";
import { type Answer, type Port, Unreachable } from "../transport/transport.ts";
import { trace } from "../base/trace.ts";
import { wipe } from "../base/wipe.ts";

const FIRST_PAUSE = 500; // ms, at most, before the first try
const LONGEST_PAUSE = 30_000; // ms, at most, before any try
const DIAL_DEADLINE = 10_000; // ms, for all addresses of a name together

export interface Session {
  readonly remote: string;
  readonly address: string; // the server's: "192.168.1.1"
  readonly attach: Answer["attach"]; // makes it a peer's link
  keys: SessionKeys | undefined; // undefined: --cipher xor
  secret: Buffer | undefined; // that the server knew us by; undefined: --cipher xor
  config: ClientConfig;
  peer?: Peer; // once it is attached
  pulse?: Heartbeat; // of that peer
  answered: boolean; // has the server ever sent a frame, in this session or one before it?
  useless: boolean; // this machine could not be configured for it
  failures: number; // tries without a frame from the server, before this session
}

/** Has the server sent a frame in this session? */
const heard = ({ peer }: Session) => peer !== undefined && peer.traffic.received.frames > 0;

/**
 * One try: a connection, fresh keys, and an inner address, that of the session `before` if the server still
 * has it. If the server refuses one of our secrets, the next one follows. Errors: a Failure.
 */
export async function openSession(
  options: ClientOptions,
  end: ClientEnd,
  port: Port,
  before?: Session,
  addresses?: string[],
): Promise<Session> {
  const all: (Buffer | undefined)[] = options.secrets ?? [undefined];
  // Once one has worked, those behind it are not tried again: whoever has an old one could play the server.
  const secrets = all.slice(0, all.indexOf(before?.secret) + 1 || all.length);
  for (const secret of secrets.slice(0, -1)) {
    try {
      return await openWith(secret, options, end, port, before, addresses);
    } catch (error) {
      if (!(error instanceof WrongSecret)) throw error;
    }
  }
  return openWith(secrets.at(-1), options, end, port, before, addresses);
}

/** The same with one secret of ours. */
async function openWith(
  secret: Buffer | undefined,
  ...[options, end, port, before, addresses]: Parameters<typeof openSession>
): Promise<Session> {
  const prepare = (address: string) => (before ? end.spare(address) : end.reachable(address));
  const servers = addresses ?? (await resolve(options.server));
  const handshake = secret && new ClientHandshake(secret, before?.config);
  const answered = before !== undefined && (before.answered || heard(before));
  let answer: Awaited<ReturnType<typeof reach>> | undefined;
  let keys: SessionKeys | undefined;
  try {
    answer = await reach(port, servers, handshake, prepare);
    const { remote, address, attach } = answer;
    const given: { keys?: SessionKeys; config: ClientConfig } = handshake?.finish(
      answer.message2,
      remote,
    ) ?? { config: { ...options.address, mtu: options.mtu } };
    keys = given.keys;
    const mtu = Math.min(given.config.mtu, options.mtu, answer.largest);
    const config = {
      ...given.config,
      mtu,
      subnet6: canCarryIPv6(options.tun, mtu) ? given.config.subnet6 : undefined,
    };
    // Before we prove ourselves: if the session is of no use to us, the server still keeps our former
    // address.
    end.check(config, address);
    counters.handshakes.ok++;
    return { remote, address, attach, keys, secret, config, answered, useless: false, failures: 0 };
  } catch (error) {
    counters.handshakes.failed++;
    answer?.hangUp();
    handshake?.end();
    wipe(keys?.send, keys?.receive);
    throw error;
  }
}

/**
 * Dials one address after the other, until one answers. `prepare` is called before each. Errors: a Failure.
 */
export async function reach(
  port: Port,
  addresses: string[],
  handshake?: Pick<ClientHandshake, "message1" | "isGood">,
  prepare = async (_address: string): Promise<unknown> => undefined,
): Promise<Answer & { address: string }> {
  const failed: Unreachable[] = [];
  for (const address of addresses) {
    await prepare(address);
    try {
      const ms = DIAL_DEADLINE / addresses.length;
      return { address, ...(await port.dial(address, ms, handshake?.message1, handshake?.isGood)) };
    } catch (error) {
      if (!(error instanceof Unreachable)) throw noSession(port.endpoint(address), error);
      failed.push(error);
    }
  }
  const hints: Record<number, string> = {
    [-ECONNREFUSED]:
      "the machine answers, but nothing listens there: start the server, or check --port and --transport",
    [-EINVAL]: LINK_LOCAL,
  };
  const hint = failed.map(({ errno }) => hints[errno]).find(Boolean);
  const reasons = failed.map(({ message }) => message).join(", nor to ");
  throw new Failure(
    `Cannot connect to ${reasons}`,
    hint ?? "check the address with ping, and that no firewall blocks the port",
  );
}

/**
 * This machine's end of the tunnel: its addresses, what is routed into it, and the way to the server. Run, or
 * printed to be typed.
 */
export class ClientEnd {
  private readonly options: ClientOptions;
  private readonly setup: Setup;
  private readonly names: Change[]; // what --dns changes
  private machine: Machine;
  private readonly outers: string[] = []; // addresses of the server that its own tunnel's routes leave out
  private config: ClientConfig | undefined; // what it is now
  private session: Session | undefined; // the latest

  /** Reads what this machine has. Errors: a Failure. */
  static async begin(options: ClientOptions): Promise<ClientEnd> {
    const setup = new Setup(options.configure, options.configure || options.status !== undefined);
    const found = await setup.begin(options.tun);
    const machine = setup.runs ? await withFirewall(found) : found;
    const blocked = machine.blocked.map((block) => block.split(" ")[0]).join(", ");
    if (blocked) trace.note(`--kill-switch of a client before blocks ${blocked}; to end that: ${UNBLOCK}`);
    return new ClientEnd(options, setup, machine, resolver(options.tun, options.dns, machine));
  }

  private constructor(options: ClientOptions, setup: Setup, machine: Machine, names: Change[]) {
    this.options = options;
    this.setup = setup;
    this.machine = machine;
    this.names = names;
  }

  /**
   * Makes it what the session says, or tells the user how. Then says that we are connected, and gives up root
   * if --user asks for it. Errors: a Failure, if this is the first session. A later session is ended instead,
   * and the next one is another try.
   */
  async configure(session: Session): Promise<void> {
    const { config, address, remote } = session;
    const before = this.config;
    this.session = session;
    try {
      if (before && describe(config) === describe(before)) return;
      const warning = this.check(config, address);
      if (warning) trace.note(warning);
      const toDo = await this.arrange(config, address);
      trace.note(
        `connected to ${remote}: this end of the tunnel is ${before ? "now " : ""}${describe(config)}${toDo}`,
      );
      this.setup.dropRoot(this.options.user);
    } catch (error) {
      if (!before || !(error instanceof Failure)) throw error;
      session.useless = true;
      session.peer!.close(error.message);
    }
  }

  /** From now on, who asks by --status or --metrics is told. Errors: a Failure. */
  openStatus(): Promise<void> {
    return openStatus(this.options, this.setup, () => clientStatus(this.options, this.session));
  }

  /** From now on, programs that speak SOCKS5 reach what is beyond the tunnel: --socks. Errors: a Failure. */
  openSocks(): void {
    const { socks, tun } = this.options;
    if (!socks) return;
    serveSocks(socks, {
      tun,
      own: () => (this.config ? addressesOf(this.config).map(withoutPrefix) : []),
      nameServers: () =>
        socks.dns.length > 0 || !this.config ? socks.dns : serverOf(this.config).slice(0, 1),
    });
  }

  /** Can this end be what a session says? Returns a warning, or "". Errors: a Failure. */
  check(config: ClientConfig, outer: string): string {
    clientChanges(this.options, config, [...this.outers, outer], this.machine);
    const option = this.options.secrets
      ? "another --subnet on the server, such as BLOCK"
      : "another --address here, and --subnet BLOCK on the server"; // without a handshake, no one assigns it
    return checkFree(this.machine, insideOf(config), option);
  }

  /**
   * Before a new try: the server or this machine may have other addresses now. The tunnel's own packets must
   * not be routed into the tunnel. Errors: a Failure.
   */
  async spare(address: string): Promise<void> {
    this.machine = await this.setup.readAgain(this.options.tun, this.machine);
    const known = this.outers.includes(address);
    const toDo = await this.arrange(this.config!, address);
    if (toDo !== undefined && known)
      trace.note(
        `this machine has other addresses now, and answers from them must not go into the tunnel${toDo}`,
      );
    else if (toDo !== undefined)
      trace.note(
        `the server may be at ${address} now, and the way there must not go through the tunnel${toDo}`,
      );
  }

  /**
   * Before the first try: what --kill-switch of a client before us blocks, must let us connect. With raw, our
   * kernel must not answer instead of us.
   */
  async reachable(address: string): Promise<void> {
    const { options, machine, setup } = this;
    if (!setup.runs) return;
    const isFree = address.includes("%") || !isBlocked(ipFor(address), machine);
    const changes = [
      ...keepKernelOut(options, machine, address),
      ...(isFree ? [] : spare(address, options, machine)),
    ];
    if (changes.length > 0) await setup.make(changes);
  }

  /** Undefined: there was nothing to do. Else what is still to be typed, or "". */
  private async arrange(config: ClientConfig, outer: string): Promise<string | undefined> {
    const { options, machine, outers } = this;
    const before = this.config ? clientChanges(options, this.config, outers, machine) : [];
    const all = [...new Set([...outers, outer])];
    const after = clientChanges(options, config, all, machine);
    const runs = new Set(after.map(({ run }) => run));
    // A route that has moved to our table goes from the main one, and its guard with it.
    const guards = options.routes.map((route) => `ip route replace unreachable ${route} `);
    const moved = before.filter(
      ({ run }) =>
        !runs.has(run) &&
        (ofSocks(run) || ["ip route add ", ...guards].some((start) => run.startsWith(start))),
    );
    const changes = [
      ...after.filter(({ part }) => part !== undefined), // the wall, before there is a new address
      ...(this.config ? renewal(options.tun, config, this.config, machine) : []),
      ...after,
      ...this.names,
      ...moved.map(({ run }): Change => ({ run: run.replace(/add|replace/, "del"), removes: run })),
    ];
    if (options.killSwitch && this.config === undefined)
      this.setup.lastly(
        `What belongs into the tunnel stays blocked (--kill-switch). To end that: ${UNBLOCK}`,
      );
    const way = await this.wayTo(outer);
    const { toDo, some } = await this.setup.make(changes);
    const now = await this.wayTo(outer);
    const into = `dev ${options.tun}`; // as it was to an address that was not spared yet
    if (this.setup.runs && (now === into || (now !== way && way !== into))) {
      const change = now === way ? "" : `it was '${way}', and `;
      throw new Failure(
        `Cannot keep the way to the server: ${change}with these routes it is '${now}'`,
        "leave out the --route that the server is in; 'ip rule' shows which rules of yours lead to it",
      );
    }
    this.config = config;
    this.outers.splice(0, Infinity, ...all);
    const warning =
      some &&
      this.setup.runs &&
      (await strays([...insideOf(config), ...options.routes, ...options.dns.map(hostRoute)], options.tun));
    if (warning) trace.note(warning);
    return some ? toDo : undefined;
  }

  /** How the kernel would send a packet to that address: "dev eth0", and over which router. */
  private async wayTo(outer: string): Promise<string> {
    if (!this.setup.runs) return "none"; // the user changes the routes, and sees where they lead
    const ask = `ip route get ${outer.replace(/%.*/, "")}`;
    let { stdout, stderr } = await run(`${ask} ${tunnelTo(this.options, true)}`);
    if (stderr.includes("ipproto")) ({ stdout } = await run(ask)); // an ip command before 4.17 knows no ports
    return /(via \S+ )?dev \S+/.exec(stdout)?.[0] ?? "none";
  }
}

/**
 * Connects again, as often as it takes. Errors: a Failure with --once, where a new try is in vain, or where
 * it was connected but never heard.
 */
export async function reconnect(
  options: ClientOptions,
  end: ClientEnd,
  port: Port,
  before: Session,
  reason: string,
): Promise<Session> {
  const lostAt = performance.now();
  const lost = `Lost the server ${before.remote}: ${reason}`;
  // Without a handshake, two different ciphers show only so.
  if (!options.secrets && !before.answered && !heard(before))
    throw new Failure(lost, "start both ends with --cipher xor, or both without; or is the server full?");
  if (options.once) throw new Failure(lost, "start the server, then this client again");

  let problem = lost;
  const names = new Names(options.server, before.address);
  for (let failures = heard(before) && !before.useless ? 0 : before.failures; ; failures++) {
    const pause = backOff(failures);
    trace.note(`${problem}; trying again in ${seconds(pause)} s`);
    names.lookUp(); // nobody waits for it: the way to the name server may lead into the tunnel
    await sleep(pause);
    try {
      const session = await openSession(options, end, port, before, names.addresses);
      counters.reconnects++;
      const same = describe(session.config) === describe(before.config);
      const again = `connected again after ${seconds(performance.now() - lostAt)} s`;
      trace.note(
        same
          ? `${again}: this end of the tunnel is still ${describe(session.config)}`
          : `${again}, but with another address or MTU`,
      );
      return { ...session, failures: failures + 1 };
    } catch (error) {
      // a refusal, too: nothing authenticates it, and our end would open the way around the tunnel
      if (!(error instanceof Failure)) throw error;
      problem = error.message;
    }
  }
}

/**
 * How long to wait after so many failed tries, ms. Each time it is twice as long, up to half a minute. A
 * random part is taken off, so that thirty clients of a server that restarts do not all come at once ("equal
 * jitter": M. Brooker, Exponential Backoff And Jitter, AWS Architecture Blog, 2015). `random`: 0 to 1.
 */
export function backOff(failures: number, random = Math.random()): number {
  const longest = Math.min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** failures);
  return longest / 2 + (random * longest) / 2;
}

const seconds = (ms: number) => (ms / 1000).toFixed(1);
const describe = ({ address, prefix, mtu, subnet6 }: ClientConfig) =>
  `${innerAddresses(address, prefix, subnet6).join(" and ")}, MTU ${mtu}`;
