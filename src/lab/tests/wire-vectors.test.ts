/** draft/wire.md is the protocol for others: what it shows must be what the programs do. */
import assert from "node:assert/strict";
import { createSocket } from "node:dgram";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { first, udpVectors, vectors } from "../docs/vectors.ts";
import { ROOT } from "../lab.ts";
import { UdpPort } from "../../transport/udp.ts";

test("the vectors of draft/wire.md are those of this program", () => {
  const document = readFileSync(join(ROOT, "draft/wire.md"), "utf8");
  for (const text of [vectors(), udpVectors()])
    assert.ok(document.includes(`\`\`\`\n${text}\n\`\`\`\n`), "node --import tsx src/lab/docs/vectors.ts");
});

test("over UDP, message 1 and its answers are as in the vectors; a forged one changes nothing", async () => {
  const server = createSocket("udp4");
  await new Promise<void>((resolve) => server.bind(0, "127.0.0.1", resolve));
  const questions: Buffer[] = [];
  const message2 = Buffer.from("message 2, as it were");
  const cookie = Buffer.alloc(16, 7);
  server.on("message", (question, { port }) => {
    questions.push(question);
    const index = question.subarray(20, 24);
    const answer = first(4, index, message2);
    const padded = Buffer.concat([answer, Buffer.alloc(question.length - answer.length)]);
    const forged = first(4, index, Buffer.from("a forged one"));
    server.send(forged, port);
    server.send(questions.length === 1 ? first(5, index, cookie) : padded, port);
  });
  const message1 = Buffer.from("message 1, as it were");
  const answer = await new UdpPort(server.address().port).dial("127.0.0.1", 5000, message1, (one) =>
    one.equals(message2),
  );
  assert.deepEqual(answer.message2, message2);
  answer.hangUp();
  server.close();
  assert.equal(questions.length, 2, "the cookie was sent back at once");
  for (const [i, question] of questions.entries()) {
    const expected = first(1, i === 0 ? Buffer.alloc(16) : cookie, message1);
    assert.deepEqual(question.subarray(0, expected.length), expected);
    assert.ok(question.subarray(expected.length).every((byte) => byte === 0));
    assert.ok(question.length >= 508);
  }
});
