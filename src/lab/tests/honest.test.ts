/** The honest wire: a router between client and server; and the emulator of a long way, which runs on it. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { type Lab, SERVER, SERVER6 } from "../lab.ts";
import { labTest, ping, startClient, startServer, transfer } from "./testing.ts";
import { has } from "../tools.ts";
import { DelayLine } from "../wire/delay-line.ts";
import { Emulator } from "../wire/emulator.ts";
import { addRouter, arrived, assertHonest, narrow, ROUTER, ROUTER6, swallowTooBig } from "../wire/router.ts";

const CLIENT = "192.168.1.100";
const CLIENT6 = "2001:db8:1::100";

/** A test with a lab that has IPv6 and a router. */
function routerTest(name: string, run: (lab: Lab) => Promise<void>): void {
  if (has("ethtool"))
    return labTest(name, async (lab) => {
      lab.addIPv6();
      addRouter(lab);
      await run(lab);
    });
  const missing = "ethtool is not installed";
  test(name, (t) => (process.env.CI ? assert.fail(missing) : t.skip(missing)));
}

/** What ping says of one packet of `size` bytes that must not be cut, and of the headers that ICMP has. */
function tryPing(lab: Lab, host: string, address: string, size: number): string {
  const headers = address.includes(":") ? 48 : 28;
  const { stdout, stderr } = lab.try(host, `ping -c 1 -W 1 -M do -s ${size - headers} ${address}`);
  return stdout + stderr;
}

routerTest("addRouter() leaves both ends their addresses, and is one hop between them", async (lab) => {
  for (const [host, address] of [
    ["client", SERVER],
    ["server", CLIENT],
    ["client", SERVER6],
    ["server", CLIENT6],
  ] as const)
    assert.match(tryPing(lab, host, address, 1500), / ttl=63 /, `${host} to ${address}`);
});

routerTest("on the honest wire no packet has more than 1,500 bytes, up and down", async (lab) => {
  const mean = async (from: string, to: string, address: string, device: "eth0" | "eth1") => {
    const before = arrived(lab, device);
    await transfer(lab, from, to, 32, undefined, address);
    const { packets, bytes } = arrived(lab, device);
    return (bytes - before.bytes) / (packets - before.packets);
  };
  for (const address of [SERVER, SERVER6]) {
    const up = await mean("client", "server", address, "eth0");
    assertHonest(lab);
    const down = await mean("server", "client", address, "eth1");
    for (const size of [up, down]) assert.ok(size > 1400 && size <= 1500, `${size} bytes`);
  }
});

routerTest("the tunnel works over the honest wire", async (lab) => {
  await startServer(lab);
  await startClient(lab);
  ping(lab, "client", "8.8.8.8");
  await transfer(lab, "client", "internet", 8);
  await transfer(lab, "internet", "client", 8);
});

routerTest("narrow(): the router refuses what is too big and tells both ends the size", async (lab) => {
  narrow(lab, 1280);
  for (const [host, address, router] of [
    ["client", SERVER, ROUTER],
    ["server", CLIENT, ROUTER],
    ["client", SERVER6, ROUTER6],
    ["server", CLIENT6, ROUTER6],
  ] as const) {
    const said = tryPing(lab, host, address, 1281);
    assert.ok(said.includes(`From ${router} `), said);
    assert.match(said, /mtu ?= ?1280/);
    assert.match(tryPing(lab, host, address, 1280), / 1 received/);
  }
});

routerTest("swallowTooBig(): the router refuses, and tells nobody", async (lab) => {
  narrow(lab, 1280);
  swallowTooBig(lab);
  for (const address of [SERVER, SERVER6]) {
    for (const attempt of [1, 2]) {
      const said = tryPing(lab, "client", address, 1281);
      assert.match(said, / 0 received/, `${attempt}`);
      assert.doesNotMatch(said, /mtu|too (long|big)/, `${attempt}`);
    }
    assert.match(tryPing(lab, "client", address, 1280), / 1 received/);
  }
});

