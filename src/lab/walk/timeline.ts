/**
 * Which of the nineteen steps a piece of evidence belongs to. Evidence comes from both programs' trace files,
 * from the taps, from the kernel's tracepoints, and from what the followed command and `ip route get` print.
 */
import chalk from "chalk";
import { formatIPv4 } from "../../base/address.ts";
import { FrameType } from "../../core/frame.ts";
import { describe } from "../../base/packet.ts";
import { fitting, type TraceEvent, WIDE } from "../../base/render.ts";
import { type Kind, kindOf, type Outer, WALK } from "../../picture/steps.ts";
import type { TapPacket } from "./taps.ts";
import type { KernelEvent } from "./tracepoints.ts";

export interface Evidence {
  time: bigint; // ns, CLOCK_MONOTONIC
  step: string; // of WALK
  host: string;
  source: "program" | "tap" | "tracepoint" | "output";
  text: string;
  hex: string; // the first bytes, where there are some
  kind?: Kind; // of these bytes
  packet?: TapPacket; // of a tap
  id?: string; // of a program: which frame, or which packet in it
  atMost?: true; // it happened before `time`
}

/**
 * A program's steps are finer: "6.seal" belongs to step 6, "R4.write" to R4. A drop is shown where it
 * happens.
 */
export function fromPrograms(events: TraceEvent[], outer: Outer = "frame"): Evidence[] {
  const steps = events.filter(({ step }) => step !== "note" && step !== "summary");
  return steps.map((event) => {
    const { time, step, host, id, text, hex } = event;
    const [whole, part = "wake"] = step === "drop" ? [dropStep(event), "drop"] : step.split(".");
    return {
      time,
      step: whole!,
      host,
      source: "program",
      id,
      text: `${part}${id && ` ${id}`}: ${text}`,
      hex,
      kind: kindOf(step, outer),
    };
  });
}

/** What bears a peer's name, "(192.168.1.1:5555)", received() drops; the rest, outbound(), but for some. */
function dropStep({ host, text }: TraceEvent): string {
  const isOut = /^(the socket is full|it is larger than|the network does not)/.test(text);
  if (/ \(\S+:\d+\)(: |$)/.test(text) && !isOut) return host === "server" ? "8" : "R6";
  return host === "server" ? "R3" : "6";
}

/**
 * The packets inside a frame that a tap saw, in words: the programs know, and know the frame by its bytes.
 */
export function inside(frame: Evidence, programs: TraceEvent[]): string[] {
  const id = programs.find(({ step, hex }) => /^(6|R4)\.frame$/.test(step) && hex === frame.hex)?.id;
  return programs
    .filter((event) => /^(6|R3)\.read$/.test(event.step) && event.id.startsWith(`${id}.`))
    .map(({ text }) => text.replace(/^.*?: /, ""));
}

/**
 * Step 3 where there are no tracepoints: what `ip route get` says of the packets' destinations, afterwards.
 * `ask`: its output about an address.
 */
export function fromRoutes(evidence: Evidence[], ask: (address: string) => string): Evidence[] {
  const answers = new Map<string, string>();
  return evidence
    .filter(({ step, packet }) => step === "4" && packet)
    .map(({ time, host, packet }) => {
      const to = formatIPv4(packet!.bytes.readUInt32BE(packet!.link + 16));
      if (!answers.has(to)) answers.set(to, ask(to).split("\n")[0]!.trim());
      const text = `ip route get ${to}, asked afterwards: ${answers.get(to)}`;
      return { time, step: "3", host, source: "output", text, hex: "", atMost: true };
    });
}

/** Which step a tap shows follows from where it is, and from which way the packet passes it. */
const TAP_STEPS: Record<string, string> = {
  "client tun0 out": "4",
  "client eth0 out": "7",
  "server eth0 in": "7",
  "server tun0 in": "9",
  "server eth1 out": "9",
  "internet eth0 in": "10",
  "internet eth0 out": "10",
  "server eth1 in": "R1",
  "server tun0 out": "R2",
  "server eth0 out": "R4",
  "client eth0 in": "R5",
  "client tun0 in": "R7",
};

/**
 * The taps' packets but what is not the walk's: TCP acknowledgements without data, ARP, our control frames,
 * UDP's handshake.
 */
