/**
 * `make manager`: a lab with server, client, and the interface manager on the server's host. The lab has no
 * way to this machine's network, so the manager listens on a unix socket in the lab's own /run. A forwarder
 * leads there from 127.0.0.1. All of it ends with this program.
 */
import { connect, createServer } from "node:net";
import chalk from "chalk";
import { Failure } from "../../base/failure.ts";
import { atExit, exit, fail, program } from "../../host/program.ts";
import { Lab, ours, prompt, SERVER, TARGET } from "../lab.ts";
import { Running, startProgram, withTransport } from "../running.ts";
import { find, forget, ownSecret, remember } from "./place.ts";

const [FIRST_PORT, LAST_PORT] = [8080, 8099];

/** Hands each connection to a free port of 127.0.0.1 on to a unix socket. Returns the port. */
async function forward(socket: string): Promise<number> {
  const server = createServer((near) => {
    const far = connect(socket);
    near.pipe(far).pipe(near);
    near.on("error", () => far.destroy()).on("close", () => far.destroy());
    far.on("error", () => near.destroy()).on("close", () => near.destroy());
  });
  for (let port = FIRST_PORT; port <= LAST_PORT; port++) {
    const code = await new Promise<string>((resolve) => {
      server.once("error", ({ code }: NodeJS.ErrnoException) => resolve(code!));
      server.listen(port, "127.0.0.1", () => resolve(""));
    });
    server.removeAllListeners("error");
    if (code === "") return port;
    if (code !== "EADDRINUSE") break;
  }
  const ports = `${FIRST_PORT} to ${LAST_PORT}`;
  throw new Failure(
    `Cannot listen on 127.0.0.1, ports ${ports}: none is free`,
    "ss -ltnp, to see who has them",
  );
}

program(async () => {
  if (find())
    throw new Failure("Cannot bring up a lab: there is one already", "make down, then make manager");
  const lab = await Lab.up();
  remember(lab);
  atExit(forget);

  const watch = (name: string, running: Running) =>
    void running.ended.then((code) => {
      if (code === 0) return exit(0); // make down
      fail(
        new Failure(`Cannot go on: the ${name} ended with ${code}: ${running.output.trim()}`, "make manager"),
      );
    });
  const start = async (host: "server" | "client", args: string[], ready: RegExp) => {
    console.log(prompt(host, `npx tsx src/${host}.ts ${withTransport(args).join(" ")}`));
    const running = startProgram(lab, host, host, [...args, ...ownSecret()]);
    await running.until(ready);
    watch(host, running);
  };
  await start("server", ["--configure", "--nat", "eth1", "--status", "/run/server"], /listening on/);
  const route = ["--route", `${TARGET}/32`];
  await start("client", [SERVER, "--configure", ...route, "--status", "/run/client"], /connected to/);
  lab.spawn("internet", ours("lab/internet"), { stdio: "ignore" }); // something to curl

  const sockets = ["--host /run/manager", "--watch /run/server", "--watch /run/client"];
  const args = [...sockets, "--name tun1"].flatMap((words) => words.split(" ")); // the server has tun0
  console.log(prompt("server", `npx tsx src/manager/main.ts ${args.join(" ")}`));
  const running = new Running(lab.spawn("server", [...ours("manager/main"), ...args]));
  await running.until(/the interface manager/);
  watch("manager", running);
  const port = await forward(`/proc/${lab.holder}/root/run/manager`);
  console.log(`
Open ${chalk.bold(`http://127.0.0.1:${port}/`)} in a browser. In another terminal, type:
  make on HOST=client CMD="ping ${TARGET}"
Ctrl-C here ends it all.`);
});
