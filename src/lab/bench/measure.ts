/**
 * How `make bench` measures one contender: iperf3 and ping on the client, and what /proc says of the programs
 * on both hosts.
 */
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { Failure } from "../../base/failure.ts";
import { startOurClient, startOurServer } from "./contenders.ts";
import type { Measure } from "./figures.ts";
import { type Lab, ours, SERVER } from "../lab.ts";
import { retry, Running } from "../running.ts";

export type Report = (row: string, measure: Measure, value: number) => void;

const SMALL = 64; // bytes of a small UDP packet's payload
const BUFFER = "200K"; // what an ordinary kernel allows; with less, iperf3's own socket is what loses packets
const PORT = 5201; // iperf3's own
export const CLIENTS = 16;
const STREAMS = 4; // on a lossy wire: a tunnel carries more than one connection

/**
 * Runs a command on a host to its end, at most `seconds`; its stdout and stderr. We go on reading what the
 * programs print meanwhile.
 */
async function finish(lab: Lab, host: string, command: string, seconds: number): Promise<string> {
  const running = new Running(lab.spawn(host, command.split(" ")));
  const deadline = setTimeout(() => running.child.kill("SIGKILL"), seconds * 1000);
  await running.ended;
  clearTimeout(deadline);
  return running.output;
}

const ATTEMPTS = 3; // a slow tunnel still brings iperf3's server what the last transfer has left in it
/** iperf3 from `host` to `address`: what the receiver got, payload only. */
async function iperf(
  lab: Lab,
  address: string,
  seconds: number,
  options = "",
  host = "client",
  port = PORT,
): Promise<{ bytes: number; seconds: number }> {
  const command = `iperf3 -c ${address} -p ${port} -t ${seconds} -J${options}`;
  for (let attempt = 1; ; attempt++) {
    const said = await finish(lab, host, command, seconds + 20);
    const received = said.startsWith("{") ? JSON.parse(said).end?.sum_received : undefined;
    if (received) return received;
    const why = /"error":\s*"(.*)"/.exec(said)?.[1] ?? "it did not end";
    if (attempt === ATTEMPTS)
      throw new Failure(`Cannot measure '${command}' on ${host}: ${why}`, "run it again");
    console.error(`once more: '${command}' on ${host}: ${why}`);
    await sleep(1000);
  }
}
const gigabits = ({ bytes, seconds }: { bytes: number; seconds: number }) => (bytes * 8e-9) / seconds;

async function startIperf(lab: Lab, port = PORT): Promise<void> {
  await new Running(lab.spawn("server", ["iperf3", "-s", "-p", `${port}`, "--forceflush"])).until(
    /listening/,
  );
}

/** The average of `count` pings, in ms. */
async function ping(
  lab: Lab,
  address: string,
  count: number,
  interval: number,
  host = "client",
): Promise<number> {
  const command = `ping -q -c ${count} -i ${interval} -W 2 ${address}`;
  const said = await finish(lab, host, command, count * interval + 20);
  const average = /= [\d.]+\/([\d.]+)\//.exec(said)?.[1];
  if (average === undefined) throw new Failure(`Cannot measure '${command}': ${said.trim()}`, "run it again");
  return Number(average);
}

/**
 * CPU seconds that a process, all its threads, has used: utime and stime of /proc/PID/stat (proc(5)), in
 * ticks of 1/100 s.
 */
function cpuSeconds({ child }: Running): number {
  const fields = readFileSync(`/proc/${child.pid}/stat`, "utf8")
    .replace(/^.*\) /s, "")
    .split(" ");
  return (Number(fields[11]) + Number(fields[12])) / 100;
}

/** The most memory a process has had, in MB: VmHWM of /proc/PID/status (proc(5)). */
function peakMemory({ child }: Running): number {
  return Number(/VmHWM:\s+(\d+) kB/.exec(readFileSync(`/proc/${child.pid}/status`, "utf8"))?.[1]) * 1024e-6;
}

const sum = (values: number[]) => values.reduce((a, b) => a + b, 0);

/** Seconds that the measurements below take with starting and stopping. They are for the estimate alone. */
export const TAKES = {
  near: (seconds: number) => 5 * seconds + 12,
  clients: (seconds: number) => 4 * seconds + 20,
  lossy: (seconds: number) => 4 * seconds + 10,
  socks: (seconds: number) => 4 * seconds + 12,
};

/**
 * All measures of one contender, which runs already. Each lasts `seconds`. `check` is called once bulk has
 * gone both ways.
 */
