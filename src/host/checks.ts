/** What must be free on this machine, what must exist, and whether what was set up has its effect. */
import { randomBytes } from "node:crypto";
import { isIPv6 } from "node:net";
import { contains, halvesOf, overlap, prefixOf } from "../base/block.ts";
import { Failure } from "../base/failure.ts";
import { run } from "./command.ts";
import type { Machine } from "./machine.ts";

/**
 * Do these blocks lead into `tun`? A rule of the user's in front of ours, or a route that is more specific,
 * comes first. Asks the kernel for one address of each. Returns a warning, or "".
 */
export async function strays(blocks: string[], tun: string): Promise<string> {
  const addresses = blocks.map((block) => (halvesOf(block)?.[1] ?? block).split("/")[0]!);
  const { stdout } = await run(
    "ip -force -batch -",
    addresses.map((address) => `route get ${address}\n`).join(""),
  );
  const ways = new Map(
    [...stdout.matchAll(/^(\S+) .*?((?:via \S+ )?dev (\S+))/gm)].map(([, address, way, dev]) => [
      address,
      { way, dev },
    ]),
  );
  const stray = addresses.flatMap((address, i) =>
    ways.get(address)?.dev === tun
      ? []
      : [`${address} of ${blocks[i]} goes ${ways.get(address)?.way ?? "nowhere"}`],
  );
  if (stray.length === 0) return "";
  const more = stray.length > 1 ? ` (and so for ${stray.length - 1} more)` : "";
  const why = "for a rule or a route of this machine's own comes first; 'ip rule' shows the rules";
  return `not into the tunnel: ${stray[0]}${more}, ${why}`;
}

/**
 * The blocks for the inside of the tunnel must be free on this machine. Else packets for the inside would
 * leave by another interface, without a word. Returns a warning, or "". Errors: a Failure; `option`: what
 * sets another block.
 */
export function checkFree(machine: Machine, blocks: string[], option: string): string {
  let warning = "";
  for (const block of blocks) {
    const held = machine.held.find(({ address, prefix }) => overlap(`${address}/${prefix}`, block));
    const route = machine.routes.find(
      (one) => prefixOf(one.block) >= prefixOf(block) && contains(block, one.block.split("/")[0]!),
    );
    const gateway = machine.routes.find(({ gateway }) => gateway && contains(block, gateway));
    // A larger network with other hosts in it may stay: the smaller block wins, and takes only its own
    // addresses from it.
    const larger = held && prefixOf(block) > held.prefix && !gateway;
    const network = held && `${held.address}/${held.prefix}`;
    if (larger) {
      const lost = "its hosts with such addresses are out of reach meanwhile";
      warning = `this machine's network on ${held.dev}, ${network}, holds the tunnel's ${block}: ${lost}`;
    }
    const routed = route && `${route.block} is routed ${route.where} already`;
    const found = held && !larger ? `${held.dev} has ${network}` : routed;
    if (!found) continue;
    const flag = block.includes(":") ? "--subnet6" : "--subnet";
    const another = option.replace("--subnet", flag).replace("BLOCK", freeBlock(machine, block));
    const problem = `Cannot use ${block} inside the tunnel: on this machine ${found}`;
    throw new Failure(problem, `${another}: nothing here has that`);
  }
  return warning;
}

/**
 * Clients' packets leave by `device`: by neither lo nor our own `tun`. iptables would accept one that does
 * not exist, and never match. Errors: a Failure.
 */
export function checkDevice({ links }: Machine, device: string | undefined, tun: string): void {
  const outward = links.filter((link) => link !== "lo" && link !== tun);
  if (device === undefined || outward.includes(device)) return;
  const why = links.includes(device) ? "it leads nowhere else" : "there is no such interface";
  const others = outward.length > 0 ? `name another one, of ${outward.join(", ")}` : "leave --nat out";
  throw new Failure(`Cannot use --nat ${device}: ${why}`, others);
}

/** A block of the same size that is free on this machine. */
function freeBlock({ held, routes }: Machine, taken: string): string {
  const prefix = prefixOf(taken);
  const digits = randomBytes(5).toString("hex"); // RFC 4193, section 3.2.2
  if (isIPv6(taken.split("/")[0]!))
    return `fd${digits.replace(/^(..)(....)(....)$/, "$1:$2:$3")}::/${prefix}`;
  // RFC 1918
  const networks = Array.from({ length: 262 }, (_, i) =>
    i < 246 ? `10.${9 + i}.0.0` : `172.${i - 230}.0.0`,
  );
  const used = [
    ...held.map(({ address, prefix }) => `${address}/${prefix}`),
    ...routes.map(({ block }) => block).filter((block) => prefixOf(block) > 0),
  ];
  return (
    networks
      .map((network) => `${network}/${Math.max(prefix, 16)}`)
      .find((block) => !used.some((one) => overlap(one, block))) ?? "another block"
  );
}
