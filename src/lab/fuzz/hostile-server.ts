/**
 * Hostile servers, for the tests and for class, in the lab: node --import tsx src/lab/fuzz/hostile-server.ts
 * ATTACK, the secret in SIMPLE_VPN_SECRET. `refuse` and `storm` need no secret: whoever is on the way can be
 * one. `liar`, `mute` and `router` have it. TRANSPORT=udp, raw or quic: over that.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { parseIPv6, parsePrefix96 } from "../../base/address.ts";
import { Failure } from "../../base/failure.ts";
import { Memory } from "../../base/libc.ts";
import { DOWN, UP } from "../../base/walk.ts";
import { FrameType, pad } from "../../core/frame.ts";
import { OFFLOAD_HEADER } from "../../core/offload.ts";
import { Peer } from "../../core/peer.ts";
import { program } from "../../host/program.ts";
import { readSecrets } from "../../host/secret.ts";
import { Handshake } from "../../session/handshake.ts";
import { answer } from "../../session/session.ts";
import { transports } from "../../transport/transports.ts";
import type { Caller } from "../../transport/transport.ts";
import { NETNS } from "../lab.ts";
import { TRANSPORT } from "../running.ts";

const PORT = 5555;
const [SECRET = Buffer.alloc(0)] = readSecrets();
const NOTHING = Buffer.alloc(0);

/** The empty frame that says "your secret is wrong", and that nothing authenticates. */
const refuse = (caller: Caller) => caller.refuse(NOTHING);

/** Hangs up at once, as often as somebody comes. */
const storm = () => {};

const GOOD = { address: "10.8.0.2", prefix: 24, mtu: 1400 };
const LIES = [
  { ...GOOD, address: "127.0.0.1" },
  { ...GOOD, address: "224.0.0.1" },
  { ...GOOD, address: "0.0.0.0", prefix: 8 },
  { ...GOOD, address: "10.8.0.255" },
  { ...GOOD, address: "169.254.169.253", prefix: 30 }, // beside the address of a cloud's own services
  { ...GOOD, mtu: 1 },
  { ...GOOD, subnet6: "ff02::/96" },
  { ...GOOD, address: "10.8.0.2; reboot" },
  { refused: "\x1b[2J" },
  {},
];
let lies = 0;

/** Another configuration that makes no sense for each try. */
function liar(caller: Caller, message1: Buffer): void {
  const handshake = new Handshake("server", SECRET);
  handshake.read(message1);
  caller.refuse(handshake.write(Buffer.from(JSON.stringify(LIES[lies++ % LIES.length]))));
  handshake.end();
}

/** Begins a session like an honest server, and never says anything in it. */
function mute(caller: Caller, message1: Buffer): void {
  const config = { address: 0x0a080002, prefix: 24, mtu: 1400 };
  const { message2, keys } = answer(
    [SECRET],
    message1,
    () => true,
    () => config,
  );
  const deaf = {
    received: (_memory: unknown, _from: number, to: number) => to,
    flush() {},
    lost() {},
    sendControl: () => false,
  };
  caller.attach(message2, (link) => {
    link.keys(keys!);
    return deaf;
  });
}

/** A router advertisement (RFC 4861, section 4.2): I am your router, 2001:db8:dead::/64 is on your link. */
function advertisement(): Buffer {
  const [source, target] = [parseIPv6("fe80::1")!, parseIPv6("fd56:504e::a08:2")!];
  const prefix = Buffer.concat([
    Buffer.from("030440c0ffffffffffffffff00000000", "hex"),
    parseIPv6("2001:db8:dead::")!,
  ]);
  const icmp = Buffer.concat([Buffer.from("8600000040080708" + "00".repeat(8), "hex"), prefix]);
  const pseudo = Buffer.concat([source, target, Buffer.from([0, 0, 0, icmp.length, 0, 0, 0, 58]), icmp]);
  let sum = 0;
  for (let i = 0; i < pseudo.length; i += 2) sum += pseudo.readUInt16BE(i);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  icmp.writeUInt16BE(~sum & 0xffff, 2);
  return Buffer.concat([Buffer.from([0x60, 0, 0, 0, 0, icmp.length, 58, 255]), source, target, icmp]);
}

/** Wants to be the client's router for all of IPv6, twice a second. */
function router(caller: Caller, message1: Buffer): void {
  const config = { address: 0x0a080002, prefix: 24, mtu: 1400, subnet6: parsePrefix96("fd56:504e::/96")! };
  const { message2, keys } = answer(
    [SECRET],
    message1,
    () => true,
    () => config,
  );
  const tun = { fd: -1, name: "none", header: OFFLOAD_HEADER };
  const peer = caller.attach(
    message2,
    (link) => new Peer(link, tun, [DOWN, UP], keys, { refuse: () => "-" }),
  );
  const packet = advertisement();
  const record = new Memory(pad(4 + OFFLOAD_HEADER + packet.length, 4));
  record.bytes.fill(0).writeUInt32BE(OFFLOAD_HEADER + packet.length);
  packet.copy(record.bytes, 4 + OFFLOAD_HEADER);
  const timer = setInterval(() => {
    if (peer.closed) return clearInterval(timer);
    peer.outbox.openFor(record.bytes.length);
    peer.outbox.add(record, 0, record.bytes.length);
    peer.send(FrameType.data);
  }, 500);
}

const ATTACKS: Record<string, (caller: Caller, message1: Buffer) => void> = {
  refuse,
  storm,
  liar,
  mute,
  router,
};

program(() => {
  const [name = ""] = process.argv.slice(2);
  const attack = ATTACKS[name];
  if (!attack)
    throw new Failure(
      `Cannot attack: '${name}' is no attack`,
      `one of ${Object.keys(ATTACKS).join(", ")}`,
      2,
    );
  if (!existsSync(join(NETNS, "internet")))
    throw new Failure(
      "Cannot attack: this is no host of the lab",
      'make on HOST=server CMD="node --import tsx src/lab/fuzz/hostile-server.ts refuse"',
    );
  const port = transports[TRANSPORT].open({ listen: "*", port: PORT, handshake: true, secrets: [SECRET] });
  port.serve({
    onArrival: () => ({ lost() {} }),
    onHello: attack,
    onMissed() {},
  });
  console.log("listening");
});