routerTest("the emulator delays each packet, of either family, each way", async (lab) => {
  const DELAY = 20;
  const emulator = await Emulator.start(lab, { delay: DELAY });
  for (const address of [SERVER, SERVER6]) {
    const said = lab.run("client", `ping -c 5 -i 0.05 -W 5 ${address}`);
    const [, least] = /= ([\d.]+)\//.exec(said)!;
    assert.ok(Number(least) >= 2 * DELAY, said);
  }
  const { up, down } = await emulator.stop();
  for (const way of [up, down]) {
    assert.ok(way.came >= 10, "both pings, both ways");
    assert.deepEqual([way.lost, way.late, way.dropped], [0, 0, 0]);
  }
  // now it is gone: packets go straight
  assert.match(tryPing(lab, "client", SERVER, 1500), / ttl=63 /);
});

routerTest("the emulator loses packets both ways, and counts them", async (lab) => {
  const emulator = await Emulator.start(lab, { loss: 0.2 }, 7);
  assert.equal(emulator.seed, 7);
  const COUNT = 400;
  const { stdout } = lab.try("client", `ping -q -c ${COUNT} -i 0.002 -W 5 ${SERVER}`);
  const received = Number(/(\d+) received/.exec(stdout)![1]);
  const { up, down } = await emulator.stop();
  assert.equal(COUNT - up.lost - down.lost, received);
  for (const { came, lost } of [up, down])
    assert.ok(lost > came * 0.05 && lost < came * 0.5, `${lost} of ${came}`);
});

routerTest("the emulator lets packets overtake others", async (lab) => {
  const emulator = await Emulator.start(lab, { reorder: 0.2, late: 50 });
  const said = lab.run("client", `ping -c 200 -i 0.005 -W 5 ${SERVER}`);
  const { up, down } = await emulator.stop();
  assert.ok(up.late > 0 && down.late > 0);
  const order = [...said.matchAll(/icmp_seq=(\d+)/g)].map(([, number]) => Number(number));
  assert.ok(
    order.some((number, i) => number < (order[i - 1] ?? 0)),
    `no answer came after that to a later packet; seed ${emulator.seed}`,
  );
  assert.match(said, / 200 received/);
});

test("DelayLine: the same seed loses the same packets, and another one others", () => {
  const lost = (seed: number) => {
    const line = new DelayLine({ delay: 1, loss: 0.1, reorder: 0, late: 0 }, seed);
    return Array.from({ length: 100 }, () => {
      const before = line.counts.lost;
      line.take(0, () => 100);
      return line.counts.lost > before;
    });
  };
  assert.deepEqual(lost(1), lost(1));
  assert.notDeepEqual(lost(1), lost(2));
  assert.ok(lost(1).includes(true));
});

test("DelayLine gives each packet when it is due, unchanged, and late ones behind others", () => {
  const line = new DelayLine({ delay: 10, loss: 0, reorder: 0.5, late: 5 }, 1);
  for (let i = 0; i < 50; i++) line.take(i, (memory, at) => memory.bytes.writeUInt16BE(i, at) && 2);
  const given: number[] = [];
  const due: number[] = [];
  for (let now = 0; now < 100; now++)
    line.give(now, (memory, at, length) => {
      given.push(memory.bytes.readUInt16BE(at));
      due.push(now - given.at(-1)!);
      return length === 2;
    });
  assert.deepEqual(
    [...given].sort((a, b) => a - b),
    Array.from({ length: 50 }, (_, i) => i),
  );
  assert.deepEqual(
    [...new Set(due)].sort((a, b) => a - b),
    [10, 15],
  );
  assert.equal(due.filter((late) => late === 15).length, line.counts.late);
  assert.notDeepEqual(
    given,
    [...given].sort((a, b) => a - b),
  );
});

test("DelayLine drops what it has no room for, and counts it", () => {
  const line = new DelayLine({ delay: 10, loss: 0, reorder: 0, late: 0 }, 1);
  for (let i = 0; i < 10_000; i++) line.take(0, () => 1500);
  let given = 0;
  line.give(10, () => ++given > 0);
  assert.ok(line.counts.dropped > 0);
  assert.equal(given + line.counts.dropped, line.counts.came);
});
