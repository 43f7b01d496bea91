/**
 * The newest wireguard-go that any release of Debian has. The one of Debian 12 is from 2022, and cuts packets
 * by itself; since 2023 it lets the kernel do that, as we do, and is three times as fast. So `make bench`
 * fetches the package, unpacks it into its own folder, and installs nothing.
 */
import { spawnSync } from "node:child_process";
import { delimiter, join } from "node:path";

// of Debian 13; in Debian 12 it runs as well
const VERSION = "0.0.20231211-1+b9";
const PACKAGES: Record<string, { architecture: string; sha256: string } | undefined> = {
  x64: {
    architecture: "amd64",
    sha256: "cce54ea802611a45d07d1053ff285ea9f1a8f15499f3b86ccd8edd2b81ed7f7e",
  },
  arm64: {
    architecture: "arm64",
    sha256: "fcb53fa683ea8d0640e675e9168fa4e4347ceb1abfaecc85edaf6ed06ee9b09a",
  },
};
const APT_HELPER = "/usr/lib/apt/apt-helper"; // downloads one file, by the proxies that apt-get uses
const PATIENCE = 30_000; // ms

/** What a command printed; undefined if it failed, took too long, or is not there. */
function said(program: string, ...args: string[]): string | undefined {
  const { status, stdout } = spawnSync(program, args, { encoding: "utf8", timeout: PATIENCE });
  return status === 0 ? stdout.trim() : undefined;
}

/** The version of the one that is first in PATH: as Debian counts, for the program tells an older one. */
export function wireGuardVersion(): string {
  const place = said("sh", "-c", "command -v wireguard-go");
  if (place === fetched) return upstream(VERSION);
  return upstream(packaged() ?? said("wireguard-go", "--version")?.split("\n")[0]?.split(" ").at(-1) ?? "?");
}
let fetched: string | undefined; // its path
const packaged = () => said("dpkg-query", "-W", "-f", "${Version}", "wireguard-go") || undefined;
const upstream = (version: string) => version.replace(/^v/, "").replace(/-[^-]*$/, "");

/**
 * Fetches it into `folder` and puts it first in PATH, unless what is installed is as new. Why not, if it
 * cannot be had: then the bench takes what is installed.
 */
export function fetchWireGuard(folder: string): string | undefined {
  const installed = packaged();
  if (installed && said("dpkg", "--compare-versions", installed, "ge", VERSION) !== undefined)
    return undefined;
  const found = PACKAGES[process.arch];
  if (!found) return `there is none for ${process.arch} in our list`;
  const filter = ["Created-By: Packages", "Origin: Debian", "Label: Debian", "Component: main"];
  const mirrors = said("apt-get", "indextargets", "--format", "$(REPO_URI)", ...filter);
  const mirror = mirrors?.split("\n")[0]?.replace(/\/$/, "");
  if (!mirror) return "apt-get knows no mirror of Debian (has 'apt-get update' been run?)";

  const name = `wireguard-go_${VERSION}_${found.architecture}.deb`;
  const [url, file] = [`${mirror}/pool/main/w/wireguard-go/${name}`, join(folder, name)];
  const limits = ["-o", "Acquire::Retries=0", "-o", "Acquire::http::Timeout=10"];
  if (said(APT_HELPER, ...limits, "download-file", url, file, `SHA256:${found.sha256}`) === undefined)
    return `${url} cannot be fetched`;
  if (said("dpkg-deb", "-x", file, folder) === undefined) return `${name} cannot be unpacked`;
  const path = join(folder, "usr/bin/wireguard-go");
  if (said(path, "--version") === undefined) return `it does not run on this system`;
  process.env.PATH = [join(folder, "usr/bin"), process.env.PATH].join(delimiter);
  fetched = path;
  return undefined;
}
