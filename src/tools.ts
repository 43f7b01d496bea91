/**
 * `npx tsx src/tools.ts ping|dump|secret|version`: what one needs around --transport raw. Ping and dump take
 * root. Ping machines of your own only, over networks whose owners agree.
 */
import { randomBytes } from "node:crypto";
import { Failure } from "./base/failure.ts";
import { version } from "./host/options.ts";
import { program } from "./host/program.ts";
import { dump } from "./tools/dump.ts";
import { ping } from "./tools/ping.ts";

const TOOLS: Record<string, (args: string[]) => void | Promise<void>> = {
  ping, //                                             do crafted segments arrive? Where do they get lost?
  dump, //                                             shows those that pass
  secret: () => console.log(randomBytes(32).toString("hex")), // for secret.key
  version: () => console.log(`simple-vpn ${version}`),
};

program(() => {
  const [name = "", ...args] = process.argv.slice(2);
  const tool = Object.hasOwn(TOOLS, name) ? TOOLS[name] : undefined;
  const names = Object.keys(TOOLS).join(", ");
  if (!tool)
    throw new Failure(`Cannot start: expected one of ${names}`, "npx tsx src/tools.ts ping --help", 2);
  return tool(args);
});
