/**
 * Client only: each block that belongs into the tunnel has a guard, a second route, which leads nowhere. The
 * kernel takes the one with the smaller metric: the tunnel's, as long as it is there. Where it is not, for a
 * moment or for good, nothing leaves by another way. Guards of the inside are there while the client runs.
 * With --kill-switch the routed blocks have them, too, and nobody but unblock.ts takes any of them away.
 */
import { contains, prefixOf } from "../base/block.ts";
import type { Change } from "../host/changes.ts";
import { GUARD, KILL_SWITCH, type Machine } from "../host/machine.ts";

/** What takes away all that --kill-switch has left. */
export const UNBLOCK = "npx tsx src/client/unblock.ts";

/** A guard, in the words of `ip route`. */
export const routeOf = (block: string, stays: boolean) =>
  `unreachable ${block} metric ${GUARD}${stays ? ` proto ${KILL_SWITCH}` : ""}`;

/** The command for a guard of "10.8.0.0/24", or of "0.0.0.0/0 table 86". `stay`: after our end, too. */
export function guard(block: string, stay: boolean, { blocked }: Machine): Change[] {
  if (blocked.includes(block)) return []; // a client before us has left it, and so do we
  const route = routeOf(block, stay);
  return [{ run: `ip route replace ${route}`, ...(!stay && { undo: `ip route del ${route}` }) }];
}

/**
 * What a client before us has blocked, and these routes of ours bring into the tunnel, is free while we run.
 * `stay`: after our end, our own guards hold it.
 */
export function lift(routes: string[], stay: boolean, { blocked }: Machine): Change[] {
  return blocked
    .filter((block) => !routes.includes(block) && routes.some((route) => covers(route, block)))
    .map((block) => ({
      run: `ip route del ${routeOf(block, true)}`,
      ...(!stay && { undo: `ip route replace ${routeOf(block, true)}` }),
    }));
}

/** Both may have the words " table 86" behind them. */
function covers(route: string, block: string): boolean {
  const [one = "", other = ""] = [route, block].map((text) => text.split(" ")[0]);
  return contains(one, other.split("/")[0]!) && prefixOf(one) <= prefixOf(other);
}
