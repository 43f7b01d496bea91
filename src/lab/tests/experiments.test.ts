/**
 * The experiments, as `make experiment` runs them: each must end with 0, and have measured what it is there
 * to show.
 */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { test } from "node:test";
import { ROOT, spawned } from "../lab.ts";
import { Running } from "../running.ts";
import { labTest } from "./testing.ts";

const run = (...args: string[]) =>
  new Running(spawn(...spawned("lab/experiments/run", ...args), { cwd: ROOT }));

/** Runs one experiment; every pattern must be found in what it printed. */
async function shows(name: string, ...patterns: RegExp[]): Promise<void> {
  const experiment = run(name);
  assert.equal(await experiment.ended, 0, experiment.output);
  for (const pattern of [...patterns, /What you just learned.*\n(.+\n){2}/])
    assert.match(experiment.output, pattern);
}

labTest("break-xor recovers the key from the wire, and reads the pings", () =>
  shows(
    "break-xor",
    /measured all 12 guesses agree: the key is 0x42\n/,
    /45 00 00 54 .*10\.8\.0\.2 → 8\.8\.8\.8 ICMP echo request id \d+ seq 3: "Attack at dawn!!"/,
    /measured 6 of 6 packets read whole/,
  ),
);

labTest("break-framing finds every packet with the VPN's own link, and not with one read a packet", () =>
  shows(
    "break-framing",
    /measured of 5 packets in 5 reads, the naive receiver found 5, our own link 5\n/,
    /measured of 300 packets in \d+ reads, the naive receiver found \d{1,2}, our own link 300\n/,
  ),
);

labTest("flip-a-bit changes the message in xor mode, and is refused in xor+aes mode", () =>
  shows(
    "flip-a-bit",
    /measured sent "pay Bob 0001 euro", received "pay Bob 0100 euro"/,
    /measured nothing was received/,
    /measured the server closed the connection: frame \d+ of its key has a wrong tag/,
  ),
);

labTest("replay doubles packets in xor mode, is refused in xor+aes mode, and costs the server no lease", () =>
  shows(
    "replay",
    /measured the client sent 3 packets, 6 answers came back; ping counts [23] as DUP!/,
    /measured the server closed the connection: frame \d+ of its key has a wrong tag/,
    /measured with a replay open, a real client got the one address there is: 1 connected/,
  ),
);

test("reuse-nonce recovers the second packet, and none when each has its own nonce", () =>
  shows(
    "reuse-nonce",
    /measured the key stream cancelled out: all 69 bytes/,
    /10\.8\.0\.2 → 203\.0\.113\.8 UDP .*my password/,
    /measured the second packet recovered whole, 69 bytes/,
    /measured the same attack now gets \d of 69 bytes right/,
  ));

labTest("longest-prefix counts the packets of the longer route on tun0, and none of the shorter", () =>
  shows(
    "longest-prefix",
    /8\.8\.8\.8 dev tun0/,
    /measured 3 pings to 8\.8\.8\.8: 3 packets left by tun0/,
    /measured 3 pings to 8\.8\.4\.4: 0 packets/,
    /measured 3 pings to 8\.8\.8\.8: 0 packets/,
    /measured 9\.9\.9\.9 has no route of its own: table 86, dev tun0/,
  ),
);

labTest("mtu sees the refusal, the fragments, the ICMP and the MSS", () =>
  shows(
    "mtu",
    /measured one of 1401 is refused/,
    /measured 3028 bytes went as 3 fragments/,
    /measured with DF: ICMP from 203\.0\.113\.1, fragmentation needed, MTU 1400/,
    /measured the SYN says MSS 1360/,
    /measured 1048576 bytes arrived in \d+ packets, the largest of 1400 bytes, 0 fragments/,
  ),
);

labTest(
  "tcp-in-tcp measures a stream and pings in no tunnel, over TCP and over UDP, without loss and with",
  () =>
    shows(
      "tcp-in-tcp",
      /not tunnelled +[\d.]+ +[\d.]+ +\d+ % +\d+ +[\d.]+ ms +[\d.]+ ms/,
      /tunnel over TCP +[\d.]+ +[\d.]+ +\d+ % +\d+ +[\d.]+ ms +[\d.]+ ms/,
      /tunnel over UDP +[\d.]+ +[\d.]+ +\d+ % +\d+ +[\d.]+ ms +[\d.]+ ms/,
      /0 to 25 ms .*\n +25 to 30 ms /,
      /measured six streams and 1200 pings on a way that lost [1-9]\d* packets\n/,
    ),
);

labTest("reorder: swapped and late datagrams are accepted; copies and what is too late are counted", () =>
  shows(
    "reorder",
    /the numbers, as the server gets them: .*\nmeasured of 20 pings in the wrong order, 0 were lost\n/,
    /measured of 20 pings sent twice, 0 were lost, and 0 answered twice\n/,
    /measured it was accepted: ping got its answer after \d+ ms\n/,
    /measured it was refused: ping got no answer\n/,
    /measured the server's window refused 2\d datagrams: 2\d copies, and the one that was too late\n/,
  ),
);

test("the list names each experiment, and an unknown one is refused with exit code 2", async () => {
  const list = run();
  assert.equal(await list.ended, 0);
  assert.equal(list.output.match(/^ {2}make experiment NAME=[a-z-]+ +\S.*$/gm)?.length, 9);
  assert.doesNotMatch(list.output, /^.{111}/m, "each fits a projector");
  const unknown = run("no-such");
  assert.equal(await unknown.ended, 2);
  assert.match(unknown.output, /expected one of break-xor,.*Try: make experiments/);
});
