/** The kernel's own evidence of the walk: tracepoints, recorded while the followed command runs. */
import { atExit } from "../../host/program.ts";
import type { Lab } from "../lab.ts";
import { TraceInstance } from "./tracefs.ts";

/** One line of the kernel's trace. */
export interface KernelEvent {
  time: bigint; // ns, CLOCK_MONOTONIC; the kernel prints microseconds
  pid: number; // of the process in whose context it happened
  name: string; // "net_dev_start_xmit"
  text: string; // "dev=tun0 … skbaddr=…", as the kernel prints it
}

const EVENTS = [
  "fib/fib_table_lookup",
  "net/net_dev_start_xmit",
  "net/netif_receive_skb",
  "skb/skb_copy_datagram_iovec",
  "skb/kfree_skb",
  "sock/sk_data_ready",
  "sock/sock_recv_length",
  ...["connect", "sendto", "sendmsg", "sendmmsg", "write"].map((name) => `syscalls/sys_enter_${name}`),
];
const TRACING = "/sys/kernel/tracing";

export class Tracepoints {
  private readonly instance: TraceInstance;

  private constructor(instance: TraceInstance) {
    this.instance = instance;
  }

  /**
   * Starts recording what happens in these processes. A string says why there is no evidence of the kernel's
   * to be had.
   */
  static start(lab: Lab, pids: number[]): Tracepoints | string {
    // Systemd has mounted tracefs already. Elsewhere it is mounted in the lab's private mount namespace, so
    // that this machine's mounts stay as they are.
    const mount = `test -d ${TRACING}/instances || mount -t tracefs tracefs ${TRACING}`;
    const { status, stderr } = lab.try("lab", ["sh", "-c", mount]);
    if (status !== 0) return `tracefs cannot be mounted: ${stderr.trim().split("\n")[0]!.replace(/\.$/, "")}`;
    try {
      const instance = new TraceInstance(`/proc/${lab.holder}/root${TRACING}`);
      atExit(() => instance.remove());
      instance.follow(pids);
      for (const event of EVENTS) instance.enable(event);
      return new Tracepoints(instance);
    } catch (error) {
      return `tracefs cannot be used: ${(error as NodeJS.ErrnoException).code}`;
    }
  }

  /** Stops recording and removes the instance; what was recorded, in time order. */
  stop(): KernelEvent[] {
    const events = parseTrace(this.instance.stop());
    this.instance.remove();
    return events.sort((a, b) => (a.time < b.time ? -1 : a.time > b.time ? 1 : 0));
  }
}

/** The lines of a trace: "  ping-7504 [001] b..2. 15440.756774: net_dev_start_xmit: dev=tun0 …". */
export function parseTrace(text: string): KernelEvent[] {
  return text.split("\n").flatMap((line): KernelEvent[] => {
    const [, pid, seconds, micros, name, text] =
      /^\s*.+-(\d+)\s+\[\d+\]\s+\S+\s+(\d+)\.(\d{6}): (\w+)[:(] ?(.*)$/.exec(line) ?? [];
    if (name === undefined) return [];
    return [
      {
        time: BigInt(seconds!) * 1_000_000_000n + BigInt(micros!) * 1000n,
        pid: Number(pid),
        name,
        text: text!.replace(/\)$/, ""),
      },
    ];
  });
}
