/** What the programs tell by --status and --metrics, while real packets go through a real tunnel. */
import assert from "node:assert/strict";
import { existsSync, lstatSync } from "node:fs";
import { join } from "node:path";
import type { Status } from "../../base/status.ts";
import { METRIC_NAMES } from "../../host/metrics.ts";
import type { Lab } from "../lab.ts";
import { startProgram } from "../running.ts";
import { newFolder } from "./folder.ts";
import { readLines } from "./lines.ts";
import { checkMetrics, labTest, ping, retry, SECRET, startClient, startServer } from "./testing.ts";

/** What a status socket has told so far. It is a file: the lab's hosts share it with us. */
class Reader {
  private readonly texts: string[];

  constructor(path: string) {
    const { socket, lines } = readLines(path);
    socket.unref();
    this.texts = lines;
  }

  private get lines(): { type: string; step?: string }[] {
    return this.texts.map((line) => JSON.parse(line));
  }

  /** The latest status, once it fits. */
  async status(fits: (status: Status) => boolean): Promise<Status> {
    let found: Status | undefined;
    await retry(() => {
      found = this.lines.filter(({ type }) => type === "status").at(-1) as unknown as Status;
      assert.ok(found && fits(found), `${fits}: ${JSON.stringify(found)}`);
    });
    return found!;
  }

  /** The trace's steps. */
  get steps(): unknown[] {
    return this.lines.filter(({ type }) => type === "step").map(({ step }) => step);
  }
}

function paths() {
  const folder = newFolder();
  return { server: join(folder, "server.sock"), client: join(folder, "client.sock") };
}

for (const transport of ["tcp", "udp"])
  labTest(`--status tells of both ends, their peers and each step, over ${transport}`, async (lab) => {
    const path = paths();
    const over = ["--transport", transport, "--status"];
    const server = await startServer(lab, ...over, path.server);
    assert.equal(lstatSync(path.server).mode & 0o777, 0o600);
    const atServer = new Reader(path.server);
    const alone = await atServer.status(({ peerCount }) => peerCount === 0);
    assert.deepEqual(
      [alone.role, alone.state, alone.transport, alone.endpoint, alone.inner, alone.tun.name],
      ["server", "listening", transport, "*:5555", ["10.8.0.1/24"], "tun0"],
    );

    const client = await startClient(lab, "client", "--rekey", "1", ...over, path.client);
    const atClient = new Reader(path.client);
    const { endpoint, inner, pid } = await atClient.status(({ state }) => state === "connected");
    assert.deepEqual([endpoint, inner, pid], ["192.168.1.1:5555", ["10.8.0.2/24"], client.child.pid]);
    ping(lab, "client", "8.8.8.8", 3);
    lab.try("server", "ping -c 1 -W 1 10.8.0.77"); // nobody has that address
    const after = await atServer.status(
      ({ counters, rekeys, drops }) =>
        counters.sent.packets >= 3 && rekeys > 0 && drops["no-such-client"]! > 0,
    );
    const [peer] = after.peers;
    assert.deepEqual([after.peerCount, peer!.inner], [1, "10.8.0.2"]);
    assert.match(peer!.remote, /^192\.168\.1\.100:\d+$/);
    assert.ok(peer!.sent.bytes >= 3 * 84 && peer!.received.bytes >= 3 * 84, JSON.stringify(peer));
    // --rekey 1: keys, and frames, are never old for long
    await atServer.status(({ peers: [one] }) => {
      const { connected, keyAge, lastSeen } = one!;
      return connected > 4 && keyAge! < connected / 2 && lastSeen < connected / 2;
    });
    assert.deepEqual(after.handshakes, { ok: 1, failed: 0 });
    assert.ok(after.memory.rss > 1e7 && after.loop.max >= after.loop.p50 && after.loop.max > 0);
    const near = await atClient.status(
      ({ counters, rekeys }) => counters.received.packets >= 3 && rekeys > 0,
    );
    assert.deepEqual([near.peers[0]!.inner, near.peers[0]!.remote], ["10.8.0.1", "192.168.1.1:5555"]);
    const up = ["5", "6.read", "6.xor", "6.seal", "6.frame", "6.write", "R5.read", "R6.open", "R6.write"];
    const down = ["8.read", "8.deframe", "8.open", "8.xor", "8.write", "R3.wake", "R3.read", "R4.seal"];
    await retry(() => {
      for (const step of up) assert.ok(atClient.steps.includes(step), step);
      for (const step of down) assert.ok(atServer.steps.includes(step), step);
    });

    await server.stop("SIGKILL");
    await retry(() => assert.ok(!existsSync(path.server), "the keeper has removed it"));
    await atClient.status(({ state, peers }) => state === "reconnecting" && peers.length === 0);
    await startServer(lab, ...over, path.server);
    const again = await atClient.status(({ state }) => state === "connected");
    assert.deepEqual([again.reconnects, again.handshakes.ok, again.inner], [1, 2, ["10.8.0.2/24"]]);
    assert.ok(again.counters.sent.packets >= near.counters.sent.packets, "sums do not begin anew");
    assert.equal(await client.stop(), 0, client.output);
    assert.ok(!existsSync(path.client));
    await new Reader(path.server).status(({ peerCount }) => peerCount === 0);
  });

