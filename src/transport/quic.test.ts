/** Two ends over loopback, some with a relay between them. The session on top is tested in the lab. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { createSocket, type Socket } from "node:dgram";
import { once } from "node:events";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { ECONNREFUSED, ETIMEDOUT } from "../base/errno.ts";
import { Memory, thisProcess } from "../base/libc.ts";
import type { Link, Receiver } from "../core/link.ts";
import { hasQuic } from "../host/options.ts";
import { newFolder } from "../lab/tests/folder.ts";
import { random, SEED, until } from "../lab/tests/peers.ts";
import { type QuicLink, QuicPort } from "./quic.ts";
import { openssl } from "./quic-tls.ts";
import { type Answer, Unreachable } from "./transport.ts";

const SECRET: Buffer = randomBytes(32);
const OTHER: Buffer = randomBytes(32);
const [ONE, TWO] = [Buffer.from("message one"), Buffer.from("message two")];
const IDLE = 1_000; // ms
const NEGOTIATED_GROUP = 134; // SSL_CTRL_GET_NEGOTIATED_GROUP (openssl/ssl.h)
const X25519MLKEM768 = 0x11ec; // IANA, TLS supported groups
const skip = !hasQuic() && `Node ${process.version} has OpenSSL ${process.versions.openssl}; QUIC needs 3.5`;
const quicTest = (name: string, run: () => Promise<void>) => test(name, { skip, timeout: 30_000 }, run);

/** One end of a connection: it keeps what comes, and why it was over. */
class End implements Receiver {
  readonly link: Link;
  readonly came: Buffer[] = [];
  reason: string | undefined;
  deaf = false; // takes nothing
  private waiting = Buffer.alloc(0);

  constructor(link: Link) {
    this.link = link;
  }
  received({ bytes }: Memory, from: number, to: number): number {
    this.came.push(Buffer.from(bytes.subarray(from, to)));
    return to;
  }
  lost(reason: string): void {
    this.reason = reason;
    this.link.close();
  }
  sendControl(): boolean {
    return false;
  }
  send(bytes: Buffer): void {
    this.waiting = Buffer.concat([this.waiting, bytes]);
    this.flush();
  }
  flush(): void {
    const memory = new Memory(Math.ceil(this.waiting.length / 4) * 4 + 4);
    this.waiting.copy(memory.bytes);
    let at = 0;
    for (let count = 0; at < this.waiting.length; at += count) {
      count = this.link.send(memory, at, this.waiting.length);
      if (count < 0) break;
    }
    this.waiting = this.waiting.subarray(at);
  }
  get bytes(): Buffer {
    return Buffer.concat(this.came);
  }
}

/** A server, which answers TWO to ONE, and what it has seen. */
function serve(port: number, secrets = [SECRET]) {
  const server = new QuicPort(port, secrets, "127.0.0.1", IDLE);
  const seen = {
    ends: [] as End[],
    arrived: [] as string[],
    lost: [] as string[],
    makeRoom: [] as (() => void)[],
    server,
  };
  server.serve({
    onArrival(address, remote, end, isProven) {
      assert.deepEqual([address, isProven], ["127.0.0.1", false]);
      seen.arrived.push(remote);
      seen.makeRoom.push(end);
      return { lost: (reason) => void seen.lost.push(reason) };
    },
    onHello(caller, message1) {
      assert.deepEqual(message1, ONE);
      assert.ok(seen.arrived.includes(caller.remote));
      seen.ends.push(caller.attach(TWO, (link) => new End(link)));
    },
    onMissed: assert.fail,
  });
  return seen;
}

const dial = (port: number, secrets = [SECRET], ms = 5_000): Promise<Answer> =>
  new QuicPort(port, secrets, undefined, IDLE).dial("127.0.0.1", ms, ONE);

async function connect(port: number, secrets?: Buffer[]): Promise<End> {
  const answer = await dial(port, secrets);
  assert.deepEqual(answer.message2, TWO);
  return answer.attach((link) => new End(link));
}

