/**
 * The kernel's own evidence: tracepoints, recorded in a tracefs instance of our own (Documentation/trace/ftrace.rst), so that
 * nobody else's tracing is disturbed, and on the monotonic clock, as all our other times are. Needs root.
 */
import { mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { atExit } from "../program.ts";
import type { Lab } from "./lab.ts";

/** One line of the kernel's trace. */
export interface KernelEvent {
  time: bigint; // ns, CLOCK_MONOTONIC; the kernel prints microseconds
  pid: number; // of the process in whose context it happened
  name: string; // "net_dev_start_xmit"
  text: string; // "dev=tun0 … skbaddr=…", as the kernel prints it
}

const EVENTS = [
  "syscalls/sys_enter_connect", "syscalls/sys_enter_sendto", "syscalls/sys_enter_sendmsg", "syscalls/sys_enter_sendmmsg", "syscalls/sys_enter_write",
  "fib/fib_table_lookup", "net/net_dev_queue", "net/net_dev_start_xmit", "net/netif_receive_skb", "skb/skb_copy_datagram_iovec", "skb/kfree_skb",
  "sock/sk_data_ready", "sock/sock_recv_length",
];
const TRACING = "/sys/kernel/tracing";
const PREFIX = "simple-vpn-";

export class Tracepoints {
  readonly missing: string[] = []; // events that this kernel does not have
  private readonly folder: string;

  private constructor(folder: string) {
    this.folder = folder;
  }

  /** Starts recording. A string says why there is no evidence of the kernel's to be had. */
  static start(lab: Lab): Tracepoints | string {
    // tracefs is mounted in the lab's private mount namespace, so that this machine's mounts stay as they are.
    const { status, stderr } = lab.try("lab", `mount -t tracefs tracefs ${TRACING}`);
    if (status !== 0) return `tracefs cannot be mounted: ${stderr.trim().split("\n")[0]}`;
    const instances = `/proc/${lab.holder}/root${TRACING}/instances`;
    try {
      for (const old of readdirSync(instances).filter((name) => name.startsWith(PREFIX))) {
        if (!isAlive(Number(old.slice(PREFIX.length)))) removeInstance(join(instances, old)); // left by a run that was killed
      }
      const tracepoints = new Tracepoints(join(instances, `${PREFIX}${process.pid}`));
      mkdirSync(tracepoints.folder);
      atExit(() => removeInstance(tracepoints.folder));
      tracepoints.write("trace_clock", "mono");
      for (const event of EVENTS) tracepoints.enable(event);
      return tracepoints;
    } catch (error) {
      return `tracefs cannot be used: ${(error as NodeJS.ErrnoException).code}`;
    }
  }

  /** System calls are recorded of this process only: there are so many. */
  follow(pid: number): void {
    for (const event of EVENTS.filter((name) => name.startsWith("syscalls/") && !this.missing.includes(name))) {
      this.write(`events/${event}/filter`, `common_pid == ${pid}`);
      this.write(`events/${event}/enable`, "1");
    }
  }

  private enable(event: string): void {
    try {
      if (!event.startsWith("syscalls/")) this.write(`events/${event}/enable`, "1"); // those wait for follow()
      else readFileSync(join(this.folder, `events/${event}/enable`));
    } catch {
      this.missing.push(event);
    }
  }

  private write(file: string, value: string): void {
    writeFileSync(join(this.folder, file), value);
  }

  /** Stops recording and removes the instance; what was recorded, in time order. */
  stop(): KernelEvent[] {
    this.write("tracing_on", "0");
    const events: KernelEvent[] = [];
    for (const line of readFileSync(join(this.folder, "trace"), "utf8").split("\n")) {
      const [, pid, seconds, micros, name, text] = /^\s*.+-(\d+)\s+\[\d+\]\s+\S+\s+(\d+)\.(\d{6}): (\w+)[:(] ?(.*)$/.exec(line) ?? [];
      if (name !== undefined) events.push({ time: BigInt(seconds!) * 1_000_000_000n + BigInt(micros!) * 1000n, pid: Number(pid), name, text: text!.replace(/\)$/, "") });
    }
    removeInstance(this.folder);
    return events.sort((a, b) => (a.time < b.time ? -1 : a.time > b.time ? 1 : 0));
  }
}

function removeInstance(folder: string): void {
  try {
    writeFileSync(join(folder, "events/enable"), "0");
    rmdirSync(folder);
  } catch {
    // the lab is down already, and with it our view of tracefs; the next run removes it
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}
