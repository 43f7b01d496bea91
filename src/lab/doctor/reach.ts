/**
 * Does the server answer, and has it our secret? If it does not answer over its transport, it is asked over
 * the others, too: the two ends may have different ones, or a firewall lets one of them through and not
 * another.
 */
import { randomBytes } from "node:crypto";
import { ECONNREFUSED, EPERM, ETIMEDOUT, errnoName } from "../../base/errno.ts";
import { Failure } from "../../base/failure.ts";
import { hasQuic, IP_PROTOCOL } from "../../host/options.ts";
import { readSecrets } from "../../host/secret.ts";
import { ClientHandshake, noSession } from "../../session/session.ts";
import { whyNoPong } from "../../tools/ping.ts";
import { bracketed, endpoint } from "../../transport/addresses.ts";
import { FLAGS, RawPort } from "../../transport/raw.ts";
import { connectTcp } from "../../transport/sockets.ts";
import { TcpPort } from "../../transport/tcp.ts";
import { type Answer, Unreachable } from "../../transport/transport.ts";
import { transports } from "../../transport/transports.ts";
import { type Finding, ok, problem, unknown } from "./finding.ts";

export type TransportName = keyof typeof transports;
const DEADLINE = 10_000; // ms, for all addresses of a name
export const DOCTOR_THERE = "server# npx tsx src/lab/doctor/doctor.ts server";
const SHORT = 3_000; // ms, for the other transports

/** What the doctor knows of the server. */
export interface Reachable {
  transport: TransportName;
  port: number;
  secrets: string[] | undefined; // files
  environment: string | undefined; // or its secret
}

/** A server that answers. */
export interface Contact {
  readonly remote: string;
  readonly address: string;
  /** What our message 1 was made with; a Failure: we have no secret. */
  readonly handshake: ClientHandshake | Failure;
  /** Its message 2. */
  answer(): Promise<Answer>;
}

/** Tries one address after the other. A negative errno: none answers. */
export async function contact(
  addresses: string[],
  options: Reachable,
  ms = DEADLINE,
): Promise<Contact | number> {
  let found: Contact | number = 0;
  for (const address of addresses) {
    found = await tryOne(address, options, ms / addresses.length);
    if (typeof found !== "number") break;
  }
  return found;
}

/** TCP connects. Over the others there is nothing to see before message 2, so message 1 is sent at once. */
async function tryOne(address: string, options: Reachable, ms: number): Promise<Contact | number> {
  const { transport, port } = options;
  const known = secretOf(options);
  // Whoever asks with another secret is refused, and has been answered.
  const secret = known instanceof Failure ? randomBytes(32) : known;
  const asking = new ClientHandshake(secret);
  const handshake = known instanceof Failure ? known : asking;
  const { message1, isGood } = asking;
  if (transport === "tcp") {
    const socket = await connectTcp(address, port, ms);
    if (typeof socket === "number") return socket;
    const answer = () => new TcpPort(port, true).ask(socket, message1);
    return { address, remote: socket.remote, handshake, answer };
  }
  try {
    const from = transports[transport].open({ port, handshake: true, secrets: [secret] });
    const answer = await from.dial(address, ms, message1, isGood);
    return { address, remote: answer.remote, handshake, answer: async () => answer };
  } catch (error) {
    if (error instanceof Unreachable) return error.errno;
    throw error;
  }
}

function secretOf({ secrets, environment }: Reachable): Buffer | Failure {
  try {
    return readSecrets(secrets, environment)[0]!;
  } catch (error) {
    return error as Failure;
  }
}

/**
 * A handshake that claims no address: without a first sealed frame, the server forgets it. `tell`: gets the
 * tunnel's MTU.
 */
export async function shakeHands(
  { handshake, remote, address, answer }: Contact,
  secretFile = "secret.key",
  tell: (mtu: number) => void,
): Promise<Finding> {
  if (handshake instanceof Failure) return unknown(`${handshake.message}: ${handshake.hint}`);
  try {
    const { message2, largest, hangUp } = await answer();
    hangUp();
    tell(Math.min(handshake.finish(message2, remote).config.mtu, largest));
    return ok("the server has the same secret");
  } catch (error) {
    const { message } = noSession(remote, error) as Error;
    if (!/refused our secret|another secret/.test(message)) return problem(message, DOCTOR_THERE);
    return problem(
      "wrong secret: the server has another one",
      `scp ${bracketed(address)}:simple-vpn/secret.key ${secretFile}`,
    );
  }
}

/**
 * Why no server answers. A machine on whose port nothing listens says so itself (ECONNREFUSED): so packets
 * get there and back. `start`: the command that starts a client with another transport.
 */
export async function whyNot(
  errno: number,
  addresses: string[],
  options: Reachable,
  start: (transport: TransportName) => string,
): Promise<Finding> {
  const { transport, port } = options;
  const [ours, theirs] = [transport.toUpperCase(), transport === "tcp" ? "UDP" : "TCP"];
  const server = endpoint(addresses[0]!, port);
  const what = `Cannot connect to ${server} over ${ours}: ${errnoName(errno)}`;
  if (errno === -EPERM)
    return problem(
      `${what}: this host's own firewall drops it`,
      `iptables -I OUTPUT -p ${IP_PROTOCOL[transport]} --dport ${port} -j ACCEPT`,
    );
  const answers = await askOverOthers(addresses, options);
  const found = [...answers].find(([, answer]) => typeof answer !== "number");
  if (found) {
    const other = found[0].toUpperCase();
    return problem(
      `${server} answers over ${other}, and not over ${ours}: both ends need the same --transport`,
      start(found[0]),
    );
  }
  if (errno === -ETIMEDOUT && answers.get(transport === "tcp" ? "udp" : "tcp") === -ECONNREFUSED)
    return problem(
      `${server}: ${theirs} gets there and back, and ${ours} does not. ` +
        `A firewall on the way lets only ${theirs} through`,
      DOCTOR_THERE,
    );
  if (transport !== "raw") return problem(what, DOCTOR_THERE);
  const from = new RawPort({ port, handshake: true });
  return problem(`${what}; ${await whyNoPong(errno, from, addresses[0]!, port, FLAGS)}`, DOCTOR_THERE);
}

/** What the server says over each other transport; all of them are asked at once. */
async function askOverOthers(addresses: string[], options: Reachable) {
  const names = (Object.keys(transports) as TransportName[]).filter(
    (name) => name !== options.transport && (name !== "quic" || hasQuic()),
  );
  const ask = async (transport: TransportName) => {
    const mayNot = () => -EPERM; // raw takes root
    const answer = await contact(addresses, { ...options, transport }, SHORT).catch(mayNot);
    if (typeof answer !== "number")
      await answer.answer().then(
        ({ hangUp }) => hangUp(),
        () => {},
      );
    return [transport, answer] as const;
  };
  return new Map(await Promise.all(names.map(ask)));
}
