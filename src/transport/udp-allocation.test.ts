/**
 * Nothing is allocated for a datagram that is good. As in core/allocation.test.ts, a process of its own
 * measures, and another one if V8 has put the numbers of C calls into boxes.
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { Memory, read, write } from "../base/libc.ts";
import { OFFLOAD_HEADER } from "../core/offload.ts";
import { dialEnd, DatagramServer, freePort } from "../lab/tests/datagram-pair.ts";
import { packet } from "../lab/tests/peers.ts";

const PROCESSES = 6;
const QUIET = 5; // rounds in a row
// bytes a packet. From Node 22 on, V8 boxes the addresses of the C calls for a datagram: 76 to 114 bytes, as
// its version is. Node 20 boxes none, so there every object of ours shows
const MOST = Number(process.versions.node.split(".")[0]) < 22 ? 1 : 120;

const isQuiet = (figures: number[]) =>
  figures.length >= QUIET && figures.slice(-QUIET).every((figure) => figure >= 0 && figure < MOST);

/** Bytes of heap for each packet, in rounds of 4,000: with boxes, more would bring a collection. */
async function measure(): Promise<number[]> {
  const server = new DatagramServer(await freePort());
  const client = await dialEnd(server.port);
  const far = server.ends[0]!;
  const one = Buffer.concat([Buffer.alloc(OFFLOAD_HEADER), packet(1000)]); // one a datagram
  const [sent, arrived] = [new Memory(2048), new Memory(2048)];
  client.link.size = far.link.size = 1280;
  one.copy(sent.bytes);
  const round = () => {
    for (let i = 0; i < 8; i++) write(client.kernel, sent, 0, one.length);
    client.drain();
    far.receive();
    for (let i = 0; i < 8; i++) assert.equal(read(far.kernel, arrived, 0, 2048), one.length);
  };
  const figures: number[] = [];
  while (!isQuiet(figures) && figures.length < 120) {
    const before = process.memoryUsage().heapUsed;
    for (let i = 0; i < 500; i++) round();
    figures.push((process.memoryUsage().heapUsed - before) / (500 * 8));
  }
  return figures;
}

if (process.env.MEASURE) {
  console.log(JSON.stringify(await measure()));
  process.exit(0);
} else
  test("in the steady state, nothing is allocated for a datagram", () => {
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
