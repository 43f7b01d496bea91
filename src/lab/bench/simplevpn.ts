/**
 * refs/simplevpn.c, the loop in C: compiled, and started on a host of the lab with its interface configured
 * from outside.
 */
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { Failure } from "../../base/failure.ts";
import { type Lab, ROOT, SERVER } from "../lab.ts";
import { Running } from "../running.ts";
import { has } from "../tools.ts";

/**
 * Compiles it into `folder`; the program's path. Errors: a Failure where there is no compiler, or with what
 * it said.
 */
export function compile(folder: string): string {
  const hint = "sudo apt-get install -y gcc libc6-dev";
  if (!has("cc")) throw new Failure("Cannot compile refs/simplevpn.c: no cc", hint);
  const path = join(folder, "simplevpn");
  const { status, stderr } = spawnSync(
    "cc",
    ["-O2", "-Wall", "-Wextra", "-Werror", "-o", path, join(ROOT, "refs/simplevpn.c")],
    { encoding: "utf8" },
  );
  if (status !== 0) throw new Failure(`Cannot compile refs/simplevpn.c: ${stderr.trim()}`, hint);
  return path;
}

/** Starts it on the client or the server, with the addresses of the tutorial; ready when the promise is. */
export async function startSimple(lab: Lab, host: "client" | "server", path: string): Promise<Running> {
  const running = new Running(lab.spawn(host, [path, host, SERVER, "tun0"]));
  await running.until(/listening|connected/);
  lab.run(host, `ip addr add ${host === "server" ? "10.8.0.1" : "10.8.0.2"}/24 dev tun0`);
  lab.run(host, "ip link set tun0 mtu 1400 up");
  return running;
}
