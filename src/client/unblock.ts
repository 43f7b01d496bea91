/**
 * `npx tsx src/client/unblock.ts`: lets out again what --kill-switch of a client that has ended blocks. It
 * takes away those routes and rules, prints each command, and does nothing else.
 */
import { Failure } from "../base/failure.ts";
import { CLIENT, parse } from "../host/options.ts";
import { exit, program } from "../host/program.ts";
import { Setup } from "../host/setup.ts";
import { UNBLOCK, unblocking } from "./guard.ts";
import { isOurs } from "./routes.ts";

program(async () => {
  parse(process.argv.slice(2), { help: CLIENT.help }, "src/client/unblock.ts");
  const setup = new Setup(true);
  const changes = unblocking(await setup.begin(""), isOurs);
  if (changes.length === 0) console.log("Nothing is blocked by --kill-switch.");
  else if (process.getuid!() !== 0) throw new Failure("Cannot unblock: only root may", `sudo ${UNBLOCK}`);
  await setup.make(changes);
  exit(0);
});
