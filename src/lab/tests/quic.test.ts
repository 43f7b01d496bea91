/** --transport quic in the lab: a ping, a kernel that refuses to send, a client whose address changes. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { hasQuic } from "../../host/options.ts";
import { TARGET } from "../lab.ts";
import { labTest, ping, startClient, startServer } from "./testing.ts";

const QUIC = ["--transport", "quic"];

if (!hasQuic()) test("--transport quic", { skip: `Node ${process.version} has no QUIC` });
else
  labTest(
    "QUIC: a ping; a kernel that refuses to send; a client that moves connects again, with its inner address",
    async (lab) => {
      const server = await startServer(lab, ...QUIC);
      const client = await startClient(lab, "client", ...QUIC);
      ping(lab, "client", TARGET);
      await server.until(/8\.deframe[^]*8\.open[^]*8\.xor[^]*8\.write/); // the same steps as over TCP
      // Each sendmsg(2) of the server fails with EPERM. To QUIC that is loss.
      const refuse = (action: string) =>
        lab.run("server", `iptables ${action} OUTPUT -p udp --sport 5555 -j DROP`);
      refuse("-A");
      assert.equal(lab.try("client", `ping -c 1 -W 1 ${TARGET}`).status, 1);
      refuse("-D");
      ping(lab, "client", TARGET);
      assert.doesNotMatch(client.output, /Lost the server/);
      lab.run("client", "ip addr del 192.168.1.100/24 dev eth0");
      lab.run("client", "ip addr add 192.168.1.77/24 dev eth0");
      await client.until(/connected again after .*: this end of the tunnel is still 10\.8\.0\.2/, 60_000);
      ping(lab, "client", TARGET);
      assert.match(client.output, /Lost the server .*(nothing comes from it any more|it has not answered)/);
      assert.equal(await client.stop(), 0);
      await server.until(/client 10\.8\.0\.2 from 192\.168\.1\.77:\d+ left: it said goodbye \(0 connected\)/);
      assert.equal(await server.stop(), 0);
    },
  );
