/** What a watched program says of itself is not believed in everything. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readFileSync } from "node:fs";
import { createServer, get } from "node:http";
import { type AddressInfo, createServer as createSocket } from "node:net";
import { join } from "node:path";
import { test } from "node:test";
import { newFolder } from "../lab/tests/folder.ts";
import { STATUS, STEP } from "../lab/manager/sample.ts";
import { until } from "../lab/tests/peers.ts";
import { listen } from "./events.ts";
import { metrics } from "./metrics.ts";
import { show, watch, withParent } from "./vpn.ts";

test("a watched program cannot speak in another's name", async (t) => {
  const path = join(newFolder(), "mine.sock");
  const status = { ...STATUS, name: "other" };
  const step = { ...STEP, type: "step" };
  const program = createSocket((socket) => {
    for (const line of [status, { ...step, name: "other" }]) socket.write(`${JSON.stringify(line)}\n`);
  });
  const server = createServer((_, response) => listen(response)).listen(0, "127.0.0.1");
  await Promise.all([once(server, "listening"), once(program.listen(path), "listening")]);
  t.after(() => (watch([]), program.close(), server.close(), server.closeAllConnections()));
  const request = get({ host: "127.0.0.1", port: (server.address() as AddressInfo).port });
  const [response] = await once(request, "response");
  watch([path]);
  let text = "";
  for await (const part of response.setEncoding("utf8"))
    if (/^event: step\n.+\n\n/m.test((text += part))) break;
  const events = [...text.matchAll(/^event: (vpn|step)\ndata: (.*)$/gm)];
  assert.deepEqual(
    events.map(([, event, data]) => [event, JSON.parse(data!).name]),
    [
      ["vpn", "mine"],
      ["step", "mine"],
    ],
  );
});

test("a watched program that leaves out a number, or has another in its place, breaks nothing", async (t) => {
  const path = join(newFolder(), "odd.sock");
  let told: object = STATUS;
  const program = createSocket(
    (socket) => void socket.on("error", () => {}).write(`${JSON.stringify(told)}\n`),
  );
  t.after(() => (watch([]), program.close()));
  await once(program.listen(path), "listening");
  const look = () => show({ name: "odd" }) as { problem?: string; status?: object };
  for (const part of ["tun", "counters", "drops", "handshakes", "peers", "loop", "memory"]) {
    told = { ...STATUS, [part]: undefined };
    watch([path]);
    await until(() => look().problem !== undefined);
    assert.match(String(look().problem), /does not speak as our programs do/, part);
    watch([]);
  }
  told = { ...STATUS, drops: { forged: "1\nx_total 2" }, peers: [{ ...STATUS.peers[0], keyAge: "old" }] };
  watch([path]);
  await until(() => look().status !== undefined);
  assert.match(await metrics(), /^simple_vpn_dropped_packets_total\{name="odd",.*code="forged"\} NaN$/m);
});

test("withParent(): a program runs as long as its parent, and not at all if that has ended", async () => {
  const ends = async (parent: number) => {
    const child = spawn("setpriv", withParent(parent, ["-e", "console.log('runs')"]), { stdio: "pipe" });
    let said = "";
    child.stdout.on("data", (data) => (said += data));
    const [code] = await once(child, "close");
    return [code, said];
  };
  assert.deepEqual(await ends(process.pid), [0, "runs\n"]);
  assert.deepEqual(await ends(process.ppid), [1, ""]);
  // what is stopped ends, too: only SIGKILL reaches it
  const waits = JSON.stringify("setInterval(() => {}, 1000); console.log(process.pid)");
  const starts = `const words = ${JSON.stringify(withParent(0, []))};
    words[4] = words[4].replace("!==0", "!==" + process.pid);
    require("node:child_process").spawn("setpriv", [...words, "-e", ${waits}], { stdio: "inherit" });`;
  const parent = spawn(process.execPath, ["-e", starts], { stdio: ["ignore", "pipe", "inherit"] });
  const [pid] = await once(parent.stdout, "data");
  process.kill(Number(pid), "SIGSTOP");
  parent.kill("SIGKILL");
  const isThere = () => /^State:\s+[^ZX]/m.test(readFileSync(`/proc/${Number(pid)}/status`, "utf8"));
  await until(() => !existsSync(`/proc/${Number(pid)}`) || !isThere());
});
