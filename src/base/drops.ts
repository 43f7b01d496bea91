/**
 * Why a packet goes no further: the reason as people read it in the trace, and a code for programs. A code
 * stays the same when the words change. draft/status.md says what each means.
 */

/** Reason → code. In a reason, `…` stands for what differs: a number, a name, an errno. */
export const CODES: Record<string, string> = {
  // no way for it
  "no client holds its destination address": "no-such-client",
  "this tunnel carries no IPv6": "no-ipv6-inside",
  "it is larger than the path takes": "larger-than-path",
  "its headers are larger than the path takes": "headers-larger-than-path",
  // no room for it
  "the socket is full": "socket-full",
  "the socket was full when they came": "socket-overflowed",
  "the network does not take it: …": "network-error",
  // not allowed
  "its source is not the client's own address": "wrong-source",
  "its source is link-local, as a router's": "link-local-source",
  "it is for another client, and they are isolated": "isolated",
  // datagrams of programs that use --socks
  "a datagram of --socks to a host that cannot be reached": "socks-unreachable",
  "a datagram for --socks that makes no sense, or is another program's": "socks-refused",
  "a datagram for --socks from a host that was asked nothing": "socks-unasked",
  // our TUN does not take it
  "… is down (the commands printed at the start set it up)": "tun-down",
  "the kernel says it is no IP packet": "tun-refused",
  "write to …: …": "tun-error",
  // what a client or a server sealed makes no sense
  "it is no IP packet": "not-ip",
  "its IP header has an impossible length": "bad-ip-header",
  "its offload header has unknown flags": "bad-offload-flags",
  "its offload header puts a checksum where none belongs": "bad-offload-checksum",
  "its offload header does not fit the packet": "bad-offload",
  "its offload header does not fit its TCP header": "bad-offload-tcp",
  "its offload header wants pieces of no sensible size": "bad-offload-size",
  "an unknown control word": "unknown-control",
  "a handshake frame inside a session": "handshake-inside",
  "a frame without room for its tag": "no-tag",
  "a record that does not fit its frame": "bad-record",
  "a rekey that we did not ask for": "rekey-unasked",
  "an answer to a rekey that has come before": "rekey-repeated",
  "a rekey out of turn": "rekey-out-of-turn",
  "a rekey before the last one was used": "rekey-too-early",
  "it asks for fresh keys more than once a second": "rekey-too-often",
  "no room for a rekey: it takes no bytes from us": "rekey-no-room",
  "handshake message of … bytes, expected at least …": "rekey-bad-message",
  "the other end's public key is not valid": "rekey-bad-message",
  "it was made with another secret, or is not our protocol": "rekey-bad-message",
  // datagrams, which anybody can send
  "a datagram that makes no sense here": "bad-datagram",
  "a datagram that is cut short": "cut-datagram",
  "a datagram of no session here": "no-such-session",
  "a datagram under a key that we do not have": "no-such-key",
  "a datagram whose number is too large": "number-too-large",
  "a datagram that has come before (or much too late)": "replayed",
  "a datagram that is damaged or forged": "forged",
  // TCP segments made by hand
  "a segment that makes no sense here": "bad-segment",
};

const PATTERNS = Object.entries(CODES).map(([reason, code]) => {
  const literal = reason.split("…").map((part) => part.replace(/[^\w ]/g, "\\$&"));
  return { pattern: new RegExp(`^${literal.join(".*")}$`), code };
});

/** The code of a reason; "other" if it is none of ours. */
export function codeOf(reason: string): string {
  return CODES[reason] ?? PATTERNS.find(({ pattern }) => pattern.test(reason))?.code ?? "other";
}

/** Drops by code, from drops by reason. */
export function byCode(drops: Iterable<[reason: string, count: number]>): Record<string, number> {
  const codes: Record<string, number> = {};
  for (const [reason, count] of drops) codes[codeOf(reason)] = (codes[codeOf(reason)] ?? 0) + count;
  return codes;
}
