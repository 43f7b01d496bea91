/**
 * The system tools that the lab needs: installed with apt-get where we are root, else named for the user to
 * install. Run as a program by the Makefile, before everything else.
 */
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { delimiter, resolve } from "node:path";
import { Failure } from "../base/failure.ts";
import { program } from "../host/program.ts";

const PACKAGES: Record<string, string> = {
  ip: "iproute2",
  iptables: "iptables",
  ping: "iputils-ping",
  sysctl: "procps",
  unshare: "util-linux",
  nsenter: "util-linux",
  setpriv: "util-linux",
};
/** Where OpenSSL's headers are, if they are installed. */
export const OPENSSL_HEADER = "/usr/include/openssl/evp.h";
const FOR_TESTS: Record<string, string> = {
  tshark: "tshark",
  chromium: "chromium",
  tmux: "tmux",
  nft: "nftables",
  cc: "gcc libc6-dev",
  ethtool: "ethtool",
  [OPENSSL_HEADER]: "libssl-dev",
  iperf3: "iperf3",
  python3: "python3",
  openssl: "openssl",
  curl: "curl",
  promtool: "prometheus",
};

/** Is `tool` installed? A path is looked for where it says. */
export const has = (tool: string) =>
  process.env.PATH!.split(delimiter).some((place) => existsSync(resolve(place, tool)));

/** Those of busybox have the names, but not all that we need: network namespaces, --pdeathsig, -M. */
const isBusybox = (tool: string) => {
  if (!["ip", "setpriv", "ping"].includes(tool)) return false;
  const { stdout, stderr } = spawnSync(tool, ["-V"], { encoding: "utf8" });
  return /BusyBox/.test(stdout + stderr);
};

/**
 * Installs what is missing of `packages`, by tool; or says what to install. `purpose`: what cannot be done
 * without it.
 */
export function provide(packages: Record<string, string>, purpose = "make the lab"): void {
  const lacking = Object.keys(packages).filter((tool) => !has(tool) || isBusybox(tool));
  const missing = [...new Set(lacking.map((tool) => packages[tool]!))];
  if (missing.length === 0) return;
  const install = `apt-get install -y ${missing.join(" ")}`;
  const because = `Cannot ${purpose}: ${missing.join(", ")} not installed`;
  if (process.getuid?.() !== 0 || !has("apt-get"))
    throw new Failure(
      because,
      has("apt-get") ? `sudo ${install}` : `install ${missing.join(" ")} with this system's package manager`,
    );
  for (const command of ["apt-get update", `${install} --no-install-recommends`]) {
    console.log(`# ${command}`);
    const [name, ...args] = command.split(" ");
    const { status } = spawnSync(name!, args, {
      stdio: ["ignore", "ignore", "inherit"],
      env: { ...process.env, DEBIAN_FRONTEND: "noninteractive" },
    });
    const hint = "run it by hand, when no other apt-get is at work";
    if (status !== 0) throw new Failure(`${because}, and '${command}' failed`, hint);
  }
}

if (/\btools\.[jt]s$/.test(process.argv[1] ?? "")) {
  // In CI no test may be skipped, so what some of them look for is installed, too.
  program(() => provide(process.env.CI ? { ...PACKAGES, ...FOR_TESTS } : PACKAGES));
}
