import assert from "node:assert/strict";
import { test } from "node:test";
import { counters, Traffic } from "./counters.ts";
import { packet, session } from "../lab/tests/peers.ts";

test("each end of a session counts what went each way; the sum keeps it when the session has ended", () => {
  const before = counters.sum("sent");
  const it = session();
  for (const size of [100, 60]) it.client.put(packet(size));
  it.client.send(packet(40)); // drains all three into one frame
  it.server.receive();
  const { sent } = it.client.peer.traffic;
  const { received } = it.server.peer.traffic;
  assert.deepEqual({ ...sent }, { packets: 3, bytes: 200, frames: 1 });
  assert.deepEqual(received, sent);
  assert.equal(it.server.peer.traffic.sent.packets, 0);
  it.end();
  const after = counters.sum("sent");
  assert.deepEqual([after.packets - before.packets, after.bytes - before.bytes], [3, 200]);
  assert.ok(!counters.live.has(it.client.peer.traffic));
  counters.end(it.client.peer.traffic);
  assert.deepEqual(counters.sum("sent"), after, "its end counts once");
});

test("look() tells when a frame came last, to the second that it is called in", () => {
  const traffic = new Traffic();
  const began = traffic.lastSeen;
  traffic.look(began + 1000);
  assert.equal(traffic.lastSeen, began, "nothing came");
  traffic.received.frames++;
  traffic.look(began + 2000);
  traffic.look(began + 3000);
  assert.equal(traffic.lastSeen, began + 2000);
});

test("drop() counts by reason, and nothing for none", () => {
  const before = counters.dropped;
  counters.drop("test: none", 0);
  counters.drop("test: some", 2);
  counters.drop("test: some");
  assert.deepEqual([counters.drops.get("test: none"), counters.drops.get("test: some")], [undefined, 3]);
  assert.equal(counters.dropped - before, 3);
});
