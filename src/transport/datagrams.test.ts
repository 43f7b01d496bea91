/** DatagramSocket on loopback, all of whose 127.0.0.0/8 is this machine's own. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Memory } from "../base/libc.ts";
import { freePort } from "../lab/tests/datagram-pair.ts";
import { until } from "../lab/tests/peers.ts";
import { sockaddr } from "./addresses.ts";
import { DatagramSocket, MAX_RECEIVED, Remote } from "./datagrams.ts";

test("an answer leaves from the address that the latest datagram came to, whatever came before", async () => {
  const port = await freePort();
  const server = DatagramSocket.listen("*", port);
  const client = DatagramSocket.open(false) as DatagramSocket;
  const memory = new Memory(MAX_RECEIVED);
  const froms: string[] = [];
  for (const address of ["127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.1"]) {
    client.send(new Remote(sockaddr(address, port)), memory, 0, 4, 4);
    await until(() => server.receive(memory, 0) === 4);
    server.send(server.from(), memory, 0, 4, 4);
    await until(() => client.receive(memory, 0) === 4);
    froms.push(client.from().address);
  }
  assert.deepEqual(froms, ["127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.1"]);
  for (const socket of [server, client]) socket.close();
});

test("a run of datagrams leaves with one system call, and one brings them all", async () => {
  const port = await freePort();
  const server = DatagramSocket.listen("127.0.0.1", port);
  const client = DatagramSocket.open(false) as DatagramSocket;
  const memory = new Memory(MAX_RECEIVED);
  assert.equal(client.send(new Remote(sockaddr("127.0.0.1", port)), memory, 0, 9_500, 1000), 9_500);
  let count = 0;
  await until(() => (count = server.receive(memory, 0)) > 0);
  assert.deepEqual([count, server.segment], [9_500, 1000]);
  for (const socket of [server, client]) socket.close();
});