quicTest("bytes go both ways; last words arrive before the end; the port is free again", async () => {
  for (let i = 0; i < 3; i++) {
    const { ends, server } = serve(5980);
    const client = await connect(5980);
    client.send(Buffer.from("up"));
    ends[0]!.send(Buffer.from("down"));
    await until(() => ends[0]!.came.length > 0 && client.came.length > 0);
    assert.deepEqual([`${ends[0]!.bytes}`, `${client.bytes}`], ["up", "down"]);
    const link = client.link as QuicLink;
    assert.equal(openssl().SSL_ctrl(link.ssl, NEGOTIATED_GROUP, 0, 0) & 0xffff, X25519MLKEM768);
    assert.match(ends[0]!.link.remote, /^127\.0\.0\.1:\d+$/);
    const [first, last] = i % 2 ? [client, ends[0]!] : [ends[0]!, client];
    first.send(Buffer.from(", goodbye"));
    first.link.close();
    server.end();
    await until(() => last.reason !== undefined);
    assert.match(`${last.bytes}`, /, goodbye$/);
    assert.match(last.reason!, /closed without a goodbye/);
    await until(() => server["listener"]!["ended"]);
  }
});

quicTest(
  "much more than OpenSSL holds, both ways at once: all of it arrives, and the rest waits",
  async () => {
    const { ends, server } = serve(5981);
    const client = await connect(5981);
    const hash = (bytes: Buffer) => createHash("sha256").update(bytes).digest("hex");
    const all = [randomBytes(8 << 20), randomBytes(8 << 20)] as const;
    client.send(all[0]);
    ends[0]!.send(all[1]);
    const sum = ({ came }: End) => came.reduce((total, { length }) => total + length, 0);
    assert.ok(client["waiting"].length > 4 << 20, "it takes no more than a slow network can carry");
    await until(() => sum(ends[0]!) + sum(client) >= 16 << 20, 20_000);
    assert.deepEqual([hash(ends[0]!.bytes), hash(client.bytes)], all.map(hash));
    client.link.close();
    server.end();
  },
);

quicTest("another secret is refused on both ends; of several, the server's is found", async () => {
  const { lost, ends, server } = serve(5982);
  assert.equal((await dial(5982, [OTHER])).message2.length, 0);
  await until(() => lost.length > 0);
  assert.match(lost[0]!, /made with another secret/);
  const client = await connect(5982, [OTHER, SECRET]);
  client.send(ONE);
  await until(() => ends[0]!.came.length > 0);
  client.link.close();
  server.end();
});

quicTest("a server with a certificate, which has not our secret, is refused, and told so", async () => {
  const folder = newFolder();
  const [key, certificate] = ["key.pem", "certificate.pem"].map((name) => join(folder, name));
  const request = `req -x509 -newkey rsa:2048 -nodes -subj /CN=vpn -keyout ${key} -out ${certificate}`;
  assert.equal(spawnSync("openssl", request.split(" ")).status, 0);
  const { lost, ends, server } = serve(5983, [OTHER]);
  const use = (what: string, path: string) =>
    thisProcess.func(`int SSL_CTX_use_${what}_file(uintptr_t ctx, const char *path, int type)`)(
      server["contexts"][0]!.address,
      path,
      1, // PEM
    );
  assert.deepEqual([use("certificate", certificate!), use("PrivateKey", key!)], [1, 1]);
  assert.equal((await dial(5983)).message2.length, 0);
  await until(() => lost.length > 0);
  assert.match(lost[0]!, /made with another secret/);
  assert.equal(ends.length, 0);
  server.end();
});

quicTest("nobody listens: told at once; nobody answers: after the time given", async () => {
  const fails = (errno: number) => (error: unknown) => {
    assert.ok(error instanceof Unreachable);
    assert.equal(error.errno, -errno);
    return true;
  };
  await assert.rejects(dial(5984), fails(ECONNREFUSED));
  const mute = await bound(5984);
  await assert.rejects(dial(5984, [SECRET], 300), fails(ETIMEDOUT));
  mute.close();
});

