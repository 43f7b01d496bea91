/**
 * The two pumps of the VPN, in the order of the walk. Client and server run the same code; the steps' names differ:
 *
 *   outbound()  TUN → socket    client: 5, 6.read 6.xor 6.seal 6.frame 6.write    server: R3, R4
 *   inbound()   socket → TUN    server: 8.read 8.deframe 8.open 8.xor 8.write     client: R5, R6
 *
 * Each wake-up is drained: packets are read until there is none left (or 64 KB), and share one frame, one seal and
 * one write(). Nothing is allocated for a packet that is not shown.
 */
import { Cipher } from "./aes.ts";
import { aesFraming, BATCH, BrokenStream, Control, type Framing, FrameReader, FrameType, pad, xorFraming } from "./frame.ts";
import type { SessionKeys } from "./handshake.ts";
import { EAGAIN, EBADFD, errnoName, Memory, read, write } from "./libc.ts";
import { describeOffload, OFFLOAD_HEADER } from "./offload.ts";
import { Failure } from "./program.ts";
import type { TcpSocket } from "./tcp.ts";
import { type Direction, trace } from "./trace.ts";
import { MAX_PACKET, type Tun, writePacket } from "./tun.ts";
import { xor } from "./xor.ts";

const RECORD_SPACE = 4; // in front of the packet in `scratch`, for a record's length
const scratch = new Memory(RECORD_SPACE + pad(OFFLOAD_HEADER + MAX_PACKET, 4)); // the packet just read from the TUN
const OUTBOX = 8 * BATCH; // bytes that may wait for one peer's socket; beyond that its packets are dropped …
const CONTROL_ROOM = 256; // … but a goodbye and fresh keys still fit
const NOTHING = Buffer.alloc(0);

/** What a peer tells its owner, and asks it. */
export interface PeerEvents {
  /** The outbox holds bytes that the socket does not take; or, with false, it is empty again. */
  onBacklog(waiting: boolean): void;
  /** The first frame came that proves the peer has the session's keys. */
  onProven(): void;
  /** A control frame about fresh keys: `rekey` and the peer's handshake message, or `switch`. Throws BrokenStream. */
  onRekey(word: number, message: Buffer): void;
  /** May this packet of the peer's go into our TUN? A sentence says why not. */
  admit(packet: Buffer, at: number, length: number): string | undefined;
  /**
   * The connection is over; called once. `ended`: its program has ended, as far as we can see, so nobody will come back with this
   * session's token.
   */
  onClose(reason: string, ended: boolean): void;
}

/** The other end of one connection: its socket, its ciphers, and the bytes on their way to it. */
export class Peer {
  readonly socket: TcpSocket;
  readonly out: Direction; // names of the steps of what we send to this peer …
  readonly in: Direction; // … and of what we receive from it
  readonly framing: Framing;
  readonly reader: FrameReader;
  sealer: Cipher | undefined; // undefined: --cipher xor
  opener: Cipher | undefined;
  readonly outbox = new Memory(OUTBOX);
  head = 0; // outbox: first byte that the socket has not taken
  tail = 0; // outbox: end of what is in it
  frameAt = -1; // outbox: where the open frame starts; -1: none is open
  packets = 0; // in the open frame
  shown = ""; // id of the latest frame in the outbox, if the trace shows it
  framesSent = 0; // both ends count alike, and so name a frame alike; the sealer's counter begins anew with each key
  framesReceived = 0;
  owesAnswer = false; // pulse.ts: data came, and no frame of ours has followed it
  awaitsAnswer = false; // pulse.ts: data has gone, and not a byte has come since …
  silentChecks = 0; // … for so many checks
  closed = false;

  onBacklog: PeerEvents["onBacklog"] = () => {};
  onProven: PeerEvents["onProven"] = () => {};
  onRekey: PeerEvents["onRekey"] = () => {};
  admit: PeerEvents["admit"] = () => undefined;
  onClose: PeerEvents["onClose"] = () => {};

  /**
   * @param keys of the handshake; without them this is the original XOR protocol
   * @param events what its owner wants to know from the first moment on
   */
  constructor(socket: TcpSocket, out: Direction, inward: Direction, keys?: SessionKeys, events: Partial<PeerEvents> = {}) {
    this.socket = socket;
    this.out = out;
    this.in = inward;
    this.framing = keys ? aesFraming : xorFraming;
    this.reader = new FrameReader(this.framing);
    this.sealer = keys && new Cipher(keys.send, "seal");
    this.opener = keys && new Cipher(keys.receive, "open");
    Object.assign(this, events);
  }

