/**
 * What sockets.ts says to the kernel, byte by byte. Its sockets are tested in the lab, and in loop.test.ts.
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { once } from "node:events";
import { readdirSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { test } from "node:test";
import { EAGAIN } from "../base/errno.ts";
import * as libc from "../base/libc.ts";
import { endpoint, readSockaddr, sockaddr } from "./addresses.ts";
import { resolve } from "../client/names.ts";
import type { Link, Receiver } from "../core/link.ts";
import { until } from "../lab/tests/peers.ts";
import * as calls from "./socket-calls.ts";
import { TcpPort } from "./tcp.ts";
import { acceptTcp } from "./sockets.ts";

test("sockaddr() lays out both families as ip(7) and ipv6(7) say, and readSockaddr() reads them", () => {
  const layouts: Record<string, string> = {
    "192.168.1.1": "0200 15b3 c0a80101 0000000000000000",
    "2001:db8::1": "0a00 15b3 00000000 20010db8000000000000000000000001 00000000",
    "fe80::1%7": "0a00 15b3 00000000 fe800000000000000000000000000001 07000000",
  };
  for (const [address, layout] of Object.entries(layouts)) {
    const bytes = Buffer.from(layout.replace(/ /g, ""), "hex");
    assert.deepEqual(sockaddr(address, 5555), bytes);
    assert.deepEqual(readSockaddr(bytes), [address, 5555]);
  }
  assert.ok(calls.if_nametoindex("lo") > 0);
  assert.equal(sockaddr("fe80::1%lo", 1).readUInt32LE(24), calls.if_nametoindex("lo"));
});

test("readSockaddr() shows an IPv4 client of an IPv6 socket as what it is, and nothing else as such", () => {
  for (const address of ["192.168.1.100", "0.0.1.2", "1.2.0.0"])
    assert.deepEqual(readSockaddr(sockaddr(`::ffff:${address}`, 40312)), [address, 40312]);
  for (const address of ["::ffff:0:102:304", "::102:304"])
    assert.deepEqual(readSockaddr(sockaddr(address, 1)), [address, 1]);
});

test("sockaddr() takes any scope that Node takes; a name that no interface has is 0", () => {
  for (const scope of ["-1", "99999999999", "1.5", "0x10", "1e9", "no-such-dev"])
    assert.equal(sockaddr(`fe80::1%${scope}`, 1).readUInt32LE(24), 0, scope);
  assert.equal(sockaddr("fe80::1%999999999", 1).readUInt32LE(24), 999999999);
});

test("resolve() knows an IPv4 address in IPv6's clothes, whose packets are IPv4", async () => {
  for (const [name, address] of [
    ["::ffff:203.0.113.1", "203.0.113.1"],
    ["[2001:db8::1]", "2001:db8::1"],
    ["fe80::1%eth0", "fe80::1%eth0"],
    ["192.168.1.1", "192.168.1.1"],
  ] as const)
    assert.deepEqual(await resolve(name), [address]);
});

test("endpoint() puts brackets around an IPv6 address", () => {
  assert.deepEqual(
    ["192.168.1.1", "2001:db8::1", "fe80::1%eth0", "*"].map((address) => endpoint(address, 5555)),
    ["192.168.1.1:5555", "[2001:db8::1]:5555", "[fe80::1%eth0]:5555", "*:5555"],
  );
});

test("acceptTcp(): a connection that takes no TCP option is closed, and costs no exception", () => {
  const address = Buffer.from(`\x01\0\0simple-vpn-${process.pid}`); // unix(7): AF_UNIX, an abstract name
  const newSocket = () => calls.socket(1, calls.SOCK_STREAM | calls.SOCK_NONBLOCK, 0);
  const [listener, client] = [newSocket(), newSocket()];
  assert.equal(calls.bind(listener, address, address.length), 0);
  assert.equal(calls.listen(listener, 1), 0);
  assert.equal(calls.connect(client, address, address.length), 0);
  const fds = readdirSync("/proc/self/fd").length;
  assert.equal(acceptTcp(listener), -95 /* EOPNOTSUPP */);
  assert.equal(readdirSync("/proc/self/fd").length, fds);
  assert.equal(acceptTcp(listener), -EAGAIN, "on to the next, if there is one");
  for (const fd of [listener, client]) libc.close(fd);
});

/**
 * For a child process: a seccomp(2) filter, as sandboxes have it. It makes setsockopt(2) of one option fail.
 * Each of its lines is a struct sock_filter (linux/filter.h): code, lines to skip if true, if false, operand.
 */
