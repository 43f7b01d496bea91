import assert from "node:assert/strict";
import { once } from "node:events";
import { request } from "node:http";
import { connect } from "node:net";
import { test } from "node:test";
import { Failure } from "../base/failure.ts";
import { serveMetrics } from "./metrics-server.ts";
import { freePort } from "../lab/tests/datagram-pair.ts";

let pages = 0;
const [here, all] = [await freePort(), await freePort()];
await serveMetrics({ host: "127.0.0.1", port: here }, () => `page ${++pages}\n`);
await serveMetrics({ host: "0.0.0.0", port: all }, () => "page\n");

async function ask(path: string, { method = "GET", host = `127.0.0.1:${here}`, port = here } = {}) {
  const asked = request({ host: "127.0.0.1", port, path, method, headers: { host }, agent: false }).end();
  const [response] = await once(asked, "response");
  let text = "";
  for await (const part of response.setEncoding("utf8")) text += part;
  return {
    status: response.statusCode,
    type: response.headers["content-type"],
    allow: response.headers.allow,
    text,
  };
}

test("GET /metrics gives the text; whoever asks again at once gets the same", async () => {
  const first = await ask("/metrics");
  assert.deepEqual([first.status, first.type], [200, "text/plain; version=0.0.4; charset=utf-8"]);
  assert.match(first.text, /^page \d+\n$/);
  for (let i = 0; i < 20; i++) await ask("/metrics?x=1");
  assert.ok(pages < 10, `made ${pages} times`);
  const head = await ask("/metrics", { method: "HEAD" });
  assert.deepEqual([head.status, head.text], [200, ""]);
});

test("there is nothing else, and no other method", async () => {
  assert.equal((await ask("/")).status, 404);
  assert.equal((await ask("/metrics/..")).status, 404);
  const { status, allow } = await ask("/metrics", { method: "POST" });
  assert.deepEqual([status, allow], [405, "GET, HEAD"]);
});

test("on loopback, a name that a web page has for this machine is refused; an address is not", async () => {
  for (const host of ["evil.example", "evil.example:80", "127.0.0.1.evil.example"])
    assert.equal((await ask("/metrics", { host })).status, 403, host);
  for (const host of ["localhost", "localhost:9586", "[::1]:9586", "127.0.0.1"])
    assert.equal((await ask("/metrics", { host })).status, 200, host);
  assert.equal(
    (await ask("/metrics", { port: all, host: "vpn.example:9586" })).status,
    200,
    "others have names",
  );
});

test("idle connections do not keep others out for long", async () => {
  const idle = Array.from({ length: 40 }, () => connect(here, "127.0.0.1").on("error", () => {}));
  await Promise.all(idle.map((socket) => once(socket, "connect")));
  await assert.rejects(ask("/metrics"), "for now they do");
  for (const end = Date.now() + 20_000; ;) {
    try {
      assert.equal((await ask("/metrics")).status, 200);
      break;
    } catch (error) {
      if (Date.now() > end) throw error;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
  for (const socket of idle) socket.destroy();
});

test("an address that is taken, or is none of ours, is a Failure", async () => {
  for (const [host, why] of [
    ["127.0.0.1", /EADDRINUSE/],
    ["192.0.2.1", /EADDRNOTAVAIL/],
  ] as const)
    await assert.rejects(
      serveMetrics({ host, port: here }, () => ""),
      (error) => {
        assert.ok(error instanceof Failure && error.hint !== "");
        assert.match(error.message, why);
        return true;
      },
    );
});
