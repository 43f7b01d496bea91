/**
 * The messages of SOCKS5 (RFC 1928) and of its user and password (RFC 1929), without a socket. Each reader
 * takes what has come so far. It returns what stands there and how many bytes that is, or undefined while
 * bytes are missing. It throws a Refusal where no more bytes would help.
 *
 *   a program                                       we
 *   05 | n | n methods                              05 | method: 00 none, 02 user and password, ff neither
 *   01 | n | user | n | password                    01 | 00 good, anything else: not (RFC 1929)
 *   05 | command | 00 | host | port                 05 | reply | 00 | host | port
 *
 *   host  01 | 4 bytes    03 | n | a name    04 | 16 bytes
 *   port  2 bytes, big-endian
 */
import { isIPv6 } from "node:net";
import { formatIPv4, formatIPv6, parseIPv4, parseIPv6 } from "../base/address.ts";

export type Parsed<T> = [value: T, size: number] | undefined;

export interface Target {
  host: string; // an address, or a name
  port: number;
}
export interface Request extends Target {
  command: number;
}

export const [NO_LOGIN, LOGIN, NO_METHOD] = [0x00, 0x02, 0xff];
export const [CONNECT, UDP_ASSOCIATE] = [0x01, 0x03];
/** What a reply says. */
export const Reply = {
  ok: 0x00,
  failure: 0x01,
  notAllowed: 0x02,
  networkUnreachable: 0x03,
  hostUnreachable: 0x04,
  refused: 0x05,
  badCommand: 0x07,
  badHost: 0x08,
} as const;

const [VERSION, LOGIN_VERSION] = [0x05, 0x01];
const [IPV4, NAME, IPV6] = [0x01, 0x03, 0x04];

/** A request that comes to nothing. `answer`: what the program is told before we close, if anything. */
export class Refusal extends Error {
  readonly answer: Buffer | undefined;

  constructor(message: string, answer?: Buffer) {
    super(message);
    this.answer = answer;
  }
}

/** The first message: the methods that the program knows. */
export function readMethods(bytes: Buffer): Parsed<number[]> {
  check(bytes, VERSION, "it does not speak SOCKS5");
  if (bytes.length < 2 || bytes.length < 2 + bytes[1]!) return undefined;
  const size = 2 + bytes[1]!;
  return [[...bytes.subarray(2, size)], size];
}

export const methodIs = (method: number) => Buffer.from([VERSION, method]);

/** User and password, as the program sent them: the whole message. */
export function readLogin(bytes: Buffer): Parsed<Buffer> {
  check(bytes, LOGIN_VERSION, "it does not speak RFC 1929");
  if (bytes.length < 2 || bytes.length < 3 + bytes[1]!) return undefined;
  const size = 3 + bytes[1]! + bytes[2 + bytes[1]!]!;
  return bytes.length < size ? undefined : [bytes.subarray(0, size), size];
}

/** The message of a program that knows "user:password". */
export function loginMessage(login: string): Buffer {
  const colon = login.indexOf(":");
  const [user, password] = [login.slice(0, colon), login.slice(colon + 1)].map((text) => Buffer.from(text));
  return Buffer.from([LOGIN_VERSION, user!.length, ...user!, password!.length, ...password!]);
}

export const loginIs = (good: boolean) => Buffer.from([LOGIN_VERSION, good ? 0 : 1]);

export function readRequest(bytes: Buffer): Parsed<Request> {
  check(bytes, VERSION, "it does not speak SOCKS5");
  const found = bytes.length < 4 ? undefined : readTarget(bytes, 3);
  return found && [{ command: bytes[1]!, ...found[0] }, found[1]];
}

export function replyIs(reply: number, host = "0.0.0.0", port = 0): Buffer {
  return Buffer.concat([Buffer.from([VERSION, reply, 0]), target(host, port)]);
}

/**
 * A datagram of a program: where it goes, and where its payload begins. The two bytes in front are zero; the
 * third is a fragment's number, and we take no fragments, which RFC 1928 allows. Undefined: it is cut short.
 */
export function readDatagram(bytes: Buffer): Parsed<Target> {
  if (bytes.length < 4 || bytes.readUInt16BE(0) !== 0 || bytes[2] !== 0) return undefined;
  return readTarget(bytes, 3);
}

/** What stands in front of a datagram that came from there. */
export const datagramHeader = (host: string, port: number) =>
  Buffer.concat([Buffer.alloc(3), target(host, port)]);

function check(bytes: Buffer, version: number, problem: string): void {
  if (bytes.length > 0 && bytes[0] !== version) throw new Refusal(problem);
}

/** Host and port at `at`; the size is that of all before them, too. */
function readTarget(bytes: Buffer, at: number): Parsed<Target> {
  const kind = bytes[at];
  if (bytes.length < at + 2) return undefined;
  const start = kind === NAME ? at + 2 : at + 1;
  const length = kind === NAME ? bytes[at + 1]! : kind === IPV4 ? 4 : kind === IPV6 ? 16 : 0;
  if (length === 0) throw new Refusal(`address type ${kind}, or an empty name`, replyIs(Reply.badHost));
  const end = start + length;
  if (bytes.length < end + 2) return undefined;
  return [{ host: hostOf(bytes.subarray(start, end), kind!), port: bytes.readUInt16BE(end) }, end + 2];
}

function hostOf(bytes: Buffer, kind: number): string {
  if (kind === IPV4) return formatIPv4(bytes.readUInt32BE(0));
  if (kind === IPV6) return formatIPv6(bytes);
  const name = bytes.toString("latin1");
  if (/^[\w.:-]+$/.test(name)) return name; // a name, or an address as text
  throw new Refusal("a name with characters that no name has", replyIs(Reply.hostUnreachable));
}

function target(host: string, port: number): Buffer {
  const address = isIPv6(host) ? parseIPv6(host)! : Buffer.alloc(4);
  if (address.length === 4) address.writeUInt32BE(parseIPv4(host)!);
  return Buffer.from([address.length === 4 ? IPV4 : IPV6, ...address, port >> 8, port & 255]);
}
