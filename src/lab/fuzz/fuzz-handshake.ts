/** For fuzz.ts: the handshake, its messages, and the JSON that they carry. */
import assert from "node:assert/strict";
import { embed, formatIPv4 } from "../../base/address.ts";
import { aesFraming, FrameType } from "../../core/frame.ts";
import { Handshake, HandshakeError } from "../../session/handshake.ts";
import {
  decodeReply,
  decodeWish,
  encodeReply,
  encodeWish,
  Refused,
  type Wish,
} from "../../session/payloads.ts";
import { close } from "../../base/libc.ts";
import { answer, ClientHandshake, noSession } from "../../session/session.ts";
import { KeyPair } from "../../session/primitives.ts";
import { TcpPort } from "../../transport/tcp.ts";
import { socketPair } from "../tests/peers.ts";
import { checkFailure, drain, feed, OWN, SECRET, SHUT_WR, shutdown } from "./fuzz-inputs.ts";
import type { Random } from "./random.ts";
import { ipv4, isHex, network6, written } from "./models.ts";

// ---- handshake: the messages through TcpPort, answer() and ClientHandshake; the messages and what carries
// them ----

/** A private key that is always the same: the messages are those of the seed. */
const ephemeral = (byte: number) => new KeyPair(Buffer.alloc(32, byte));
const PORT = new TcpPort(0, true);
const LOW_ORDER = [
  "00".repeat(32),
  `01${"00".repeat(31)}`,
  `ec${"ff".repeat(30)}7f`,
  `ed${"ff".repeat(30)}7f`,
  "ff".repeat(32),
].map((hex) => Buffer.from(hex, "hex")); // RFC 7748, section 6.1, and beyond p

const framed = (type: number, message: Buffer) => {
  const header = Buffer.alloc(4);
  aesFraming.putHeader(header, 0, type as FrameType, message.length);
  return Buffer.concat([header, message]);
};

/** Message 1 as a holder of the secret could make it: with any public key, and any payload. */
function message1(any: Random, payload: Buffer): { message: Buffer; isLowOrder: boolean } {
  const handshake = new Handshake("client", SECRET, undefined, ephemeral(any.one(1, 2)));
  if (any.below(4)) return { message: handshake.write(payload), isLowOrder: false };
  const e = any.below(2) ? any.one(...LOW_ORDER) : any.bytes(32);
  handshake["mixHash"](e);
  handshake["mixKey"](e);
  return {
    message: Buffer.concat([e, handshake["encryptAndHash"](payload)]),
    isLowOrder: LOW_ORDER.slice(0, 4).some((one) => one.equals(e)),
  };
}

/** Values that JSON can have where something else is expected. */
const odd = (any: Random) =>
  any.one<unknown>(
    "10.8.0.2",
    "10.8.0.2; reboot",
    "10.8.0.02",
    "",
    null,
    true,
    -1,
    24.5,
    1e309,
    any.edge(),
    [],
    ["10.8.0.2"],
    {},
    "1.2.3",
    "\u001b[2J",
    { toString: 1 },
    "ab".repeat(16),
    "AB".repeat(16),
    "ab".repeat(17),
    "ab".repeat(32),
    "AB".repeat(32),
    "fd00::/96",
    "fd00::1/96",
    "FD00:0::/096",
    "off",
  );
const json = (any: Random, value: unknown): Buffer =>
  any.mutate(
    Buffer.from(any.below(20) ? (JSON.stringify(value) ?? "") : any.one("[", '{"a":').repeat(any.below(450))),
  );

/** Message 1's payload: none, JSON that is right or nearly right, or anything. */
export function makeWish(any: Random): Buffer {
  const good = { address: "10.8.0.2", proof: "ab".repeat(32) };
  const value = any.one<unknown>(
    good,
    { address: "200.8.0.6" },
    { ...good, address: odd(any) },
    { ...good, proof: odd(any) },
    { proof: good.proof },
    odd(any),
    [good],
    { ["__proto__"]: good },
  );
  return any.one(
    Buffer.alloc(0),
    any.bytes(any.below(900)),
    json(any, value),
    json(any, value),
    json(any, value),
  );
}

/** What it means; undefined: nothing. */
function wishIn(payload: Buffer): Wish | undefined {
  if (payload.length === 0) return {};
  const { address: text, proof } = parsed(payload);
  const address = typeof text === "string" ? ipv4(text) : undefined;
  if (address === undefined || (proof !== undefined && !isHex(proof, 64))) return undefined;
  return { address, ...(proof !== undefined && { proof: proof as string }) };
}

function parsed(payload: Buffer): Record<string, unknown> {
  try {
    return Object(JSON.parse(payload.toString()));
  } catch {
    return {};
  }
}

export function checkWish(payload: Buffer): void {
  const expected = wishIn(payload);
  try {
    const got = decodeWish(payload);
    assert.deepEqual(got, expected);
    assert.deepEqual({ ...decodeWish(encodeWish(got)) }, got);
  } catch (error) {
    assert.ok(error instanceof HandshakeError, String(error));
    assert.equal(expected, undefined, "it makes sense");
  }
}