  /** From the next frame on, this key seals what we send. */
  sendWith(key: Buffer): void {
    if (this.closed) return;
    this.sealer?.free();
    this.sealer = new Cipher(key, "seal");
  }

  /** From the next frame on, this key opens what we receive. */
  receiveWith(key: Buffer): void {
    if (this.closed) return;
    this.opener?.free();
    this.opener = new Cipher(key, "open");
  }

  /** The connection is over. The fd is its owner's to close, in onClose. */
  close(reason: string, ended = false): void {
    if (this.closed) return;
    this.closed = true;
    this.sealer?.free();
    this.opener?.free();
    this.onClose(reason, ended);
  }
}

// ---- outbound: TUN → socket ----

const touched: Peer[] = []; // peers that got a frame in this wake-up

/**
 * Drains the TUN, and sends each packet to the peer that `peerFor` names; a sentence instead of a peer says why the packet
 * is dropped. Throws a Failure if the TUN is gone.
 */
export function outbound(tun: Tun, peerFor: (packet: Buffer, at: number, length: number) => Peer | string): void {
  const wokenAt = trace.clock(); // WALK 5 R3.wake
  let length = 0;
  try {
    for (let drained = 0; drained < BATCH; drained += length) {
      length = read(tun.fd, scratch, RECORD_SPACE, tun.header + MAX_PACKET); // WALK 6.read R3.read
      if (length < 0) break;
      const packet = RECORD_SPACE + tun.header;
      const peer = peerFor(scratch.bytes, packet, length - tun.header);
      if (typeof peer === "string") trace.drop(peer, "", scratch, packet, length - tun.header);
      else enqueue(peer, tun, length, wokenAt);
    }
  } finally {
    for (let peer = touched.pop(); peer; peer = touched.pop()) {
      closeFrame(peer, FrameType.data); // whatever ended the drain: no frame is left open
      flush(peer);
    }
  }
  if (length < 0 && length !== -EAGAIN) throw tunGone(tun, length);
}

/** Puts what read() left in `scratch` into the peer's open frame. XOR does the copying. `length`: with the TUN's header. */
function enqueue(peer: Peer, tun: Tun, length: number, wokenAt: bigint): void {
  const { framing, outbox, out } = peer;
  const record = framing.record + pad(length, framing.align);
  const packet = RECORD_SPACE + tun.header;
  const size = length - tun.header; // of the packet alone
  // A drain of many small packets, then a large one, can be more than a frame holds: a second frame takes what does not fit.
  if (peer.frameAt >= 0 && peer.tail + record + framing.tag > peer.frameAt + framing.header + framing.maxBody) closeFrame(peer, FrameType.data);
  if (!makeRoom(peer, framing.header + record + framing.tag + CONTROL_ROOM)) return trace.drop("the socket is full", peer.socket.remote, scratch, packet, size);
  if (peer.frameAt < 0) {
    openFrame(peer);
    if (touched.at(-1) !== peer) touched.push(peer);
  }

  const frame = trace.show() ? `${out.name}${peer.framesSent}` : "";
  const id = frame && `${frame}.${peer.packets}`;
  if (id) {
    peer.shown = frame;
    if (peer.packets === 0) trace.step(out.wake, id, 0, "the loop wakes: the TUN is readable", undefined, 0, wokenAt);
    trace.packet(out.read, id, size, `read ${size} bytes${large(tun, scratch, RECORD_SPACE)}`, scratch, packet);
  }
  const from = RECORD_SPACE - framing.record;
  if (framing.record > 0) scratch.bytes.writeUInt32BE(length, from);
  for (let i = RECORD_SPACE + length; i < from + record; i++) scratch.bytes[i] = 0; // the padding
  xor(scratch, from, outbox, peer.tail, record); // WALK 6.xor R4.xor
  if (id) trace.step(out.xor, id, size, `${size} bytes ^ 0x42`, outbox, peer.tail + framing.packet);
  peer.tail += record;
  peer.packets++;
  trace.sent.packets++;
  trace.sent.bytes += size;
  if (!framing.batches) closeFrame(peer, FrameType.data);
}

function openFrame(peer: Peer): void {
  peer.frameAt = peer.tail;
  peer.tail += peer.framing.header;
}

/**
 * Is there room for `size` bytes more? The outbox rewinds whenever the socket has taken all. Else the rest moves up, but only
 * when the socket has taken a quarter: so no byte is moved more than a few times.
 */
