/**
 * Runs on a host of the lab, started by relay.ts: connections to PORT go on to the server's port 5555. What
 * it reads is not passed on but told to relay.ts, which says what to write instead. It stands where any
 * router, provider or café does.
 */
import { connect, createServer, type Socket } from "node:net";
import type { Chunk } from "./relay.ts";

const [port, server] = process.argv.slice(2);
// where each way leads
const ends = { up: undefined as Socket | undefined, down: undefined as Socket | undefined };

createServer((client) => {
  const onward = connect(5555, server!);
  ends.up = onward;
  ends.down = client;
  process.send!("open");
  tell(client, "up", onward);
  tell(onward, "down", client);
}).listen(Number(port), () => process.send!("listening"));

function tell(from: Socket, way: Chunk["way"], to: Socket): void {
  from.setNoDelay(true);
  from.on("data", (bytes) => process.send!({ way, bytes })); // one event is one read()
  from.on("error", () => {}).on("close", () => to.destroy());
}

process.on("message", ({ way, bytes }: Chunk) => ends[way]?.write(bytes));
