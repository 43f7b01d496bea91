/**
 * The whole journey: the nineteen steps, and which step a piece of evidence belongs to. Evidence comes from both programs' trace
 * files, from the taps, from the kernel's tracepoints, and from what the followed command printed.
 */
import chalk from "chalk";
import { FrameType } from "../frame.ts";
import { describe } from "../packet.ts";
import type { TraceEvent } from "../trace.ts";
import type { TapPacket } from "./taps.ts";
import type { KernelEvent } from "./tracepoints.ts";

export type Lane = "application" | "client kernel" | "client tun0" | "client program" | "wire" | "server program" | "server kernel" | "internet";

/** A step of the walk: who does it, where in the kernel or in our code, and in which lane of the picture it happens. */
export interface WalkStep {
  id: string;
  lane: Lane;
  title: string;
  where: string; // the kernel's or our function
  tracepointsOnly?: true; // without tracepoints there is no evidence of it
}

export const WALK: WalkStep[] = [
  { id: "1", lane: "application", title: "the application calls sendto()", where: "sendto(2)", tracepointsOnly: true },
  { id: "2", lane: "client kernel", title: "the kernel builds the packet", where: "net/ipv4/ip_output.c" },
  { id: "3", lane: "client kernel", title: "routing decision: dev tun0", where: "fib_table_lookup()", tracepointsOnly: true },
  { id: "4", lane: "client tun0", title: "tun0 transmits: the packet is queued for us", where: "tun_net_xmit()" },
  { id: "5", lane: "client program", title: "the client's loop wakes: tun0 is readable", where: "watch()" },
  { id: "6", lane: "client program", title: "read, XOR, seal, frame, write", where: "outbound()" },
  { id: "7", lane: "wire", title: "ciphertext crosses the wire", where: "eth0 to eth0" },
  { id: "8", lane: "server program", title: "read, deframe, open, XOR, write", where: "inbound()" },
  { id: "9", lane: "server kernel", title: "the server's kernel injects, routes and NATs", where: "tun_get_user(), ip_forward()" },
  { id: "10", lane: "internet", title: "the destination receives, and answers", where: "icmp_echo()" },
  { id: "R1", lane: "server kernel", title: "the answer arrives at the server", where: "netif_receive_skb()" },
  { id: "R2", lane: "server kernel", title: "un-NATed, and routed to tun0", where: "fib_table_lookup(), tun_net_xmit()" },
  { id: "R3", lane: "server program", title: "the server's loop wakes and reads it", where: "outbound()" },
  { id: "R4", lane: "server program", title: "XOR, seal, frame, write", where: "outbound()" },
  { id: "R5", lane: "client program", title: "the client reads from the socket", where: "inbound()" },
  { id: "R6", lane: "client program", title: "open, XOR, write", where: "inbound()" },
  { id: "R7", lane: "client kernel", title: "the client's kernel injects it", where: "tun_get_user()" },
  { id: "R8", lane: "client kernel", title: "delivered to the application's socket", where: "sock_def_readable()", tracepointsOnly: true },
  { id: "R9", lane: "application", title: "the application prints it", where: "write(2)" },
];

export interface Evidence {
  time: bigint; // ns, CLOCK_MONOTONIC
  step: string; // of WALK
  host: string;
  source: "program" | "tap" | "tracepoint" | "output";
  text: string;
  hex: string; // the first bytes, where there are some
  packet?: TapPacket; // of a tap
}

/** A program's steps are finer: "6.seal" belongs to step 6, "R4.write" to R4. */
export function fromPrograms(events: TraceEvent[]): Evidence[] {
  const steps = events.filter(({ step }) => step !== "note" && step !== "summary" && step !== "drop");
  return steps.map(({ time, step, host, id, text, hex }) => ({ time, step: step.split(".")[0]!, host, source: "program", text: `${step.split(".")[1] ?? "wake"} ${id}: ${text}`, hex }));
}

/** Which step a tap shows follows from where it is, and from which way the packet passes it. */
const TAP_STEPS: Record<string, string> = {
  "client tun0 out": "4", "client eth0 out": "7", "server eth0 in": "7", "server tun0 in": "9", "server eth1 out": "9",
  "internet eth0 in": "10", "internet eth0 out": "10", "server eth1 in": "R1", "server tun0 out": "R2", "server eth0 out": "R4",
  "client eth0 in": "R5", "client tun0 in": "R7",
};

