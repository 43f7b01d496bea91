/**
 * `npx tsx src/client/unblock.ts`: lets out again what --kill-switch of a client that has ended blocks. It
 * takes away those routes, and the rules that lead to them, prints each command, and does nothing else.
 */
import { ipFor } from "../base/block.ts";
import { Failure } from "../base/failure.ts";
import { type Change, INNER } from "../host/changes.ts";
import type { Machine } from "../host/machine.ts";
import { CLIENT, parse } from "../host/options.ts";
import { exit, program } from "../host/program.ts";
import { Setup } from "../host/setup.ts";
import { routeOf, UNBLOCK } from "./guard.ts";
import { isBlocked, isOurs, ruleDel } from "./routes.ts";

program(async () => {
  parse(process.argv.slice(2), { help: CLIENT.help }, "src/client/unblock.ts");
  const setup = new Setup(true);
  const machine = await setup.begin("");
  checkUnused(machine);
  if (machine.blocked.length === 0) console.log("Nothing is blocked by --kill-switch.");
  else if (process.getuid!() !== 0)
    throw new Failure("Cannot unblock: only root may change routes", `sudo ${UNBLOCK}`);
  await setup.make(unblocking(machine));
  exit(0);
});

/** Errors: a Failure while a client is at work. */
function checkUnused({ blocked, tables }: Machine): void {
  for (const [table, routes] of tables) {
    const used = routes.find(({ block }) =>
      blocked.includes(table === "main" ? block : `${block} table ${table}`),
    );
    if (!used) continue;
    const { block, where, dev } = used;
    throw new Failure(
      `Cannot unblock ${block}: it is routed ${where}, so a client is running`,
      `end it first; or, if there is none: ${ipFor(block)} route del ${block} dev ${dev} table ${table}`,
    );
  }
}

function unblocking(machine: Machine): Change[] {
  const { rules, blocked } = machine;
  const leading = rules.filter(
    (rule) =>
      (isOurs(rule) && isBlocked(rule.ip, machine)) ||
      (rule.preference === INNER && blocked.some((block) => rule.text.includes(` ${block} `))),
  );
  return [
    ...leading.map((rule) => ({ run: ruleDel(rule) })),
    ...blocked.map((block) => ({ run: `ip route del ${routeOf(block, true)}` })),
  ];
}