export async function measure(
  lab: Lab,
  address: string,
  programs: Running[],
  seconds: number,
  report: (measure: Measure, value: number) => void,
  check: () => void = () => {},
): Promise<void> {
  await startIperf(lab);
  await retry(() => lab.run("client", `ping -c 1 -W 1 ${address}`));
  await iperf(lab, address, 1); // a warm-up: the first packets find neighbours and routes …
  // … thousands are needed until V8 has compiled all that a lone packet meets …
  await ping(lab, address, 2000, 0.001);
  // … and 8 s after its start it tidies up what the start has left, for 70 ms of CPU
  await ping(lab, address, 1000, 0.005);
  report("idle", await ping(lab, address, seconds * 200, 0.005));

  const used = () => sum(programs.map(cpuSeconds));
  const before = used();
  const up = await iperf(lab, address, seconds);
  report("up", gigabits(up));
  const down = await iperf(lab, address, seconds, " -R");
  report("down", gigabits(down));
  check();
  if (programs.length > 0) report("cpu", (used() - before) / ((up.bytes + down.bytes) * 1e-9));

  const small = await iperf(lab, address, seconds, ` -u -b 0 -l ${SMALL} -w ${BUFFER}`);
  report("udp", small.bytes / SMALL / small.seconds / 1000);

  report("loaded", await loadedPing(lab, address, seconds));
  if (programs.length > 0) report("memory", Math.max(...programs.map(peakMemory)));
}

/** The average of the pings beside a transfer, in ms. */
export async function loadedPing(lab: Lab, address: string, seconds: number): Promise<number> {
  const pings = sleep(500).then(() => ping(lab, address, seconds * 100, 0.01));
  return (await Promise.all([pings, iperf(lab, address, seconds + 1)]))[0];
}

/**
 * What loss and a long way leave of the throughput. TCP needs a while to find that out: twice `seconds`.
 */
export async function measureLossy(
  lab: Lab,
  address: string,
  seconds: number,
  report: (measure: Measure, value: number) => void,
): Promise<void> {
  await startIperf(lab);
  await retry(() => lab.run("client", `ping -c 1 -W 1 ${address}`));
  const streams = ` -P ${STREAMS}`;
  report("upLossy", 1000 * gigabits(await iperf(lab, address, 2 * seconds, streams)));
  report("downLossy", 1000 * gigabits(await iperf(lab, address, 2 * seconds, `${streams} -R`)));
}

/** Our server with 16 clients: the throughput of one while the others are idle, and of all together. */
export async function measureClients(lab: Lab, seconds: number, report: Report): Promise<void> {
  const hosts = ["client", ...Array.from({ length: CLIENTS - 1 }, (_, i) => lab.addClient(i + 2))];
  await startOurServer(lab);
  await Promise.all(
    hosts.map((host, i) => startOurClient(lab, host, i === 0 ? SERVER : `192.168.${i + 1}.1`)),
  );
  await Promise.all(hosts.map((_, i) => startIperf(lab, PORT + i)));
  const together = async (count: number, duration: number, options?: string) => {
    const runs = hosts
      .slice(0, count)
      .map((host, i) => iperf(lab, "10.8.0.1", duration, options, host, PORT + i));
    return sum((await Promise.all(runs)).map(gigabits));
  };
  await Promise.all(hosts.map((host) => ping(lab, "10.8.0.1", 2000, 0.001, host))); // warm-up, as above
  await together(CLIENTS, 2);
  for (const [row, count] of [
    ["one", 1],
    ["clients", CLIENTS],
  ] as const) {
    report(row, "up", await together(count, seconds));
    report(row, "down", await together(count, seconds, " -R"));
  }
}

/**
 * One connection of curl(1), through tun0 and through --socks in turn: how much of the speed is left when the
 * client copies between two sockets, besides.
 */
export async function measureSocks(lab: Lab, seconds: number, report: Report): Promise<void> {
  await startOurServer(lab);
  await startOurClient(lab, "client", SERVER, "--socks", "1080");
  await new Running(lab.spawn("server", ours("lab/bench/endless"))).until(/ready/);
  const ways = { curl: "", socks: " --proxy socks5h://127.0.0.1:1080" };
  const measures = {
    up: " -T /dev/zero -w %{speed_upload}",
    down: " -w %{speed_download}",
  };
  const run = async (row: keyof typeof ways, measure: keyof typeof measures, duration: number) => {
    const page = "-o /dev/null http://10.8.0.1:8000/";
    const command = `curl -s -m ${duration}${ways[row]}${measures[measure]} ${page}`;
    const said = await finish(lab, "client", command, duration + 20);
    if (!(Number(said) > 0)) throw new Failure(`Cannot measure '${command}': ${said.trim()}`, "run it again");
    return Number(said) * 8e-9;
  };
  for (const [duration, tell] of [
    [1, () => {}], // a warm-up
    [seconds, report],
  ] as const)
    for (const measure of ["up", "down"] as const)
      for (const row of ["curl", "socks"] as const) tell(row, measure, await run(row, measure, duration));
}
