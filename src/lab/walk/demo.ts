/**
 * `make demo`: a ping goes through the tunnel, on real TUN devices, and every step of our own code is seen on
 * both ends. Exit code 0 only if all pings were answered and every step was seen.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { randomBytes } from "node:crypto";
import { tmpdir } from "node:os";
import { join } from "node:path";
import chalk from "chalk";
import { Failure } from "../../base/failure.ts";
import { atExit, exit, program } from "../../host/program.ts";
import { decode, Screen, type TraceEvent } from "../../base/render.ts";
import { DOWN, STAGES, type Step, UP } from "../../base/walk.ts";
import { Lab, prompt, SERVER, TARGET } from "../lab.ts";
import { startProgram, withTransport } from "../running.ts";

const heading = (text: string) => console.log(`\n${chalk.bold.inverse(` ${text} `)}`);

program(async () => {
  const folder = mkdtempSync(join(tmpdir(), "simple-vpn-demo-"));
  atExit(() => rmSync(folder, { recursive: true }));
  const secret = join(folder, "secret.key");
  writeFileSync(secret, randomBytes(32).toString("hex"), { mode: 0o600 });

  heading("1. The lab: three hosts in network namespaces of their own");
  const lab = await Lab.up(console.log);

  heading("2. Server and client");
  const start = async (host: "server" | "client", args: string[], done: RegExp) => {
    console.log(prompt(host, `npx tsx src/${host}.ts ${withTransport(args).join(" ")}`));
    const running = startProgram(lab, host, host, [
      ...args,
      "--secret",
      secret,
      "--trace-file",
      join(folder, host),
    ]);
    await running.until(done);
    return running;
  };
  const server = await start("server", ["--configure", "--nat", "eth1"], /listening on/);
  const client = await start("client", [SERVER, "--configure", "--route", `${TARGET}/32`], /connected to/);
  for (const running of [server, client]) console.log(chalk.dim(running.output.trim()));
  const route = `ip route get ${TARGET}`;
  console.log(`${prompt("client", route)}\n${lab.try("client", route).stdout.trim()}`);

  heading(`3. ping -c 3 ${TARGET} on the client`);
  const ping = lab.try("client", `ping -c 3 ${TARGET}`);
  console.log(`${prompt("client", `ping -c 3 ${TARGET}`)}\n${ping.stdout}${ping.stderr}`.trimEnd());
  for (const running of [client, server]) {
    const code = await running.stop("SIGINT");
    if (code !== 0)
      throw new Failure(
        `Cannot finish: a program ended with ${code}: ${running.output}`,
        "run the five terminals of the README to see where",
      );
  }

  heading("4. Each packet's walk, from both programs' trace files, in time order");
  const events = ["client", "server"].flatMap((host) =>
    readFileSync(join(folder, host), "utf8").trim().split("\n").map(decode),
  );
  events.sort((a, b) => (a.time < b.time ? -1 : 1));
  const walk = events.filter(({ step }) => step !== "note" && step !== "summary");
  const screen = new Screen(["5"]);
  for (const event of walk) {
    if (event.step === "5") console.log();
    console.log(screen.render(event));
  }

  heading("5. Steps of our own code that were seen");
  const missing = table(walk);
  const statistics = /\d+ packets transmitted.*/.exec(ping.stdout)?.[0] ?? "no answer from ping";
  const answered = ping.status === 0 && / 0% packet loss/.test(statistics);
  console.log(`\n  ping      ${statistics}\n            ${/rtt.*/.exec(ping.stdout)?.[0] ?? ""}`);
  await lab.down();
  console.log(`  lab       taken down\n`);
  const good = answered && missing === 0;
  console.log(
    good
      ? chalk.green.bold("All pings answered, every step seen on both ends.")
      : chalk.red.bold(`Failed: ${answered ? "" : "pings unanswered; "}${missing} steps not seen.`),
  );
  exit(good ? 0 : 1);
});

/**
 * Prints how often each step was seen, the request's way up beside the reply's way down; returns how many
 * were not seen.
 */
function table(walk: TraceEvent[]): number {
  let missing = 0;
  const cell = (step: Step, host: string) => {
    const count = walk.filter((event) => event.step === step && event.host === host).length;
    if (count === 0) missing++;
    const seen = count > 0 ? `seen ${count} times` : "not seen";
    return `${step.padEnd(11)} ${host} ${(count > 0 ? chalk.green : chalk.red)(seen.padEnd(14))}`;
  };
  console.log(chalk.dim("  request                            reply"));
  for (const [i, stage] of STAGES.entries()) {
    const [near, far] = i < STAGES.indexOf("receive") ? ["client", "server"] : ["server", "client"];
    console.log(`  ${cell(UP[stage], near)}  ${cell(DOWN[stage], far)}`);
  }
  return missing;
}
