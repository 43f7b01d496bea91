/**
 * Lesson 6: AES-256-GCM. What its checks see: the frames on the wire, opened with the lab's secret by other
 * code than the student's, and what becomes of a frame that was changed, or sent twice.
 */
import { createCipheriv, createDecipheriv, hkdfSync } from "node:crypto";
import { LAB_SECRET, SERVER } from "../../lab/lab.ts";
import { type Lesson, Miss, type Stage } from "../check.ts";
import { clear, FAR, first, injected, isConnected, NEAR, pings, Relay } from "../far.ts";
import { startBoth, startClient, THREE } from "../far.ts";

const GIVEN = "what is not marked TODO is lesson 5, solved: take the starter's again";
const ALL = "TODO 1 to 5: nonce(), seal(), unseal(), and their two calls";
const TAG = 16; // bytes
const HERE = "127.0.0.1"; // where the relay listens, on the client's host
const relays = new WeakMap<Stage, Relay>();

const keyOf = (sender: string) =>
  Buffer.from(hkdfSync("sha256", Buffer.from(LAB_SECRET, "hex"), "", sender, 32));

/** The text of a frame; undefined if the tag does not fit. */
function opened(frame: Buffer, number: number, header: Buffer, sender = "client", withTag = true) {
  const nonce = Buffer.alloc(12);
  nonce.writeUInt32BE(number, 8);
  const cipher = createDecipheriv("aes-256-gcm", keyOf(sender), nonce).setAAD(header);
  cipher.setAuthTag(frame.subarray(-TAG));
  const text = cipher.update(frame.subarray(2, -TAG));
  try {
    cipher.final();
    return text;
  } catch {
    return withTag ? undefined : text;
  }
}

/** What is wrong with a sender's frames of pings of 84 bytes; undefined if nothing is. */
function mistake(frames: Buffer[], sender: string): Miss | undefined {
  const other = sender === "client" ? "server" : "client";
  for (const [number, frame] of frames.entries()) {
    const header = frame.subarray(0, 2);
    const miss = (saw: string, hint: string) => new Miss(`frame ${number}: ${first(frame)} …: ${saw}`, hint);
    if (frame[2] === 0x07 && frame[3] === 0x42)
      return miss(
        "the packet is XORed only",
        "TODO 2, in seal(): encrypt the text, and put the tag behind it",
      );
    if (frame.length === 86)
      return miss(
        "84 bytes follow, as many as the packet has: the tag is missing, or does not count",
        "TODO 2: cipher.getAuthTag() stands behind the text; TODO 4: the length is that of both",
      );
    if (frame.length !== 102)
      return miss(
        `${frame.length - 2} bytes follow the length, and 100 are expected`,
        "84 of text, 16 of tag",
      );
    const text = opened(frame, number, header, sender);
    if (text?.[0] === 0x45)
      return miss(
        "the sealed text is not XORed",
        "first xor(), as in lesson 5, then seal(): src/ does so, too",
      );
    if (text) continue;
    if (opened(frame, number, Buffer.alloc(0), sender))
      return miss(
        "it opens without its header: whoever changes the length is not noticed",
        "TODO 2: cipher.setAAD(header), and the header already says what is on the wire",
      );
    if (number > 0 && opened(frame, 0, header, sender))
      return miss(
        `it has the nonce of frame 0: two frames under one nonce give both away`,
        "TODO 1: the number goes up with each frame, key.number++, and has 4 bytes: writeUInt32BE()",
      );
    if (opened(frame, number + 1, header, sender))
      return miss(`it has the nonce ${number + 1}`, "TODO 1: the first frame's number is 0");
    if (opened(frame, number, header, other))
      return miss(
        `it is from the ${sender}, and was sealed with the ${other}'s key`,
        "each end seals with sealer, and opens with opener: see use(), which was given",
      );
    if (opened(frame, number, header, sender, false)?.readUInt32BE(0) === 0x07424216)
      return miss("text and nonce are right, but the tag is not", "TODO 2: getAuthTag(), behind the text");
    return miss(
      `it does not open with the ${sender}'s key and nonce ${number}`,
      "TODO 1: 12 bytes, the number at their end, big-endian; TODO 2: aes-256-gcm, key.bytes, setAAD(header)",
    );
  }
  return undefined;
}

/** A frame without a text, whose tag has lost all but its first 4 bytes. */
function short(): Buffer {
  const header = Buffer.of(0, 4);
  const cipher = createCipheriv("aes-256-gcm", keyOf("client"), Buffer.alloc(12)).setAAD(header);
  cipher.final();
  return Buffer.concat([header, cipher.getAuthTag().subarray(0, 4)]);
}

/** A client: sends these bytes, and says "open" if the server still talks to it a second later. */
const STRANGER = `
  const socket = require("net").connect(5555, "${SERVER}");
  socket.on("error", () => {}).on("close", () => process.exit()).resume();
  socket.write(Buffer.from(process.argv[1], "hex"));
  setTimeout(() => (console.log("open"), process.exit()), 1_000);`;

/** Both ends, with the relay between them. */
async function start(stage: Stage): Promise<Relay> {
  await clear(stage);
  const relay = await Relay.start(stage);
  relays.set(stage, relay);
  await startBoth(stage, GIVEN, HERE);
  return relay;
}

/**
 * Pings once, while `tamper` is at work on the first frame up. Throws unless the server then hangs up, and
 * its kernel has got `most` packets or fewer.
 */
