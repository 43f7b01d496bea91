/** Who has to go when all places are taken. */
import assert from "node:assert/strict";
import { createServer, get, type ServerResponse } from "node:http";
import { type AddressInfo, connect, type Socket } from "node:net";
import { test } from "node:test";
import { makeRoom } from "./http.ts";

test("connections that say nothing take no place from one whose request is being answered", async (t) => {
  const server = createServer();
  makeRoom(server);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => (server.close(), server.closeAllConnections()));
  const { port } = server.address() as AddressInfo;
  const asked = new Promise<ServerResponse>((resolve) => server.once("request", (_, to) => resolve(to)));
  const answered = new Promise<number | undefined>((resolve, reject) =>
    get({ port, host: "127.0.0.1", agent: false }, ({ statusCode }) => resolve(statusCode)).on(
      "error",
      reject,
    ),
  );
  const response = await asked;
  const silent: Socket[] = [];
  const gone = new Promise<void>((resolve) => {
    for (let i = 0; i < 300; i++)
      silent.push(
        connect(port, "127.0.0.1")
          .on("error", () => {})
          .once("close", resolve)
          .resume(),
      );
  });
  await Promise.race([gone, answered]);
  response.end();
  assert.equal(await answered, 200);
  for (const socket of silent) socket.destroy();
});
