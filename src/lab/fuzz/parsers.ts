/**
 * For fuzz.ts: each parser of the VPN, how input for it is made, and what must hold whatever the input. Where
 * it is simple enough, the parser is written here a second time, from its description, and both must say the
 * same. Each assert.ok() has its message: without one, Node reads this file to make it, and never ends where
 * tsx has moved the lines (Node 20).
 */
import assert from "node:assert/strict";
import { BrokenStream } from "../../base/failure.ts";
import { aesFraming, type Framing, handshakeFraming, pad, wholeFrame, xorFraming } from "../../core/frame.ts";
import type { Receiver } from "../../core/link.ts";
import { TcpLink } from "../../transport/tcp.ts";
import { socketPair } from "../tests/peers.ts";
import {
  checkClientHandshake,
  checkReply,
  checkServerHandshake,
  checkWish,
  makeReply,
  makeWish,
} from "./fuzz-handshake.ts";
import {
  checkDatagrams,
  checkJoined,
  checkPieces,
  endDatagrams,
  makeDatagrams,
  makeJoined,
  makePieces,
} from "./fuzz-datagrams.ts";
import { drain, feed, show } from "./fuzz-inputs.ts";
import {
  checkAddresses,
  checkDescribe,
  checkOffload,
  checkSealed,
  endSession,
  makeAddresses,
  makeDescribe,
  makeOffload,
  makeSealed,
  stopServers,
} from "./fuzz-packets.ts";
import { checkIPv6, checkOptions, checkSecret, makeIPv6, makeOptions, makeSecret } from "./fuzz-texts.ts";
import type { Random } from "./random.ts";
import { checkDns, checkSocks, makeDns, makeSocks } from "./fuzz-socks.ts";
import { checkRekey, makeRekey } from "./rekeys.ts";

export interface Parser {
  name: string;
  share: number; // of the cases, in relation to the others
  make: (any: Random) => Buffer; // an input
  /** Throws what is wrong. `any`: what else happens by chance, such as where the stream is split. */
  check: (input: Buffer, any: Random) => void | Promise<void>;
  end?: () => void; // closes what the cases shared
}

// ---- frames: TcpLink and wholeFrame() ----

const FRAMINGS = [xorFraming, aesFraming, handshakeFraming];
const pipe = socketPair();
const links = new Map(
  FRAMINGS.map((framing) => [framing, new TcpLink({ fd: pipe[1], address: "", remote: "" }, framing)]),
);

/**
 * The frames of a whole stream as [type, body], and whether it breaks off with a header that makes no sense.
 */
function deframe(framing: Framing, stream: Buffer): { frames: [number, Buffer][]; broken: boolean } {
  const frames: [number, Buffer][] = [];
  for (let at = 0; stream.length - at >= framing.header;) {
    const isXor = framing.header === 2;
    const type = isXor ? 2 : stream[at]!;
    const length = isXor ? stream.readUInt16BE(at) : stream.readUIntBE(at + 1, 3);
    if (
      isXor ? length === 0 : type < 1 || type > 3 || length > framing.maxBody || (type > 1 && length % 4 > 0)
    )
      return { frames, broken: true };
    if (at + framing.header + length > stream.length) break;
    frames.push([type, stream.subarray(at + framing.header, at + framing.header + length)]);
    at += framing.header + length;
  }
  return { frames, broken: false };
}

/** A byte for the framing, as they stand in FRAMINGS; then a stream. */
function makeFrames(any: Random): Buffer {
  const which = any.below(FRAMINGS.length);
  const framing = FRAMINGS[which]!;
  const valid = Array.from({ length: 1 + any.below(4) }, () => {
    const size = any.below(30)
      ? 1 + any.below(100)
      : any.one(any.below(framing.maxBody), framing.maxBody, framing.maxBody + framing.align);
    const body = any.bytes(Math.min(pad(size, framing.align), framing.header === 2 ? 0xffff : 0xffffff));
    const header = Buffer.alloc(framing.header);
    framing.putHeader(header, 0, any.one(1, 2, 3), body.length);
    return Buffer.concat([header, body]);
  });
  return Buffer.concat([Buffer.from([which]), any.mutate(Buffer.concat(valid))]);
}

function checkFrames(input: Buffer, any: Random): void {
  const framing = FRAMINGS[input[0]!]!;
  const stream = input.subarray(1);
  const link = links.get(framing)!;
  [link["head"], link["tail"]] = [0, 0];
  const got: [number, Buffer][] = [];
  let [broken, came] = [false, true];
  const receiver: Receiver = {
    received({ bytes }, from, to) {
      came = true;
      for (
        let size = wholeFrame(framing, bytes, from, to);
        size > 0;
        size = wholeFrame(framing, bytes, from, to)
      )
        got.push([
          framing.typed ? bytes[from]! : 2,
          Buffer.from(bytes.subarray(from + framing.header, (from += size))),
        ]);
      return from;
    },
    flush() {},
    sendControl: () => false,
    lost: (reason) => assert.fail(reason),
  };
  const take = () => {
    try {
      for (came = true; came && !broken;) ((came = false), link.receive(receiver));
    } catch (error) {
      assert.ok(error instanceof BrokenStream, String(error));
      broken = true;
    }
    if (broken) drain(pipe[1]);
  };
  feed(pipe[0], stream, () => (any.below(2) ? 1 + any.below(20) : 1 + any.below(60_000)), take);
  assert.deepEqual({ frames: got, broken }, deframe(framing, stream));
}

export const PARSERS: readonly Parser[] = [
  { name: "frames", share: 230, make: makeFrames, check: checkFrames },
  { name: "sealed", share: 180, make: makeSealed, check: checkSealed, end: endSession },
  { name: "datagrams", share: 90, make: makeDatagrams, check: checkDatagrams, end: endDatagrams },
  { name: "cut", share: 30, make: makePieces, check: checkPieces },
  { name: "join", share: 60, make: makeJoined, check: checkJoined },
  { name: "offload", share: 130, make: makeOffload, check: checkOffload },
  { name: "describe", share: 120, make: makeDescribe, check: checkDescribe },
  { name: "reply", share: 90, make: makeReply, check: checkReply },
  { name: "wish", share: 60, make: makeWish, check: checkWish },
  { name: "ipv6", share: 60, make: makeIPv6, check: checkIPv6 },
  { name: "addresses", share: 45, make: makeAddresses, check: checkAddresses, end: stopServers },
  { name: "options", share: 40, make: makeOptions, check: checkOptions },
  { name: "secret", share: 15, make: makeSecret, check: checkSecret },
  { name: "message1", share: 12, make: makeWish, check: checkServerHandshake },
  { name: "message2", share: 12, make: makeReply, check: checkClientHandshake },
  { name: "socks", share: 60, make: makeSocks, check: checkSocks },
  { name: "dns", share: 60, make: makeDns, check: checkDns },
  { name: "rekey", share: 20, make: makeRekey, check: (input, any) => (show(any), checkRekey(input, any)) },
];
