/** Each reason in the source has a code, and each code a reason in the source and a line in the document. */
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { byCode, codeOf, CODES } from "./drops.ts";
import { ROOT } from "../lab/lab.ts";

const SRC = join(ROOT, "src");
const files = readdirSync(SRC, { recursive: true, encoding: "utf8" }).filter(
  (file) => file.endsWith(".ts") && !/^lab|\.test\.ts$|base\/drops\.ts$/.test(file),
);
const read = (file: string) => readFileSync(join(SRC, file), "utf8").replace(/\/\*\*[^]*?\*\//g, "");

/** Files whose functions say why they do not take a packet, by returning a sentence. */
const REFUSING = [
  ...["client.ts", "base/packet.ts", "core/tun.ts", "core/offload.ts", "core/tunnel.ts", "server/clients.ts"],
  ...["transport/segments.ts", "transport/too-big.ts"],
];
/** Files that break a stream over UDP as well, where this costs a datagram. The others are TCP's. */
const BREAKING = ["core/peer.ts", "session/rekey.ts", "session/handshake.ts", "transport/datagram-keys.ts"];

/** Sentences in those files that are no reasons. */
const OTHERS =
  /^(not an IP packet|… fragment at|TCP … …|UDP … …| \(offload: |all inner addresses|it has its … clients)/;

const STRING = /"([^"\n]*)"|`([^`]*)`/g;
const sentences = (text: string) =>
  [...text.matchAll(STRING)]
    .map(([, plain, template]) => plain ?? template!.replace(/\$\{[^}]*\}/g, "…"))
    .filter((sentence) => /[a-z…] [a-z]/.test(sentence) && !OTHERS.test(sentence)); // two words at least

/** The parts of a text in which a reason stands. */
const parts = (file: string, pattern: RegExp) => read(file).match(pattern) ?? [];
const REASONS = new Map<string, string>(
  [
    ...files.flatMap((file) =>
      parts(file, /\bdrop\([^;]*?;|\breason = [^;]*;/g).map((part) => [part, file] as const),
    ),
    ...REFUSING.flatMap((file) =>
      parts(file, /\breturn [^;]*;|=>\n[^;]*;/g).map((part) => [part, file] as const),
    ),
    ...BREAKING.flatMap((file) =>
      parts(file, /(?:HandshakeError|BrokenStream)\([^;]*;/g).map((part) => [part, file] as const),
    ),
  ].flatMap(([part, file]) => sentences(part).map((sentence) => [sentence, file] as const)),
);

test("each reason in the source has a code", () => {
  const without = [...REASONS].filter(([reason]) => codeOf(reason) === "other");
  assert.deepEqual(without, []);
  assert.ok(REASONS.size > 35, `${REASONS.size} reasons found: does this test still see them?`);
});

test("each code has a reason in the source, and a line in draft/status.md", () => {
  assert.deepEqual(
    Object.keys(CODES).filter((reason) => !REASONS.has(reason)),
    [],
  );
  const document = readFileSync(join(ROOT, "draft/status.md"), "utf8");
  const codes = [...new Set(Object.values(CODES))];
  assert.deepEqual(
    codes.filter((code) => !document.includes(`| \`${code}\` |`)),
    [],
  );
  for (const code of codes) assert.match(code, /^[a-z0-9]+(-[a-z0-9]+)*$/);
});

test("a reason with a number, a name or an errno in it has the code of its kind", () => {
  assert.equal(codeOf("tun7 is down (the commands printed at the start set it up)"), "tun-down");
  assert.equal(codeOf("write to vpn+1: ENOMEM"), "tun-error");
  assert.equal(codeOf("handshake message of 3 bytes, expected at least 48"), "rekey-bad-message");
  assert.equal(codeOf("who knows"), "other");
  const drops = byCode([
    ["write to tun0: ENOMEM", 2],
    ["write to tun0: EINTR", 3],
    ["the socket is full", 1],
  ]);
  assert.deepEqual(drops, { "tun-error": 5, "socket-full": 1 });
});
