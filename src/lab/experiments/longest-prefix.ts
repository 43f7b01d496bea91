/**
 * Step 3 of the walk: two routes match 8.8.8.8, and the more specific one wins, in whatever order they were
 * added.
 */
import { type Lab, SERVER, TARGET } from "../lab.ts";
import { heading, measured, sentOn, start, startClient, startServer, type, up } from "./stage.ts";

const NEIGHBOUR = "8.8.4.4"; // matched by 8.0.0.0/8 only
const COUNT = 3;

export const shows = "two routes fit a packet: the longer prefix wins, as tun0 shows";

export async function run(): Promise<string> {
  heading("1. Two routes on the client: 8.8.8.8/32 into the tunnel, 8.0.0.0/8 past it");
  const lab = await up();
  await startServer(lab, "xor+aes");
  const client = await startClient(lab, "xor+aes");
  lab.run("client", `ip route add 8.0.0.0/8 via ${SERVER} dev eth0`);
  lab.run("internet", `ip addr add ${NEIGHBOUR}/32 dev lo`);
  lab.run("internet", "ip route add 192.168.1.0/24 via 203.0.113.1"); // answers to what was not masqueraded
  await type(lab, "client", "ip route");

  heading("2. What the kernel decides");
  measured((await chosen(lab, TARGET)) === "tun0", `${TARGET} matches both routes; 32 bits beat 8: dev tun0`);
  measured((await chosen(lab, NEIGHBOUR)) === "eth0", `${NEIGHBOUR} matches only 8.0.0.0/8: dev eth0`);

  heading("3. What the packets do");
  const inside = await pinged(lab, TARGET);
  const outside = await pinged(lab, NEIGHBOUR);
  measured(inside === COUNT, `${COUNT} pings to ${TARGET}: ${inside} packets left by tun0`);
  measured(outside === 0, `${COUNT} pings to ${NEIGHBOUR}: ${outside} packets left by tun0`);

  heading("4. Without the longer one, the shorter one wins");
  lab.run("client", `ip route del ${TARGET}/32 dev tun0`);
  const past = await pinged(lab, TARGET);
  measured(
    (await chosen(lab, TARGET)) === "eth0" && past === 0,
    `${COUNT} pings to ${TARGET}: ${past} packets left by tun0`,
  );
  lab.run("client", `ip route add ${TARGET}/32 dev tun0`);
  measured(
    (await chosen(lab, TARGET)) === "tun0",
    "added again, now after the shorter one, the longer one wins again",
  );

  heading("5. Everything into the tunnel: this VPN's own table, number 86");
  await client.stop();
  await start(lab, "client", [SERVER, "--configure", "--route", "0.0.0.0/0"], /connected to.*/);
  await type(lab, "client", "ip rule");
  await type(lab, "client", "ip route show table 86");
  measured((await chosen(lab, "9.9.9.9")) === "tun0", "9.9.9.9 has no route of its own: table 86, dev tun0");
  measured((await chosen(lab, NEIGHBOUR)) === "eth0", `${NEIGHBOUR} has: 8.0.0.0/8 in main still counts`);
  await lab.down();

  return `Of all routes that match, the kernel takes the one with the most bits. The order they came in does
not matter. So a VPN needs no change to the routes that are there: a /32 takes one host into the tunnel.
For everything, some VPNs add two halves, 0.0.0.0/1 and 128.0.0.0/1, which are longer than a default route.
This one leaves main as it is. Its default route stands in table 86. Rule 8698 lets the routes of main go
first, but for its default route; rule 8699 sends the rest to table 86.`;
}

/** The device that `ip route get` names. */
async function chosen(lab: Lab, address: string): Promise<string | undefined> {
  return /dev (\S+)/.exec(await type(lab, "client", `ip route get ${address}`))?.[1];
}

/** Pings that must all be answered; how many packets left by tun0 meanwhile. */
async function pinged(lab: Lab, address: string): Promise<number> {
  const before = sentOn(lab, "client", "tun0");
  const said = await type(lab, "client", `ping -c ${COUNT} -i 0.2 -W 5 ${address}`);
  measured(said.includes(` ${COUNT} received`), `${address} answered all ${COUNT}`);
  return sentOn(lab, "client", "tun0") - before;
}
