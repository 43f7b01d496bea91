/**
 * Client only: each block that belongs into the tunnel has a guard, a second route, which leads nowhere. The
 * kernel takes the one with the smaller metric: the tunnel's, as long as it is there. Where it is not, for a
 * moment or for good, nothing leaves by another way. Guards of the inside are there while the client runs.
 * With --kill-switch the routed blocks have them, too, and nobody but unblock.ts takes any of them away.
 */
import { contains, ipFor, prefixOf } from "../base/block.ts";
import { Failure } from "../base/failure.ts";
import { type Change, INNER } from "../host/changes.ts";
import { GUARD, KILL_SWITCH, type Machine, type Rule } from "../host/machine.ts";

/** What takes away all that --kill-switch has left. */
export const UNBLOCK = "npx tsx src/client/unblock.ts";

const routeOf = (block: string, stays: boolean) =>
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

/** What takes away all that --kill-switch has left. Errors: a Failure while a client is still at work. */
export function unblocking({ blocked, tables, rules }: Machine, isOurs: (rule: Rule) => boolean): Change[] {
  const used = [...tables].flatMap(([table, routes]) =>
    routes.filter(({ block }) => blocked.includes(table === "main" ? block : `${block} table ${table}`)),
  )[0];
  if (used)
    throw new Failure(
      `Cannot unblock ${used.block}: it is routed ${used.where}, so a client is running`,
      `end it first; if there is none: ${ipFor(used.block)} route del ${used.block} dev ${used.dev}`,
    );
  const leading = rules.filter((rule) =>
    blocked.some((block) => {
      if (ipFor(block) !== rule.ip) return false;
      return block.includes(" table ")
        ? isOurs(rule)
        : rule.preference === INNER && rule.text.includes(block);
    }),
  );
  return [
    ...leading.map(({ ip, text, preference }) => ({
      run: `${ip} rule del ${text.replace(/ \[.*/, "")} pref ${preference}`,
    })),
    ...blocked.map((block) => ({ run: `ip route del ${routeOf(block, true)}` })),
  ];
}