function makeRoom(peer: Peer, size: number): boolean {
  if (peer.tail + size <= OUTBOX) return true;
  if (peer.head < OUTBOX / 4) return false;
  const shift = peer.head & ~3; // frames stay at multiples of 4
  peer.outbox.bytes.copyWithin(0, shift, peer.tail);
  peer.head -= shift;
  peer.tail -= shift;
  if (peer.frameAt >= 0) peer.frameAt -= shift;
  return peer.tail + size <= OUTBOX;
}

/** Seals the open frame's body in place, and finishes its header. */
function closeFrame(peer: Peer, type: FrameType): void {
  if (peer.frameAt < 0) return;
  if (peer.sealer?.usedUp) return peer.close("its key is used up, and it made no fresh one");
  const { framing, outbox, out, frameAt } = peer;
  const body = frameAt + framing.header;
  const length = peer.tail - body;
  framing.putHeader(outbox.bytes, frameAt, type, length + framing.tag); // WALK 6.frame R4.frame: before the seal, which covers it, too
  peer.sealer?.seal(outbox, body, length, framing.header); // WALK 6.seal R4.seal
  peer.tail += framing.tag;
  if (peer.shown) {
    const total = peer.tail - frameAt;
    if (peer.sealer) trace.step(out.seal, peer.shown, total - framing.header, `AES-256-GCM, nonce ${peer.sealer.counter - 1}, tag of 16 bytes appended`, outbox, body + framing.packet);
    trace.step(out.frame, peer.shown, total, `header of ${framing.header} bytes in front: ${total} bytes`, outbox, frameAt);
  }
  peer.framesSent++;
  peer.owesAnswer = false;
  if (type === FrameType.data) peer.awaitsAnswer = true;
  trace.sent.frames++;
  peer.frameAt = -1;
  peer.packets = 0;
}

/** Writes what waits in the outbox, as much as the socket takes. Called again when the socket is writable. */
export function flush(peer: Peer): void {
  if (peer.closed) return;
  const end = peer.frameAt < 0 ? peer.tail : peer.frameAt; // an open frame is not sealed yet: nothing of it may leave
  while (peer.head < end) {
    const writtenAt = trace.clock(); // before the call: the other end may be faster than our return from it
    const count = write(peer.socket.fd, peer.outbox, peer.head, end - peer.head); // WALK 6.write R4.write
    if (count === -EAGAIN) break;
    if (count < 0) return peer.close(`write: ${errnoName(count)}`);
    peer.head += count;
    if (peer.shown) trace.step(peer.out.write, peer.shown, count, `wrote ${count} bytes to ${peer.socket.remote}`, peer.outbox, peer.head - count, writtenAt);
  }
  peer.shown = "";
  if (peer.head === peer.tail) peer.head = peer.tail = 0;
  peer.onBacklog(peer.tail > 0);
}

/**
 * Sends a control frame: one of the Control words, and what belongs to it (a multiple of 4 bytes), XORed and sealed like data.
 * There is none in --cipher xor. False if it cannot be sent.
 */
export function sendControl(peer: Peer, word: number, message: Buffer = NOTHING): boolean {
  const length = 4 + message.length;
  if (!peer.sealer || peer.closed) return false;
  closeFrame(peer, FrameType.data); // one is open only where sealing it failed: then this fails, too, and it never leaves
  if (!makeRoom(peer, peer.framing.header + length + peer.framing.tag)) return false;
  openFrame(peer);
  scratch.bytes.writeUInt32BE(word, 0);
  message.copy(scratch.bytes, 4);
  xor(scratch, 0, peer.outbox, peer.tail, length);
  peer.tail += length;
  closeFrame(peer, FrameType.control);
  flush(peer);
  return true;
}

// ---- inbound: socket → TUN ----

/** One read() from the peer's socket; each whole frame in it is opened, and its packets are written to the TUN. */
export function inbound(peer: Peer, tun: Tun): void {
  const readAt = trace.clock();
  const count = peer.reader.fill(peer.socket.fd); // WALK 8.read R5.read
  if (count === -EAGAIN) return;
  if (count === 0) return peer.close("the connection was closed without a goodbye", true);
  if (count < 0) return peer.close(`read: ${errnoName(count)}`);
  peer.awaitsAnswer = false;
  peer.silentChecks = 0;
  try {
    for (let fresh = count; !peer.closed && peer.reader.next(); fresh = 0) {
      receiveFrame(peer, tun, fresh, readAt); // WALK 8.deframe R5.deframe
    }
  } catch (error) {
    if (!(error instanceof BrokenStream)) throw error;
    peer.close(error.message);
  }
  peer.owesAnswer ||= peer.reader.rest > 0; // the first part of a frame that takes long: the other end must not think that we hang
}

