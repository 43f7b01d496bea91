/** What this machine's `ip` says of its TUNs and TAPs, and what it is told (ip-address(8), ip-link(8)). */
import { Failure } from "../base/failure.ts";
import { run } from "../host/command.ts";
import type { IpLink } from "../host/machine.ts";

const FRESH = 100; // ms that one reading serves all who ask

/** One interface, with its numbers. */
export interface Link extends IpLink {
  ifindex: number;
  address?: string; // of Ethernet
  stats64: Record<"rx" | "tx", Record<string, number>>;
}

let reading: Promise<Map<string, Link>> | undefined;

/** All TUNs and TAPs by name. However many ask at once, `ip` runs once. Errors: a Failure. */
export function readLinks(): Promise<Map<string, Link>> {
  if (reading) return reading;
  const started = (reading = ip("-json -statistics address show type tun").then((text) => {
    const links: Link[] = JSON.parse(text.trim() || "[]");
    return new Map(links.map((link) => [link.ifname, link]));
  }));
  setTimeout(() => reading === started && (reading = undefined), FRESH).unref();
  return reading;
}

/**
 * Runs lines for `ip -batch`, up to the first that fails; with `force` all of them. Errors: a Failure with
 * ip's own words. The next question gets a new reading.
 */
export async function change(lines: string[], force = false): Promise<void> {
  if (lines.length === 0) return;
  try {
    await ip(`${force ? "-force " : ""}-batch -`, lines);
  } finally {
    reading = undefined;
  }
}

async function ip(words: string, lines: string[] = []): Promise<string> {
  const { code, stdout, stderr } = await run(`ip ${words}`, lines.map((line) => `${line}\n`).join(""));
  if (code === 0) return stdout;
  if (code === "ENOENT") throw new Failure("Cannot run ip: it is not installed", "apt-get install iproute2");
  const line = lines[Number(/Command failed -:(\d+)/.exec(stderr)?.[1]) - 1] ?? words;
  const said = stderr.replace(/\.?\s*(Command failed.*)?\s*$/, "");
  throw new Failure(`Cannot run 'ip ${line}': ${said || code}`, "run it by hand to see what it needs");
}