export function fromTaps(packets: TapPacket[]): Evidence[] {
  const evidence = packets.filter(isOfTheWalk).map((packet): Evidence => {
    const { time, host, device, out, link, bytes } = packet;
    const step = TAP_STEPS[`${host} ${device} ${out ? "out" : "in"}`]!;
    const number = outerOf(packet) === "datagram" ? `, number ${numberOf(packet)}` : "";
    const text = `${device} ${out ? "→" : "←"} ${describe(bytes, link, bytes.length - link)}${number}`;
    return {
      time,
      step,
      host,
      source: "tap",
      text,
      hex: bytes.toString("hex", payloadAt(packet), payloadAt(packet) + 32),
      kind: outerOf(packet) ?? "plain",
      packet,
    };
  });
  // Nobody can watch step 2; its result is what the tap of step 4 sees.
  const built = evidence
    .filter(({ step }) => step === "4")
    .map(({ packet, ...result }) => {
      const { bytes, link } = packet!;
      const header = (bytes[link]! & 15) * 4;
      const lengths = `${header} bytes in front of ${bytes.length - link - header}`;
      const [ttl, protocol] = [bytes[link + 8], bytes[link + 9]];
      return {
        ...result,
        step: "2",
        atMost: true as const,
        text: `an IPv4 header of ${lengths}, ttl ${ttl}, protocol ${protocol}: as seen at 4`,
      };
    });
  return [...evidence, ...built];
}

/** Where the first packet of the command went, if none of its packets entered the tunnel. */
export function outside(packets: TapPacket[]): string | undefined {
  if (packets.some(({ host, device, out }) => host === "client" && device === "tun0" && out))
    return undefined;
  const isTunnel = ({ bytes, link }: TapPacket) =>
    OUTER[bytes[link + 9]!] && bytes.readUInt16BE(link + (bytes[link]! & 15) * 4 + 2) === PORT;
  const packet = packets.find(
    (one) => one.host === "client" && one.out && one.bytes[one.link]! >> 4 === 4 && !isTunnel(one),
  );
  if (!packet) return undefined;
  const to = formatIPv4(packet.bytes.readUInt32BE(packet.link + 16));
  const route = `the route to ${to} is dev ${packet.device}, not tun0`;
  return `${route}: this packet never entered the tunnel ('ip route get ${to}')`;
}
const PORT = 5555; // the server's

const OUTER: Record<number, Outer> = { 6: "frame", 17: "datagram" }; // by IP's protocol: TCP, UDP
const UDP_HEADER = 8; // bytes

/** Between client and server, where the tunnel's frames go. */
const isOuter = ({ device, host }: TapPacket) => device === "eth0" && host !== "internet";
const outerOf = (packet: TapPacket) => (isOuter(packet) ? OUTER[packet.bytes[packet.link + 9]!] : undefined);

/** On the outer link: the payload of TCP or UDP, a frame. Elsewhere: the packet itself. */
function payloadAt(packet: TapPacket): number {
  const { bytes, link } = packet;
  const outer = outerOf(packet);
  if (outer === undefined) return link;
  const transport = link + (bytes[link]! & 15) * 4;
  return transport + (outer === "datagram" ? UDP_HEADER : (bytes[transport + 12]! >> 4) * 4);
}

/** The number of the datagram, which is its frame's name: number 7 is up7, or down7. */
const numberOf = (packet: TapPacket) => packet.bytes.readUIntBE(payloadAt(packet) + 10, 6);

function isOfTheWalk(packet: TapPacket): boolean {
  const { bytes, link } = packet;
  if (bytes.length < link + 20 || bytes[link]! >> 4 !== 4) return false;
  if (!isOuter(packet)) return true;
  const payload = payloadAt(packet);
  return (
    outerOf(packet) !== undefined &&
    payload < link + bytes.readUInt16BE(link + 2) &&
    bytes[payload] === FrameType.data
  );
}

/** Whom we started. Whoever else's system calls are recorded is the followed command, or started by it. */
export interface Pids {
  client: number;
  server: number;
  internet: number; // internet.ts
}
type Who = (event: KernelEvent) => "client" | "server" | "internet" | "application" | "";

