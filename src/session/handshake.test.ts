import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { test } from "node:test";
import { Cipher } from "../core/aes.ts";
import { Handshake, HandshakeError } from "./handshake.ts";
import { decodeReply, decodeWish, encodeReply, encodeWish } from "./payloads.ts";
import { Memory } from "../base/libc.ts";
import { KeyPair } from "./primitives.ts";
import { answer, ClientHandshake } from "./session.ts";

// Noise_NNpsk0_25519_AESGCM_SHA256, one of the published Noise test vectors (in cacophony's format)
const VECTOR = {
  prologue: "4a6f686e2047616c74",
  psk: "54686973206973206d7920417573747269616e20706572737065637469766521",
  clientEphemeral: "893e28b9dc6ca8d611ab664754b8ceb7bac5117349a4439a6b0569da977c464a",
  serverEphemeral: "bbdb4cdbd309f1a1f2e1456967fe288cadd6f712d65dc7b7793d5e63da6b375b",
  messages: [
    [
      "4c756477696720766f6e204d69736573",
      "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c7944" + // the ephemeral public key
        "7c37a89fc17813788d30df2d59501d6066f5f8aecc3406bbd9829f2d24a531b1", // what is sealed
    ],
    [
      "4d757272617920526f746862617264",
      "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f144808843" +
        "2f29d79368ef9de4e1ae7a362fb05bf0ad668e026bf5714554497b3a720461",
    ],
  ],
  transport: [
    ["462e20412e20486179656b", "7c01e898a6201f36aecee532e29cd0b7f8ffa29d3366ad0dce39a6"],
    ["4361726c204d656e676572", "a9ff535aace3db6a1da1a7fb00fe2de2622bb373abad9fb42c00e0"],
    [
      "4a65616e2d426170746973746520536179",
      "6cfc49a3e65472edc2d0152abe5ce950170a8a47c959f30bd48b5f0aacf29adbfd",
    ],
    [
      "457567656e2042f6686d20766f6e2042617765726b",
      "9bc86e6d974ed21ba04604a94aa68de21677eb409ead070c0cd569b069ee19ba142aa4c1a9",
    ],
  ],
};
const hex = (text: string) => Buffer.from(text, "hex");

test("Handshake and Cipher reproduce the published Noise vector, message by message", () => {
  const side = (name: "client" | "server", ephemeral: string) =>
    new Handshake(name, hex(VECTOR.psk), hex(VECTOR.prologue), new KeyPair(hex(ephemeral)));
  const client = side("client", VECTOR.clientEphemeral);
  const server = side("server", VECTOR.serverEphemeral);
  const [[payload1, message1], [payload2, message2]] = VECTOR.messages as [
    [string, string],
    [string, string],
  ];
  assert.equal(client.write(hex(payload1)).toString("hex"), message1);
  assert.equal(server.read(hex(message1)).toString("hex"), payload1);
  assert.equal(server.write(hex(payload2)).toString("hex"), message2);
  assert.equal(client.read(hex(message2)).toString("hex"), payload2);

  const [clientKeys, serverKeys] = [client.split(), server.split()];
  assert.deepEqual([clientKeys.send, clientKeys.receive], [serverKeys.receive, serverKeys.send]);
  const ciphers = [new Cipher(clientKeys.send, "seal"), new Cipher(serverKeys.send, "seal")];
  VECTOR.transport.forEach(([plain, sealed], i) => {
    const memory = new Memory(64);
    const text = hex(plain!);
    text.copy(memory.bytes);
    ciphers[i % 2]!.seal(memory, 0, text.length, 0);
    assert.equal(memory.bytes.toString("hex", 0, text.length + 16), sealed);
  });
});

test("read() refuses a message made with another secret, and one with any byte changed", () => {
  const secret = randomBytes(32);
  const message = new Handshake("client", secret).write(Buffer.alloc(0));
  assert.throws(() => new Handshake("server", randomBytes(32)).read(message), HandshakeError);
  for (let i = 0; i < message.length; i++) {
    const changed = Buffer.from(message);
    changed[i]! ^= 1;
    assert.throws(() => new Handshake("server", secret).read(changed), HandshakeError, `byte ${i}`);
  }
  assert.throws(() => new Handshake("server", secret).read(message.subarray(0, 47)), HandshakeError);
});

test("read() refuses a reply that belongs to another handshake", () => {
  const secret = randomBytes(32);
  const [first, second] = [new Handshake("client", secret), new Handshake("client", secret)];
  const server = new Handshake("server", secret);
  server.read(first.write(Buffer.alloc(0)));
  second.write(Buffer.alloc(0));
  assert.throws(() => second.read(server.write(Buffer.alloc(0))), HandshakeError);
});

test("a public key of low order is refused: with it, the shared secret would be zero for everyone", () => {
  const secret = randomBytes(32);
  const server = new Handshake("server", secret);
  server.read(new Handshake("client", secret).write(Buffer.alloc(0)));
  Object.assign(server, { theirs: Buffer.alloc(32) }); // what someone who knows the secret could have sent
  assert.throws(() => server.write(Buffer.alloc(0)), HandshakeError);
});

test("two handshakes with one secret give different keys", () => {
  const secret = randomBytes(32);
  const keys = [0, 1].map(() => {
    const [client, server] = [new Handshake("client", secret), new Handshake("server", secret)];
    server.read(client.write(Buffer.alloc(0)));
    client.read(server.write(Buffer.alloc(0)));
    return client.split().send.toString("hex");
  });
  assert.notEqual(keys[0], keys[1]);
});

