import assert from "node:assert/strict";
import { test } from "node:test";
import { BrokenStream } from "../base/failure.ts";
import { aesFraming, type Framing, FrameType, handshakeFraming, xorFraming } from "./frame.ts";
import { deframe, random, SEED } from "../lab/tests/peers.ts";

function frame(framing: Framing, type: FrameType, body: Buffer): Buffer {
  const bytes = Buffer.alloc(framing.header + body.length, body.length);
  framing.putHeader(bytes, 0, type, body.length);
  body.copy(bytes, framing.header);
  return bytes;
}

test("a frame of the original C protocol: 00 04 and four XORed bytes", () => {
  const [only] = deframe(xorFraming, Buffer.from("000407424216", "hex"), () => 6);
  assert.deepEqual(only, { type: FrameType.data, body: "07424216" });
});

test("a frame of ours: type 2, length 24 bits big-endian", () => {
  assert.equal(frame(aesFraming, FrameType.data, Buffer.alloc(0x68)).toString("hex", 0, 4), "02000068");
});

for (const [name, framing] of [
  ["xor", xorFraming],
  ["xor+aes", aesFraming],
] as const) {
  const bodies = [4, 84, 1400, 20, 65532, 8, 100].map((length, i) => Buffer.alloc(length, i + 1));
  const stream = Buffer.concat(bodies.map((body) => frame(framing, FrameType.data, body)));
  const expected = bodies.map((body) => ({ type: FrameType.data as number, body: body.toString("hex") }));

  test(`wholeFrame() finds every frame in a stream fed one byte at a time (${name})`, () => {
    const small = Buffer.concat(
      bodies.filter((body) => body.length < 2000).map((body) => frame(framing, FrameType.data, body)),
    );
    assert.deepEqual(
      deframe(framing, small, () => 1),
      expected.filter(({ body }) => body.length < 4000),
    );
  });

  test(`wholeFrame() finds every frame in a stream split at random (${name}, seed ${SEED})`, () => {
    const below = random(SEED);
    for (let round = 0; round < 50; round++)
      assert.deepEqual(
        deframe(framing, stream, () => 1 + below(30_000)),
        expected,
      );
  });

  test(`the link never runs out of room, however long the stream (${name}, seed ${SEED})`, () => {
    const below = random(SEED);
    const long = Array.from({ length: 60 }, (_, i) => Buffer.alloc(4 * (1 + below(i % 3 ? 400 : 16_000)), i));
    const frames = deframe(
      framing,
      Buffer.concat(long.map((body) => frame(framing, FrameType.data, body))),
      () => 1 + below(100_000),
    );
    assert.deepEqual(
      frames.map(({ body }) => body.length / 2),
      long.map((body) => body.length),
    );
  });
}

test("the largest frame allowed passes, one byte more breaks the stream", () => {
  const largest = Buffer.alloc(aesFraming.maxBody, 7);
  assert.equal(deframe(aesFraming, frame(aesFraming, FrameType.data, largest), () => 50_000).length, 1);
  for (const length of [aesFraming.maxBody + 4, 0xffffff - 3]) {
    const header = Buffer.alloc(4);
    aesFraming.putHeader(header, 0, FrameType.data, length);
    assert.throws(() => deframe(aesFraming, header, () => 4), BrokenStream);
  }
  assert.throws(
    () => deframe(handshakeFraming, Buffer.from("01000404", "hex"), () => 4),
    BrokenStream,
    "before there are keys: 1024 at most",
  );
});

test("a header that makes no sense breaks the stream, with a reason", () => {
  const broken: [Framing, string, RegExp][] = [
    [xorFraming, "0000", /length 0/],
    [aesFraming, "00000004", /type 0/],
    [aesFraming, "04000004", /type 4/],
    [aesFraming, "ff000004", /type 255/],
    [aesFraming, "02000005", /multiple of 4/],
    [aesFraming, "5353482d", /type 83 .*not our protocol/], // "SSH-"
  ];
  for (const [framing, header, reason] of broken)
    assert.throws(() => deframe(framing, Buffer.from(header, "hex"), () => 4), reason, header);
});
