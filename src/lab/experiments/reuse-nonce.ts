/**
 * Why a key must never meet the same nonce twice. Shown on a copy outside the tunnel: aes.ts only ever counts
 * its nonces up. No lab is needed.
 */
import { createCipheriv, randomBytes } from "node:crypto";
import { parseIPv4 } from "../../base/address.ts";
import { describe } from "../../base/packet.ts";
import { heading, hex, measured, note } from "./stage.ts";

export const shows = "two packets under one nonce: who knows the first can read the second";

export async function run(): Promise<string> {
  heading("1. Two packets, one key, one nonce: what must never happen");
  const known = datagram("10.8.0.2", "8.8.8.8", "GET /index.html: everyone knows this page");
  const secret = datagram("10.8.0.2", "203.0.113.8", "my password is correct horse battery, ok?");
  const key = randomBytes(32);
  const nonce = Buffer.alloc(12);
  const first = seal(key, nonce, known);
  const second = seal(key, nonce, secret);
  note(`first  packet sealed, from its destination on: ${hex(first.subarray(16))}`);
  note(`second packet sealed, likewise:                ${hex(second.subarray(16))}`);

  heading("2. The eavesdropper has no key, only the two ciphertexts");
  const difference = xorOf(first, second);
  note(`ciphertext 1 ^ ciphertext 2: ${hex(difference.subarray(16))}`);
  note(`packet 1     ^ packet 2:     ${hex(xorOf(known, secret).subarray(16))}`);
  measured(
    difference.equals(xorOf(known, secret)),
    `the key stream cancelled out: all ${difference.length} bytes are the same`,
  );

  heading("3. They know the first packet, and so the second");
  const recovered = xorOf(difference, known);
  note(
    `${hex(recovered)}\n${describe(recovered, 0, recovered.length)}: "${recovered.toString("latin1", 28)}"`,
  );
  measured(
    recovered.equals(secret),
    `the second packet recovered whole, ${recovered.length} bytes, without the key`,
  );

  heading("4. The same with a nonce of its own for each packet, as aes.ts does it");
  nonce.writeUInt32BE(1, 8);
  const third = seal(key, nonce, secret);
  const attempt = xorOf(xorOf(first, third), known);
  note(`${hex(attempt)}  ${describe(attempt, 0, attempt.length)}`);
  const hits = attempt.filter((byte, i) => byte === secret[i]).length;
  measured(
    hits < secret.length / 4,
    `the same attack now gets ${hits} of ${secret.length} bytes right, as guessing would`,
  );

  return `GCM is a key stream XORed over the packet, and the stream depends on nothing but key and nonce.
Use a nonce twice and the stream cancels out: one known packet opens the other. Tags can be forged, too.
That is why aes.ts counts every frame, and refuses to go on when the counter ends. It is also why each
session has fresh keys: a restarted program begins at nonce 0 again.`;
}

/** AES-256-GCM as in aes.ts, without the tag, which plays no part here. */
function seal(key: Buffer, nonce: Buffer, packet: Buffer): Buffer {
  const cipher = createCipheriv("aes-256-gcm", key, nonce);
  return Buffer.concat([cipher.update(packet), cipher.final()]);
}

const xorOf = (a: Buffer, b: Buffer) => Buffer.from(a.map((byte, i) => byte ^ b[i]!));

/** An IPv4 UDP packet; checksums are left at 0. */
function datagram(source: string, destination: string, words: string): Buffer {
  const packet = Buffer.concat([Buffer.alloc(28), Buffer.from(words)]);
  packet.writeUInt16BE(0x4500, 0);
  packet.writeUInt16BE(packet.length, 2);
  packet.writeUInt16BE((64 << 8) | 17, 8); // TTL, UDP
  packet.writeUInt32BE(parseIPv4(source)!, 12);
  packet.writeUInt32BE(parseIPv4(destination)!, 16);
  packet.writeUInt16BE(40000, 20);
  packet.writeUInt16BE(80, 22);
  packet.writeUInt16BE(8 + words.length, 24);
  return packet;
}
