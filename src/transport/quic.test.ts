import assert from "node:assert/strict";
import { test } from "node:test";
import { randomBytes } from "node:crypto";
import type { Link, Receiver } from "../core/link.ts";
import { Memory } from "../base/libc.ts";
import { until } from "../lab/tests/peers.ts";
import { QuicPort } from "./quic.ts";

const SECRET = randomBytes(32);
test("two ends talk", async () => {
  const got: string[] = [];
  const receiver = (name: string): Receiver => ({
    received(memory, from, to) {
      got.push(name + memory.bytes.toString("latin1", from, to));
      return to;
    },
    flush() {},
    lost: (why) => void got.push(`${name} lost ${why}`),
    sendControl: () => false,
  });
  const server = new QuicPort(5980, [SECRET], "127.0.0.1");
  server.serve({
    onArrival: (address, remote) => (
      console.log("arrival", address, remote),
      { lost: (why) => console.log("lost", why) }
    ),
    onHello(caller, message1) {
      console.log("hello", message1.toString());
      caller.attach(Buffer.from("two"), () => receiver("s"));
    },
    onMissed: assert.fail,
  });
  const client = new QuicPort(5980, [SECRET]);
  const answer = await client.dial("127.0.0.1", 3000, Buffer.from("one"));
  console.log(answer.message2.toString());
  let link!: Link;
  answer.attach((l) => ((link = l), receiver("c")));
  const m = new Memory(16);
  m.bytes.write("hello");
  console.log(link.send(m, 0, 5));
  await until(() => got.length > 0);
  console.log(got);
  link.close();
  await until(() => got.length > 1);
  console.log(got);
});
