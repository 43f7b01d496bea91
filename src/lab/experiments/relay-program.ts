/**
 * Runs on a host of the lab, started by relay.ts: connections to PORT go on to the server's port 5555. What
 * it reads is not passed on but told to relay.ts, which says what to write instead. It stands where any
 * router, provider or café does. With "udp" it does so with datagrams.
 */
import { createSocket, type RemoteInfo } from "node:dgram";
import { connect, createServer, type Socket } from "node:net";
import type { Chunk } from "./relay.ts";

const [port, server, transport] = process.argv.slice(2);
// where each way leads
const ends = { up: undefined as Socket | undefined, down: undefined as Socket | undefined };

function connections(): void {
  createServer((client) => {
    const onward = connect(5555, server!);
    ends.up = onward;
    ends.down = client;
    process.send!("open");
    tell(client, "up", onward);
    tell(onward, "down", client);
  }).listen(Number(port), () => process.send!("listening"));
  process.on("message", ({ way, bytes }: Chunk) => ends[way]?.write(bytes));
}

function tell(from: Socket, way: Chunk["way"], to: Socket): void {
  from.setNoDelay(true);
  from.on("data", (bytes) => process.send!({ way, bytes })); // one event is one read()
  from.on("error", () => {}).on("close", () => to.destroy());
}

function datagrams(): void {
  const [near, far] = [createSocket("udp4"), createSocket("udp4")];
  let client: RemoteInfo | undefined;
  near.on("message", (bytes, from) => {
    client = from;
    process.send!({ way: "up", bytes });
  });
  far.on("message", (bytes) => process.send!({ way: "down", bytes }));
  process.on("message", ({ way, bytes }: Chunk) => {
    if (way === "up") far.send(bytes, 5555, server);
    else if (client) near.send(bytes, client.port, client.address);
  });
  near.bind(Number(port), () => process.send!("listening"));
}

if (transport === "udp") datagrams();
else connections();
