/**
 * From a fresh TCP connection to a session's keys: the handshake as a conversation, written top to bottom for each side. An empty
 * handshake frame from the server says "refused"; it is not authenticated, and only decides which error the client prints.
 */
import { type FrameType as Type, aesFraming, BrokenStream, FrameReader, FrameType, handshakeFraming } from "./frame.ts";
import { type ClientConfig, decodeReply, decodeWish, encodeReply, encodeWish, Handshake, HandshakeError, Refused, type SessionKeys, type Wish } from "./handshake.ts";
import { EAGAIN, errnoName, Memory, write } from "./libc.ts";
import { ready } from "./loop.ts";
import { Failure } from "./program.ts";
import type { TcpSocket } from "./tcp.ts";

const DEADLINE = 10_000; // ms, for the other end's message
const frame = new Memory(aesFraming.header + handshakeFraming.maxBody); // of the message being sent

/** The server has another secret: to try again is in vain. */
export class WrongSecret extends Failure {}

/** The client's side; `wish`: what it had before. Errors: a Failure that says what to try. */
export async function startSession(socket: TcpSocket, secret: Buffer, wish: Wish = {}): Promise<{ keys: SessionKeys; config: ClientConfig }> {
  const handshake = new Handshake("client", secret);
  const because = (reason: string, hint: string) => new Failure(`Cannot start a session with ${socket.remote}: ${reason}`, hint);
  try {
    sendMessage(socket, handshake.write(encodeWish(wish)));
    const reply = await receiveMessage(socket);
    if (reply.length === 0) throw new WrongSecret(`Cannot start a session with ${socket.remote}: it refused our secret`, "copy the secret file from the server, and check --secret on both ends");
    const config = decodeReply(handshake.read(reply));
    return { keys: handshake.split(), config };
  } catch (error) {
    if (error instanceof Refused) throw because(error.message, "try again later, or ask whoever runs the server");
    if (error instanceof HandshakeError) throw because(error.message, "ask whoever runs the server; are the secret and the version the same there?");
    if (error instanceof BrokenStream) throw because(error.message, "wait a little, if many start at once; check that it is a Simple VPN server, with the same --cipher");
    throw error;
  }
}

/**
 * The server's side. Once message 1 proved good, `makeReply` decides what the client is told. Throws BrokenStream.
 * The client is proven only by its first sealed frame: message 1 may be a replay.
 */
export async function acceptSession(socket: TcpSocket, secret: Buffer, makeReply: (wish: Wish) => ClientConfig | { refused: string }): Promise<SessionKeys> {
  const handshake = new Handshake("server", secret);
  const message = await receiveMessage(socket);
  let wish: Buffer;
  try {
    wish = handshake.read(message);
  } catch (error) {
    sendMessage(socket, Buffer.alloc(0));
    throw error;
  }
  const reply = makeReply(decodeWish(wish));
  sendMessage(socket, handshake.write(encodeReply(reply)));
  if ("refused" in reply) throw new HandshakeError(reply.refused);
  return handshake.split();
}

/** A message is at most a few hundred bytes, and the first thing on its socket: it always fits. */
function sendMessage(socket: TcpSocket, message: Buffer): void {
  aesFraming.putHeader(frame.bytes, 0, FrameType.handshake, message.length);
  message.copy(frame.bytes, aesFraming.header);
  const count = write(socket.fd, frame, 0, aesFraming.header + message.length);
  if (count < 0) throw new BrokenStream(`write: ${errnoName(count)}`);
}

async function receiveMessage(socket: TcpSocket): Promise<Buffer> {
  const reader = new FrameReader(handshakeFraming);
  const deadline = performance.now() + DEADLINE;
  while (!reader.next()) {
    if (!(await ready(socket.fd, "readable", deadline - performance.now()))) throw new BrokenStream(`no handshake within ${DEADLINE / 1000} s`);
    const count = reader.fill(socket.fd);
    if (count === 0) throw new BrokenStream("it closed the connection during the handshake");
    if (count < 0 && count !== -EAGAIN) throw new BrokenStream(`read: ${errnoName(count)}`);
  }
  if ((reader.type as Type) !== FrameType.handshake) throw new BrokenStream(`frame type ${reader.type} before the handshake`);
  if (reader.rest > 0) throw new BrokenStream(`${reader.rest} bytes too many in the handshake`);
  return Buffer.from(reader.memory.bytes.subarray(reader.start, reader.end));
}