/** What a program's --metrics says, asked on its own host. */
function scrape(lab: Lab, host: string, where: string): string {
  const script = `fetch("http://${where}/metrics").then((answer) => answer.text()).then(console.log)`;
  return lab.run(host, [process.execPath, "-e", script]);
}

labTest("--metrics gives both programs' numbers; what cannot be had is an error with a hint", async (lab) => {
  const path = paths();
  await startServer(lab, "--metrics", "9586", "--status", path.server);
  await startClient(lab, "client", "--metrics", "[::1]:9587", "--trace", "off");
  ping(lab, "client", "8.8.8.8", 2);
  await retry(() => {
    const text = scrape(lab, "server", "127.0.0.1:9586");
    assert.match(text, /^simple_vpn_connected\{role="server"\} 1$/m);
    assert.match(
      text,
      /^simple_vpn_peer_received_packets_total\{role="server",inner="10\.8\.0\.2"\} [2-9]$/m,
    );
  });
  const text = scrape(lab, "client", "[::1]:9587");
  assert.match(text, /^simple_vpn_sent_bytes_total\{role="client"\} \d+$/m);
  assert.deepEqual(
    [...text.matchAll(/^# TYPE (\S+)/gm)].map(([, name]) => name),
    METRIC_NAMES,
  );
  checkMetrics(text);

  const refused = async (args: string[], why: RegExp) => {
    const other = startProgram(
      lab,
      "server",
      "server",
      ["--port", "5556", "--tun", "tun1", "--subnet", "10.9.0.0/24", ...args],
      SECRET,
    );
    await other.until(why);
    assert.equal(await other.ended, 1);
    assert.match(other.output, /Try: \S/);
  };
  await refused(["--status", path.server], /Cannot use --status .*: a program that runs has it/);
  await refused(["--status", "/dev/null"], /Cannot use --status .*: there is something else/);
  await refused(["--metrics", "9586"], /Cannot use --metrics 127\.0\.0\.1:9586: EADDRINUSE/);
  await new Reader(path.server).status(({ peerCount }) => peerCount === 1); // it still has its socket
});

labTest(
  "--user: in the sandbox the socket still answers, and it goes, though nobody may remove it",
  async (lab, t) => {
    if (process.getuid!() !== 0) return t.skip("no other user than root is mapped into this user namespace");
    const path = paths(); // in a folder that is root's alone
    const args = ["--user", "nobody", "--metrics", "9586", "--status"];
    const server = await startServer(lab, ...args, path.server);
    const client = startProgram(lab, "client", "client", ["192.168.1.1", ...args, path.client], SECRET);
    await client.until(/connected to/); // without --configure
    for (const end of [path.server, path.client]) {
      const { peers, memory } = await new Reader(end).status(({ peerCount }) => peerCount === 1);
      assert.equal(peers.length, 1);
      assert.ok(memory.rss > 1e7);
    }
    for (const host of ["server", "client"])
      assert.match(scrape(lab, host, "127.0.0.1:9586"), /^simple_vpn_peers\{.*\} 1$/m);
    assert.doesNotMatch(server.output + client.output, /no sandbox/);
    assert.deepEqual([await client.stop(), await server.stop()], [0, 0], client.output + server.output);
    for (const end of [path.server, path.client]) assert.ok(!existsSync(end));
  },
);
