/**
 * A long way between client and server, which loses packets: what netem does in kernels that have it. The
 * router's packets take a detour through a program of ours, emulator-program.ts, by two TUNs.
 */
import { type Lab, type OnHost, ours } from "../lab.ts";
import { Running } from "../running.ts";
import { SEED } from "../tests/peers.ts";
import type { Counts, Way } from "./delay-line.ts";

const WAYS = ["up", "down"] as const;
const DEVICES = WAYS.map((way) => `${way}0`);
const QUEUE = 10_000; // packets that may wait for our program in a TUN

export class Emulator {
  readonly seed: number;
  private readonly lab: Lab;
  private readonly running: Running;
  private readonly before: number[]; // packets that no one read, by device

  private constructor(lab: Lab, seed: number, running: Running, before: number[]) {
    this.lab = lab;
    this.seed = seed;
    this.running = running;
    this.before = before;
  }

  /**
   * Starts it on the router: addRouter() comes first. From then on every packet between client and server
   * takes this way, IPv4 and IPv6, each direction by itself: there and back is twice the delay.
   */
  static async start(lab: Lab, way: Partial<Way>, seed = SEED): Promise<Emulator> {
    const { delay = 0, loss = 0, reorder = 0, late = 2 } = way;
    const words = [seed, delay, loss, reorder, late].map(String);
    const running = new Running(lab.spawn("router", [...ours("lab/wire/emulator-program"), ...words]));
    await running.until(/ready/);
    const versions = lab.hasIPv6("router") ? (["-4", "-6"] as const) : (["-4"] as const);
    lab.runAll(
      DEVICES.flatMap((device): OnHost[] => [
        // no address of its own: it would send more by itself
        ...(versions.length > 1 ? [on(`sysctl -qw net.ipv6.conf.${device}.addr_gen_mode=1`)] : []),
        on(`sysctl -qw net.ipv4.conf.${device}.rp_filter=0`),
        on(`ip link set dev ${device} txqueuelen ${QUEUE} up`),
      ]),
    );
    const before = DEVICES.map((device) => unread(lab, device)); // what the kernel says on a new link
    lab.runAll(
      DEVICES.flatMap((device, i) =>
        versions.map((version) => on(`ip ${version} route add default dev ${device} table ${100 + i}`)),
      ),
    );
    return new Emulator(lab, seed, running, before);
  }

  /** Ends it: from now on packets go straight again. What became of those that came. */
  async stop(): Promise<Record<(typeof WAYS)[number], Counts>> {
    const missed = DEVICES.map((device, i) => unread(this.lab, device) - this.before[i]!);
    await this.running.stop();
    const [up, down] = WAYS.map((name, i) => {
      const counts = JSON.parse(new RegExp(`^${name} (.*)$`, "m").exec(this.running.output)![1]!) as Counts;
      return { ...counts, came: counts.came + missed[i]!, dropped: counts.dropped + missed[i]! };
    });
    return { up: up!, down: down! };
  }
}

const on = (command: string): OnHost => ["router", command];

/** Packets that a TUN had no room for: its program was too slow. */
function unread(lab: Lab, device: string): number {
  const [link] = JSON.parse(lab.run("router", `ip -s -j link show dev ${device}`)) as [
    { stats64: { tx: { dropped: number } } },
  ];
  return link.stats64.tx.dropped;
}
