/** What the server lets a client send, and to whom it gives a packet, with socket pairs in place of TCP and TUN. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Clients } from "./clients.ts";
import { FrameType } from "./frame.ts";
import { close, Memory, read, write } from "./libc.ts";
import { serverOptions } from "./options.ts";
import { seal, SOCK_SEQPACKET, socketPair } from "./testing.ts";
import { UP, DOWN } from "./trace.ts";
import { inbound, Peer } from "./tunnel.ts";

test("--cipher xor: the first packet from a client's address makes it the client's own; 0.0.0.0 is nobody's, before and after", async (t) => {
  const [tunFd, kernel] = socketPair(SOCK_SEQPACKET);
  const [near, far] = socketPair();
  const tun = { fd: tunFd, name: "tun0", header: 0 };
  const clients = new Clients(serverOptions(["--cipher", "xor"]), tun, socketPair()[0]);
  t.after(() => {
    clients.end();
    for (const fd of [tunFd, kernel, far]) close(fd);
  });
  await clients["serve"]({ fd: near, address: "192.168.1.100", remote: "192.168.1.100:40000" });
  const peer = [...clients["peers"]][0]!;
  const sender = new Peer({ fd: far, address: "", remote: "" }, UP, DOWN);
  const passes = (source: string) => {
    const frame = seal(sender, FrameType.data, Buffer.from(`450000144000400040010000${source}08080808`, "hex"));
    const memory = new Memory(64);
    frame.copy(memory.bytes);
    write(far, memory, 0, frame.length);
    inbound(peer, tun);
    return read(kernel, memory, 0, 64) > 0;
  };
  assert.deepEqual(["00000000", "0a080001", "0a080007", "0a080002", "00000000", "0a080007"].map(passes), [false, false, true, false, false, true]);
  assert.equal(clients.router.clientAt(0x0a080007), peer);
});
