/**
 * A recorded frame is sent again. In xor mode the server cannot know, and the packet arrives twice. In
 * xor+aes mode each frame has its own nonce, and the copy opens with none. A recorded handshake message is
 * answered once at most, and costs no lease.
 */
import { aesFraming, FrameType } from "../../core/frame.ts";
import { until } from "../tests/peers.ts";
import { SERVER, TARGET } from "../lab.ts";
import { Relay, RELAY_PORT } from "./relay.ts";
import { heading, hex, measured, node, note, startClient, startServer, type, up } from "./stage.ts";

const COPIES = 5; // of the handshake message

export const shows = "frames, then a handshake, recorded and sent again: who takes them?";

export async function run(): Promise<string> {
  heading("1. --cipher xor: the relay sends each frame twice");
  const xorLab = await up();
  await startServer(xorLab, "xor");
  const xorRelay = await Relay.start(xorLab, "xor");
  await startClient(xorLab, "xor", RELAY_PORT);
  xorRelay.tamper = (frame, way) => (way === "up" ? [frame, frame] : [frame]);
  const doubled = await type(xorLab, "client", `ping -c 3 -i 0.3 ${TARGET}`);
  const requests = xorRelay.bodies("up").length;
  const allBack = () => xorRelay.bodies("down").length >= 2 * requests;
  await until(allBack, 5_000).catch(() => {}); // ping may be done first
  const answers = xorRelay.bodies("down").length;
  await xorLab.down();
  const duplicates = doubled.match(/DUP!/g)?.length ?? 0;
  measured(
    duplicates >= 1 && answers > requests,
    `the client sent ${requests} packets, ${answers} answers came back; ping counts ${duplicates} as DUP!`,
  );
  if (duplicates < requests) note("ping ends with its last answer, before the copy of that comes");

  heading("2. --cipher xor+aes: the same, with a server that has one address to give");
  const lab = await up();
  const server = await startServer(lab, "xor+aes", "--subnet", "10.8.0.0/30");
  const relay = await Relay.start(lab, "xor+aes");
  const victim = await startClient(lab, "xor+aes", RELAY_PORT);
  await server.until(/10\.8\.0\.2 connected/);
  relay.tamper = (frame, way) => (way === "up" ? [frame, frame] : [frame]);
  await type(lab, "client", `ping -c 1 -W 1 ${TARGET}`);
  const [, reason] = await server.until(/10\.8\.0\.2 .*left: (.*) \(0 connected\)/);
  measured(/wrong tag/.test(reason!), `the server closed the connection: ${reason}`);
  await victim.stop(); // or it would connect again

  heading(
    `3. The recorded first message of the handshake, ${COPIES} times, to a server that was started anew`,
  );
  const message = relay.frames.find(
    ({ way, bytes }) => way === "up" && bytes[0] === FrameType.handshake,
  )!.bytes;
  note(`recorded: ${hex(message, 24)}`);
  await server.stop(); // it knows this message, and would answer none
  const anew = await startServer(lab, "xor+aes", "--subnet", "10.8.0.0/30");
  const replays = node(
    lab,
    "client",
    `connects ${COPIES} times, and sends the recorded bytes each time`,
    `for (let i = 0; i < ${COPIES}; i++) {`,
    `  const socket = require("node:net").connect(5555, "${SERVER}").on("error", () => {});`,
    '  socket.once("data", (data) => console.log("answer of " + data.length + " bytes"));',
    '  socket.once("close", () => socket.bytesRead || console.log("hung up"));',
    `  socket.write(Buffer.from("${message.toString("hex")}", "hex"));`,
    "}",
  );
  const [, bytes] = await replays.until(/answer of (\d+) bytes/);
  await replays.until(new RegExp(`(hung up[^]*){${COPIES - 1}}`));
  const answered = replays.output.match(/answer of/g)!.length;
  measured(answered === 1, `of ${COPIES} copies of message 1, ${answered} got an answer`);
  note(`it has ${bytes} bytes, ${Number(bytes) - aesFraming.header} of them message 2`);
  note("its sender cannot read it: the ephemeral key is gone");
  note(`the server hangs up on the other ${COPIES - 1}: it remembers the public key in message 1`);
  await startClient(lab, "xor+aes"); // while the replayed connection is still open
  const leases = () =>
    [...anew.output.matchAll(/client 10\.8\.0\.2 connected from .*\((\d+) connected\)/g)].map(
      ([, count]) => count,
    );
  await until(() => leases().length > 0, 10_000);
  await lab.down();
  measured(
    leases().join() === "1",
    `with a replay open, a real client got the one address there is: ${leases().join()} connected`,
  );

  return `Whoever cannot read a packet can still send it again: an order, a payment, a login.
AES-GCM's nonce is a counter that both ends keep. A copy meets the next nonce, and its tag does not fit.
The first handshake message has no such counter. The server remembers the latest ones, but not for ever. So it
gives a client its address only when a sealed frame has proven that it holds this session's keys. A replay can
never make one.`;
}
