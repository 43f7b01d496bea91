/** Much traffic: it must arrive whole, without a stall, while pings are still answered. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { Running } from "../running.ts";
import {
  IS_QUIC,
  IS_RAW,
  IS_UDP,
  labTest,
  ping,
  retry,
  startClient,
  startServer,
  transfer,
} from "./testing.ts";

const MOST = IS_RAW || IS_QUIC ? 64 : 1024;
const MEGABYTES = Math.min(Number(process.env.MEGABYTES ?? MOST), MOST); // make unit NODE=…: less

/** The read() and write() calls that a process has made so far (proc(5), /proc/PID/io). */
const calls = ({ child }: Running) =>
  [...readFileSync(`/proc/${child.pid}/io`, "utf8").matchAll(/sysc[rw]: (\d+)/g)].reduce(
    (sum, [, count]) => sum + Number(count),
    0,
  );

labTest(
  `${MEGABYTES} MB arrive unchanged, up and down, with pings answered meanwhile; the trace folds and unfolds`,
  async (lab) => {
    const server = await startServer(lab);
    const client = await startClient(lab);
    for (const [from, to] of [
      ["client", "internet"],
      ["internet", "client"],
    ] as const) {
      const before = calls(client);
      const pings = new Running(lab.spawn("client", "ping -c 10 -i 0.2 -W 5 10.8.0.1".split(" ")));
      await transfer(lab, from, to, MEGABYTES);
      await pings.until(/ 0% packet loss/);
      // Offload and batching, as counts: packet by packet and call by call, a megabyte would be 750 packets
      // and 1,500 calls.
      const perMegabyte = (calls(client) - before) / MEGABYTES;
      assert.ok(
        perMegabyte < 150,
        `${perMegabyte.toFixed()} read() and write() calls for each megabyte ${from} to ${to}`,
      );
    }
    for (const program of [server, client]) await program.until(/more than 20 packets a second/);
    await client.until(/1 s: sent \d+ packets/);

    // Quiet again: a single ping is shown step by step again.
    const before = client.output.length;
    for (const end = Date.now() + 20_000; !client.output.slice(before).includes("6.seal");) {
      assert.ok(Date.now() < end, "the trace did not unfold");
      ping(lab, "client", "8.8.8.8", 1);
      await new Promise((resolve) => setTimeout(resolve, 1100));
    }
    // Small packets, faster than one wake-up after the other: they share frames.
    const flood = client.output.length;
    lab.try("client", "ping -q -c 3000 -l 3000 -W 1 10.8.0.1");
    await retry(() => {
      const [line, packets, frames] =
        /1 s: sent (\d{3,}) packets .*? in (\d+) frames/.exec(client.output.slice(flood)) ?? [];
      assert.ok(line, "no summary of the flood");
      assert.ok(Number(packets) > 1.2 * Number(frames), line);
    });

    assert.ok(!/wrong tag|forged|left:/.test(server.output));
    if (IS_UDP) return; // there they are cut before they are shown
    assert.match(
      client.output,
      /6\.read .*TCP payload still to be cut into pieces of \d{3,4}\)/,
      "the trace says when a packet is a large one",
    );

    assert.equal(await client.stop("SIGINT"), 0);
    const [, packets, megabytes, frames] = /in all: sent (\d+) packets \(([\d.]+) MB\) in (\d+) frames/
      .exec(client.output)!
      .map(Number);
    const perFrame = (megabytes! * 1e6) / frames!; // ACKs of the way down are in it: small packets
    assert.ok(perFrame > 20_000 && packets! >= frames!, `${perFrame.toFixed()} bytes in each frame`);
  },
);
