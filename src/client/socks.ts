/**
 * `--socks`: a SOCKS5 server (RFC 1928) beside the TUN. A program asks it to connect somewhere, and its bytes
 * go through the tunnel, without any route. Unlike the TUN it carries TCP and UDP only, of those programs
 * only that ask. The kernel stays the TCP stack: we dial by ordinary sockets that are bound to the TUN, and
 * copy from one socket to the other. So the core knows nothing of this.
 */
import { createHash, timingSafeEqual } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { counters } from "../base/counters.ts";
import { EADDRNOTAVAIL, EAGAIN, ECONNREFUSED, ENETUNREACH, errnoName } from "../base/errno.ts";
import { Failure } from "../base/failure.ts";
import { close, Memory, read, write } from "../base/libc.ts";
import { trace } from "../base/trace.ts";
import { ready, watch } from "../core/loop.ts";
import { endpoint } from "../transport/addresses.ts";
import { IPPROTO_TCP, SHUT_RDWR, SHUT_WR, shutdown, TCP_USER_TIMEOUT } from "../transport/socket-calls.ts";
import { acceptTcp, listenTcp, setOptions, type TcpSocket } from "../transport/sockets.ts";
import * as messages from "./socks-messages.ts";
import {
  CONNECT,
  type Parsed,
  Refusal,
  Reply,
  replyIs,
  type Target,
  UDP_ASSOCIATE,
} from "./socks-messages.ts";
import { lookUp } from "./socks-names.ts";
import { Relay } from "./socks-relay.ts";
import { connectThrough, isBeyond, localOf, type Way } from "./socks-sockets.ts";
import { Association } from "./socks-udp.ts";

const MAX_PROGRAMS = 256; // connections at once
const MAX_WAITING = 64; // of them, those whose request has not come: the oldest one makes room
const ACCEPTS = 16; // in one turn of the loop
const ACCEPT_PAUSE = 1_000; // ms without accept() where it fails: those who are connected go on
const PATIENCE = 10_000; // ms for a program's messages, all of them together
const DIAL = 15_000; // ms to connect, for all addresses of a name together
const DAY = 86_400_000; // ms
const LINGER = 5_000; // ms for a program to read why it is refused
const GUESS = 1_000; // ms that a wrong password costs
const NOTES = 1_000; // ms between two lines about what failed
const LONGEST = 1024; // bytes of one read(): a message has at most 513

export interface SocksOptions {
  host: string; // an address of this machine
  port: number;
  login: string | undefined; // "user:password"; undefined: whoever reaches us may use it
}

/** Listens from now on. Errors: a Failure. */
export function serveSocks(options: SocksOptions, way: Way): void {
  const socks = new Socks(options, way);
  const listener = listen(options);
  const watched = watch(listener, {
    readable() {
      for (let i = 0; i < ACCEPTS; i++) {
        const socket = acceptTcp(listener);
        if (socket === -EAGAIN) return;
        if (typeof socket !== "number") void socks.serve(socket);
        else {
          socks.failed(`accept: ${errnoName(socket)}`); // EMFILE, or it is gone already (accept(2))
          watched.want(false, false);
          setTimeout(() => watched.want(true, false), ACCEPT_PAUSE).unref();
          return;
        }
      }
    },
    error: () => socks.failed("it cannot accept programs any more"),
  });
}

function listen({ host, port }: SocksOptions): number {
  try {
    return listenTcp(host, port);
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    throw new Failure(`${error.message} (--socks)`, error.hint.replace(/--(port|listen)/, "--socks"));
  }
}

/** A program that is connected. */
interface Program {
  readonly fd: number;
  readonly address: string;
  readonly deadline: number; // for its request, ms
  rest: Buffer; // bytes behind the latest message
  why: string; // it is sent away; "": it is not
}

export class Socks {
  private readonly login: Buffer | undefined; // a hash, so that all comparisons take the same time
  private readonly way: Way;
  private readonly waiting = new Set<Program>(); // for their requests
  private notedAt = -Infinity;

  constructor({ login }: SocksOptions, way: Way) {
    this.login = login === undefined ? undefined : hash(messages.loginMessage(login));
    this.way = way;
  }

  /** A request came to nothing. Counted each time, and told once a second at most. */
  failed(why: string): void {
    counters.socks.failed++;
    const now = performance.now();
    if (now - this.notedAt < NOTES) return;
    this.notedAt = now;
    trace.note(`--socks: ${why}`);
  }

  /** One program's connection, from its first byte to its last. Never throws. */
  async serve({ fd, address }: Pick<TcpSocket, "fd" | "address">): Promise<void> {
    counters.socks.open++;
    const deadline = performance.now() + PATIENCE;
    const program: Program = { fd, address, deadline, rest: Buffer.alloc(0), why: "" };
    try {
      setOptions(fd, [IPPROTO_TCP, TCP_USER_TIMEOUT, 0]); // it may stop reading for as long as it likes
      const request = await this.greet(program);
      if (request.command === CONNECT) await this.connect(program, request);
      else if (request.command === UDP_ASSOCIATE) await this.associate(program, request);
      else throw new Refusal(`command ${request.command}`, replyIs(Reply.badCommand));
    } catch (error) {
      this.failed((error as Error).message);
      if (error instanceof Refusal && error.answer) await farewell(fd, error.answer);
      close(fd);
    }
    counters.socks.open--;
  }

