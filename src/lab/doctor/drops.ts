/**
 * The kernel's own evidence of what became of one packet. A packet is known by its length, which ping
 * chooses: tunnelled, it has that length again on every interface that it passes. In the lab all hosts are
 * seen, on a real machine only that machine.
 */
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { TraceInstance } from "../walk/tracefs.ts";

const PLACES = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];
const EVENTS = ["net/net_dev_queue", "net/netif_receive_skb", "skb/kfree_skb"];
// of a socket that is closed; NO_SOCKET: ping_rcv() of every reply, which goes to ping's raw socket
const NORMAL = ["NO_SOCKET", "CONSUMED", "SKB_CONSUMED", "QUEUE_PURGE"];
const HEADERS = 28; // bytes that ping puts before its -s: IPv4 and ICMP
const ETHERNET = 14; // bytes: on an eth device, net_dev_queue counts its header

/** One pinged packet: was it answered, and what the kernel did with it; without evidence, why not. */
export interface PingWalk {
  answered: boolean;
  steps: string[]; // "client out tun0", "server in tun0", …
  // where: kernel function; device: the last it came in by
  drop?: { reason: string; where: string; device: string; host: string };
  missing?: string;
}

/**
 * Pings `target` once, with the kernel watched where this process may; waits 1 s. `client`: the pid of this
 * host's VPN program.
 */
export function pingWatched(target: string, client: number | undefined): PingWalk {
  const size = 600 + Math.floor(Math.random() * 500); // so that no other ping has it
  const ping = () => spawnSync("ping", ["-n", "-c", "1", "-W", "1", "-s", `${size}`, target]);
  let answered: boolean | undefined;
  let instance: TraceInstance | undefined;
  try {
    const place = PLACES.find((one) => existsSync(join(one, "instances")));
    if (!place) throw new Error("'mount -t tracefs tracefs /sys/kernel/tracing', as root, brings it");
    instance = new TraceInstance(place);
    for (const event of EVENTS) instance.enable(event);
    const { pid, status } = ping();
    answered = status === 0;
    return { answered, ...readTrace(instance.stop(), size + HEADERS, pid, client) };
  } catch (error) {
    return {
      answered: answered ?? ping().status === 0,
      steps: [],
      missing: `no tracefs to ask: ${(error as NodeJS.ErrnoException).code ?? (error as Error).message}`,
    };
  } finally {
    instance?.remove(); // no signal comes between: all of this is synchronous
  }
}

/**
 * The first packet of `length` in a trace: "ping-77 [001] b.... 63.53: net_dev_queue: dev=tun0 skbaddr=…8b
 * len=361", and "node-75 [001] b.... 63.54: kfree_skb: skbaddr=…8b … location=ip_error+0x94/0x210 reason:
 * IP_INADDRERRORS".
 * @param pid of ping: a packet that was dropped before it had an interface is known by the process that sent
 * it
 * @param client the VPN program that writes the answer into this host's TUN
 */
export function readTrace(
  trace: string,
  length: number,
  pid: number,
  client: number | undefined,
): Pick<PingWalk, "steps" | "drop"> {
  const hosts = ["server", "internet", "server", "client"]; // each "in" is one host further
  let host = "client";
  const steps: string[] = [];
  // skbaddr of our packet: the kernel's name for it, until it is freed and used again
  const ours = new Set<string>();
  let device = "";
  for (const line of trace.split("\n")) {
    const [, process, event, fields = ""] =
      /^\s*\S+-(\d+)\s.*?: (net_dev_queue|netif_receive_skb|kfree_skb): (.*)/.exec(line) ?? [];
    const field = (name: string) => new RegExp(`\\b${name}[=:] ?([^\\s+]+)`).exec(fields)?.[1] ?? "";
    const skb = field("skbaddr");
    if (event === "kfree_skb") {
      const reason = field("reason");
      if ((!ours.delete(skb) && Number(process) !== pid) || NORMAL.includes(reason) || reason === "")
        continue;
      return { steps, drop: { reason, where: field("location"), device, host } };
    } else if (event) {
      if (![length, length + ETHERNET].includes(Number(field("len")))) {
        ours.delete(skb);
        continue;
      }
      ours.add(skb);
      device = field("dev");
      if (event === "netif_receive_skb")
        host = Number(process) === client ? "client" : (hosts.shift() ?? host);
      steps.push(`${host} ${event === "net_dev_queue" ? "out" : "in"} ${device}`);
    }
  }
  return { steps };
}