async function attack(
  stage: Stage,
  most: number,
  tamper: (frame: Buffer) => Buffer[],
  saw: string,
  hint: string,
): Promise<void> {
  const relay = relays.get(stage)!;
  const server = stage.programs.find(({ host }) => host === "server")!;
  const before = injected(stage);
  const got = () => injected(stage) - before > most;
  let isDone = false;
  relay.tamper = (frame, way) => {
    if (way === "down" || isDone) return [frame];
    isDone = true;
    return tamper(frame);
  };
  const ping = stage.run("client", `ping -c 1 -W 0.5 ${FAR}`);
  const open = new Miss(
    `${saw}, and the connection goes on`,
    "TODO 5: hangUp(), and return: no later frame would open",
  );
  await stage.until(
    () => got() || !isConnected(server),
    () => open,
  );
  if (got())
    throw new Miss(`${saw}, and the server's kernel got ${most === 0 ? "the packet" : "both"}`, hint);
  await ping;
}

export const lesson: Lesson = {
  file: "6-aes",
  title: "AES-256-GCM",
  about: [
    "Nobody on the way can read a packet any more, and nobody can change one:",
    "each frame is encrypted, and has a tag that only someone with the key can make.",
  ],
  write: [
    "nonce(): a number that never comes twice",
    "seal(): encrypt, and append the tag",
    "unseal(): compare the tag, decrypt",
    "onPacket(): the length counts the tag; seal the packet",
    "onStream(): unseal the body; refuse a frame that was changed",
  ],
  read: ["walkthrough.md, What AES-256-GCM adds", "nodejs.org/api/crypto.html"],
  crashes: [
    [
      /the connection is over\s*$/,
      "the server has hung up: a frame did not open there. TODO 3: its tag, setAAD(header), nonce(key); " +
        "what the client seals with, the server opens with",
    ],
    [/Invalid initialization vector/, "TODO 1: the nonce of GCM has 12 bytes"],
    [/Invalid authentication tag length/, "TODO 3: the tag is the last 16 bytes; a shorter body has none"],
    [
      /unable to authenticate/,
      "TODO 3: final() throws when the tag is wrong: catch that, and return undefined",
    ],
  ],
  checks: [
    {
      name: "what goes out is sealed",
      async run(stage) {
        const relay = await start(stage);
        const ping = stage.run("client", `ping -c 2 -i 0.1 -W 1 ${FAR}`);
        const hint = "TODO 4, in onPacket(): seal the packet, and write the frame as before";
        await stage.until(
          () => relay.frames.up.length >= 2 || (relay.frames.up[0] && mistake(relay.frames.up, "client")),
          () => new Miss(`ping ${FAR} went into tun0, and ${relay.frames.up.length} frames came out`, hint),
        );
        const wrong = mistake(relay.frames.up, "client");
        if (wrong) throw wrong;
        await ping;
        return `the other end's code opens it: ${first(relay.frames.up[0]!)} …`;
      },
    },
    {
      name: "what comes in is opened",
      run: (stage) => pings(stage, FAR, THREE, (saw) => new Miss(saw, ALL)),
    },
    {
      name: "300 frames, and no nonce comes twice",
      async run(stage) {
        const { frames } = relays.get(stage)!;
        const miss = (saw: string) => new Miss(saw, "TODO 1 and 3: both ends count, each frame once");
        for (let i = 0; i < 6; i++) await pings(stage, FAR, "-c 50 -l 50", miss);
        const wrong = mistake(frames.up, "client") ?? mistake(frames.down, "server");
        if (wrong) throw wrong;
        return `${frames.up.length} up, ${frames.down.length} down`;
      },
    },
    {
      name: "a flipped bit is refused",
      async run(stage) {
        const hint =
          "TODO 3 and 5: setAuthTag(), and final() compares; what does not fit is not written to tun0";
        const flip = (frame: Buffer) => {
          frame[2 + 28 + 20]! ^= 1; // in the data of the ping
          return [frame];
        };
        await attack(stage, 0, flip, "one bit was flipped on the way", hint);
        return "one bit was flipped on the way, no packet came out of it, and the server hung up";
      },
    },
    {
      name: "and the server goes on",
      async run(stage) {
        const [client] = stage.programs.filter(({ host }) => host === "client");
        await stage.end(client!);
        const said = await stage.run("client", [process.execPath, "-e", STRANGER, short().toString("hex")]);
        if (/open/.test(said))
          throw new Miss(
            "a tag of 4 bytes was taken: one of 4 billion guesses is right",
            'TODO 3: createDecipheriv("aes-256-gcm", …, { authTagLength: TAG }) takes 16 bytes only',
          );
        const hint = "TODO 5: hangUp() ends this connection, not the program: others may come";
        await stage.tun(await startClient(stage, hint, HERE), hint);
        await stage.configure("client", `${NEAR}/24`);
        const miss = (saw: string) =>
          new Miss(`a new client: ${saw}`, "each connection counts from 0 again: use()");
        return pings(stage, FAR, THREE, miss);
      },
    },
    {
      name: "a frame that comes twice is refused",
      async run(stage) {
        const hint =
          "TODO 3: unseal() counts, too: the second one has the next number, and its tag does not fit";
        await attack(stage, 1, (frame) => [frame, frame], "a frame was sent twice on the way", hint);
        return "the second one has another number, and its tag does not fit";
      },
    },
  ],
};
