/**
 * `--cipher xor` against the original C programs' wire format: u16 big-endian length, then the packet, each
 * byte XOR 0x42. The other end is written here, from that sentence alone, with Node's sockets and without any
 * of our code.
 */
import assert from "node:assert/strict";
import { Running, startProgram } from "../running.ts";
import { labTest, ping } from "./testing.ts";
import { type Lab, LAB_SECRET, SERVER } from "../lab.ts";

/** Frames, checksums and echo for both peers below. */
const PEER = `
  const net = require("node:net");
  const crypt = (bytes) => bytes.map((byte) => byte ^ 0x42);
  const send = (socket, packet) => {
    const length = Buffer.alloc(2);
    length.writeUInt16BE(packet.length);
    const frame = Buffer.concat([length, crypt(packet)]);
    for (const byte of frame) socket.write(Buffer.of(byte)); // split as badly as can be
  };
  const receive = (socket, handle) => {
    let rest = Buffer.alloc(0);
    socket.setNoDelay(true).on("error", () => {}).on("data", (data) => {
      rest = Buffer.concat([rest, data]);
      while (rest.length >= 2 && rest.length >= 2 + rest.readUInt16BE(0)) {
        const end = 2 + rest.readUInt16BE(0);
        handle(crypt(rest.subarray(2, end)));
        rest = rest.subarray(end);
      }
    });
  };
  const checksum = (bytes) => {
    let sum = 0;
    for (let i = 0; i < bytes.length; i += 2) sum += bytes.readUInt16BE(i);
    while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
    return ~sum & 0xffff;
  };
  const icmp = (source, destination, type, body) => {
    const start = [0x45, 0, 0, 28 + body.length - 4, 0, 1, 0, 0, 64, 1, 0, 0];
    const ip = Buffer.from([...start, ...source, ...destination]);
    ip.writeUInt16BE(checksum(ip), 10);
    const message = Buffer.concat([Buffer.from([type, 0, 0, 0]), body]);
    message.writeUInt16BE(checksum(message), 2);
    return Buffer.concat([ip, message]);
  };`;

/**
 * A client that is idle for a while, as a student is who configures by hand, then pings the server's tun0,
 * and prints what comes back.
 */
const CLIENT = `${PEER}
  const socket = net.connect(5555, "${SERVER}");
  receive(socket, (packet) => {
    const isEchoReply = packet[9] === 1 && packet[20] === 0;
    const isIntact = checksum(packet.subarray(0, 20)) === 0 && checksum(packet.subarray(20)) === 0;
    const isOurs = packet.toString("latin1", 28) === "hello, C program";
    if (isEchoReply && isIntact && isOurs) console.log("echo reply for " + packet.subarray(16, 20).join("."));
    else console.log("unexpected packet " + packet.toString("hex"));
  });
  const body = Buffer.from("\\x12\\x34\\x00\\x01hello, C program", "latin1");
  setTimeout(() => send(socket, icmp([10, 8, 0, 2], [10, 8, 0, 1], 8, body)), 11_000);
  setTimeout(() => {}, 60_000);`;

/** A server that answers every echo request itself, whatever its destination. */
const SERVER_PEER = `${PEER}
  net.createServer((socket) => receive(socket, (packet) => {
    const [source, destination] = [packet.subarray(12, 16), packet.subarray(16, 20)];
    const isEchoRequest = packet[9] === 1 && packet[20] === 8;
    if (isEchoRequest) send(socket, icmp(destination, source, 0, packet.subarray(24)));
  })).listen(5555, () => console.log("listening"));`;

const node = (lab: Lab, host: string, script: string) =>
  new Running(lab.spawn(host, [process.execPath, "-e", script]));

labTest("our server serves a C client: --cipher xor", async (lab) => {
  const server = startProgram(lab, "server", "server", ["--configure", "--cipher", "xor"]);
  await server.until(/NOT SECURE/);
  await server.until(/listening on/);
  await node(lab, "client", CLIENT).until(/echo reply for 10\.8\.0\.2/);
});

labTest("our client talks to a C server: --cipher xor", async (lab) => {
  await node(lab, "server", SERVER_PEER).until(/listening/);
  const client = startProgram(lab, "client", "client", [
    SERVER,
    "--cipher",
    "xor",
    "--configure",
    "--route",
    "8.8.8.8/32",
  ]);
  await client.until(/NOT SECURE/);
  await client.until(/connected to/);
  ping(lab, "client", "8.8.8.8");
  await client.until(/6\.write.*00 54 07 42 42 16/);
});

labTest(
  "our own client and server talk --cipher xor, and the address is learned from the first packet",
  async (lab) => {
    const server = startProgram(lab, "server", "server", ["--configure", "--nat", "eth1", "--cipher", "xor"]);
    await server.until(/listening on/);
    const client = startProgram(lab, "client", "client", [
      SERVER,
      "--cipher",
      "xor",
      "--address",
      "10.8.0.33/24",
      "--configure",
      "--route",
      "8.8.8.8/32",
    ]);
    await client.until(/connected to/);
    ping(lab, "client", "8.8.8.8");
    await server.until(/8\.write[^]*client 10\.8\.0\.33 connected/); // not between two steps of that packet
    assert.equal(await server.stop(), 0);
    await client.until(/Lost the server .*; trying again in/);
    await startProgram(lab, "server", "server", ["--configure", "--nat", "eth1", "--cipher", "xor"]).until(
      /listening on/,
    );
    await client.until(/connected again after .*: this end of the tunnel is still 10\.8\.0\.33\/24/);
    ping(lab, "client", "8.8.8.8");
  },
);

labTest("two ends with different --cipher say so, and the server goes on", async (lab) => {
  const env = { env: { ...process.env, SIMPLE_VPN_SECRET: LAB_SECRET } };
  const server = startProgram(lab, "server", "server", ["--configure"], env);
  await server.until(/listening on/);
  const client = startProgram(lab, "client", "client", [SERVER, "--cipher", "xor", "--configure"]);
  await client.until(/connected to/);
  lab.try("client", "ping -c 1 -W 1 10.8.0.1");
  await server.until(
    /refused .*: unknown frame type 0 \(not our protocol, or --cipher xor at the other end\?\)/,
  );
  assert.equal(await client.ended, 1);
  assert.match(client.output, /Lost the server .* Try: start both ends with --cipher xor, or both without/);
  const good = startProgram(lab, "client", "client", [SERVER, "--configure"], env);
  await good.until(/connected to/);
  ping(lab, "client", "10.8.0.1");
});