/**
 * Opens the frame that the reader shows, and takes its packets out. `fresh`: bytes that the read() at `readAt` brought, said
 * with its first frame. Throws BrokenStream.
 */
function receiveFrame(peer: Peer, tun: Tun, fresh: number, readAt: bigint): void {
  const { reader, framing, in: walk, opener } = peer;
  const { memory, type, start } = reader;
  const id = type === FrameType.data && trace.show() ? `${walk.name}${peer.framesReceived}` : "";
  const frameAt = start - framing.header;
  if (id) {
    const size = reader.end - frameAt;
    if (fresh > 0) trace.step(walk.receive, id, fresh, `read ${fresh} bytes from ${peer.socket.remote}`, memory, frameAt, readAt);
    trace.step(walk.deframe, id, size, `a whole frame: body of ${size - framing.header} bytes`, memory, start);
  }
  if (type === FrameType.handshake) throw new BrokenStream("a handshake frame inside a session");
  const end = reader.end - framing.tag;
  if (opener) {
    if (end < start) throw new BrokenStream("a frame without room for its tag");
    if (opener.usedUp) throw new BrokenStream("its key is used up, and it made no fresh one");
    if (!opener.open(memory, start, end - start, framing.header)) // WALK 8.open R6.open
      throw new BrokenStream(`frame ${peer.framesReceived} has a wrong tag: forged or damaged, or out of order`);
    if (id) trace.step(walk.open, id, end - start, "AES-256-GCM: tag good, decrypted", memory, start + framing.packet);
  }
  xor(memory, start, memory, start, end - start); // WALK 8.xor R6.xor
  if (peer.framesReceived++ === 0) peer.onProven();
  trace.received.frames++;
  if (type === FrameType.control) return receiveControl(peer, start, end);
  peer.owesAnswer = true;

  let place = 0; // of the packet in the frame
  for (let at = start; at < end && !peer.closed; place++) {
    const length = framing.record > 0 ? memory.bytes.readUInt32BE(at) : end - at;
    const from = at + framing.record;
    if (length <= tun.header || length > tun.header + MAX_PACKET || from + length > end) throw new BrokenStream(`a record of ${length} bytes in a frame of ${end - start}`);
    const shown = id && (place === 0 || trace.show());
    inject(peer, tun, from, length, shown ? `${id}.${place}` : "");
    at = from + pad(length, framing.align);
  }
}

/** Gives one packet of the peer's to our kernel, through the TUN. `length`: with the TUN's header, at `from`. */
function inject(peer: Peer, tun: Tun, from: number, length: number, id: string): void {
  const { memory } = peer.reader;
  const walk = peer.in;
  const packet = from + tun.header;
  const size = length - tun.header;
  trace.received.packets++;
  trace.received.bytes += size;
  if (id) trace.packet(walk.unxor, id, size, `${size} bytes ^ 0x42${large(tun, memory, from)}`, memory, packet);
  const writtenAt = trace.clock();
  const refusal = peer.admit(memory.bytes, packet, size) ?? writePacket(tun, memory, from, length); // WALK 8.write R6.write
  if (refusal !== undefined) trace.drop(refusal, peer.socket.remote, memory, packet, size);
  else if (id) trace.step(walk.inject, id, size, `wrote ${size} bytes to ${tun.name}: the kernel takes over`, memory, packet, writtenAt);
}

/** For the trace: says when a packet is larger than the MTU, and why. */
const large = (tun: Tun, memory: Memory, at: number) => (tun.header ? describeOffload(memory.bytes, at) : "");

function receiveControl(peer: Peer, start: number, end: number): void {
  const { memory } = peer.reader;
  const word = end - start >= 4 ? memory.bytes.readUInt32BE(start) : 0;
  if (word === Control.goodbye) peer.close("it said goodbye", true);
  else if (word === Control.rekey || word === Control.switch) peer.onRekey(word, Buffer.from(memory.bytes.subarray(start + 4, end)));
  else if (word !== Control.keepalive) trace.drop("an unknown control word", peer.socket.remote, memory, start, end - start);
}

/** The fd of an interface that was deleted: read() says EBADFD. */
export function tunGone(tun: Tun, errno = -EBADFD): Failure {
  const hint = errno === -EBADFD ? "someone deleted the interface: start the program again" : "see read(2) for this error";
  return new Failure(`Cannot read from ${tun.name}: ${errnoName(errno)}`, hint);
}
