/** The VPN in the manager: programs that it starts, and those that it watches, over real HTTP. */
import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { LAB_SECRET } from "../lab.ts";
import { Events } from "../manager/ask.ts";
import type { Running } from "../running.ts";
import { newFolder } from "./folder.ts";
import { startManager } from "./managers.ts";
import { checkMetrics, labTest, ping, retry, startClient, startServer } from "./testing.ts";

const SERVER = { configure: true, nat: "eth1", subnet: "10.8.0.0/24" };
const CLIENT = { server: "192.168.1.1", configure: true, route: ["8.8.8.8/32"] };
/** What a manager has left in the folder for temporary files. */
const left = ({ running }: { running: Running }) =>
  readdirSync(tmpdir()).filter((name) => name.startsWith(`simple-vpn-${running.child.pid}-`));

/** A file of /proc, "" if the process has ended meanwhile. */
function look(pid: number, name: string): string {
  try {
    return readFileSync(`/proc/${pid}/${name}`, "utf8");
  } catch {
    return "";
  }
}

/** These processes and all that they have started, and these, and so on. */
function descendants(pids: number[]): number[] {
  const all = readdirSync("/proc").flatMap((name) => Number(name) || []);
  const parentOf = (pid: number) => Number(/^PPid:\s+(\d+)/m.exec(look(pid, "status"))?.[1]);
  const more = all.filter((pid) => !pids.includes(pid) && pids.includes(parentOf(pid)));
  return more.length === 0 ? pids : descendants([...pids, ...more]);
}

labTest("a server and a client are started, told of, and ended; the secret is nowhere", async (lab) => {
  const far = await startManager(lab, "server");
  const near = await startManager(lab, "client");
  const events = new Events(far);
  const done = await far.call("POST", "/api/vpn/server", SERVER);
  assert.deepEqual([done.status, done.json], [200, { status: "success", message: "VPN server started" }]);
  const again = await far.call("POST", "/api/vpn/server", SERVER);
  assert.deepEqual([again.status, again.json.error], [409, "name: there is a VPN server already"]);
  const client = await near.call("POST", "/api/vpn/client", { ...CLIENT, name: "mine" });
  assert.equal(client.json.message, "VPN mine started");
  await retry(() => ping(lab, "client", "8.8.8.8", 1));

  await events.until(
    (event, { connected, inner }) => event === "client" && connected && inner === "10.8.0.2",
  );
  await events.until((event, { name, peerCount }) => event === "vpn" && name === "server" && peerCount === 1);
  await events.until((event, { name, step }) => event === "step" && name === "server" && step === "8.write");
  const server = (await far.call("GET", "/api/vpn/server")).json;
  assert.deepEqual([server.name, server.started, server.running], ["server", true, true]);
  assert.deepEqual([server.status.state, server.status.peers[0].inner], ["listening", "10.8.0.2"]);
  const [one] = (await near.call("GET", "/api/vpn")).json.vpns;
  assert.deepEqual([one.name, one.status.role, one.status.inner], ["mine", "client", ["10.8.0.2/24"]]);
  const { text } = await far.call("GET", "/metrics");
  assert.match(text, /^simple_vpn_peers\{name="server",role="server"\} 1$/m);
  assert.match(
    text,
    /^simple_vpn_peer_received_bytes_total\{name="server",role="server",inner="10\.8\.0\.2"\} \d/m,
  );
  checkMetrics(text);

  const family = descendants([far.running.child.pid!, near.running.child.pid!]);
  assert.ok([server.pid, one.pid].every((pid) => family.includes(pid)) && family.length > 4, `${family}`);
  const shown = family.flatMap((pid) => ["cmdline", "environ"].map((name) => look(pid, name)));
  assert.ok(
    shown.some((text) => text.includes("--nat=eth1")) && shown.some((text) => text.includes("PATH=")),
  );
  const said = [JSON.stringify([server, one]), JSON.stringify(events.all), text, far.running.output];
  for (const one of [...said, ...shown]) assert.ok(!one.includes(LAB_SECRET), one.replaceAll("\0", " "));

  assert.equal((await near.call("DELETE", "/api/vpn/mine")).json.message, "VPN mine ended");
  assert.equal((await near.call("GET", "/api/vpn/mine")).status, 404);
  await events.until(
    (event, { connected, inner }) => event === "client" && connected === false && inner === "10.8.0.2",
  );
  assert.doesNotMatch(lab.run("client", "ip addr"), /tun0/);
  assert.equal(await far.running.stop(), 0, far.running.output);
  assert.ok(!existsSync(`/proc/${server.pid}`), "it ends with its manager");
  assert.doesNotMatch(lab.run("server", "ip addr") + lab.run("server", "iptables-save"), /tun0|MASQUERADE/);
  await near.running.stop();
  assert.deepEqual([...left(near), ...left(far)], []);
});