/** What a client sends with this wish, or what is left of it on its way. */
export async function checkServerHandshake(payload: Buffer, any: Random): Promise<void> {
  const expected = wishIn(payload);
  const { message, isLowOrder } = message1(any, payload);
  const valid = framed(1, message);
  const sent = any.mutate(valid);
  const [near, far] = socketPair();
  feed(
    far,
    sent,
    () => 1 + any.below(400),
    () => {},
  );
  shutdown(far, SHUT_WR);
  const wishes: Wish[] = [];
  const isFull = any.below(4) === 0;
  let opened = false;
  const config = { address: OWN, prefix: 24, mtu: 1400 };
  await PORT.answer(
    { fd: near, address: "", remote: "client" },
    {
      onArrival: () => ({ lost() {} }),
      onMissed() {},
      onHello(caller, message1) {
        const { message2, keys } = answer(
          [SECRET],
          message1,
          () => true,
          (asked) => (wishes.push(asked), isFull ? { refused: "full" } : config),
        );
        if (message2) caller.refuse(message2);
        opened = keys !== undefined;
      },
    },
  );
  close(far);
  const isGood = sent.equals(valid) && message.length <= 1024 && expected !== undefined;
  assert.deepEqual(
    wishes,
    isGood ? [expected] : [],
    "an address is offered to holders of the secret only, once",
  );
  assert.equal(opened, isGood && !isLowOrder && !isFull);
}

/** What a server sends with this reply, or what is left of it on its way. */
export async function checkClientHandshake(payload: Buffer, any: Random): Promise<void> {
  const [near, far] = socketPair();
  const handshake = new ClientHandshake(SECRET, any.one({}, { address: OWN, token: "ab".repeat(16) }));
  const asking = PORT.ask({ fd: near, address: "", remote: "server" }, handshake.message1);
  const server = new Handshake("server", SECRET, undefined, ephemeral(any.one(1, 2)));
  server.read(drain(far)[0]!.subarray(4));
  const valid = framed(1, server.write(payload));
  const sent = any.mutate(valid);
  feed(
    far,
    sent,
    () => 1 + any.below(400),
    () => {},
  );
  shutdown(far, SHUT_WR);
  try {
    const { message2, hangUp } = await asking;
    hangUp();
    const { config } = handshake.finish(message2, "server");
    assert.ok(sent.equals(valid), "only what was made with the secret opens a session");
    assert.equal(formatIPv4(config.address), configIn(payload)?.address);
  } catch (error) {
    checkFailure(noSession("server", error));
  } finally {
    close(far);
  }
}

/** Message 2's payload: JSON that is right, nearly right, or anything. */
export function makeReply(any: Random): Buffer {
  const good = {
    address: "10.8.0.2",
    prefix: 24,
    mtu: 1400,
    ...(any.below(2) && { token: "ab".repeat(16) }),
    ...(any.below(2) && { subnet6: "fd56:504e::/96" }),
  };
  const value = any.one<unknown>(
    good,
    { ...good, address: any.one("10.8.0.0", "10.8.0.255", "0.8.0.2", "127.0.0.2", "224.0.0.2", "255.8.0.2") },
    {
      ...good,
      subnet6: any.one("::/96", "::ffff:0:0/96", "fe80::/96", "febf::/96", "ff02::/96", "fec0::/96"),
    },
    ...["address", "prefix", "token", "subnet6"].map((name) => ({ ...good, [name]: odd(any) })),
    { ...good, mtu: any.edge() },
    { refused: odd(any) },
    { refused: any.bytes(20).toString("latin1") },
    odd(any),
    [good],
  );
  return json(any, value);
}

/** What it means, as what goes into commands and into the next wish; undefined: nothing. */
function configIn(payload: Buffer) {
  const { address, prefix, mtu, token, subnet6 } = parsed(payload);
  const whole = (value: unknown, least: number, most: number) =>
    typeof value === "number" && value % 1 === 0 && value >= least && value <= most;
  const net = typeof subnet6 === "string" ? network6(subnet6) : undefined;
  if (
    typeof address !== "string" ||
    ipv4(address) === undefined ||
    !whole(prefix, 8, 30) ||
    !whole(mtu, 68, 65535)
  )
    return undefined;
  const [first, ...rest] = address.split(".").map(Number) as [number, number, number, number];
  const bits = [first, ...rest].map((byte) => byte.toString(2).padStart(8, "0")).join("");
  const host = bits.slice(prefix as number);
  if (address.startsWith("169.254.")) return undefined;
  if ([0, 127].includes(first) || first >= 224 || /^(0*|1*)$/.test(host)) return undefined; // nobody's
  const start6 = net?.groups[0] ?? 0xfd00;
  if (start6 < 0x100 || start6 >= 0xff00 || (start6 & 0xffc0) === 0xfe80) return undefined;
  if ((token !== undefined && !isHex(token, 32)) || (subnet6 !== undefined && net?.prefix !== 96))
    return undefined;
  return { address, prefix, mtu, token, subnet6: net && `${written(net.groups)}/96` };
}

export function checkReply(payload: Buffer): void {
  const isRefusal = typeof parsed(payload).refused === "string";
  try {
    const config = decodeReply(payload);
    const { address, prefix, mtu, token, subnet6 } = config;
    assert.deepEqual(
      { address: formatIPv4(address), prefix, mtu, token, subnet6: subnet6 && `${embed(subnet6, 0)}/96` },
      configIn(payload),
    );
    assert.ok(!isRefusal, "no refusal is taken for a session");
    assert.deepEqual(decodeReply(encodeReply(config)), config);
  } catch (error) {
    assert.ok(error instanceof HandshakeError, String(error));
    assert.equal(error instanceof Refused, isRefusal);
    if (isRefusal) assert.match(error.message, /^[ -~]*$/, "it goes to the terminal");
    else assert.equal(configIn(payload), undefined, "it makes sense");
  }
}
