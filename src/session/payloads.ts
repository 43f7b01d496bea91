/**
 * What the handshake's messages carry: JSON, sealed, so that later versions can add to it. What is read here
 * goes into commands and routing tables, and is checked.
 */
import { embed, formatIPv4, parseIPv4, parsePrefix96, type Prefix96 } from "../base/address.ts";
import { HandshakeError } from "./handshake.ts";
import { hmac } from "./primitives.ts";

/** What the server tells a client: JSON in message 2's payload, so that later versions can add to it. */
export interface ClientConfig {
  address: number; // the client's inner address
  prefix: number; // of the inner subnet, bits
  mtu: number; // bytes
  subnet6?: Prefix96 | undefined; // of the inner IPv6 addresses; undefined: this server's tunnel has none
  token?: string; // 32 hex digits; who proves to know it may take this session over: proofOf()
}

/** What a client that had a session asks for: JSON in message 1's payload. */
export interface Wish {
  address?: number; // its inner address
  proof?: string; // that it had that session: proofOf() its token
}

/** The server knows us, and has a reason to say no. */
export class Refused extends HandshakeError {}

/**
 * Proves to the server that this message 1's sender knows the token of a session: 64 hex digits. All who have
 * the secret can read message 1, so the token itself must not be in it. The proof is of no use to them: it is
 * good for this message's public key only.
 */
export const proofOf = (token: string, publicKey: Buffer) =>
  hmac(Buffer.from(token, "hex"), publicKey).toString("hex");

/** The payload of message 1. */
export function encodeWish({ address, proof }: Wish): Buffer {
  return address === undefined
    ? Buffer.alloc(0)
    : Buffer.from(JSON.stringify({ address: formatIPv4(address), proof }));
}

/** Reads and checks the payload of message 1; empty: no wish. Throws HandshakeError. */
export function decodeWish(payload: Buffer): Wish {
  if (payload.length === 0) return {};
  const wish = parseObject(payload);
  const address = parseIPv4(wish.address);
  if (address !== undefined && (wish.proof === undefined || isHex(wish.proof, 64)))
    return { address, ...(wish.proof !== undefined && { proof: wish.proof }) };
  throw new HandshakeError("the client's wish makes no sense");
}

/** The payload of message 2: what the client needs, or why it gets no session. */
export function encodeReply(reply: ClientConfig | { refused: string }): Buffer {
  if ("refused" in reply) return Buffer.from(JSON.stringify(reply));
  const subnet6 = reply.subnet6 && `${embed(reply.subnet6, 0)}/96`;
  return Buffer.from(JSON.stringify({ ...reply, address: formatIPv4(reply.address), subnet6 }));
}

/** Reads and checks the payload of message 2: these values go into commands. Throws HandshakeError. */
export function decodeReply(payload: Buffer): ClientConfig {
  const { refused, address: text, prefix, mtu, token, subnet6: text6 } = parseObject(payload);
  if (typeof refused === "string")
    throw new Refused(refused.replace(/[^ -~]/g, "?") || "it refuses, and does not say why");
  const address = parseIPv4(text);
  const subnet6 = parsePrefix96(text6);
  if (
    address !== undefined &&
    isWhole(prefix, 8, 30) &&
    isHost(address, prefix) &&
    isWhole(mtu, 68, 65535) &&
    (token === undefined || isHex(token, 32)) &&
    (text6 === undefined || (subnet6 && isHost6(subnet6)))
  )
    return { address, prefix, mtu, ...(token !== undefined && { token }), ...(subnet6 && { subnet6 }) };
  throw new HandshakeError("the server's configuration makes no sense");
}

/** JSON from the wire; {} for anything but an object. */
function parseObject(payload: Buffer): Record<string, unknown> {
  try {
    return JSON.parse(payload.toString()) ?? {};
  } catch {
    return {};
  }
}

/**
 * Can a client have it? Not one of 0.0.0.0/8, 127.0.0.0/8, 169.254.0.0/16 or 224.0.0.0/3 (RFC 6890), nor an
 * end of its subnet.
 */
function isHost(address: number, prefix: number): boolean {
  const first = address >>> 24;
  const host = address & (2 ** (32 - prefix) - 1); // the part that the prefix leaves
  if (address >>> 16 === 0xa9fe) return false;
  return first !== 0 && first !== 127 && first < 224 && host !== 0 && host !== 2 ** (32 - prefix) - 1;
}

/** The same for a /96: not in ::/8 (loopback, IPv4 in IPv6's clothes), fe80::/10 or ff00::/8 (RFC 4291). */
function isHost6([start]: Prefix96): boolean {
  return start >>> 24 !== 0 && start >>> 24 !== 0xff && start >>> 22 !== 0xfe80 >>> 6;
}

const isHex = (value: unknown, digits: number): value is string =>
  typeof value === "string" && value.length === digits && /^[0-9a-f]*$/.test(value);
const isWhole = (value: unknown, min: number, max: number): value is number =>
  Number.isInteger(value) && (value as number) >= min && (value as number) <= max;