  /** What the program sends before its bytes go on. One more than may wait makes the oldest one leave. */
  private async greet(program: Program): Promise<messages.Request> {
    if (counters.socks.open > MAX_PROGRAMS) throw new Error(`more than ${MAX_PROGRAMS} programs at once`);
    this.waiting.add(program);
    const [oldest] = this.waiting;
    if (this.waiting.size > MAX_WAITING) {
      oldest!.why = "its request did not come, and others needed the place";
      shutdown(oldest!.fd, SHUT_RDWR); // its read() will be 0
      this.waiting.delete(oldest!);
    }
    try {
      return await this.ask(program);
    } finally {
      this.waiting.delete(program);
    }
  }

  /** The methods, the login where there is one, the request. */
  private async ask(program: Program): Promise<messages.Request> {
    const method = this.login ? messages.LOGIN : messages.NO_LOGIN;
    const known = await take(program, messages.readMethods);
    if (!known.includes(method)) {
      const why = this.login ? "it offers no user and password" : "it insists on a login";
      throw new Refusal(why, messages.methodIs(messages.NO_METHOD));
    }
    send(program.fd, messages.methodIs(method));
    if (this.login) {
      const isGood = timingSafeEqual(this.login, hash(await take(program, messages.readLogin)));
      if (!isGood) await sleep(GUESS);
      if (!isGood) throw new Refusal("a wrong user or password", messages.loginIs(false));
      send(program.fd, messages.loginIs(true));
    }
    return take(program, messages.readRequest);
  }

  /** Both ways, until both ends have said their last word. Errors: an Error. */
  private async connect(program: Program, target: Target): Promise<void> {
    const remote = await this.dial(target);
    try {
      send(program.fd, replyIs(Reply.ok, ...localOf(remote)));
    } catch (error) {
      close(remote);
      throw error;
    }
    counters.socks.ok++;
    await new Promise<void>((resolve) => new Relay(program.fd, remote, program.rest, resolve));
  }

  /** Connects to the first of the target's addresses that answers; the fd. Errors: a Refusal. */
  private async dial({ host, port }: Target): Promise<number> {
    const { way } = this;
    const addresses = await lookUp(way, host);
    const where = endpoint(host, port);
    if (addresses.length === 0)
      throw new Refusal(
        `${host}: no such name, or no answer from ${way.nameServers().join(", ")} (--socks-dns is another)`,
        replyIs(Reply.hostUnreachable),
      );
    const beyond = addresses.filter((address) => isBeyond(address, way.own()));
    if (beyond.length === 0)
      throw new Refusal(`${where} is not beyond the tunnel`, replyIs(Reply.notAllowed));
    let result = 0;
    for (const address of beyond) {
      result = await connectThrough(way, address, port, DIAL / beyond.length);
      if (result >= 0) return result;
    }
    throw new Refusal(`no connection to ${where}: ${errnoName(result)}`, replyIs(replyTo(-result)));
  }

  /** Datagrams, as long as the connection lasts that asked for them. Errors: an Error. */
  private async associate({ fd, address }: Program, { port }: Target): Promise<void> {
    const [ours] = localOf(fd);
    const stop = () => shutdown(fd, SHUT_RDWR);
    const association = await Association.open(this.way, ours, { host: address, port }, stop);
    try {
      send(fd, replyIs(Reply.ok, association.host, association.port));
      counters.socks.ok++;
      await untilEnd(fd, DAY);
    } finally {
      association.close();
    }
    close(fd);
  }
}

const hash = (bytes: Buffer) => createHash("sha256").update(bytes).digest();

const replyTo = (errno: number) =>
  ({
    [ECONNREFUSED]: Reply.refused,
    [ENETUNREACH]: Reply.networkUnreachable,
    [EADDRNOTAVAIL]: Reply.networkUnreachable, // no session yet, or no IPv6 in the tunnel
  })[errno] ?? Reply.hostUnreachable;

const memory = new Memory(LONGEST);

/** The next message, however it was split. Errors: a Refusal; an Error where it ends before, or too late. */
async function take<T>(program: Program, parse: (bytes: Buffer) => Parsed<T>): Promise<T> {
  for (;;) {
    const found = parse(program.rest);
    if (found) program.rest = program.rest.subarray(found[1]);
    if (found) return found[0];
    const inTime = await ready(program.fd, "readable", Math.max(0, program.deadline - performance.now()));
    if (!inTime) throw new Error(`no request within ${PATIENCE / 1000} s`);
    const count = read(program.fd, memory, 0, LONGEST);
    if (count === 0) throw new Error(program.why || "it left before its request");
    if (count < 0 && count !== -EAGAIN) throw new Error(`read: ${errnoName(count)}`);
    if (count > 0) program.rest = Buffer.concat([program.rest, memory.bytes.subarray(0, count)]);
  }
}

/** A message of ours: a few bytes, which always fit. Errors: an Error. */
function send(fd: number, message: Buffer): void {
  message.copy(memory.bytes);
  const count = write(fd, memory, 0, message.length);
  if (count !== message.length) throw new Error(`write: ${errnoName(count)}`);
}

/** Says why, and gives the program time to read it: a close() would throw that away. */
async function farewell(fd: number, answer: Buffer): Promise<void> {
  try {
    send(fd, answer);
    shutdown(fd, SHUT_WR);
    await untilEnd(fd, LINGER);
  } catch {
    // it is gone
  }
}

/** Reads, and throws away, until the other end has said its last word; `ms` at most. */
async function untilEnd(fd: number, ms: number): Promise<void> {
  const deadline = performance.now() + ms;
  for (let left = ms; left > 0 && (await ready(fd, "readable", left)); left = deadline - performance.now()) {
    const count = read(fd, memory, 0, LONGEST);
    if (count === 0 || (count < 0 && count !== -EAGAIN)) return;
  }
}
