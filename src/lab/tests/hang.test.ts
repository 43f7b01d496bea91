/**
 * A program that hangs, with a kernel that goes on answering for it: the other end notices, and all is well
 * when it goes on.
 */
import assert from "node:assert/strict";
import { TARGET } from "../lab.ts";
import { Running, TRANSPORT } from "../running.ts";
import { labTest, ping, startClient, startServer } from "./testing.ts";

// Over raw and QUIC no kernel answers, and the transport's own time-out may be as early as the pulse.
const EARLY: Partial<Record<typeof TRANSPORT, string>> = { raw: "|ETIMEDOUT", quic: "|nothing comes" };
const SILENT = `(it has not answered for 12 s: its program hangs${EARLY[TRANSPORT] ?? ""})`;

labTest(
  "a client that sends notices that its server hangs, and has its address back when it goes on",
  async (lab) => {
    const server = await startServer(lab);
    const client = await startClient(lab);
    server.child.kill("SIGSTOP");
    const pings = new Running(lab.spawn("client", ["ping", TARGET]));
    await client.until(new RegExp(`Lost the server .*:5555: ${SILENT}.*; trying again in`), 40_000);
    server.child.kill("SIGCONT");
    await client.until(/connected again after \d+\.\d s: this end of the tunnel is still 10\.8\.0\.2\/24/);
    await pings.until(/\d bytes from/);
    await pings.stop("SIGINT");
    ping(lab, "client", TARGET);
  },
);

labTest(
  "a client that hangs is given up by a server that sends to it; its address waits for it",
  async (lab) => {
    const server = await startServer(lab);
    const client = await startClient(lab);
    client.child.kill("SIGSTOP");
    const pings = new Running(lab.spawn("server", ["ping", "10.8.0.2"]));
    await server.until(
      new RegExp(`client 10\\.8\\.0\\.2 from \\S+ left: ${SILENT}.* \\(0 connected\\)`),
      40_000,
    );
    await pings.stop("SIGINT");
    const other = await startClient(lab, lab.addClient(2));
    assert.match(other.output, /tunnel is 10\.8\.0\.3/);
    client.child.kill("SIGCONT");
    await client.until(
      /Lost the server [^]*connected again after \d+\.\d s: this end of the tunnel is still 10\.8\.0\.2\/24/,
    );
    ping(lab, "server", "10.8.0.2");
  },
);