quicTest("200 clients on one listener, each with its own bytes; none leaves an fd behind", async () => {
  const fds = () => readdirSync("/proc/self/fd").length;
  const { ends, server } = serve(5985);
  const before = fds();
  const clients = await Promise.all(Array.from({ length: 200 }, () => connect(5985)));
  clients.forEach((client, i) => client.send(Buffer.from(`I am ${i}`)));
  await until(() => ends.length === 200 && ends.every(({ came }) => came.length > 0), 20_000);
  for (const end of ends) end.send(Buffer.from(`you are ${`${end.bytes}`.slice(5)}`));
  await until(() => clients.every(({ came }) => came.length > 0), 20_000);
  clients.forEach((client, i) => assert.equal(`${client.bytes}`, `you are ${i}`));
  for (const client of clients) client.link.close();
  await until(() => ends.every(({ reason }) => reason !== undefined) && fds() <= before, 20_000);
  server.end();
});

async function bound(port: number): Promise<Socket> {
  const socket = createSocket("udp4").bind(port, "127.0.0.1");
  await once(socket, "listening");
  return socket;
}

/** What stands between a client and its server. `up`: for a datagram of the client's; false: it is lost. */
async function relay(port: number, to: number, pass = (_way: "up" | "down") => true) {
  let client = 0;
  const back = (from: Socket) =>
    from.on("message", (data) => pass("down") && near.send(data, client, "127.0.0.1"));
  let far = back(createSocket("udp4"));
  const near = await bound(port);
  near.on("message", (data, from) => {
    client = from.port;
    if (pass("up")) far.send(data, to, "127.0.0.1");
  });
  return {
    /** As a router does that has forgotten the connection: it comes from another port. */
    move() {
      far.close();
      far = back(createSocket("udp4"));
    },
    close: () => (near.close(), far.close()),
  };
}

quicTest(`one in 20 is lost: all arrives (seed ${SEED})`, async () => {
  const below = random(SEED);
  const { ends, server } = serve(5986);
  const lossy = await relay(5987, 5986, () => below(20) > 0);
  const client = await connect(5987);
  const sent = randomBytes(200_000);
  client.send(sent);
  await until(() => ends[0]!.bytes.length === sent.length, 20_000);
  assert.ok(ends[0]!.bytes.equals(sent));
  client.link.close();
  server.end();
  lossy.close();
});

quicTest(
  "who is silent stays connected; who has vanished, or has moved, is given up by both ends",
  async () => {
    const { ends, server } = serve(5988);
    const silent = await connect(5988);
    let isCut = false;
    const cut = await relay(5989, 5988, () => !isCut);
    const vanishing = await connect(5989);
    isCut = true;
    const router = await relay(5990, 5988);
    const moving = await connect(5990);
    router.move();
    moving.send(Buffer.from("from another address"));
    await until(
      () => [...ends.slice(1), vanishing, moving].every(({ reason }) => reason !== undefined),
      10_000,
    );
    for (const { reason } of [...ends.slice(1), vanishing, moving])
      assert.match(reason!, /nothing comes from it any more/);
    assert.equal(ends[2]!.came.length, 0);
    assert.deepEqual([silent.reason, ends[0]!.reason], [undefined, undefined]);
    silent.send(ONE);
    await until(() => ends[0]!.came.length > 0);
    silent.link.close();
    server.end();
    cut.close();
    router.close();
  },
);

quicTest(`datagrams that are no QUIC harm nobody (seed ${SEED})`, async () => {
  const below = random(SEED);
  const seen = serve(5991);
  const { ends, lost, arrived, server } = seen;
  const client = await connect(5991);
  const socket = createSocket("udp4");
  for (let i = 0; i < 500; i++) {
    const data = randomBytes(1 + below(1400));
    data[0] = i % 2 ? 0xc0 | below(16) : below(256); // a first datagram, or any
    if (i % 4 === 1 && data.length > 5) data.writeUInt32BE(1, 1); // of the right version
    socket.send(data, 5991, "127.0.0.1");
  }
  client.send(ONE);
  await until(() => ends[0]!.came.length > 0 && arrived.length > 1 && lost.length > 0);
  (await connect(5991)).link.close();
  seen.makeRoom.forEach((end) => end());
  await until(() => lost.length >= arrived.length - 2); // each is told of, but for the two clients
  assert.equal(lost.length, arrived.length - 2);
  socket.close();
  client.link.close();
  server.end();
});
