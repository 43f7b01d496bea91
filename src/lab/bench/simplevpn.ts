/**
 * The C programs of refs/: compiled, and started on a host of the lab with the interface configured from
 * outside.
 */
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { Failure } from "../../base/failure.ts";
import { type Lab, ROOT, SERVER } from "../lab.ts";
import { Running } from "../running.ts";
import { has, OPENSSL_HEADER } from "../tools.ts";

const COMPILER = { cc: "gcc libc6-dev" };

/** What each needs, as a Contender does, and what its compiler is told. */
export const PROGRAMS = {
  simplevpn: { needs: COMPILER, before: ["-O2"], after: [] },
  "simplevpn-aes": {
    needs: { ...COMPILER, [OPENSSL_HEADER]: "libssl-dev" },
    before: ["-O3"], // without it, gcc does not vectorise the XOR
    after: ["-lcrypto"],
  },
} as const;

/**
 * Compiles it into `folder`; the program's path. Errors: a Failure where something is missing, or with what
 * the compiler said.
 */
export function compile(folder: string, name: keyof typeof PROGRAMS): string {
  const { needs, before, after } = PROGRAMS[name];
  const source = join("refs", `${name}.c`);
  const hint = `sudo apt-get install -y ${Object.values(needs).join(" ")}`;
  const missing = Object.keys(needs).find((tool) => !has(tool));
  if (missing) throw new Failure(`Cannot compile ${source}: no ${missing}`, hint);
  const path = join(folder, name);
  const { status, stderr } = spawnSync(
    "cc",
    [...before, "-Wall", "-Wextra", "-Werror", "-o", path, join(ROOT, source), ...after],
    { encoding: "utf8" },
  );
  if (status !== 0) throw new Failure(`Cannot compile ${source}: ${stderr.trim()}`, hint);
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
