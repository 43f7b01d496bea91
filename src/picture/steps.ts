/** The whole journey of a packet and of its answer: the nineteen steps, and the lanes that they happen in. */

export const LANES = [
  "application",
  "client kernel",
  "client tun0",
  "client program",
  "wire",
  "server program",
  "server kernel",
  "internet",
] as const;
export type Lane = (typeof LANES)[number];

/**
 * A step of the walk: who does it, where in the kernel or in our code, and in which lane of the picture it
 * happens.
 */
export interface WalkStep {
  id: string;
  lane: Lane;
  title: string;
  where: string; // the kernel's or our function
  tracepointsOnly?: true; // without tracepoints there is no evidence of it
}

export const WALK: WalkStep[] = [
  {
    id: "1",
    lane: "application",
    title: "the application asks the kernel to send",
    where: "sendto(2) for a ping",
    tracepointsOnly: true,
  },
  { id: "2", lane: "client kernel", title: "the kernel builds the packet", where: "net/ipv4/ip_output.c" },
  {
    id: "3",
    lane: "client kernel",
    title: "routing decision: dev tun0",
    where: "fib_table_lookup()",
    tracepointsOnly: true,
  },
  {
    id: "4",
    lane: "client tun0",
    title: "tun0 transmits: the packet is queued for us",
    where: "tun_net_xmit()",
  },
  { id: "5", lane: "client program", title: "the client's loop wakes: tun0 is readable", where: "watch()" },
  { id: "6", lane: "client program", title: "read, XOR, seal, frame, write", where: "outbound()" },
  { id: "7", lane: "wire", title: "ciphertext crosses the wire", where: "eth0 to eth0" },
  { id: "8", lane: "server program", title: "read, deframe, open, XOR, write", where: "received()" },
  {
    id: "9",
    lane: "server kernel",
    title: "the server's kernel injects, routes and NATs",
    where: "tun_get_user(), ip_forward()",
  },
  {
    id: "10",
    lane: "internet",
    title: "the destination receives, and answers",
    where: "icmp_echo() for a ping",
  },
  {
    id: "R1",
    lane: "server kernel",
    title: "the answer arrives at the server",
    where: "netif_receive_skb()",
  },
  {
    id: "R2",
    lane: "server kernel",
    title: "un-NATed, and routed to tun0",
    where: "fib_table_lookup(), tun_net_xmit()",
  },
  { id: "R3", lane: "server program", title: "the server's loop wakes and reads it", where: "outbound()" },
  { id: "R4", lane: "server program", title: "XOR, seal, frame, write", where: "outbound()" },
  { id: "R5", lane: "client program", title: "the client reads from the socket", where: "receive()" },
  { id: "R6", lane: "client program", title: "open, XOR, write", where: "received()" },
  { id: "R7", lane: "client kernel", title: "the client's kernel injects it", where: "tun_get_user()" },
  {
    id: "R8",
    lane: "client kernel",
    title: "delivered to the application's socket",
    where: "sock_def_readable()",
    tracepointsOnly: true,
  },
  { id: "R9", lane: "application", title: "the application prints it", where: "write(2)" },
];

/** What is on the wire: frames in a stream, or each of them a datagram. */
export type Outer = "frame" | "datagram";

/** What bytes are: an IP packet, one XORed, noise, or noise behind our header, TCP's or UDP's. */
export type Kind = "plain" | "xor" | "sealed" | Outer;

/** What the bytes are after a step of our programs: "6.seal". */
export function kindOf(step: string, outer: Outer): Kind {
  if (/\.(seal|deframe)$/.test(step)) return "sealed";
  if (/^(6|R4)\.(frame|write)$|^(8|R5)\.read$/.test(step)) return outer;
  return /^(6|R4)\.xor$|\.open$/.test(step) ? "xor" : "plain";
}
