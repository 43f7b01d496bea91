/**
 * `make class`: one teacher's server for a class, by a code that works until the class ends. The manager
 * starts our server and is the dashboard; roster.ts is the page inside the tunnel. All of it ends with us.
 */
import { exit, fail, vpnProgram } from "../host/program.ts"; // first: it puts the environment right
import { randomBytes } from "node:crypto";
import { networkInterfaces } from "node:os";
import chalk from "chalk";
import { Failure } from "../base/failure.ts";
import type { Status } from "../base/status.ts";
import { run } from "../host/command.ts";
import { start } from "./child.ts";
import { newCode, secretOf } from "./code.ts";
import { clock, Roster } from "./roster.ts";
import { serve } from "./serve.ts";

const EACH = 1_000; // ms between two looks at who is there
const LONGEST = 24; // hours
const { HOURS = "2", PAGE = "80", PORT, TRANSPORT, SUBNET } = process.env;

/** The device to the world. A server without --nat would not forward from student to student, either. */
async function natDevice(): Promise<string> {
  const { stdout } = await run("ip -4 route show default");
  const device = process.env.NAT || / dev (\S+)/.exec(stdout)?.[1];
  if (device) return device;
  throw new Failure("Cannot start: this machine has no default route", "NAT=eth0, the device to the network");
}

/** Where students may reach this machine, that device first. */
function outerAddresses(first: string): string[] {
  const all = Object.entries(networkInterfaces()).sort(
    ([one], [other]) => +(other === first) - +(one === first),
  );
  return all.flatMap(([, own = []]) =>
    own.filter(({ family, internal }) => family === "IPv4" && !internal).map(({ address }) => address),
  );
}

vpnProgram(async () => {
  const hours = Number(HOURS);
  if (!(hours > 0 && hours <= LONGEST))
    throw new Failure(`Cannot start: HOURS=${HOURS} is no number from 0 to ${LONGEST}`, "HOURS=2", 2);
  const nat = await natDevice();
  const outer = outerAddresses(nat); // before there is a tun0
  const [code, token] = [newCode(), randomBytes(16).toString("hex")];
  const secrets = { SIMPLE_VPN_SECRET: secretOf(code), SIMPLE_VPN_MANAGER_TOKEN: token };
  const args = ["--host", "127.0.0.1", "--port", "0"];
  const [, dashboard] = await start("manager/main", args, secrets, /manager: (http\S+)\n/);

  /** Asks the manager. Errors: a Failure, with the manager's own words. */
  const call = async (method: string, path: string, body?: object) => {
    const headers = { Authorization: `Bearer ${token}`, "Content-Type": "application/json" };
    const response = await fetch(new URL(path, dashboard), {
      ...{ method, headers },
      ...(body && { body: JSON.stringify(body) }),
    }).catch(() => {
      throw new Failure("The manager does not answer any more", "make class");
    });
    const answer: any = await response.json();
    if (response.ok) return answer;
    const [, why = answer.error, hint = "make class"] = /^(.*)\. Try: (.*)$/.exec(answer.error) ?? [];
    throw new Failure(why, hint);
  };
  await call("POST", "/api/vpn/server", {
    ...{ configure: true, nat, subnet6: "off" },
    ...(PORT && { port: Number(PORT) }),
    ...(TRANSPORT && { transport: TRANSPORT }),
    ...(SUBNET && { subnet: SUBNET }),
  });
  const status = async (): Promise<Status> => {
    const { running, problem, status } = await call("GET", "/api/vpn/server");
    if (!running || !status)
      throw new Failure(`The server has ended: ${problem ?? "without a word"}`, "make class");
    return status;
  };
  const [inner = ""] = (await status()).inner;
  const ends = new Date(Date.now() + hours * 3_600_000);
  const roster = new Roster(inner.split("/")[0]!, ends);
  const look = async () => roster.update((await status()).peers);
  await serve(roster, Number(PAGE), look);

  const told = new Map<string, string>(); // to the dashboard, by student
  const progress = (method: string, body: object) =>
    call(method, "/api/progress", body).catch(({ message }) => console.error(message));
  const tell = async () => {
    const total = roster.all.length; // the others, and the server
    const now = roster.all.filter(({ name }) => name !== "");
    const students = new Map(now.map((one) => [`${one.name} (${one.address})`, one]));
    for (const student of told.keys())
      if (!students.has(student) && told.delete(student)) await progress("DELETE", { student });
    for (const [student, { pings }] of students) {
      const passed = [...pings.values()].filter(Boolean).length;
      const body = { student, lesson: "pings answered", passed, total };
      if (told.get(student) === JSON.stringify(body)) continue;
      told.set(student, JSON.stringify(body));
      await progress("POST", body);
    }
  };
  const watch = () =>
    void look()
      .then(tell)
      .then(() => setTimeout(watch, EACH), fail);
  watch();

  setTimeout(() => {
    console.log("The class is over: the server ends, and the code is worth nothing any more.");
    exit(0);
  }, hours * 3_600_000);

  const other = TRANSPORT === "tcp" ? undefined : TRANSPORT;
  const settings = Object.entries({ PORT, TRANSPORT: other, PAGE: PAGE === "80" ? undefined : PAGE });
  const more = settings.flatMap(([name, value]) => (value ? ` ${name}=${value}` : [])).join("");
  const { SERVER = outer[0] ?? "ADDRESS" } = process.env;
  const line = `sudo make join SERVER=${SERVER} CODE=${code}${more} NAME=`;
  console.log(`The class is open until ${clock(ends)}. Each student types, with a name behind it:

  ${chalk.bold(line)}

The page, inside the tunnel:    ${chalk.bold(`http://${roster.own}${PAGE === "80" ? "" : `:${PAGE}`}/`)}
The dashboard, on this machine: ${chalk.bold(dashboard)}
This machine's addresses:       ${outer.join(", ")}
Ctrl-C ends the class.`);
});
