/** The C programs of refs/ compile without a warning. Those that speak our protocol talk to our programs. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { type Lab, SERVER } from "../lab.ts";
import { startProgram } from "../running.ts";
import { compile, PROGRAMS, startSimple } from "../bench/simplevpn.ts";
import { labTest, transfer } from "./testing.ts";
import { has } from "../tools.ts";
import { newFolder } from "./folder.ts";

/** The compiled program; undefined where something is missing for it, and then a skipped test says so. */
function compiled(name: keyof typeof PROGRAMS): string | undefined {
  const missing = Object.keys(PROGRAMS[name].needs).find((tool) => !has(tool));
  if (missing === undefined) return compile(newFolder(), name); // -Werror: a warning fails here
  const because = `${missing} is not installed`;
  test(`refs/${name}.c`, (t) => (process.env.CI ? assert.fail(because) : t.skip(because)));
  return undefined;
}

/**
 * A flood of large pings: reads from the socket then end in the middle of frames. For the last 20 answers,
 * those on their way when all are sent, ping waits only two round trips.
 */
function flood(lab: Lab): void {
  const { stdout } = lab.try("client", "ping -q -f -l 20 -s 1300 -c 2000 10.8.0.1");
  assert.match(stdout, /2000 packets transmitted, (19[89]\d|2000) received/);
}

const path = compiled("simplevpn");
if (path) {
  labTest("our client talks to refs/simplevpn.c as server, one client after the other", async (lab) => {
    await startSimple(lab, "server", path);
    for (const round of [1, 2]) {
      const client = startProgram(lab, "client", "client", [SERVER, "--cipher", "xor", "--configure"]);
      await client.until(/connected to/);
      flood(lab);
      assert.equal(await client.stop("SIGINT"), 0, `round ${round}`);
    }
  });

  labTest("refs/simplevpn.c as client talks to our server", async (lab) => {
    await startProgram(lab, "server", "server", ["--cipher", "xor", "--configure"]).until(/listening on/);
    await startSimple(lab, "client", path);
    flood(lab);
  });

  labTest("refs/simplevpn.c talks to itself, and says when the connection is over", async (lab) => {
    const server = await startSimple(lab, "server", path);
    const client = await startSimple(lab, "client", path);
    flood(lab);
    await server.stop();
    assert.equal(await client.ended, 1);
    assert.match(client.output, /the connection is over/);
  });
}

const sealing = compiled("simplevpn-aes");
if (sealing)
  labTest(
    "refs/simplevpn-aes.c carries small packets and large ones, for two clients in a row",
    async (lab) => {
      await startSimple(lab, "server", sealing);
      for (const round of [1, 2]) {
        const client = await startSimple(lab, "client", sealing);
        flood(lab);
        await transfer(lab, "client", "server", 64, () => {}, "10.8.0.1");
        await transfer(lab, "server", "client", 64, () => {}, "10.8.0.1");
        assert.equal(await client.stop(), "SIGTERM", `round ${round}`);
      }
    },
  );
