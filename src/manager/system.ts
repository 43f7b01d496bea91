/** What this machine's `ip` says of its TUNs and TAPs, and what it is told. No shell: only words. */
import { Failure } from "../base/failure.ts";
import { type Result, run } from "../host/command.ts";

const FRESH = 100; // ms that one reading serves all who ask

/** One interface, as `ip -json -statistics address show` has it (ip-address(8)). */
export interface IpLink {
  ifindex: number;
  ifname: string;
  flags: string[];
  mtu: number;
  address?: string; // of Ethernet: a TAP has one
  addr_info: { family: "inet" | "inet6"; local: string; prefixlen: number }[];
  stats64: Record<"rx" | "tx", Record<string, number>>;
}

let reading: Promise<Map<string, IpLink>> | undefined;

/** All TUNs and TAPs by name. However many ask at once, `ip` runs once. Errors: a Failure. */
export function readLinks(): Promise<Map<string, IpLink>> {
  if (!reading) {
    const started = (reading = readNow());
    setTimeout(() => reading === started && forget(), FRESH).unref();
  }
  return reading;
}

/** Something has changed: the next who asks gets a new reading. */
export function forget(): void {
  reading = undefined;
}

async function readNow(): Promise<Map<string, IpLink>> {
  const result = await run("ip -json -statistics address show type tun");
  check("ip address show", result);
  const links: IpLink[] = JSON.parse(result.stdout.trim() || "[]");
  return new Map(links.map((link) => [link.ifname, link]));
}

/** Runs lines for `ip -batch`. It stops at the first that fails. Errors: a Failure with ip's own words. */
export async function change(lines: string[]): Promise<void> {
  const result = await run("ip -batch -", lines.map((line) => `${line}\n`).join(""));
  forget();
  const at = /Command failed -:(\d+)/.exec(result.stderr)?.[1];
  check(`ip ${lines[Number(at ?? 1) - 1] ?? ""}`, result);
}

/** The same, but it goes on: for what takes a failed change back. */
export async function attempt(lines: string[]): Promise<void> {
  await run("ip -force -batch -", lines.map((line) => `${line}\n`).join(""));
  forget();
}

function check(line: string, { code, stderr }: Result): void {
  if (code === 0) return;
  if (code === "ENOENT") throw new Failure("Cannot run ip: it is not installed", "apt-get install iproute2");
  const said = stderr
    .replace(/Command failed.*/, "")
    .trim()
    .replace(/\s*\n\s*/g, "; ");
  throw new Failure(`Cannot run '${line}': ${said || code}`, "run it by hand to see what it needs");
}
