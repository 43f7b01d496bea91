/** The wires between client and server that `make bench` measures on. */
import type { Lab } from "../lab.ts";
import { Emulator } from "../wire/emulator.ts";
import { addRouter } from "../wire/router.ts";

const FAR = 25; // ms, one way
// Nearly every Linux has Cubic, which at such rates does as Reno does. Every lab can have Reno. BBR pays no
// heed to loss: where it is the default, the far wires would tell of that, and of nothing else.
const CONGESTION = "reno";

interface Wire {
  title: string;
  explained: string; // for whoever reads the table
  /** Makes it in a new lab; the emulator, where there is one. `seed` decides which packets are lost. */
  lay: (lab: Lab, seed: number) => Promise<Emulator | undefined>;
}

/** A network between client and server; without delay and loss the emulator is left out. */
const network = (title: string, percent: number, delay = FAR): Wire => ({
  title,
  explained:
    `the honest wire, ${2 * delay} ms there and back, ${percent} % of the packets lost each way; ` +
    `TCP by ${CONGESTION}`,
  lay: async (lab, seed) => {
    addRouter(lab);
    for (const host of ["client", "server"])
      lab.run(host, `sysctl -w net.ipv4.tcp_congestion_control=${CONGESTION}`);
    return delay > 0 ? Emulator.start(lab, { delay, loss: percent / 100 }, seed) : undefined;
  },
});

export type WireName = "plain" | "honest" | "near" | "far" | "loss1" | "loss3" | "loss10";
export const WIRES: Record<WireName, Wire> = {
  plain: {
    title: "plain wire",
    explained:
      "a veth, which hands over up to 64 KB as one packet: it flatters those who have learned to use that",
    lay: async () => undefined,
  },
  honest: {
    title: "honest wire",
    explained: "no packet on it has more than 1,500 bytes, as on a cable",
    lay: async (lab) => {
      addRouter(lab);
      return undefined;
    },
  },
  near: network("near", 0, 0),
  far: network("far", 0),
  loss1: network("far, 1 % lost", 1),
  loss3: network("far, 3 % lost", 3),
  loss10: network("far, 10 % lost", 10),
};
export const NEAR = ["plain", "honest"] as const satisfies WireName[]; // with all measures
// with throughput alone
export const NETWORKS = ["near", "far", "loss1", "loss3", "loss10"] as const satisfies WireName[];
