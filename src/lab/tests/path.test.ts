/**
 * Over UDP the tunnel itself has to find out how much the path takes: with the router's word, and without it.
 * Nothing is cut by IP on the wire, and nothing that a sender can make smaller vanishes for long.
 */
import assert from "node:assert/strict";
import { type Lab, SERVER, SERVER6, TARGET, TARGET6 } from "../lab.ts";
import { Running, startProgram } from "../running.ts";
import { retry, routerTest, SECRET, startTransfer, transfer } from "./testing.ts";
import { narrow, swallowTooBig } from "../wire/router.ts";

const UDP = ["--configure", "--transport", "udp"];

async function startBoth(
  lab: Lab,
  address: string,
  ...args: string[]
): Promise<[server: Running, client: Running]> {
  const server = startProgram(lab, "server", "server", [...UDP, "--nat", "eth1"], SECRET);
  await server.until(/listening on/);
  return [server, await startClient(lab, address, ...args)];
}

async function startClient(lab: Lab, address: string, ...more: string[]): Promise<Running> {
  const args = [address, ...UDP, "--route", `${TARGET}/32`, ...more];
  const client = startProgram(lab, "client", "client", args, SECRET);
  await client.until(/connected to/);
  return client;
}

/** TCP inside, of which every packet is as large as it may be. */
async function bothWays(lab: Lab, target = TARGET): Promise<void> {
  await transfer(lab, "client", "internet", 4, undefined, target);
  await transfer(lab, "internet", "client", 4, undefined, target);
}

/** Large pings, until three of three come back: their kernel makes them smaller once it is told. */
const largePings = (lab: Lab, host: string, address: string) =>
  retry(() => {
    const { stdout } = lab.try(host, `ping -c 3 -i 0.2 -W 1 -s 1250 ${address}`);
    assert.match(stdout, / 0% packet loss/);
  });

/** What the router has seen of IPv4 that was cut on its way, and what both ends have cut of IPv6. */
function countFragments(lab: Lab): () => number {
  lab.run("router", "iptables -t raw -A PREROUTING -f");
  return () => {
    const rule = /^ *(\d+) /m.exec(lab.run("router", "iptables -t raw -nvxL PREROUTING").split("\n")[2]!)!;
    const cut = ["client", "server"].map(
      (host) => /^Ip6FragCreates\s+(\d+)/m.exec(lab.run(host, "cat /proc/net/snmp6"))![1],
    );
    return [rule[1], ...cut].reduce((sum, count) => sum + Number(count), 0);
  };
}

for (const [address, largest] of [
  [SERVER, 1500 - 76],
  [SERVER6, 1500 - 96],
] as const) {
  const around = 1500 - largest; // of each packet in its datagram

  routerTest(`a path to ${address} that narrows is noticed, with ICMP and without`, async (lab) => {
    const fragments = countFragments(lab);
    const [server, client] = await startBoth(lab, address, "--route", `${TARGET6}/128`);
    assert.match(client.output, new RegExp(`MTU ${largest}\\b`));
    await largePings(lab, "client", TARGET);

    narrow(lab, 1340);
    await largePings(lab, "client", TARGET);
    assert.match(lab.run("client", `ip route get ${TARGET}`), new RegExp(`mtu ${1340 - around}\\b`));

    // Now nobody tells us: each end has to find out for its own direction.
    swallowTooBig(lab);
    narrow(lab, 1280);
    await largePings(lab, "client", TARGET);
    assert.match(client.output, /packets of 13\d\d bytes do not arrive/);
    await retry(() => lab.run("server", "ping -c 1 -W 1 -M do -s 1100 10.8.0.2"));
    await bothWays(lab);
    await bothWays(lab, TARGET6); // of less than IPv6's least MTU
    assert.equal(fragments(), 0);
    for (const program of [client, server]) assert.equal(await program.stop(), 0);
  });

  routerTest(
    `a path to ${address} that is narrow, and says nothing: the handshake finds out`,
    async (lab) => {
      const fragments = countFragments(lab);
      swallowTooBig(lab);
      narrow(lab, 1280);
      const [, client] = await startBoth(lab, address);
      assert.match(client.output, new RegExp(`MTU ${1280 - around}\\b`));
      await largePings(lab, "client", TARGET);
      await bothWays(lab);
      assert.equal(fragments(), 0);
    },
  );
}

routerTest(
  "in the middle of a transfer, a router begins to drop what has more than 1,000 bytes",
  async (lab) => {
    const fragments = countFragments(lab);
    swallowTooBig(lab);
    const [server, wide] = await startBoth(lab, SERVER);
    assert.match(wide.output, /MTU 1424/);
    const rest = await startTransfer(lab, "client", "internet", 8);
    narrow(lab, 1000);
    await rest();
    await transfer(lab, "internet", "client", 8);
    await wide.stop();
    const client = await startClient(lab, SERVER);
    assert.match(client.output, /MTU 500/);
    await bothWays(lab);
    assert.equal(fragments(), 0, "fragments on the wire");
    for (const { output } of [server, wide, client])
      assert.doesNotMatch(output, /has not answered|Lost the server/);
  },
);
