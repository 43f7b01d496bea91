/** GET /metrics: the manager's own numbers, and those that others add. */
import { readdirSync } from "node:fs";
import { type Family, render, type Sample } from "../base/prometheus.ts";
import { listening } from "./events.ts";
import { all } from "./interfaces.ts";

const sources: (() => Family[] | Promise<Family[]>)[] = [ofRequests, ofInterfaces, ofProcess];
/** More of them: a VPN's. */
export const measure = (source: () => Family[] | Promise<Family[]>) => void sources.push(source);

export const metrics = async () => render((await Promise.all(sources.map((source) => source()))).flat());

const requests = new Map<string, { labels: Sample[0]; count: number; seconds: number }>();

/** One request was answered. `path`: of the table; so strangers cannot make up new labels. */
export function answered(method: string, path: string, code: number, seconds: number): void {
  const key = `${method} ${path} ${code}`;
  const one = requests.get(key) ?? { labels: { method, path, code }, count: 0, seconds: 0 };
  requests.set(key, { ...one, count: one.count + 1, seconds: one.seconds + seconds });
}

function ofRequests(): Family[] {
  const samples = [...requests.values()].flatMap(({ labels, count, seconds }): Sample[] => [
    [labels, seconds, "_sum"],
    [labels, count, "_count"],
  ]);
  return [
    ["simple_vpn_manager_request_duration_seconds", "summary", "Requests, and how long they took.", samples],
    ["simple_vpn_manager_listeners", "gauge", "Listeners to /api/events.", [[{}, listening()]]],
  ];
}

type Counters = ReturnType<typeof all>[0]["counters"];

function ofInterfaces(): Family[] {
  const active = all().map(({ settings: { name, type }, mode }): Sample => {
    return [{ interface: name, type }, mode ? 1 : 0];
  });
  const total = (name: string, help: string, of: (counters: Counters) => object): Family => {
    const samples = all().flatMap(({ settings, counters }) =>
      Object.entries(of(counters)).map(([kind, n]): Sample => [{ interface: settings.name, kind }, n]),
    );
    return [`simple_vpn_manager_interface_${name}_total`, "counter", help, samples];
  };
  const packets = ({ read, written, discarded, refused }: Counters) => {
    return { read: read.packets, written: written.packets, discarded, refused };
  };
  return [
    ["simple_vpn_manager_interface_active", "gauge", "1 while packets are read.", active],
    total("packets", "Packets by what became of them.", packets),
    total("bytes", "Bytes of them.", ({ read, written }) => ({ read: read.bytes, written: written.bytes })),
    total("protocol_packets", "Packets read, by protocol.", ({ protocols }) => protocols),
  ];
}

function ofProcess(): Family[] {
  const { user, system } = process.cpuUsage();
  const gauge = (name: string, help: string, value: number): Family => [name, "gauge", help, [[{}, value]]];
  return [
    ["process_cpu_seconds_total", "counter", "Processor time.", [[{}, (user + system) / 1e6]]],
    gauge("process_resident_memory_bytes", "Memory.", process.memoryUsage.rss()),
    gauge("process_open_fds", "Open file descriptors.", readdirSync("/proc/self/fd").length),
    gauge("process_start_time_seconds", "When it was started.", performance.timeOrigin / 1000),
  ];
}