const SANDBOX = `
  import { Memory, thisProcess } from "./src/base/libc.ts";
  const [LOAD, JUMP_IF_EQUAL, RETURN, ALLOW, FAIL, ENOPROTOOPT] = [0x20, 0x15, 0x06, 0x7fff0000, 0x50000, 92];
  const SETSOCKOPT = process.arch === "arm64" ? 208 : 54; // the number of the system call
  function refuse(option) {
    const lines = [
      [LOAD, 0, 0, 0 /* struct seccomp_data: its number */],
      [JUMP_IF_EQUAL, 0, 3, SETSOCKOPT],
      [LOAD, 0, 0, 32 /* its third argument */],
      [JUMP_IF_EQUAL, 0, 1, option],
      [RETURN, 0, 0, FAIL | ENOPROTOOPT],
      [RETURN, 0, 0, ALLOW],
    ];
    const [filter, program] = [new Memory(8 * lines.length), new Memory(16)];
    lines.forEach(([code, yes, no, operand], i) => {
      filter.bytes.set([code, 0, yes, no], 8 * i);
      filter.bytes.writeUInt32LE(operand, 8 * i + 4);
    });
    program.bytes.fill(0).writeUInt16LE(lines.length); // struct sock_fprog
    program.bytes.writeBigUInt64LE(BigInt(filter.address), 8);
    const prctl = thisProcess.func("int prctl(int, long, long, long, long)");
    const [PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER] = [38, 22, 2];
    for (const args of [[PR_SET_NO_NEW_PRIVS, 1, 0], [PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program.address]])
      if (prctl(...args, 0, 0) !== 0) throw new Error("no sandbox: prctl " + args);
  }`;

test("reach(), listenTcp(): an option that a sandbox refuses is a Failure, and costs no fd", () => {
  const script = `${SANDBOX}
    import { readdirSync } from "node:fs";
    import { reach } from "./src/client/connect.ts";
    import { Failure } from "./src/base/failure.ts";
    import { SO_REUSEADDR, TCP_USER_TIMEOUT } from "./src/transport/socket-calls.ts";
    import { listenTcp } from "./src/transport/sockets.ts";
    import { tcp } from "./src/transport/tcp.ts";
    const fds = () => readdirSync("/proc/self/fd").length;
    async function show(use) {
      const before = fds();
      const error = await use().catch((error) => error);
      // Node may close some of its own
      console.log(error instanceof Failure ? error.message : error, Math.max(0, fds() - before));
    }
    listenTcp("0.0.0.0", 5552);
    refuse(TCP_USER_TIMEOUT);
    await show(async () => reach(tcp.open({ port: 5552, handshake: false }), ["127.0.0.1", "127.0.0.2"]));
    refuse(SO_REUSEADDR);
    await show(async () => listenTcp("127.0.0.1", 5553));`;
  const args = ["--import", "tsx", "--input-type=module", "-e", script];
  const { stdout, stderr } = spawnSync(process.execPath, args, { encoding: "utf8" });
  const [to, on] = stdout.split("\n");
  assert.match(to!, /^Cannot connect to 127\.0\.0\.1:5552: ENOPROTOOPT, nor to 127\.0\.0\.2.*OPT 0$/, stderr);
  assert.equal(on, "Cannot listen on 127.0.0.1:5553: ENOPROTOOPT 0");
});

/** A server's link, and the socket of the client whose link it is. */
async function linkTo(receiver: (link: Link) => Receiver, port: number): Promise<Socket> {
  const server = new TcpPort(port, false, "127.0.0.1");
  const client = connect(port, "127.0.0.1");
  await new Promise<void>((resolve) => {
    server.serve({
      onArrival: () => ({ lost: assert.fail }),
      onHello(caller) {
        caller.attach(undefined, receiver);
        resolve();
      },
      onMissed: assert.fail,
    });
  });
  server.end();
  return client;
}

test("a connection that breaks: what came before is received first, then lost() says why", async () => {
  const events: string[] = [];
  let close = () => {};
  const client = await linkTo((link) => {
    close = () => link.close();
    return {
      received(memory, from, to) {
        events.push(memory.bytes.toString("latin1", from, to));
        return to;
      },
      flush() {},
      sendControl: () => false,
      lost: (reason) => void events.push(reason),
    };
  }, 5990);
  client.write("goodbye");
  client.resetAndDestroy(); // both before the loop looks at the server's socket
  await until(() => events.length > 1);
  assert.deepEqual(events, ["goodbye", "ECONNRESET"]);
  close();
});

test("a receiver that closes its link at once, and one whose first words find no room", async () => {
  const closed: Receiver = {
    received: () => assert.fail(),
    flush: assert.fail,
    lost: assert.fail,
    sendControl: assert.fail,
  };
  const client = await linkTo((link) => (link.close(), closed), 5991);
  await once(client, "close");

  let link: Link | undefined;
  let room = false;
  const waiting: Receiver = {
    received: () => assert.fail(),
    flush: () => (room = true),
    lost() {},
    sendControl: () => false,
  };
  const reader = await linkTo((made) => {
    const bytes = new libc.Memory(1 << 20);
    while (made.send(bytes, 0, 1 << 20) !== -EAGAIN);
    link = made;
    return waiting;
  }, 5992);
  reader.resume();
  await until(() => room);
  link!.close();
  reader.destroy();
});
