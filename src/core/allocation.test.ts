/**
 * Nothing is allocated for a packet. V8 may all the same put each address of a C call in a box of 16 bytes:
 * that depends on what it compiles when, and stays so for the life of the process. So a process of its own
 * measures, and if it finds boxes, another one does: what our code allocates would show in each of them. From
 * Node 22 on there are always the same four boxes in a round of 8 packets.
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { parseCidr } from "../base/address.ts";
import { Memory, read, write } from "../base/libc.ts";
import { OFFLOAD_HEADER } from "./offload.ts";
import { innerDestination } from "../base/packet.ts";
import { Router } from "../server/router.ts";
import type { Peer } from "./peer.ts";
import { packet, session } from "../lab/tests/peers.ts";
import { outbound } from "./tunnel.ts";

const PROCESSES = 6; // about one in thirty has boxes
const QUIET = 5; // rounds in a row

const BOXES = Number(process.versions.node.split(".")[0]) < 22 ? 0 : (4 * 16) / 8; // bytes a packet

const isQuiet = (figures: number[]) =>
  figures.length >= QUIET && figures.slice(-QUIET).every((figure) => Math.abs(figure - BOXES) < 1);

/** Bytes of heap for each packet, in rounds of 16,000; half of the packets are dropped. */
function measure(): number[] {
  const it = session();
  const one = Buffer.concat([Buffer.alloc(OFFLOAD_HEADER), packet(100)]);
  const router = new Router<Peer>(parseCidr("192.168.7.0/24")!); // an address that is more than 2^31
  const address = router.offer()!;
  router.lease(address, it.client.peer);
  let count = 0;
  one.writeUInt32BE(address, OFFLOAD_HEADER + 16);
  const peerFor = (bytes: Buffer, at: number, length: number) =>
    count++ % 2 ? router.clientAt(innerDestination(bytes, at, length, undefined))! : "test";
  const [sent, arrived] = [new Memory(2048), new Memory(2048)];
  const round = () => {
    one.copy(sent.bytes);
    for (let i = 0; i < 8; i++) write(it.client.kernel, sent, 0, one.length);
    outbound(it.client.tun, peerFor);
    it.server.receive();
    for (let i = 0; i < 4; i++) assert.equal(read(it.server.kernel, arrived, 0, 2048), one.length);
  };
  // Until the compiler is done with the code, its own work shows. A garbage collection makes a figure
  // negative: there must be none.
  const figures: number[] = [];
  while (!isQuiet(figures) && figures.length < 30) {
    const before = process.memoryUsage().heapUsed;
    for (let i = 0; i < 2000; i++) round();
    figures.push((process.memoryUsage().heapUsed - before) / (2000 * 8));
  }
  return figures;
}

if (process.env.MEASURE) console.log(JSON.stringify(measure()));
else
  test("in the steady state, nothing is allocated for a packet, be it sent or dropped", () => {
    const seen: string[] = [];
    while (seen.length < PROCESSES) {
      const { stdout } = spawnSync(process.execPath, ["--import", "tsx", fileURLToPath(import.meta.url)], {
        env: { ...process.env, MEASURE: "1", NODE_TEST_CONTEXT: undefined },
        encoding: "utf8",
      });
      const figures: number[] = JSON.parse(stdout);
      if (isQuiet(figures)) return;
      seen.push(figures.map((figure) => figure.toFixed(1)).join(", "));
    }
    assert.fail(`bytes of heap for each packet, in ${PROCESSES} processes:\n${seen.join("\n")}`);
  });
