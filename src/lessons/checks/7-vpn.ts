/** Lesson 7: your VPN. What its checks see: how it gets on with the real programs, by default settings. */
import { SERVER, TARGET } from "../../lab/lab.ts";
import type { Running } from "../../lab/running.ts";
import { type Lesson, Miss, type Program, type Stage } from "../check.ts";
import { clear, complaint, FAR, injected, pings, startRealClient } from "../far.ts";
import { startRealServer, startServer, THREE, why } from "../far.ts";

const GIVEN = "what is not marked TODO is given: take the starter's again";
const HANDSHAKE = "TODO 3, in send(): the header; TODO 5, in begin(): a KEEPALIVE, which proves us";
const FRAMES = "TODO 1: IFF_VNET_HDR; TODO 2 and 4: the records";
const KEYS =
  "TODO 6: opener is newKey(keys.receive), nextSealer newKey(keys.send). Another key opens nothing";
const ROUTE = `TODO 5, in begin(): ip addr add …, ip route add ${TARGET}/32 dev tun0`;
const TUN = "TODO 7, in serve(): ip addr add 10.8.0.1/24 dev tun0, and ip link set tun0 mtu 1400 up";
const NAT = "TODO 7, in serve(): sysctl -qw net.ipv4.ip_forward=1, and iptables -t nat … MASQUERADE";
const MANY = "-c 50 -l 50"; // at once: the real end then puts several records into one frame
const STRANGER = "10.7.7.7"; // an address that the server gave nobody
const MINUTES = "the server's part of fresh keys is given: take onControl() from the starter again";
// what a server left that was killed
const FORGET = "iptables -t nat -F POSTROUTING; sysctl -qw net.ipv4.ip_forward=0";
const STARTING = 10_000; // ms: what a program may take on a busy machine
const reals = new WeakMap<Stage, Running>();

/** What the real program says about the student's, if anything. */
const said = (real: Running) => `; the real one says: ${complaint(real) ?? "nothing"}`;

/**
 * Starts the student's client, and waits until the server has a session with it. If it has none, what the
 * server says explains more than how the client ended.
 */
