/** A listener that takes nothing costs no memory without end, and is told what it missed. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer, request, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { after, test } from "node:test";
import { listen, listening, present, publish, shows } from "./events.ts";

const responses: ServerResponse[] = [];
const server = createServer((_, response) => {
  responses.push(response);
  listen(response).catch((error) => response.writeHead(error.status).end());
});
server.listen(0, "127.0.0.1");
await once(server, "listening");
after(() => server.closeAllConnections());
after(() => server.close());
const { port } = server.address() as AddressInfo;

async function connect() {
  const sent = request({ host: "127.0.0.1", port });
  sent.end();
  const [response] = await once(sent, "response");
  return response;
}

let state = ["interface", { name: "tun0" }] as [string, unknown];
present(async () => {
  await new Promise((resolve) => setTimeout(resolve, 50)); // reading it takes a while
  return [state];
});

test("a new listener gets the state first, then what happened meanwhile", async () => {
  const response = await connect();
  publish("early", 1);
  let text = "";
  response.setEncoding("utf8").on("data", (part: string) => (text += part));
  while (!text.includes("early")) await once(response, "data");
  assert.match(text, /event: interface\ndata: {"name":"tun0"}\n\nevent: early\ndata: 1\n\n$/);
  response.destroy();
  while (listening() > 0) await new Promise((resolve) => setTimeout(resolve, 5));
});

test("a slow listener: at most 256 KB wait; then it is told how many it missed, and the state", async () => {
  const response = await connect();
  response.pause();
  const [data, count] = ["x".repeat(1000), 20_000];
  for (let i = 0; i < count; i++) {
    publish("packet", { i, data });
    if (i % 500 === 0) await new Promise(setImmediate);
    assert.ok(responses.at(-1)!.writableLength < 260 * 1024, `${i} ${responses.at(-1)!.writableLength}`);
  }
  state = ["interface", { name: "later" }];
  let text = "";
  response.setEncoding("utf8").on("data", (part: string) => (text += part));
  response.resume();
  const sum = (pattern: RegExp) =>
    [...text.matchAll(pattern)].reduce((all, [, n = "1"]) => all + Number(n), 0);
  const missed = () => sum(/event: lost\ndata: {"events":(\d+)}\n/g);
  while (sum(/event: packet\n.*\n\n/g) + missed() < count) await once(response, "data");
  assert.equal(sum(/event: packet\n.*\n\n/g) + missed(), count);
  assert.ok(missed() > 1000, `${missed()} missed`);
  while (!/event: lost[^]*later[^]*$/.test(text)) await once(response, "data"); // the state, anew
  response.destroy();
  while (listening() > 0) await new Promise((resolve) => setTimeout(resolve, 5));
});

test("65 listeners are one too many", async () => {
  const all = await Promise.all(Array.from({ length: 64 }, connect));
  const last = await connect();
  assert.equal(last.statusCode, 429);
  for (const response of [...all, last]) response.destroy();
});

test("20 packets a second are shown; more are folded, until a second has no more", async () => {
  while (listening() > 0) await new Promise((resolve) => setTimeout(resolve, 5));
  const response = await connect();
  let text = "";
  response.setEncoding("utf8").on("data", (part: string) => (text += part));
  const folded = () => [
    ...text.matchAll(/event: folded\ndata: .*"host":"tun0","packets":(\d+),"bytes":(\d+)/g),
  ];
  const second = async (count: number) => {
    const shown = Array.from({ length: count }, () => shows("tun0", 100)).filter(Boolean).length;
    for (const before = folded().length; folded().length === before && shown < count;)
      await new Promise((resolve) => setTimeout(resolve, 5));
    return shown;
  };
  const shown = [await second(50), await second(30), await second(5)];
  assert.deepEqual(shown, [20, 0, 0]);
  assert.deepEqual(
    folded().map(([, packets, bytes]) => [Number(packets), Number(bytes)]),
    [
      [30, 3000],
      [30, 3000],
      [5, 500],
    ],
  );
  assert.equal(await second(20), 20);
  response.destroy();
});