function who(events: KernelEvent[], pids: Pids): Who {
  const names = new Map<number, ReturnType<Who>>(
    events.filter(({ name }) => name.startsWith("sys_")).map(({ pid }) => [pid, "application"]),
  );
  names.set(pids.client, "client").set(pids.server, "server").set(pids.internet, "internet");
  return ({ pid }) => names.get(pid) ?? "";
}

const field = ({ text }: KernelEvent, key: string) =>
  new RegExp(`\\b${key}[=:] ?([^\\s+]+)`).exec(text)?.[1] ?? "";

/**
 * One sk_buff is handed from device to device, and makes several steps. These are the ways it can go: what
 * the kernel says of it, then step and host. One of our programs is at one end of each ("by"): so no packet
 * of another VPN on this machine counts.
 */
const WAYS = [
  ["out tun0 | 4 client", "read by client | 6 client"],
  ["out eth0 | 7 client", "in eth0 | 7 server", "read by server | 8 server"],
  ["in tun0 by server | 9 server", "out eth1 | 9 server", "in eth0 | 10 internet"],
  ["out eth0 | 10 internet", "in eth1 | R1 server", "out tun0 | R2 server", "read by server | R3 server"],
  ["out eth0 | R4 server", "in eth0 | R5 client", "read by client | R5 client"],
  ["in tun0 by client | R7 client"],
  // Over UDP. Nothing says which datagram a program reads, but it is clear which one it sends.
  ["sent eth0 by client | 7 client", "in eth0 | 7 server"],
  ["sent eth0 by server | R4 server", "in eth0 | R5 client"],
].map((way) => way.map((stage) => stage.split(" | ") as [string, string]));

/** What an event says of a packet, in the words of WAYS; undefined if it is about something else. */
function stageOf(event: KernelEvent, by: string): string | undefined {
  const device = field(event, "dev");
  if (event.name === "net_dev_start_xmit")
    return event.text.includes("protocol=0x0800") ? `out ${device}` : undefined; // not ARP
  if (event.name === "netif_receive_skb") return device === "tun0" ? `in tun0 by ${by}` : `in ${device}`;
  const isRead = event.name === "skb_copy_datagram_iovec" && Number(field(event, "len")) > KEEPALIVE;
  return isRead ? `read by ${by}` : undefined;
}

const KEEPALIVE = 24; // bytes: a keepalive's frame over TCP. Each IP packet is longer, and its frame, too
const SMALLEST = 60; // bytes: a datagram with a packet in it has more, and a keepalive fewer

/** The packets that left by eth0 while one of our programs was in sendmsg(2). */
function sentBy(events: KernelEvent[], by: Who): Set<KernelEvent> {
  const sending = new Set<number>(); // pids
  return new Set(
    events.filter((event) => {
      if (event.name === "sys_sendmsg" && /^(client|server)$/.test(by(event))) sending.add(event.pid);
      const isOut = stageOf(event, "") === "out eth0" && Number(field(event, "len")) > SMALLEST + 42;
      return isOut && sending.delete(event.pid); // 42: the headers of UDP, IPv4, Ethernet
    }),
  );
}

/** The events on a way of our packets, each with its step and host. */
function packetSteps(events: KernelEvent[], by: Who): Map<KernelEvent, string> {
  // skbaddr → what happened to it. An address is given out again and again.
  const packets = new Map<string, KernelEvent[]>();
  for (const event of events)
    if (stageOf(event, ""))
      packets.set(field(event, "skbaddr"), [...(packets.get(field(event, "skbaddr")) ?? []), event]);
  const steps = new Map<KernelEvent, string>();
  const sent = sentBy(events, by);
  for (const packet of packets.values()) {
    const stages = packet.map((event) =>
      sent.has(event) ? `sent eth0 by ${by(event)}` : stageOf(event, by(event))!,
    );
    for (let i = 0; i < packet.length; i++) {
      for (const way of WAYS) {
        const differs = way.findIndex(([stage], k) => stages[i + k] !== stage);
        const gone = differs < 0 ? way : way.slice(0, differs);
        if (!gone.some(([stage]) => stage.includes(" by "))) continue;
        gone.forEach(([, step], k) => steps.set(packet[i + k]!, step));
        i += gone.length - 1;
        break;
      }
    }
  }
  return steps;
}

