/**
 * Over UDP the network may mix datagrams, bring them twice, or bring one much too late. A relay on the wire
 * does all three. Each datagram has a number, and the server's replay window knows which numbers have come:
 * what is new goes on, in whatever order, and what has come before goes no further.
 */
import { FrameType } from "../../core/frame.ts";
import { NUMBER_AT } from "../../transport/datagram-keys.ts";
import { WINDOW } from "../../transport/replay.ts";
import { type Lab, TARGET } from "../lab.ts";
import { Running } from "../running.ts";
import { until } from "../tests/peers.ts";
import { Relay, RELAY_PORT } from "./relay.ts";
import { heading, measured, note, startClient, startServer, type, typed, up } from "./stage.ts";

const UDP = ["--transport", "udp"];
const [FEW, MANY] = [1000, WINDOW + 52]; // datagrams that overtake another one
const numberOf = (datagram: Buffer) => datagram.readUIntBE(NUMBER_AT + 2, 6);
const isData = (datagram: Buffer) => datagram[0] === FrameType.data;
const isSealed = (datagram: Buffer) => isData(datagram) || datagram[0] === FrameType.control;

export const shows = "datagrams swapped, doubled, late: what the window takes (half a minute)";

export async function run(): Promise<string> {
  heading("1. A tunnel over UDP, through a relay that passes each datagram on as it is");
  const lab = await up();
  const server = await startServer(lab, "xor+aes", ...UDP);
  const relay = await Relay.start(lab, "xor+aes", "udp");
  await startClient(lab, "xor+aes", RELAY_PORT, ...UDP);
  await server.until(/10\.8\.0\.2 connected/);

  heading("2. Every two packets change places");
  const order: number[] = []; // in which they were sent on
  let held: Buffer | undefined;
  relay.tamper = (datagram, way) => {
    if (way === "down" || !isData(datagram)) return [datagram];
    const before = held;
    held = before ? undefined : datagram;
    if (before) order.push(numberOf(datagram), numberOf(before));
    return before ? [datagram, before] : [];
  };
  // -w: if the last datagram has no partner, as on a busy machine, ping sends one more
  const swapped = await type(lab, "client", `ping -q -c 20 -i 0.02 -w 10 ${TARGET}`);
  note(`the numbers, as the server gets them: ${order.slice(0, 10).join(" ")} …`);
  measured(received(swapped) === 20, `of 20 pings in the wrong order, ${20 - received(swapped)} were lost`);

  heading("3. Every datagram is sent twice");
  let copies = 0;
  relay.tamper = (datagram, way) => {
    if (way === "down" || !isSealed(datagram)) return [datagram];
    copies++;
    return [datagram, datagram];
  };
  const doubled = await type(lab, "client", `ping -q -c 20 -i 0.02 -W 5 ${TARGET}`);
  relay.tamper = (datagram) => [datagram];
  const duplicates = Number(/\+(\d+) duplicates/.exec(doubled)?.[1] ?? 0);
  measured(
    received(doubled) === 20 && duplicates === 0,
    `of 20 pings sent twice, ${20 - received(doubled)} were lost, and ${duplicates} answered twice`,
  );

  heading(`4. One packet waits, until ${FEW} others have overtaken it`);
  const late = await overtaken(lab, relay, FEW);
  const time = /time=([\d.]+) ms/.exec(late)?.[1];
  measured(received(late) === 1, `it was accepted: ping got its answer after ${Math.round(Number(time))} ms`);

  heading(`5. One packet waits, until ${MANY} others have overtaken it: more than the window's ${WINDOW}`);
  const tooLate = await overtaken(lab, relay, MANY);
  measured(received(tooLate) === 0, "it was refused: ping got no answer");

  await server.stop("SIGINT");
  const counted = Number(/dropped (\d+) \(a datagram that has come before/.exec(server.output)?.[1] ?? 0);
  note(/in all: .*/.exec(server.output)?.[0] ?? "");
  await lab.down();
  measured(
    counted === copies + 1,
    `the server's window refused ${counted} datagrams: ${copies} copies, and the one that was too late`,
  );
  return `The network promises no order. A VPN over UDP must not ask for one: what is late is still good.
But what was recorded and is sent again must not count twice. So each datagram bears a number, which its tag
covers. The receiver keeps a bit for each of the last ${WINDOW}. What is older, nobody knows any more: it is
refused. A recorded datagram that is sent again costs one more in a count. Over TCP it ends the session.`;
}

/** How many answers ping counted. */
const received = (said: string) => Number(/(\d+) received/.exec(said)?.[1]);

/** A ping that the relay keeps until `count` others have passed; what it said. */
async function overtaken(lab: Lab, relay: Relay, count: number): Promise<string> {
  let held: Buffer | undefined;
  let passed = 0;
  relay.tamper = (datagram, way) => {
    if (way === "down" || !isSealed(datagram)) return [datagram];
    if (held) passed++;
    else if (isData(datagram)) held = datagram;
    return held === datagram ? [] : [datagram];
  };
  const command = `ping -c 1 -W 60 ${TARGET}`;
  typed("client", command);
  const ping = new Running(lab.spawn("client", command.split(" ")));
  await until(() => held !== undefined);
  // -A: the next one as soon as the last was answered
  while (passed < count) await type(lab, "client", `ping -q -A -c ${count - passed} -W 2 ${TARGET}`);
  note(`number ${numberOf(held!)} has waited for ${passed} others, and goes on now`);
  relay.send(held!, "up");
  await type(lab, "client", `ping -q -c 1 -W 5 ${TARGET}`); // answered: the server has seen the late one, too
  if (count < WINDOW) await ping.ended;
  else await ping.stop("SIGINT");
  note(ping.output.trim());
  return ping.output;
}
