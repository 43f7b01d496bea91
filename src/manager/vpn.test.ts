/** What a watched program says of itself is not believed in everything. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer, get } from "node:http";
import { type AddressInfo, createServer as createSocket } from "node:net";
import { join } from "node:path";
import { test } from "node:test";
import { newFolder } from "../lab/tests/folder.ts";
import { listen } from "./events.ts";
import { SHAPE } from "./status-reader.ts";
import { watch } from "./vpn.ts";

test("a watched program cannot speak in another's name", async (t) => {
  const path = join(newFolder(), "mine.sock");
  const status = { ...SHAPE, type: "status", name: "other", peers: [], inner: [], drops: {} };
  const step = {
    type: "step",
    time: 1,
    host: "h",
    step: "6.read",
    id: "up0.0",
    bytes: 1,
    text: "t",
    hex: "4",
  };
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
