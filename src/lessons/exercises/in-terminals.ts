/**
 * The exercises that are done in the five terminals: 1 to 6 over TCP, 12 and 13 over UDP. No right answer
 * stands here: each is measured. The questions, and the answers in words, are in walkthrough.md.
 */
import { stripVTControlCharacters } from "node:util";
import { Failure } from "../../base/failure.ts";
import { FrameType } from "../../core/frame.ts";
import { note, start, type, typed, up } from "../../lab/experiments/stage.ts";
import { type Lab, ours, SERVER, TARGET } from "../../lab/lab.ts";
import { Running } from "../../lab/running.ts";
import { until } from "../../lab/tests/peers.ts";
import { decodeTaps } from "../../lab/walk/taps.ts";
import { type Exercise, find, yes } from "./exercise-of.ts";
import { HOSTS, type Seen, STEPS, YES_NO } from "./judge.ts";
import type { Shown } from "./terminals.ts";

/** A ping is home again: both terminals have shown its last step. */
const isHome = ({ server, client }: Shown) => /R4\.write/.test(server) && /R6\.write/.test(client);

const HEADERS = 28; // IP 20, ICMP 8: ping -s counts what follows them
const addresses = (...all: string[]) =>
  Object.fromEntries(all.map((one) => [one, new RegExp(`\\b${one.replaceAll(".", "\\.")}\\b`)]));