/**
 * The tracepoints that belong to the walk: of our packets, of the lookups for them, and of the application.
 */
export function fromTracepoints(events: KernelEvent[], pids: Pids): Evidence[] {
  const by = who(events, pids);
  const packets = packetSteps(events, by);
  // pid → the step of the latest packet it had in hand; "": not of ours
  const latest = new Map<number, string>();
  const evidence = events.flatMap((event): Evidence[] => {
    if (stageOf(event, "")) latest.set(event.pid, packets.get(event) ?? "");
    const step =
      packets.get(event) ??
      receivedStep(event, by(event)) ??
      (by(event) === "application" ? applicationStep(event) : kernelStep(event, latest.get(event.pid)));
    return step
      ? [
          {
            time: event.time,
            step: step.split(" ")[0]!,
            host: step.split(" ")[1]!,
            source: "tracepoint",
            text: shorten(event),
            hex: "",
          },
        ]
      : [];
  });
  // Of what the application and the kernel do before a packet leaves (and after it came), what leads to it
  // directly.
  const nextOf = (i: number, ...steps: string[]) =>
    evidence.slice(i + 1).find(({ step }) => steps.includes(step))?.step;
  const previousOf = (i: number, ...steps: string[]) =>
    evidence
      .slice(0, i)
      .reverse()
      .find(({ step }) => steps.includes(step))?.step;
  return evidence.filter(({ step }, i) => {
    // a connected socket looked its route up earlier
    if (step === "1" || step === "3") return nextOf(i, step, "4") === "4";
    return step !== "R9" || previousOf(i, "R8", "R9") === "R8";
  });
}

/** "… iif 1 … 0.0.0.0/0 -> 8.8.8.8/0 … ==> dev tun0": iif 1, the loopback, stands for "made on this host". */
function applicationStep({ name, text }: KernelEvent): string | undefined {
  if (/^sys_(sendto|sendmsg|sendmmsg|connect)$/.test(name)) return "1 client";
  if (name === "sys_write" && text.startsWith("fd: 1,")) return "R9 client";
  if (name === "fib_table_lookup" && / iif 1 .*==> dev tun0 /.test(text)) return "3 client";
  return name === "sock_recv_length" && /AF_INET.* length = [1-9]/.test(text) ? "R8 client" : undefined;
}

/** A datagram that one of our programs has read: "… protocol = 0x11, length = 132, …". */
function receivedStep({ name, text }: KernelEvent, by: string): string | undefined {
  const length = /protocol = 0x11, length = (\d+)/.exec(text)?.[1];
  if (name !== "sock_recv_length" || Number(length ?? 0) <= SMALLEST) return undefined;
  return by === "server" ? "8 server" : by === "client" ? "R5 client" : undefined;
}

/**
 * What the kernel does with the packet that it has just received: it looks for a route, or wakes the
 * application.
 */
function kernelStep({ name, text }: KernelEvent, received: string | undefined): string | undefined {
  if (
    name === "fib_table_lookup" &&
    / iif ([2-9]|\d\d+) .*==> dev \w/.test(text) &&
    /^(9|10|R1|R7) /.test(received ?? "")
  )
    return received === "R1 server" ? "R2 server" : received;
  return name === "sk_data_ready" && text.startsWith("family=2 ") && received === "R7 client"
    ? "R8 client"
    : undefined;
}

export interface Drop {
  after: string; // the last step that the packet was seen at
  text: string;
}

/**
 * Where and why the kernel dropped a packet of the walk; or one of the application's, before it was on any
 * device: after step 3.
 */
