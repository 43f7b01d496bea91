/** What a datagram of the tunnel looks like: see udp.ts, where the headers are drawn. */
import { isIPv6 } from "node:net";
import { FrameType } from "../core/frame.ts";
import { COOKIE } from "./cookie.ts";

// Types: those of frames, and three that only datagrams need.
export const { handshake: HELLO, data: DATA, control: CONTROL } = FrameType;
export const [ANSWER, COOKIE_ANSWER, NO_SESSION] = [4, 5, 6];
export const HEADER = 16; // bytes, of data and control
export const HELLO_HEADER = 4 + COOKIE;
export const ANSWER_HEADER = 8;
const UDP_HEADER = 8;

/** Bytes of IP packets: Ethernet's jumbo frames, IPv6's least MTU, and what every host takes (RFC 791). */
export const SIZES = [9000, 1280, 576];

/**
 * A session's index at whoever has made that handshake message: its public key's first 4 bytes. So nobody can
 * change it without breaking the handshake. Signed, as V8 has small numbers.
 */
export const indexOf = (message: Buffer, at = 0) => message.readInt32BE(at);

/** The header of the IP packet around a datagram to that address, and of UDP; bytes. */
export const around = (address: string) => (isIPv6(address) ? 40 : 20) + UDP_HEADER;

/** The largest body of a frame in an IP packet of `size` bytes to that address; a multiple of 4. */
export const bodyFor = (size: number, address: string) => (size - around(address) - HEADER) & ~3;

/** A frame's bytes. */
export const sizeOf = (bytes: Buffer, at: number) => HEADER + bytes.readUInt16BE(at + 2);