labTest("what a program refuses, and what nobody may ask of it, is 4xx with its own words", async (lab) => {
  const { call, running } = await startManager(lab, "client");
  const refused = async (role: string, body: unknown, error: RegExp, status = 400) => {
    const answer = await call("POST", `/api/vpn/${role}`, body);
    assert.equal(answer.status, status, JSON.stringify(body));
    assert.match(answer.json.error, error);
  };
  await refused("client", {}, /^server: is missing/);
  for (const [field, value] of Object.entries({
    ...{
      port: 65536,
      mtu: "1400",
      subnet: "10.8.0.1/24",
      transport: "quic",
      isolate: "yes",
      nat: ["eth1"],
    },
    ...{ secret: "one", name: "../up", tun: "a b", subnet6: "::/64", "max-clients": 0 },
  }))
    await refused("server", { [field]: value }, new RegExp(`^${field}: `));
  for (const field of ["status", "metrics", "trace-file", "help", "version", "route", "max_clients"])
    await refused("server", { [field]: "/tmp/x" }, new RegExp(`^"${field}": no such field`));
  await refused(
    "client",
    { server: "s", "kill-switch": true },
    /--kill-switch is for routes.*Try: add --configure/,
  );
  await refused("server", { secret: ["/no/such/file"] }, /Cannot read the secret \/no\/such\/file: /);
  await refused(
    "server",
    { listen: "192.0.2.1" },
    /Cannot listen on 192\.0\.2\.1:5555: EADDRNOTAVAIL\. Try: /,
  );
  await refused("client", { server: "--help" }, /Cannot find --help: .*Try: |Cannot connect/);
  assert.deepEqual((await call("GET", "/api/vpn")).json.vpns, []);
  for (const method of ["GET", "DELETE"]) assert.equal((await call(method, "/api/vpn/none")).status, 404);
  const { status, headers } = await call("PUT", "/api/vpn/server");
  assert.deepEqual([status, headers.allow], [405, "POST, GET, HEAD, DELETE"]);
  const sockets = Array.from({ length: 16 }, (_, i) => ["--watch", `/none/${i}`]).flat();
  const full = await startManager(lab, "client", sockets);
  const seventeenth = await full.call("POST", "/api/vpn/server", { tun: "tun8" });
  assert.deepEqual([seventeenth.status, seventeenth.json.error], [409, "name: there are 16 already"]);
  assert.doesNotMatch(lab.run("client", "ip addr"), /tun8/);
  await full.running.stop();
  const many = await Promise.all(
    Array.from({ length: 10 }, () => call("POST", "/api/vpn/server", { tun: "tun7", name: "once" })),
  );
  assert.deepEqual(many.map(({ status }) => status).sort(), [200, ...Array(9).fill(409)]);
  const { pid } = (await call("GET", "/api/vpn/once")).json;
  process.kill(pid, "SIGKILL");
  await retry(() => assert.ok(!existsSync(`/proc/${pid}`)));
  await retry(() => assert.doesNotMatch(lab.run("client", "ip addr"), /tun7/));
  const killed = (await call("GET", "/api/vpn/once")).json;
  assert.deepEqual([killed.running, killed.problem], [false, "it has ended: SIGKILL"]);
  assert.equal((await call("POST", "/api/vpn/server", { tun: "tun7", name: "once" })).status, 200, "anew");
  assert.equal(left({ running }).length, 1);
  process.kill((await call("GET", "/api/vpn/once")).json.pid, "SIGSTOP"); // deaf to all but SIGKILL
  await running.stop("SIGKILL");
  await retry(() => assert.doesNotMatch(lab.run("client", "ip addr"), /tun7/, "the keeper ends it"));
  await retry(() => assert.deepEqual(left({ running }), []));
});

labTest("programs that were started elsewhere are watched, and shown in the same manner", async (lab) => {
  const folder = newFolder();
  const [server, client] = ["server.sock", "client.sock"].map((name) => join(folder, name));
  const args = ["--watch", server!, "--watch", client!];
  const { call, socketPath } = await startManager(lab, "server", args);
  const events = new Events({ socketPath });
  const isVpn = (name: string, state: string) => (event: string, data: Record<string, unknown>) =>
    event === "vpn" && data.name === name && data.state === state;
  const silent = (await call("GET", "/api/vpn/server")).json;
  const { started, running, problem } = silent;
  assert.deepEqual([started, running, problem], [false, false, "its status socket: ENOENT"]);

  const program = await startServer(lab, "--status", server!);
  await startClient(lab, "client", "--status", client!);
  await events.until(isVpn("server", "listening"));
  await events.until(isVpn("client", "connected"));
  ping(lab, "client", "8.8.8.8", 1);
  await events.until((event, { name, step }) => event === "step" && name === "client" && step === "6.seal");
  await events.until(
    (event, { inner, connected }) => event === "client" && inner === "10.8.0.2" && connected,
  );
  const { status, json } = await call("DELETE", "/api/vpn/server");
  assert.deepEqual(
    [status, json.error],
    [409, "name: server was started elsewhere, and has to be ended there"],
  );
  const late = new Events({ socketPath }); // is told the state first
  await late.until((event, { name, peerCount }) => event === "vpn" && name === "server" && peerCount === 1);

  await program.stop();
  await events.until(isVpn("server", "ended"));
  assert.equal((await call("GET", "/api/vpn/server")).json.running, false);
  assert.doesNotMatch((await call("GET", "/metrics")).text, /^simple_vpn_peers\{name="server"/m);
  await startServer(lab, "--status", server!);
  for (const late = Date.now() + 10_000; !(await call("GET", "/api/vpn/server")).json.running;)
    assert.ok(Date.now() < late, "it is watched again");
});
