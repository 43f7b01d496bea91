/** What the lab's tests share: a fresh lab for each test, and the two programs in it. */
import { test } from "node:test";
import { Failure } from "../program.ts";
import { Lab, SERVER, TARGET } from "./lab.ts";
import { type Running, startProgram } from "./running.ts";

/** A test with a lab of its own. Where this machine allows no lab it is skipped, and says why; in CI that is a failure. */
export function labTest(name: string, run: (lab: Lab) => Promise<void>): void {
  test(name, { timeout: 120_000 }, async (t) => {
    let lab: Lab;
    try {
      lab = await Lab.up();
      lab.run("client", "ip tuntap add dev probe mode tun");
    } catch (error) {
      if (process.env.CI || !(error instanceof Failure)) throw error;
      return t.skip(`${error.message}. Try: ${error.hint}`);
    }
    try {
      await run(lab);
    } finally {
      await lab.down();
    }
  });
}

export const SECRET = { env: { ...process.env, SIMPLE_VPN_SECRET: "5e".repeat(32) } };

/** A configured server that forwards and masquerades. */
export async function startServer(lab: Lab, ...args: string[]): Promise<Running> {
  const server = startProgram(lab, "server", "server", ["--configure", "--nat", "eth1", ...args], SECRET);
  await server.until(/listening on/);
  return server;
}

/** A configured client on `host`, with a route to the internet host through the tunnel. */
export async function startClient(lab: Lab, host = "client", ...args: string[]): Promise<Running> {
  const client = startProgram(lab, host, "client", [host === "client" ? SERVER : `192.168.${host.slice(6)}.1`, "--configure", "--route", `${TARGET}/32`, ...args], SECRET);
  await client.until(/connected to/);
  return client;
}

/** Fails with ping's own words unless every one of `count` pings is answered. */
export function ping(lab: Lab, host: string, target: string, count = 3): void {
  const { status, stdout, stderr } = lab.try(host, `ping -c ${count} -i 0.2 -W 5 ${target}`);
  if (status !== 0 || !stdout.includes(" 0% packet loss")) throw new Error(`${host} cannot ping ${target}:\n${stdout}${stderr}`);
}

/** Tries until it does not throw, for 20 s. */
export async function retry(attempt: () => void): Promise<void> {
  for (const deadline = Date.now() + 20_000; ; await new Promise((resolve) => setTimeout(resolve, 100))) {
    try {
      return attempt();
    } catch (error) {
      if (Date.now() > deadline) throw error;
    }
  }
}
