/**
 * A packet too large for the tunnel: refused or cut into fragments, by whoever has to send it on; and why TCP
 * never gets there. In xor mode, since then the relay can count what is inside (see break-xor).
 */
import { describe } from "../../base/packet.ts";
import { XOR_KEY } from "../../core/xor.ts";
import { type Lab, TARGET } from "../lab.ts";
import { type Chunk, Relay, RELAY_PORT } from "./relay.ts";
import { heading, measured, node, note, sentOn, startClient, startServer, type, up } from "./stage.ts";

const MTU = 1400;
const HEADERS = 28; // IP 20, ICMP 8: ping -s counts what follows them
const MEGABYTE = 1 << 20;

export const shows = "a packet too large for the tunnel, with and without DF; and TCP's MSS";

export async function run(): Promise<string> {
  heading("1. The tunnel, and a way for the internet host to reach into it");
  const lab = await up();
  await startServer(lab, "xor", "--mtu", `${MTU}`);
  const relay = await Relay.start(lab, "xor");
  await startClient(lab, "xor", RELAY_PORT);
  lab.run("internet", "ip route add 10.8.0.0/24 via 203.0.113.1");
  lab.run("server", "iptables -t raw -I PREROUTING -i eth1 -d 10.8.0.0/24 -j ACCEPT"); // through our wall
  const passed = async (way: Chunk["way"], action: () => Promise<string>) => {
    const before = relay.bodies(way).length;
    const said = await action();
    const packets = relay
      .bodies(way)
      .slice(before)
      .map((body) => Buffer.from(body.map((byte) => byte ^ XOR_KEY)));
    return { said, packets };
  };
  const show = (packets: Buffer[]) =>
    packets.forEach((packet) =>
      note(`in the tunnel: ${packet.length} bytes: ${describe(packet, 0, packet.length)}`),
    );

  heading("2. DF set (ping -M do): the largest that fits, and one byte more");
  const fits = await passed("up", () =>
    type(lab, "client", `ping -c 1 -W 5 -M do -s ${MTU - HEADERS} ${TARGET}`),
  );
  show(fits.packets);
  measured(
    / 1 received/.test(fits.said) && fits.packets[0]?.length === MTU,
    `a packet of ${fits.packets[0]?.length} bytes passes`,
  );
  const tooLarge = await passed("up", () =>
    type(lab, "client", `ping -c 1 -W 1 -M do -s ${MTU - HEADERS + 1} ${TARGET}`),
  );
  measured(
    /message too long/i.test(tooLarge.said) && tooLarge.packets.length === 0,
    `one of ${MTU + 1} is refused by the client's kernel: ${tooLarge.packets.length} packets in the tunnel`,
  );

  heading("3. DF clear (ping -M dont): the sender's kernel cuts it");
  const cut = await passed("up", () => type(lab, "client", `ping -c 1 -W 5 -M dont -s 3000 ${TARGET}`));
  show(cut.packets);
  measured(
    / 1 received/.test(cut.said) &&
      cut.packets.length === 3 &&
      cut.packets.every(({ length }) => length <= MTU),
    `3028 bytes went as ${cut.packets.length} fragments, none over ${MTU}, and ping was answered`,
  );

  heading("4. From the internet host, whose link takes 1500: now the server is the router that has to cut");
  const sent = sentOn(lab, "internet", "eth0");
  const routed = await passed("down", () => type(lab, "internet", "ping -c 1 -W 5 -M dont -s 1472 10.8.0.2"));
  show(routed.packets);
  const left = sentOn(lab, "internet", "eth0") - sent;
  const pieces = routed.packets.length;
  measured(
    pieces === 2 && left === 1,
    `${left} packet left the internet host, ${pieces} went into the tunnel: the server's kernel cut it`,
  );
  const refused = await passed("down", () => type(lab, "internet", "ping -c 1 -W 1 -M do -s 1472 10.8.0.2"));
  const [, router, mtu] = /From (\S+) .*Frag needed and DF set \(mtu = (\d+)\)/.exec(refused.said) ?? [];
  const passing = refused.packets.length;
  measured(
    mtu === `${MTU}` && passing === 0,
    `with DF: ICMP from ${router}, fragmentation needed, MTU ${mtu}; ${passing} packets in the tunnel`,
  );

  heading("5. TCP asks first: the MSS in its SYN");
  const tcp = await passed("up", () => stream(lab));
  await lab.down();
  const segments = tcp.packets.filter((packet) => packet[9] === 6);
  const syn = segments.find((packet) => packet[33]! & 2)!;
  show([syn]);
  const mss = mssOf(syn);
  const largest = Math.max(...segments.map(({ length }) => length));
  measured(mss === MTU - 40, `the SYN says MSS ${mss}: ${MTU}, less 20 for IP and 20 for TCP`);
  const fragments = segments.filter((packet) => packet.readUInt16BE(6) & 0x3fff).length;
  measured(
    tcp.said.includes(`received ${MEGABYTE}`) && largest <= MTU && fragments === 0,
    `${MEGABYTE} bytes arrived in ${segments.length} packets, ` +
      `the largest of ${largest} bytes, ${fragments} fragments`,
  );

  return `The tunnel's MTU is smaller than the link's: each packet gets headers around it, and must still fit.
A packet that is too large is cut by whoever must send it on. With DF it is refused, and ICMP says which
size would fit. TCP never gets there: its SYN names an MSS that fits the interface. If a firewall swallows
that ICMP, connections that do not know the tunnel's MTU hang: "connected, but pages do not load".`;
}

/** Sends a megabyte over TCP through the tunnel; what the receiver said. */
async function stream(lab: Lab): Promise<string> {
  const receiver = node(
    lab,
    "internet",
    "a TCP receiver on port 9000: it counts bytes",
    'require("node:net").createServer((socket) => {',
    "  let sum = 0;",
    '  socket.on("data", (data) => (sum += data.length));',
    '  socket.on("end", () => console.log("received " + sum + "."));',
    '}).listen(9000, () => console.log("listening"));',
  );
  await receiver.until(/listening/);
  node(
    lab,
    "client",
    `${MEGABYTE} bytes over TCP to ${TARGET}, port 9000`,
    `require("node:net").connect(9000, "${TARGET}").end(Buffer.alloc(${MEGABYTE}))`,
  );
  await receiver.until(/received \d+\./);
  return receiver.output;
}

/** The MSS option of a SYN (RFC 9293, section 3.2: kind 2, length 4), behind its 20 bytes of TCP header. */
function mssOf(syn: Buffer): number | undefined {
  for (
    let at = 40;
    at + 4 <= syn.length && syn[at] !== 0;
    at += syn[at] === 1 ? 1 : Math.max(2, syn[at + 1]!)
  ) {
    if (syn[at] === 2) return syn.readUInt16BE(at + 2);
  }
  return undefined;
}
