/**
 * `make walk`: one ping through the lab, and then its whole journey as one timeline, with evidence for each
 * step. With `--follow COMMAND…` any other command on the client: 8.8.8.8 answers DNS queries on port 53 and
 * HTTP requests on port 80. Exit code 0 only if every step was seen that can be seen here.
 */
import { randomBytes } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { Failure } from "../../base/failure.ts";
import { atExit, exit, program } from "../../host/program.ts";
import { decode } from "../../base/render.ts";
import { trace } from "../../base/trace.ts";
import { Lab, ours, prompt, SERVER, TARGET } from "../lab.ts";
import { writeNew } from "../../base/new-file.ts";
import { checkOutput } from "../output.ts";
import { Running, startProgram, TRANSPORT } from "../running.ts";
import { WALK } from "../../picture/steps.ts";
import { html, svg } from "./page.ts";
import { pcapng } from "./pcapng.ts";
import { decodeTaps, type TapPacket } from "./taps.ts";
import {
  drop,
  type Evidence,
  fromPrograms,
  fromRoutes,
  fromTaps,
  fromTracepoints,
  inside,
  missing,
  outside,
  print,
} from "./timeline.ts";
import { Tracepoints } from "./tracepoints.ts";

const TAPS: Record<string, string[]> = {
  client: ["tun0", "eth0"],
  server: ["eth0", "tun0", "eth1"],
  internet: ["eth0"],
};

const FILES = ["walk.html", "walk.svg", "walk.pcapng"];

/** [--out FOLDER] [--follow COMMAND…] */
function options(args: string[]): { out: string; command: string[] } {
  const out = args[0] === "--out" ? args.splice(0, 2)[1] : ".";
  const follow = args[0] === "--follow" ? args.splice(0) : ["", "ping", "-c", "1", TARGET];
  if (args.length > 0 || follow.length < 2 || out === undefined)
    throw new Failure(
      "Cannot start: expected [--out FOLDER] [--follow COMMAND…]",
      'make walk FOLLOW="curl -s http://8.8.8.8/"',
      2,
    );
  return { out, command: follow.slice(1) };
}

program(async () => {
  const { out, command } = options(process.argv.slice(2));
  checkOutput(out, FILES, "make walk OUT=FOLDER");

  const folder = mkdtempSync(join(tmpdir(), "simple-vpn-walk-"));
  atExit(() => rmSync(folder, { recursive: true }));
  writeFileSync(join(folder, "secret.key"), randomBytes(32).toString("hex"), { mode: 0o600 });
  console.log("A lab, both programs and the taps start: about ten seconds …\n");
  const lab = await Lab.up();
  // A veth would carry many datagrams as one. Now each goes alone, as on a cable, and the taps show it so.
  if (TRANSPORT === "udp")
    for (const host of ["client", "server"]) lab.run(host, "ip link set eth0 gso_max_segs 1");
  const start = async (host: "client" | "server", ...options: string[]) => {
    const running = startProgram(lab, host, host, [
      ...options,
      "--configure",
      "--secret",
      join(folder, "secret.key"),
      "--trace-file",
      join(folder, host),
    ]);
    await running.until(/listening on|connected to/);
    return running;
  };
  const server = await start("server", "--nat", "eth1");
  const client = await start("client", SERVER, "--route", `${TARGET}/32`);

  const services = new Running(lab.spawn("internet", ours("lab/internet")));
  await services.until(/ready/);

  const taps = Object.entries(TAPS).map(
    ([host, devices]) => new Running(lab.spawn(host, [...ours("lab/walk/taps"), host, ...devices])),
  );
  for (const tap of taps) await tap.until(/^ready$/m);

  // The command's pid must be known before it starts: the shell waits for a line, then becomes the command.
  const application = new Running(
    lab.spawn("client", ["sh", "-c", 'read go; exec "$@"', "sh", ...command], {
      stdio: ["pipe", "pipe", "pipe"],
    }),
  );
  const pids = { client: client.child.pid!, server: server.child.pid!, internet: services.child.pid! };
  const tracepoints = Tracepoints.start(lab, [...Object.values(pids), application.child.pid!]);
  const withoutTracepoints = typeof tracepoints === "string" ? tracepoints : undefined;
  const output: Evidence[] = [];
  application.child.stdout!.on("data", (text: string) => {
    for (const line of text.split("\n"))
      output.push({ time: trace.now(), step: "R9", host: "client", source: "output", text: line, hex: "" });
  });
  application.child.stdin!.end("go\n");
  const code = await application.ended;
  const kernel = typeof tracepoints === "string" ? [] : tracepoints.stop();
  if (code === 126 || code === 127)
    throw new Failure(
      `Cannot follow '${command.join(" ")}': ${application.output.trim()}`,
      "the command by hand: is it installed?",
    ); // sh(1): it cannot be run
  const answer = output.find(({ text }) =>
    /^PING /m.test(application.output) ? / bytes from /.test(text) : text.trim(),
  ); // ping prints much, answered or not
  await server.stop("SIGINT"); // the taps have seen all by then, and the client has its route still
  const tapped = () => taps.flatMap(({ output }) => decodeTaps(output));
  const route = (address: string) => {
    const { stdout, stderr } = lab.try("client", `ip route get ${address}`);
    return stdout || stderr;
  };
  const routed = withoutTracepoints ? fromRoutes(fromTaps(tapped()), route) : [];
  await client.stop("SIGINT");
  for (const tap of taps) await tap.stop();
  await lab.down();

  const programs = ["client", "server"].flatMap((host) =>
    readFileSync(join(folder, host), "utf8").trim().split("\n").map(decode),
  );
  const packets = tapped();
  const evidence = [
    ...fromPrograms(programs, TRANSPORT === "udp" ? "datagram" : "frame"),
    ...fromTaps(packets),
    ...routed,
    ...fromTracepoints(kernel, pids),
    ...(answer ? [answer] : []),
  ].sort((a, b) => (a.time < b.time ? -1 : 1));

  console.log(`${prompt("client", command.join(" "))}\n${application.output.trim()}`);
  const lacking = missing(evidence, withoutTracepoints, drop(kernel, pids), outside(packets));
  print(evidence, lacking);
  const unseen = [...lacking.keys()].filter((id) => lacking.get(id) === withoutTracepoints);
  const because =
    unseen.length > 0
      ? ` Steps ${unseen.join(", ")} need the kernel's tracepoints: ${withoutTracepoints}. Run as root.`
      : "";
  console.log(`\n${WALK.length - lacking.size} of ${WALK.length} steps seen.${because}`);
  writeNew(join(out, "walk.html"), html(evidence, command.join(" "), lacking), 0o644);
  writeNew(join(out, "walk.svg"), svg(evidence), 0o644);
  const seen = new Map(evidence.filter(({ packet }) => packet).map((one) => [one.packet!, one]));
  const comment = (packet: TapPacket) => {
    const one = seen.get(packet);
    return (
      one &&
      [`step ${one.step}: ${WALK.find(({ id }) => id === one.step)!.title}`, ...inside(one, programs)].join(
        "; inside: ",
      )
    );
  };
  const capture = pcapng(packets, BigInt(Date.now()) * 1_000_000n - trace.now(), comment);
  writeNew(join(out, "walk.pcapng"), capture, 0o644);
  console.log(`Wrote walk.html, walk.svg, and walk.pcapng, which Wireshark opens.`);
  console.log(`Open ${pathToFileURL(join(out, "walk.html"))} in a browser.`);
  exit(code === 0 && unseen.length === lacking.size ? 0 : 1);
});