test("answer() makes key pairs until one is free, and the client gets the same keys", () => {
  const secret = randomBytes(32);
  const client = new ClientHandshake(secret);
  const tried: string[] = [];
  const isFree = (publicKey: Buffer) => tried.push(publicKey.toString("hex")) === 3;
  const config = { address: 0x0a080002, prefix: 24, mtu: 1400 };
  const { message2, keys } = answer(
    [secret],
    client.message1,
    () => true,
    () => config,
    isFree,
  );
  assert.equal(new Set(tried).size, 3);
  assert.equal(message2!.toString("hex", 0, 32), tried[2]);
  assert.ok(client.isGood(message2!));
  assert.deepEqual(client.finish(message2!, "the server").keys.send, keys!.receive);
});

test("thousands of handshakes end while memory is collected: Node waits for no lock of its own", () => {
  const script = `
    import { Handshake } from "./src/session/handshake.ts";
    const [secret, nothing] = [Buffer.alloc(32), Buffer.alloc(0)];
    for (let i = 0; i < 4000; i++) {
      const [client, server] = [new Handshake("client", secret), new Handshake("server", secret)];
      server.read(client.write(nothing));
      client.read(server.write(nothing));
    }
    console.log("done");`;
  const args = ["--max-semi-space-size=1", "--import", "tsx", "--input-type=module", "-e", script];
  const { stdout, stderr } = spawnSync(process.execPath, args, {
    cwd: new URL("../..", import.meta.url),
    encoding: "utf8",
    timeout: 120_000, // it takes some seconds, or for ever
    killSignal: "SIGKILL",
  });
  assert.equal(stdout, "done\n", `it hung, or failed: ${stderr}`);
});

test("decodeReply() gives back what encodeReply() was given", () => {
  const config = { address: 0x0a080002, prefix: 24, mtu: 1400 };
  assert.deepEqual(decodeReply(encodeReply(config)), config);
  const config6 = { ...config, subnet6: [0xfd56504e, 0, 0] as const };
  assert.deepEqual(decodeReply(encodeReply(config6)), config6);
  assert.match(encodeReply(config6).toString(), /"subnet6":"fd56:504e::\/96"/);
  const withToken = { ...config, token: "0123456789abcdef".repeat(2) };
  assert.deepEqual(decodeReply(encodeReply(withToken)), withToken);
  assert.throws(
    () => decodeReply(encodeReply({ refused: "all inner addresses are taken" })),
    /all inner addresses are taken/,
  );
  assert.throws(() => decodeReply(encodeReply({ refused: "" })), /it refuses, and does not say why/);
});

test("decodeReply() refuses what makes no sense: these values go into commands", () => {
  const good = { address: "10.8.0.2", prefix: 24, mtu: 1400 };
  const bad: unknown[] = [
    "",
    "no json",
    "null",
    "[]",
    "5",
    { ...good, address: "10.8.0.2; reboot" },
    { ...good, address: 5 },
    { prefix: 24, mtu: 1400 },
    { ...good, prefix: 33 },
    { ...good, prefix: "24" },
    { ...good, mtu: 67 },
    { ...good, mtu: 1e9 },
    { ...good, mtu: 1400.5 },
    { ...good, address: { toString: 1 } },
    { ...good, subnet6: "fd56:504e::/64" },
    { ...good, subnet6: "fd56:504e::/96; reboot" },
    { ...good, subnet6: 96 },
    { ...good, token: 5 },
    { ...good, token: "AB".repeat(16) },
    { ...good, token: "ab".repeat(17) },
    // nobody's: 0/8, 127/8, 224/3, the ends of the subnet; loopback, mapped, link-local, multicast
    ...["0.8.0.2", "127.0.0.2", "169.254.169.253", "224.0.0.2", "240.0.0.2", "255.255.255.254"].map(
      (address) => ({
        ...good,
        address,
      }),
    ),
    ...["10.8.0.0", "10.8.0.255"].map((address) => ({ ...good, address })),
    { ...good, address: "10.8.0.4", prefix: 30 },
    { ...good, address: "10.8.0.7", prefix: 30 },
    ...["::/96", "::ffff:0:0/96", "fe80::/96", "febf::/96", "ff02::/96"].map((subnet6) => ({
      ...good,
      subnet6,
    })),
  ];
  for (const reply of bad) {
    assert.throws(
      () => decodeReply(Buffer.from(typeof reply === "string" ? reply : JSON.stringify(reply))),
      HandshakeError,
      JSON.stringify(reply),
    );
  }
});

test("decodeWish() gives back what encodeWish() was given; nothing, from a client without a wish", () => {
  const wish = { address: 0x0a080002, proof: "0123456789abcdef".repeat(4) };
  assert.deepEqual(decodeWish(encodeWish(wish)), wish);
  assert.deepEqual(decodeWish(encodeWish({ address: 0x0a080002 })), { address: 0x0a080002 });
  assert.equal(encodeWish({}).length, 0, "as clients of before sent it");
  assert.deepEqual(decodeWish(Buffer.alloc(0)), {});
});

test("decodeWish() refuses what makes no sense", () => {
  const good = { address: "10.8.0.2", proof: "ab".repeat(32) };
  const bad: unknown[] = [
    "no json",
    "null",
    "[]",
    "5",
    {},
    { proof: good.proof },
    { ...good, address: "10.8.0.300" },
    { ...good, address: 5 },
    { ...good, proof: "" },
    { ...good, proof: null },
    { ...good, proof: ["ab"] },
    { ...good, proof: "ab".repeat(16) },
  ];
  for (const wish of bad)
    assert.throws(
      () => decodeWish(Buffer.from(typeof wish === "string" ? wish : JSON.stringify(wish))),
      HandshakeError,
      JSON.stringify(wish),
    );
});