async function welcomed(stage: Stage, server: Running): Promise<void> {
  const client = stage.start("client", "client", SERVER);
  let deadline = Date.now() + STARTING;
  for (let isUp = false; Date.now() < deadline && !complaint(server);) {
    if (/client \S+ connected/.test(server.output)) return;
    if (!isUp && (client.net("dev").includes("tun0:") || client.running.over)) {
      isUp = true;
      deadline = Date.now() + 2_000;
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  const miss = new Miss(`the server has no session with your client${said(server)}`, HANDSHAKE);
  throw complaint(server) ? miss : await why(stage, miss);
}

/** Waits until a command on a host prints what it should. */
async function shown(
  stage: Stage,
  host: string,
  command: string,
  wanted: RegExp,
  miss: (said: string) => Miss,
): Promise<string> {
  for (const deadline = Date.now() + 4_000; ;) {
    const output = await stage.run(host, command);
    const found = wanted.exec(output);
    if (found) return `${command}: ${found[0].trim()}`;
    if (Date.now() > deadline || stage.programs.some(({ running }) => running.over))
      throw await why(stage, miss(output.trim()));
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

/** No answer from the student's server: was it its frames, or the keys? */
const lost = (stage: Stage, seen: string) => {
  const isKey = stage.programs.some(({ said }) => /tag is wrong/.test(said));
  return new Miss(`${seen}${said(reals.get(stage)!)}`, isKey ? KEYS : FRAMES);
};

/** A packet in a stranger's name, and one in the client's own: only the latter may come out of tun0. */
async function spoofed(stage: Stage): Promise<void> {
  await stage.run("client", `ip addr add ${STRANGER}/32 dev lo`);
  const before = injected(stage);
  await stage.run("client", `ping -c 1 -W 0.1 -I ${STRANGER} ${FAR}`);
  const real = reals.get(stage)!;
  await pings(stage, FAR, "-c 1", (seen) => lost(stage, seen), real); // it came behind
  if (injected(stage) - before > 1)
    throw new Miss(
      `the client sent a packet from ${STRANGER}, and your server wrote it into tun0`,
      "onFrame(): on the server, bytes 12 to 15 of each packet must be OURS.address",
    );
}

/** The server's host has no NAT rule any more. */
async function undone(stage: Stage, server: Program): Promise<string> {
  server.running.child.kill("SIGINT");
  await stage.until(
    () => server.running.over,
    () => new Miss("SIGINT did not end your server within 2 s", "process.exit(0) at the end of end()"),
  );
  const rules = await stage.run("server", "iptables -t nat -S POSTROUTING");
  const left = rules.split("\n").find((line) => line.startsWith("-A"));
  if (left)
    throw new Miss(
      `Ctrl-C has ended your server, and its rule is still there: ${left}`,
      'TODO 7: process.on("exit", …) takes away what serve() added: iptables -t nat -D …',
    );
  return "Ctrl-C: iptables -t nat has no rule of yours any more";
}

export const lesson: Lesson = {
  file: "7-vpn",
  title: "your VPN",
  about: ["The handshake as a library, routes, NAT: then each end talks to a real one."],
  write: [
    "openTun(): packets with 10 bytes in front",
    "onPacket(): a packet becomes a record",
    "send(): the header of a frame",
    "onFrame(): records become packets",
    "begin(): the client's part of the handshake; address and routes",
    "welcome(): the server's part",
    "serve(): forwarding and NAT",
  ],
  read: ["draft/wire.md", "walkthrough.md, What the handshake adds"],
  crashes: [
    [/File exists/, "TODO 5: that is the way to the server, too. 8.8.8.8/32 alone goes into tun0"],
    [/Command failed: iptables/, "TODO 7, word by word; -D takes the same words as -A"],
    [/Command failed: ip/, "TODO 5 and 7, word by word: ip addr add 10.8.0.2/24 dev tun0"],
  ],
  checks: [
    {
      name: "your client gets an address from the real server",
      async run(stage) {
        const server = await startRealServer(stage, "--nat", "eth1", "--subnet", "10.9.0.0/20");
        reals.set(stage, server);
        await welcomed(stage, server);
        const gave = "the server gave 10.9.0.2/20";
        const command = "ip -o -4 addr show dev tun0";
        const miss = () => new Miss(`there is no address on tun0, and ${gave}${said(server)}`, ROUTE);
        const found = await shown(stage, "client", command, /inet \S+/, miss);
        if (!found.endsWith("inet 10.9.0.2/20")) throw new Miss(`${found}, and ${gave}`, ROUTE);
        return found;
      },
    },
    {
      name: "the way to 8.8.8.8 leads into tun0",
      run: (stage) =>
        shown(stage, "client", `ip route get ${TARGET}`, /8\.8\.8\.8 dev tun0/, (output) => {
          const is = output.split("\n")[0]!.trim();
          return new Miss(`ip route get ${TARGET}: ${is}`, ROUTE);
        }),
    },
    {
      name: "ping 8.8.8.8 goes through it",
      run(stage) {
        const real = reals.get(stage)!;
        return pings(stage, TARGET, MANY, (seen) => new Miss(`${seen}${said(real)}`, FRAMES), real);
      },
    },
    {
      name: "the real client gets an address from your server",
      async run(stage) {
        await clear(stage);
        await stage.run("server", ["sh", "-c", FORGET]);
        await startServer(stage, GIVEN);
        for (const [command, wanted] of [
          ["ip -o -4 addr show dev tun0", /inet 10\.8\.0\.1\/24/],
          ["ip -o link show dev tun0", /,UP.* mtu 1400/],
        ] as const)
          await shown(
            stage,
            "server",
            command,
            wanted,
            (is) => new Miss(`${command}: ${is || "nothing"}`, TUN),
          );
        const hint = "TODO 6, in welcome(): answer() makes message 2, and the keys";
        const real = await startRealClient(stage, hint, "--route", `${TARGET}/32`, "--rekey", "2");
        reals.set(stage, real);
        await spoofed(stage);
        return pings(stage, FAR, MANY, (seen) => lost(stage, seen), real);
      },
    },
    {
      name: "and pings 8.8.8.8: forwarding and NAT",
      async run(stage) {
        const forwards = await stage.run("server", "sysctl -n net.ipv4.ip_forward");
        const rules = await stage.run("server", "iptables -t nat -S POSTROUTING");
        const why = [
          forwards.trim() !== "1" && "net.ipv4.ip_forward is 0: the server's kernel drops what is not for it",
          !rules.includes("MASQUERADE") &&
            "no rule says MASQUERADE: 8.8.8.8 answers to 10.8.0.2, and nobody knows it",
        ];
        const because = why.filter(Boolean).join("; ") || "the rules are there";
        return pings(stage, TARGET, THREE, (seen) => new Miss(`${seen}; ${because}`, NAT));
      },
    },
    {
      name: "it gives fresh keys",
      async run(stage) {
        const real = reals.get(stage)!;
        const miss = () => new Miss(`the client asked for fresh keys, and got none${said(real)}`, MINUTES);
        await stage.until(() => /fresh keys with/.test(real.output), miss, 4_000);
        return pings(stage, TARGET, THREE, (seen) => new Miss(`after fresh keys: ${seen}`, MINUTES));
      },
    },
    {
      name: "and leaves nothing behind",
      run: (stage) => undone(stage, stage.programs[0]!),
    },
  ],
};