/** The taps' packets but what is not the walk's: TCP acknowledgements without data, ARP, our control frames. */
export function fromTaps(packets: TapPacket[]): Evidence[] {
  const evidence = packets.filter(isOfTheWalk).map((packet): Evidence => {
    const { time, host, device, out, link, bytes } = packet;
    const step = TAP_STEPS[`${host} ${device} ${out ? "out" : "in"}`]!;
    const text = `${device} ${out ? "→" : "←"} ${describe(bytes, link, bytes.length - link)}`;
    return { time, step, host, source: "tap", text, hex: bytes.toString("hex", payloadAt(packet), payloadAt(packet) + 32), packet };
  });
  // Nobody can watch step 2; its result is what the tap of step 4 sees.
  const built = evidence.filter(({ step }) => step === "4").map(({ packet, ...result }) => {
    const { bytes, link } = packet!;
    const header = (bytes[link]! & 15) * 4;
    return { ...result, step: "2", text: `an IPv4 header of ${header} bytes in front of ${bytes.length - link - header}, ttl ${bytes[link + 8]}, protocol ${bytes[link + 9]}: as seen at 4` };
  });
  return [...evidence, ...built];
}

/** On the outer link: the TCP payload, the frame. Elsewhere: the packet itself. */
function payloadAt({ bytes, link, host, device }: TapPacket): number {
  if (device !== "eth0" || host === "internet") return link;
  const tcp = link + (bytes[link]! & 15) * 4;
  return tcp + (bytes[tcp + 12]! >> 4) * 4;
}

function isOfTheWalk(packet: TapPacket): boolean {
  const { bytes, link, device, host } = packet;
  if (bytes.length < link + 20 || bytes[link]! >> 4 !== 4) return false;
  if (device !== "eth0" || host === "internet") return true;
  const payload = payloadAt(packet);
  return bytes[link + 9] === 6 && payload < link + bytes.readUInt16BE(link + 2) && bytes[payload] === FrameType.data;
}

/**
 * The tracepoints that belong to the walk. One sk_buff often makes several steps (it is handed from device to device), so its
 * address tells which: a packet that tun0 transmits is at step 4 if the client then reads it, and at R2 if the server does.
 */
export function fromTracepoints(events: KernelEvent[], pids: { application: number; client: number; server: number }): Evidence[] {
  const evidence: Evidence[] = [];
  const onTheWay = new Map<string, string>(); // skbaddr → step of its latest transmission. (NO_SOCKET: ping_rcv() says so of every
  // answer to a raw socket, which has its own copy by then.)
  const add = (event: KernelEvent, step: string, host: string) =>
    evidence.push({ time: event.time, step, host, source: "tracepoint", text: shorten(event), hex: "" });
  const who = (pid: number) => (pid === pids.client ? "client" : pid === pids.server ? "server" : pid === pids.application ? "application" : "");

  events.forEach((event, i) => {
    const { name, text, pid } = event;
    const field = (key: string) => new RegExp(`\\b${key}=(\\S+)`).exec(text)?.[1] ?? "";
    const [device, skb, by] = [field("dev"), field("skbaddr"), who(pid)];
    const length = Number(field("len")) || 0;
    if (/^sys_(sendto|sendmsg|sendmmsg|connect)$/.test(name) && by === "application") return add(event, "1", "client");
    if (name === "sys_write" && by === "application" && text.startsWith("fd: 1,")) return add(event, "R9", "client");
    if (name === "fib_table_lookup") {
      const step = lookupStep(text, by);
      return step && add(event, step, hostOf(step));
    }
    if (name === "net_dev_start_xmit") {
      if (!text.includes("protocol=0x0800")) return; // ARP
      const step = device === "tun0" ? readerOf(events, i, skb, pids) : device === "eth1" ? "9" : outerStep(events, i, skb, by, length);
      if (!step) return;
      onTheWay.set(skb, step);
      return add(event, step, hostOf(step));
    }
    if (name === "kfree_skb" && onTheWay.has(skb) && !text.endsWith("NO_SOCKET")) return add(event, onTheWay.get(skb)!, hostOf(onTheWay.get(skb)!)); // a drop
    if (name === "netif_receive_skb") {
      if (device === "tun0" && by === "server") return add(event, "9", "server");
      if (device === "tun0" && by === "client") return add(event, "R7", "client");
      const sent = onTheWay.get(skb);
      const step = sent === "9" ? "10" : sent === "10" ? "R1" : sent;
      return step && add(event, step, step === "7" ? "server" : step === "R4" ? "client" : hostOf(step));
    }
    if (name === "skb_copy_datagram_iovec" && onTheWay.get(skb) === "4" && by === "client") return add(event, "6", "client");
    if (name === "skb_copy_datagram_iovec" && onTheWay.get(skb) === "R2" && by === "server") return add(event, "R3", "server");
    if (name === "sock_recv_length" && /length = [1-9]/.test(text) && /IPPROTO_TCP/.test(text) && by === "server") return add(event, "8", "server");
    if (name === "sock_recv_length" && /length = [1-9]/.test(text) && /IPPROTO_TCP/.test(text) && by === "client") return add(event, "R5", "client");
    if (name === "sock_recv_length" && /length = [1-9]/.test(text) && /AF_INET/.test(text) && by === "application") return add(event, "R8", "client");
    if (name === "sk_data_ready" && /family=2/.test(text) && by === "client" && evidence.at(-1)?.step === "R7") return add(event, "R8", "client");
  });
  // Of what the application and the kernel do before a packet leaves (and after it came), what leads to it directly.
  const nextOf = (i: number, ...steps: string[]) => evidence.slice(i + 1).find(({ step }) => steps.includes(step))?.step;
  const previousOf = (i: number, ...steps: string[]) => evidence.slice(0, i).reverse().find(({ step }) => steps.includes(step))?.step;
  return evidence.filter(({ step }, i) => {
    if (step === "1" || step === "3") return nextOf(i, step, "4") === "4"; // a connected socket looked its route up earlier
    return step !== "R9" || previousOf(i, "R8", "R9") === "R8";
  });
}

