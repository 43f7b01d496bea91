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
  sentence: string; // what it means, for whom all of it is new; of one line on a projector
  where: string; // the kernel's or our function
  tracepointsOnly?: true; // without tracepoints there is no evidence of it
}

export const WALK: WalkStep[] = [
  {
    id: "1",
    lane: "application",
    title: "the application asks the kernel to send",
    sentence: "The application hands its bytes to the kernel, and says where they go.",
    where: "sendto(2) for a ping",
    tracepointsOnly: true,
  },
  {
    id: "2",
    lane: "client kernel",
    title: "the kernel builds the packet",
    sentence: "The kernel puts a header in front: who sends the packet, and to whom.",
    where: "net/ipv4/ip_output.c",
  },
  {
    id: "3",
    lane: "client kernel",
    title: "routing decision: dev tun0",
    sentence: "The routing table says that what goes to this destination leaves by tun0.",
    where: "fib_table_lookup()",
    tracepointsOnly: true,
  },
  {
    id: "4",
    lane: "client tun0",
    title: "tun0 transmits: the packet is queued for us",
    sentence: "tun0 is a card without a cable. What is sent on it waits for our program.",
    where: "tun_net_xmit()",
  },
  {
    id: "5",
    lane: "client program",
    title: "the client's loop wakes: tun0 is readable",
    sentence: "The client slept until there was something to do. Now tun0 has a packet for it.",
    where: "watch()",
  },
  {
    id: "6",
    lane: "client program",
    title: "read, XOR, seal, frame, write",
    sentence: "The client XORs the packet, seals it with AES, and puts its length in front.",
    where: "outbound()",
  },
  {
    id: "7",
    lane: "wire",
    title: "ciphertext crosses the wire",
    sentence: "Whoever listens here sees that client and server talk, but cannot read what.",
    where: "eth0 to eth0",
  },
  {
    id: "8",
    lane: "server program",
    title: "read, deframe, open, XOR, write",
    sentence: "The server undoes each change in reverse order. The packet is what it was.",
    where: "received()",
  },
  {
    id: "9",
    lane: "server kernel",
    title: "the server's kernel injects, routes and NATs",
    sentence: "The server's kernel sends the packet on, with the server's own address as its source.",
    where: "tun_get_user(), ip_forward()",
  },
  {
    id: "10",
    lane: "internet",
    title: "the destination receives, and answers",
    sentence: "The destination sees a packet from the server, and answers the server.",
    where: "icmp_echo() for a ping",
  },
  {
    id: "R1",
    lane: "server kernel",
    title: "the answer arrives at the server",
    sentence: "The answer comes to the server: the destination knows no other address.",
    where: "netif_receive_skb()",
  },
  {
    id: "R2",
    lane: "server kernel",
    title: "un-NATed, and routed to tun0",
    sentence: "NAT puts the client's address back. The route to that address is tun0.",
    where: "fib_table_lookup(), tun_net_xmit()",
  },
  {
    id: "R3",
    lane: "server program",
    title: "the server's loop wakes and reads it",
    sentence: "The server slept, too. Now it reads the answer from its tun0.",
    where: "outbound()",
  },
  {
    id: "R4",
    lane: "server program",
    title: "XOR, seal, frame, write",
    sentence: "The server does the same with the answer: XOR, AES, and the length in front.",
    where: "outbound()",
  },
  {
    id: "R5",
    lane: "client program",
    title: "the client reads from the socket",
    sentence: "The answer has come to the client, still sealed.",
    where: "receive()",
  },
  {
    id: "R6",
    lane: "client program",
    title: "open, XOR, write",
    sentence: "The client opens it, undoes the XOR, and writes the plain answer to tun0.",
    where: "received()",
  },
  {
    id: "R7",
    lane: "client kernel",
    title: "the client's kernel injects it",
    sentence: "For the kernel, the answer has come from a card like any other.",
    where: "tun_get_user()",
  },
  {
    id: "R8",
    lane: "client kernel",
    title: "delivered to the application's socket",
    sentence: "The kernel finds the socket that waits for this answer, and wakes the application.",
    where: "sock_def_readable()",
    tracepointsOnly: true,
  },
  {
    id: "R9",
    lane: "application",
    title: "the application prints it",
    sentence: "The application has its answer, and has noticed no tunnel.",
    where: "write(2)",
  },
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