export function drop(events: KernelEvent[], pids: Pids): Drop | undefined {
  const by = who(events, pids);
  const steps = packetSteps(events, by);
  const latest = new Map<string, string | undefined>(); // skbaddr → the latest step of the packet that has it
  for (const event of events) {
    const skb = field(event, "skbaddr");
    if (stageOf(event, ""))
      // once read, it is gone
      latest.set(skb, event.name === "skb_copy_datagram_iovec" ? undefined : steps.get(event));
    // ping_rcv() says NO_SOCKET of every answer to a raw socket, which has its own copy by then
    if (
      event.name !== "kfree_skb" ||
      field(event, "protocol") !== "2048" ||
      field(event, "location") === "ping_rcv"
    )
      continue;
    const after = latest.get(skb) ?? (by(event) === "application" ? "3 client" : undefined);
    if (after)
      return {
        after: after.split(" ")[0]!,
        text: `dropped in ${field(event, "location")}(): ${field(event, "reason")}`,
      };
    latest.delete(skb);
  }
  return undefined;
}

// by how they begin
const LEFT_OUT = [
  ...["queue_mapping", "vlan", "protocol", "ip_summed", "data_len", "network_offset", "transport_offset"],
  ...["tx_flags", "gso", "sk address", "skbaddr", "buf", "uservaddr", "addr"],
];
const LEFT_OUT_FIELD = new RegExp(` ?\\b(${LEFT_OUT.join("|")})\\w*(=|: | = )\\S+`, "g");

/** A tracepoint's line without the fields that do not help here. */
function shorten({ name, text }: KernelEvent): string {
  if (name === "fib_table_lookup")
    return text.replace(/^.*? ([\d.]+)\/(\d+) -> ([\d.]+)\/\d+ .*==> (dev \w+).*$/, `${name} $1 → $3 ==> $4`);
  return `${name} ${text.replace(LEFT_OUT_FIELD, "").slice(0, 90).replace(/,\s*$/, "")}`;
}

const SOURCE = {
  program: chalk.green("our code  "),
  tap: chalk.yellow("tap       "),
  tracepoint: chalk.magenta("tracepoint"),
  output: chalk.cyan("output    "),
};

/**
 * The steps for which there is no evidence, and why: no tracepoints, or, at the next one that should be
 * there, a packet dropped on its way; "": `around`, another way that the packets went, is said at step 3 for
 * all.
 */
export function missing(
  evidence: Evidence[],
  withoutTracepoints: string | undefined,
  dropped: Drop | undefined,
  around: string | undefined,
): Map<string, string> {
  const steps = WALK.filter(({ id }) => !evidence.some(({ step }) => step === id));
  if (around) return new Map(steps.map(({ id }) => [id, id === "3" ? around : ""]));
  const last = WALK.findIndex(({ id }) => id === dropped?.after);
  const next = steps.find(
    (step) => WALK.indexOf(step) > last && !(step.tracepointsOnly && withoutTracepoints),
  );
  return new Map(
    steps.map((step) => [
      step.id,
      step.tracepointsOnly && withoutTracepoints
        ? withoutTracepoints
        : step === next && dropped
          ? dropped.text
          : "it was not seen",
    ]),
  );
}

/** Prints the timeline, step by step. In a terminal a line is one line, as in the trace. */
export function print(
  evidence: Evidence[],
  lacking: Map<string, string>,
  columns = process.stdout.columns || Infinity,
): void {
  const start = evidence[0]?.time ?? 0n;
  const shown = columns >= WIDE ? 8 : 4; // bytes
  for (const step of WALK.filter(({ id }) => lacking.get(id) !== "")) {
    const number = chalk.bold.inverse(` ${step.id.padStart(2)} `);
    const where = fitting(`${step.lane}, ${step.where}`, columns - 6 - step.title.length);
    console.log(`\n${number} ${chalk.bold(step.title)} ${chalk.dim(where)}`);
    for (const { time, host, source, text, hex, atMost } of evidence.filter((one) => one.step === step.id)) {
      const micros = `${atMost ? "≤ " : ""}+${(time - start) / 1000n}`;
      const bytes = (hex.slice(0, shown * 2).match(/../g) ?? []).join(" ");
      const before = `${micros.padStart(8)} µs  ${host.padEnd(8)} `;
      const after = bytes && `${bytes.padEnd(shown * 3 - 1)} `;
      const room = columns - before.length - "tracepoint ".length - after.length;
      console.log(`${before}${SOURCE[source]} ${after}${fitting(text, room)}`);
    }
    if (lacking.has(step.id)) console.log(chalk.red(`          no evidence: ${lacking.get(step.id)}`));
  }
}
