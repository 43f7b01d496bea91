/** GET /metrics: Prometheus' text format (prometheus.io/docs/instrumenting/exposition_formats). */
import { readdirSync } from "node:fs";
import { monitorEventLoopDelay } from "node:perf_hooks";
import { listening } from "./events.ts";
import { all } from "./interfaces.ts";

/** One metric: its values by their labels. */
export interface Family {
  name: string;
  type: "counter" | "gauge" | "histogram";
  help: string;
  samples: [labels: Record<string, string>, value: number, suffix?: string][]; // suffix: "_bucket"
}

const sources: (() => Family[] | Promise<Family[]>)[] = [ofRequests, ofInterfaces, ofProcess];
/** More of them: a VPN's. */
export const measure = (source: () => Family[] | Promise<Family[]>) => void sources.push(source);

export async function metrics(): Promise<string> {
  return (await Promise.all(sources.map((source) => source()))).flat().map(render).join("");
}

const escape = (text: string) => text.replace(/[\\"\n]/g, (char) => (char === "\n" ? "\\n" : `\\${char}`));

function render({ name, type, help, samples }: Family): string {
  const lines = samples.map(([labels, value, suffix = ""]) => {
    const pairs = Object.entries(labels).map(([label, text]) => `${label}="${escape(text)}"`);
    return `${name}${suffix}${pairs.length > 0 ? `{${pairs}}` : ""} ${value === Infinity ? "+Inf" : value}`;
  });
  return [`# HELP ${name} ${help}`, `# TYPE ${name} ${type}`, ...lines, ""].join("\n");
}

// ---- requests ----

const BUCKETS = [0.001, 0.005, 0.025, 0.1, 0.5, 2.5]; // s
const requests = new Map<string, { labels: Record<string, string>; count: number }>();
const buckets = BUCKETS.map(() => 0);
const durations = { count: 0, sum: 0 };

/** One request was answered. `path`: of the table, so that strangers cannot make up new ones. */
export function answered(method: string, path: string, code: number, seconds: number): void {
  const key = `${method} ${path} ${code}`;
  const one = requests.get(key) ?? { labels: { method, path, code: `${code}` }, count: 0 };
  requests.set(key, { ...one, count: one.count + 1 });
  BUCKETS.forEach((most, i) => seconds <= most && buckets[i]!++);
  durations.count++;
  durations.sum += seconds;
}

function ofRequests(): Family[] {
  const name = "simple_vpn_manager_http_request_duration_seconds";
  const { count, sum } = durations;
  return [
    {
      name: "simple_vpn_manager_http_requests_total",
      type: "counter",
      help: "Requests answered.",
      samples: [...requests.values()].map(({ labels, count }) => [labels, count]),
    },
    {
      name,
      type: "histogram",
      help: "Time until the answer was made.",
      samples: [
        ...BUCKETS.map((most, i): Family["samples"][0] => [{ le: `${most}` }, buckets[i]!, "_bucket"]),
        [{ le: "+Inf" }, count, "_bucket"],
        [{}, sum, "_sum"],
        [{}, count, "_count"],
      ],
    },
    gauge("simple_vpn_manager_listeners", "Listeners to /api/events.", [[{}, listening()]]),
  ];
}

// ---- interfaces ----

function ofInterfaces(): Family[] {
  const counter = (
    name: string,
    help: string,
    value: (one: ReturnType<typeof all>[0]) => number,
  ): Family => ({
    name: `simple_vpn_manager_interface_${name}_total`,
    type: "counter",
    help,
    samples: all().map((one) => [{ interface: one.tun.name }, value(one)]),
  });
  return [
    gauge(
      "simple_vpn_manager_interface_active",
      "1 while its packets are read.",
      all().map((one) => [{ interface: one.tun.name, type: one.type }, one.mode ? 1 : 0]),
    ),
    counter("read_packets", "Packets that the kernel sent.", ({ read }) => read.packets),
    counter("read_bytes", "Bytes that the kernel sent.", ({ read }) => read.bytes),
    counter("written_packets", "Answers that the kernel took.", ({ written }) => written.packets),
    counter("written_bytes", "Bytes of answers that the kernel took.", ({ written }) => written.bytes),
    counter("discarded_packets", "Packets that had waited before the start.", ({ lost }) => lost.discarded),
    counter("refused_packets", "Answers that the kernel did not take.", ({ lost }) => lost.refused),
    {
      name: "simple_vpn_manager_interface_protocol_packets_total",
      type: "counter",
      help: "Packets that the kernel sent, by protocol.",
      samples: all().flatMap((one) =>
        Object.entries(one.protocols).map(([protocol, count]): Family["samples"][0] => [
          { interface: one.tun.name, protocol },
          count,
        ]),
      ),
    },
  ];
}

// ---- this program ----

const gauge = (name: string, help: string, samples: Family["samples"]): Family => ({
  name,
  type: "gauge",
  help,
  samples,
});
const delay = monitorEventLoopDelay();
delay.enable();

function ofProcess(): Family[] {
  const { user, system } = process.cpuUsage();
  const quantile = (percent: number) => delay.percentile(percent) / 1e9;
  return [
    gauge("simple_vpn_manager_event_loop_delay_seconds", "How late the event loop is.", [
      [{ quantile: "0.5" }, quantile(50)],
      [{ quantile: "0.99" }, quantile(99)],
    ]),
    {
      name: "process_cpu_seconds_total",
      type: "counter",
      help: "Processor time of this program.",
      samples: [[{}, (user + system) / 1e6]],
    },
    gauge("process_resident_memory_bytes", "Memory of this program.", [[{}, process.memoryUsage.rss()]]),
    gauge("process_open_fds", "Open file descriptors.", [[{}, readdirSync("/proc/self/fd").length]]),
    gauge("process_start_time_seconds", "When it was started.", [[{}, performance.timeOrigin / 1000]]),
  ];
}