/** What some eth0 transmits: the internet host's answer, if the server's eth1 gets it; else, if there is data in it, our frame. */
function outerStep(events: KernelEvent[], from: number, skb: string, by: string, length: number): string | undefined {
  const arrival = events.slice(from).find(({ name, text }) => name === "netif_receive_skb" && text.includes(`skbaddr=${skb}`));
  if (arrival?.text.includes("dev=eth1")) return "10";
  if (length <= 66) return undefined; // Ethernet, IP and TCP headers, nothing in it: an acknowledgement
  return by === "client" ? "7" : by === "server" ? "R4" : undefined;
}

/** Who reads the packet that tun0 transmits: the client (then it is step 4) or the server (R2). */
function readerOf(events: KernelEvent[], from: number, skb: string, pids: { client: number; server: number }): string | undefined {
  const read = events.slice(from).find(({ name, text, pid }) => name === "skb_copy_datagram_iovec" && text.includes(`skbaddr=${skb}`) && (pid === pids.client || pid === pids.server));
  return read && (read.pid === pids.client ? "4" : "R2");
}

/** "… iif 1 … 10.8.0.2/0 -> 8.8.8.8/0 … ==> dev tun0": iif 1, the loopback, stands for "made on this host". */
function lookupStep(text: string, by: string): string | undefined {
  const [, iif, source, , device] = /iif (\d+) .*? ([\d.]+)\/\d+ -> ([\d.]+)\/\d+ .*==> dev (\w+)/.exec(text) ?? [];
  if (device === "tun0") return iif === "1" ? "3" : by === "client" ? "R7" : "R2";
  if (device === "eth1" && source?.startsWith("10.8.")) return "9";
  if (device === "lo" && source !== "127.0.0.1" && iif !== "1") return "10";
  return undefined;
}

const hostOf = (step: string) => {
  const lane = WALK.find(({ id }) => id === step)!.lane;
  return lane === "internet" ? "internet" : lane.startsWith("server") ? "server" : step === "R4" ? "server" : "client";
};

/** A tracepoint's line without the fields that do not help here. */
function shorten({ name, text }: KernelEvent): string {
  if (name === "fib_table_lookup") return text.replace(/^.*? ([\d.]+)\/(\d+) -> ([\d.]+)\/\d+ .*==> (dev \w+).*$/, `${name} $1 → $3 ==> $4`);
  return `${name} ${text.replace(/ ?(queue_mapping|vlan|protocol|ip_summed|data_len|network_offset|transport_offset|tx_flags|gso|sk address|buf|addr)\w*(=|: | = )\S+/g, "").slice(0, 90)}`;
}

const SOURCE = { program: chalk.green("our code  "), tap: chalk.yellow("tap       "), tracepoint: chalk.magenta("tracepoint"), output: chalk.cyan("output    ") };

/** Prints the timeline, step by step. Returns the steps for which there is no evidence. */
export function print(evidence: Evidence[], withoutTracepoints: string | undefined): WalkStep[] {
  const start = evidence[0]?.time ?? 0n;
  const missing = WALK.filter(({ id }) => !evidence.some(({ step }) => step === id));
  for (const step of WALK) {
    console.log(`\n${chalk.bold.inverse(` ${step.id.padStart(2)} `)} ${chalk.bold(step.title)} ${chalk.dim(`${step.lane}, ${step.where}`)}`);
    for (const { time, host, source, text, hex } of evidence.filter((one) => one.step === step.id)) {
      const bytes = (hex.slice(0, 16).match(/../g) ?? []).join(" ");
      console.log(`${`+${(time - start) / 1000n}`.padStart(8)} µs  ${host.padEnd(8)} ${SOURCE[source]} ${bytes ? `${bytes.padEnd(23)} ` : ""}${text}`);
    }
    if (missing.includes(step)) console.log(chalk.red(`          no evidence${step.tracepointsOnly && withoutTracepoints ? `: ${withoutTracepoints}` : ""}`));
  }
  return missing;
}
