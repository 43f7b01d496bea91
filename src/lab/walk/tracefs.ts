/**
 * A tracefs instance of our own (linux Documentation/trace/ftrace.rst, "Instances"): the kernel's
 * tracepoints, without disturbing anybody else's tracing, on the monotonic clock, as all our other times are.
 * Needs root. tracefs knows no namespaces: in the lab it sees all hosts.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const NAME = "simple-vpn-"; // and the pid
const BUFFER = 4096; // KB for each processor: a second of much other traffic

export class TraceInstance {
  private readonly folder: string;
  private readonly enabled: string[] = [];

  /** @param tracing where tracefs is mounted. Throws where there can be no instance. */
  constructor(tracing: string) {
    const instances = join(tracing, "instances");
    for (const left of readdirSync(instances)) {
      const pid = /^simple-vpn-(\d+)$/.exec(left)?.[1];
      if (pid && !existsSync(`/proc/${pid}`)) removeLeft(join(instances, left));
    }
    this.folder = join(instances, `${NAME}${process.pid}`);
    mkdirSync(this.folder);
    this.write("trace_clock", "mono");
    // What comes first stays: other traffic on this machine must not push it out.
    this.write("options/overwrite", "0");
    this.write("buffer_size_kb", `${BUFFER}`);
  }

  /** Records an event, "net/net_dev_queue". False if this kernel does not have it. */
  enable(event: string): boolean {
    if (!existsSync(join(this.folder, "events", event))) return false;
    this.write(`events/${event}/enable`, "1");
    this.enabled.push(event);
    return true;
  }

  /** Records what happens in these processes only, and in those that they start. */
  follow(pids: number[]): void {
    this.write("options/event-fork", "1");
    this.write("set_event_pid", pids.join(" "));
  }

  /** Stops recording; what was recorded, as the kernel prints it. */
  stop(): string {
    this.write("tracing_on", "0");
    return readFileSync(join(this.folder, "trace"), "utf8");
  }

  /** Once more does nothing. */
  remove(): void {
    if (!existsSync(this.folder)) return;
    for (const event of this.enabled) this.write(`events/${event}/enable`, "0");
    rmdirSync(this.folder);
  }

  private write(file: string, value: string): void {
    writeFileSync(join(this.folder, file), value);
  }
}

/** Removes an instance of a run that was killed. */
function removeLeft(folder: string): void {
  try {
    rmdirSync(folder);
  } catch {
    // EBUSY: somebody still reads it. It disturbs nobody, and a later run removes it.
  }
}