export const IN_TERMINALS: Record<number, Exercise> = {
  1: {
    parts: [
      {
        kind: "choice",
        ask: "the addresses that go into tun0",
        options: addresses("8.8.8.8", "8.8.4.4", "10.8.0.77", "192.168.1.1"),
        many: true,
        mistakes: {
          "192.168.1.1": "That is the server. In tun0 the tunnel's own packets would go round and round.",
          "8.8.4.4": "It looks like 8.8.8.8, but a /32 takes one address only.",
        },
      },
    ],
    async measure(open) {
      const { lab } = await open("tcp");
      const devices = new Map<string, string>();
      for (const address of ["8.8.8.8", "8.8.4.4", "10.8.0.77", "192.168.1.1"]) {
        const said = await type(lab, "client", `ip route get ${address}`);
        devices.set(address, find(/dev (\S+)/, said));
      }
      return [
        {
          right: [...devices].filter(([, device]) => device === "tun0").map(([address]) => address),
          seen: `ip route get says: ${[...devices].map((pair) => pair.join(" by ")).join(", ")}.`,
        },
      ];
    },
  },

  2: {
    parts: [
      {
        kind: "number",
        ask: "bytes at 6.read",
        label: /\b6\.read\b/i,
        mistakes: {
          1000: "That is the data alone: ICMP has a header of 8 bytes, IP one of 20.",
          1008: "IP has a header, too: 20 bytes.",
        },
      },
      {
        kind: "number",
        ask: "bytes at 6.frame",
        label: /\b6\.frame\b/i,
        mistakes: {
          1044: "That much is sealed. The tag has 16 bytes, the header 4.",
          1048: "The tag is missing: 16 bytes.",
          1060: "That is the body. The header is missing: 4 bytes.",
        },
      },
    ],
    async measure(open) {
      const terminals = await open("tcp");
      const shown = await terminals.type(`ping -c 1 -s 1000 ${TARGET}`, /6\.(read|frame)/, isHome);
      const read = find(/6\.read .*?read (\d+) bytes/, shown.client);
      const frame = find(/6\.frame .* (\d+) bytes$/m, shown.client);
      return [
        { right: Number(read), seen: `Terminal 3 says at 6.read: ${read} bytes.` },
        { right: Number(frame), seen: `Terminal 3 says at 6.frame: ${frame} bytes.` },
      ];
    },
  },

  3: {
    parts: [
      {
        kind: "choice",
        ask: "who answers",
        options: HOSTS,
        mistakes: {
          client: "The client's kernel made the packet: it lowers no TTL.",
          internet: "The packet never gets that far.",
        },
      },
      {
        kind: "choice",
        ask: "the steps in terminal 1",
        options: STEPS,
        many: true,
        mistakes: { 9: "Step 9 is the kernel's: no terminal shows it." },
      },
    ],
    async measure(open) {
      const terminals = await open("tcp");
      const shown = await terminals.type(`ping -c 1 -t 1 -W 1 ${TARGET}`, /server +(8|R)/, isHome);
      const from = find(/From (\S+) .*Time to live exceeded/, shown.said);
      const steps = [...new Set([...shown.server.matchAll(/server (R?\d+)\.\w+/g)].map(([, id]) => id!))];
      return [
        {
          right: whose(terminals.lab, from),
          seen: `ping was told so from ${from}, the ${whose(terminals.lab, from)}'s address.`,
        },
        { right: steps, seen: `Terminal 1 shows steps ${steps.join(", ")}.` },
      ];
    },
  },

  4: {
    parts: [
      {
        kind: "choice",
        ask: "the last step that you see",
        label: /\blast\b/i,
        options: STEPS,
        mistakes: { 9: "Step 9 is the kernel's, and it drops the packet there. Nobody shows it." },
      },
      { kind: "choice", ask: "does 10.8.0.1 still answer", options: YES_NO },
    ],
    async measure(open) {
      const terminals = await open("tcp");
      terminals.lab.run("server", "sysctl -w net.ipv4.ip_forward=0");
      const broken = await terminals.type(`ping -c 1 -W 1 ${TARGET}`, /8\.write|R\d/, ({ server }) =>
        /8\.write/.test(server),
      );
      const own = await terminals.type(`ping -c 1 -W 2 10.8.0.1`, /(?!)/, isHome);
      terminals.lab.run("server", "sysctl -w net.ipv4.ip_forward=1");
      // along the way: client, server, and nothing comes back
      const [last] = [...`${broken.client}\n${broken.server}`.matchAll(/(?:client|server) (R?\d+\.\w+)/g)]
        .at(-1)!
        .slice(1);
      const answered = / 1 received/.test(own.said);
      return [
        { right: last!, seen: `The last step of the ping to ${TARGET}: ${last}.` },
        { right: yes(answered), seen: `10.8.0.1 ${answered ? "has answered" : "has not answered"}.` },
      ];
    },
  },

  5: {
    parts: [
      {
        kind: "choice",
        ask: "what the server does with it",
        options: {
          "drops it": /\b(?:drop|refus|reject|discard|throw)\w*/i,
          "passes it on": /\b(?:pass|accept|forward|deliver|write)\w*/i,
        },
      },
      {
        kind: "choice",
        ask: "the packet's address that is the reason",
        options: { source: /\b(?:source|sender|src)\b/i, destination: /\b(?:destination|target|dst)\b/i },
      },
    ],
    async measure(open) {
      const terminals = await open("tcp");
      const { server } = await terminals.type(
        "ping -c 1 -W 1 -I 192.168.1.100 10.8.0.1",
        /drop/,
        ({ server }) => /drop|8\.write/.test(server),
      );
      const drop = /drop \d+ bytes: its (\w+)[^(:]*/.exec(server);
      return [
        {
          right: drop ? "drops it" : "passes it on",
          seen: `Terminal 1 says: ${drop?.[0].trim() ?? "8.write"}.`,
        },
        { right: drop?.[1] ?? "", seen: `The reason is its ${drop?.[1] ?? "nothing"}.` },
      ];
    },
  },

  6: {
    parts: [
      {
        kind: "number",
        ask: "how many packets terminal 3 shows step by step",
        mistakes: { 300: "To show each step would take longer than to send it." },
      },
      {
        kind: "choice",
        ask: "what it shows of the rest",
        options: {
          "a line a second":
            /\b(?:(?:one|a|1) )?(?:summary )?line\b(?: (?:a|per|each|every) second)?|\bsecond\b|\bsummary\b/i,
          "every packet": /\b(?:every|each|all)(?: the)? (?:packet|ping|step)s?\b/i,
          nothing: /\bnothing\b|\bsilence\b/i,
        },
      },
    ],
    async measure(open) {
      const terminals = await open("tcp");
      const { client } = await terminals.type(
        `ping -c 300 -i 0.005 -q ${TARGET}`,
        /more than|1 s:/,
        ({ client }) => /1 s: sent/.test(client),
      );
      const limit = find(/more than (\d+) packets a second/, client);
      const after = client.slice(client.indexOf("more than"));
      const lines = after.match(/1 s: sent/g)!.length;
      return [
        { right: Number(limit), seen: `Terminal 3 says: more than ${limit} packets a second.` },
        {
          right: /6\.read/.test(after) ? "every packet" : "a line a second",
          seen: `Lines of terminal 3 after that, which begin "1 s: sent": ${lines}.`,
        },
      ];
    },
  },

  12: {
    parts: [
      { kind: "number", ask: "the largest in tun0, in bytes", label: /\btun0\b/i },
      { kind: "number", ask: "the same on the wire", label: /\bwire\b/i },
      {
        kind: "number",
        ask: "the largest -s, when eth0 takes 1,280",
        label: /-s\b/,
        mistakes: { 1252: "That would fit eth0 without a tunnel: 76 bytes are around each packet." },
      },
      {
        kind: "number",
        ask: "pieces of a ping of 1,396 bytes without -M do",
        label: /\b(?:pieces?|fragments?)\b/i,
      },
    ],
    async measure(open) {
      const terminals = await open("udp");
      const { lab } = terminals;
      const tap = new Running(lab.spawn("client", [...ours("lab/walk/taps"), "client", "eth0"]));
      await tap.until(/^ready$/m);
      const fit = (size: number) => `ping -c 1 -W 1 -M do -s ${size} ${TARGET}`;
      const tooLong = await type(lab, "client", fit(1397));
      const largest = Number(find(/mtu=(\d+)/, tooLong));
      const answered = (said: string) => / 1 received/.test(said);
      const whole = await terminals.type(fit(largest - HEADERS), /6\.(read|write)/, isHome);
      await tap.stop();
      const wire = decodeTaps(tap.output)
        .filter(({ out, link, bytes }) => out && bytes[link + HEADERS] === FrameType.data)
        .map(({ link, bytes }) => bytes.length - link);
      expect(answered(whole.said), `a ping of ${largest} bytes was not answered`);

      lab.run("client", "ip link set eth0 mtu 1280");
      const three = await type(lab, "client", `ping -c 3 -W 1 -M do -s 1396 ${TARGET}`);
      const narrow = Number(find(/mtu ?= ?(\d+)/, three));
      const inside = await terminals.type(fit(narrow - HEADERS), /6\.(read|write)/, isHome);
      expect(answered(inside.said), `a ping of ${narrow} bytes was not answered`);
      const cut = await terminals.type(`ping -c 1 -W 1 -s 1396 ${TARGET}`, /6\.read/, ({ client }) =>
        /6\.read/.test(client),
      );
      const pieces = [...cut.client.matchAll(/6\.read .*?read (\d+) bytes/g)].map(([, size]) => size);
      return [
        { right: largest, seen: `-s ${largest - HEADERS} passes. With 1397 the kernel says mtu=${largest}.` },
        {
          right: Math.max(...wire),
          seen: `The tap at eth0 has seen a packet of ${Math.max(...wire)} bytes.`,
        },
        {
          right: narrow - HEADERS,
          seen: `ping is told mtu = ${narrow}, and -s ${narrow - HEADERS} is answered.`,
        },
        {
          right: pieces.length,
          seen: `Terminal 3 reads ${pieces.length} packets, of ${pieces.join(" and ")} bytes.`,
        },
      ];
    },
  },

  13: {
    parts: [
      {
        kind: "choice",
        ask: "what stays as it was",
        options: {
          "outer address": /\bouter address\b/i,
          "outer port": /\b(?:outer )?port\b/i,
          "inner address": /\binner(?: address)?\b/i,
          index: /\bindex\b/i,
          numbers: /\bnumbers?\b/i,
        },
        many: true,
        either: ["numbers"], // they go on: is that "as it was"?
        mistakes: { "outer address": "That is what you have changed." },
      },
      {
        kind: "choice",
        ask: "the step behind which terminal 1 names it",
        label: /\bstep\b/i,
        options: STEPS,
      },
      { kind: "number", ask: "pings lost over UDP", label: /\budp\b/i, within: 1 },
      {
        kind: "choice",
        ask: "are pings lost over TCP",
        label: /\btcp\b/i,
        options: YES_NO,
        mistakes: { no: "A TCP connection is between two addresses. One of them is gone." },
      },
    ],
    measure: move,
  },
};

/** Exercise 13: two tunnels side by side, and the client gets another outer address. */
async function move(): Promise<Seen[]> {
  const lab = await up();
  const servers: Running[] = [];
  for (const [transport, tun, subnet] of [
    ["udp", "tun0", "10.8.0.0/24"],
    ["tcp", "tun1", "10.9.0.0/24"],
  ] as const) {
    const own = ["--configure", "--tun", tun, "--transport", transport];
    servers.push(await start(lab, "server", [...own, "--subnet", subnet], /listening on.*/));
    await start(lab, "client", [SERVER, ...own], /connected to.*/);
  }
  const [server] = servers as [Running];
  const inner = () => find(/inet (\S+)/, lab.run("client", "ip -4 addr show dev tun0"));
  const before = inner();
  const pings = ["10.8.0.1", "10.9.0.1"].map((address) => {
    const command = `ping -i 0.2 -c 15 -W 1 ${address}`;
    typed("client", command);
    return new Running(lab.spawn("client", command.split(" ")));
  });
  for (const ping of pings) await ping.until(/icmp_seq=4 .*time=/);
  for (const change of ["del 192.168.1.100/24", "add 192.168.1.101/24"])
    lab.run("client", `ip addr ${change} dev eth0`);
  await Promise.all(pings.map(({ ended }) => ended));
  const terminal = () => stripVTControlCharacters(server.output);
  await until(() => / is at /.test(terminal()), 10_000);
  const lines = terminal().split("\n");
  const named = lines.findIndex((line) => / is at /.test(line));
  const step = find(
    /server (\S+\.\w+) /,
    lines
      .slice(0, named)
      .filter((line) => /^ *\+/.test(line))
      .at(-1)!,
  );
  for (const line of lines.slice(named - 3, named + 2)) note(line);
  const [, from, port, to, portNow] = /(\S+):(\d+) is at (\S+):(\d+) now/.exec(lines[named]!)!;
  // the header of a datagram: type, key, length; then the index
  const indexes = [from, to].map((address) =>
    find(
      new RegExp(`8\\.read +\\S+ +(?:\\w\\w ){4}((?:\\w\\w ){4}) *read \\d+ bytes from ${address}:`),
      terminal(),
    ),
  );
  const stays = {
    "outer address": from === to,
    "outer port": port === portNow,
    "inner address": before === inner(),
    index: indexes[0] === indexes[1],
  };
  const lost = pings.map(({ output }) => 15 - Number(find(/(\d+) received/, output)));
  const [udp, tcp] = lost as [number, number];
  return [
    {
      right: Object.entries(stays).flatMap(([name, stayed]) => (stayed ? [name] : [])),
      seen:
        `${from}:${port} became ${to}:${portNow}; inside it is ${inner()}; ` +
        `the index is ${indexes[1]!.trim()}. The numbers go on.`,
    },
    { right: step, seen: `Terminal 1 names the new address behind ${step}.` },
    { right: udp, seen: `Over UDP, ${udp} of 15 were lost.` },
    { right: yes(tcp > 0), seen: `Over TCP, ${tcp} of 15 were lost.` },
  ];
}

/** The host of that address. */
const whose = (lab: Lab, address: string) =>
  Object.keys(HOSTS).find((host) => lab.try(host, "ip -o -4 addr").stdout.includes(` ${address}/`)) ?? "";

function expect(holds: boolean, otherwise: string): void {
  if (!holds)
    throw new Failure(`Cannot judge: ${otherwise}`, "run it again; if it stays so, this exercise is wrong");
}
