/**
 * An honest wire. The lab's own is a veth, which hands over 64 KB as one packet if both ends agree. A real
 * wire carries 1,500 bytes. So a router goes between client and server, and each end cuts what it sends.
 *
 *   client                          router                          server
 *   eth0 192.168.1.100/24 ───────── eth0        eth1 ───────────── eth0 192.168.1.1/24
 *                                   lo 192.168.1.254
 *
 * The two ends keep their addresses, and believe that they share one network: the router answers for the
 * other end when one asks who has its address (proxy ARP; for IPv6, proxy NDP).
 */
import { Failure } from "../../base/failure.ts";
import { type Lab, newHost, type OnHost, SERVER, SERVER6, up, up6 } from "../lab.ts";

export const ROUTER = "192.168.1.254"; // who says "too big"; the same over IPv6:
export const ROUTER6 = "2001:db8:1::fe";
const [CLIENT6, LAN, LAN6] = ["2001:db8:1::100", "192.168.1.0/24", "2001:db8:1::/64"];
const SIDES = ["eth0", "eth1"] as const; // of the router: to the client, to the server
const ENDS = [
  ["client", "eth0"],
  ["server", "eth0"],
  ["router", "eth0"],
  ["router", "eth1"],
] as const;
const ETHERNET = 14; // bytes in front of each packet, which the interfaces count, too

/** What addRouter() needs: a tool, and the package that has it. */
export const ROUTER_NEEDS = { ethtool: "ethtool" };

const set = (host: string, ...settings: string[]) =>
  settings.map((setting): OnHost => [host, `sysctl -qw ${setting}`]);

/**
 * Puts the router into the wire of a new lab, before programs start. IPv6 passes if the lab has it already:
 * addIPv6() comes first. Needs ethtool.
 */
export function addRouter(lab: Lab): void {
  const hasIPv6 = lab.hasIPv6("client");
  lab.runAll([
    ...newHost("router"),
    ["server", "ip link set eth0 netns router"], // the end of the client's link …
    ["lab", "ip link add eth1 netns router type veth peer name eth0 netns server"], // … and a new one
    ...up("server", "eth0", `${SERVER}/24`),
    ...up("router", "lo", `${ROUTER}/32`),
    ...set("router", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.rp_filter=0"),
    ...SIDES.flatMap((device): OnHost[] => [
      ["router", `ip link set ${device} up`],
      ...set("router", `net.ipv4.conf.${device}.rp_filter=0`, `net.ipv4.conf.${device}.proxy_arp=1`),
      ...set("router", `net.ipv4.neigh.${device}.proxy_delay=0`), // else it waits up to 0.8 s
    ]),
    ["router", `ip route add ${LAN} dev eth0`],
    ["router", `ip route add ${SERVER} dev eth1`],
    ["router", `ip route add default via ${SERVER}`],
    ...detours("-4"),
    ...(hasIPv6 ? forIPv6() : []),
    ...ENDS.flatMap(cutsItself),
  ]);
}

function forIPv6(): OnHost[] {
  return [
    ...set("router", "net.ipv6.conf.default.disable_ipv6=0"), // of the emulator's TUNs to come
    ...up6("router", "lo", `${ROUTER6}/128`),
    ...SIDES.flatMap((device) =>
      set(
        "router",
        ...["accept_dad=0", "disable_ipv6=0"].map((setting) => `net.ipv6.conf.${device}.${setting}`),
        `net.ipv6.neigh.${device}.proxy_delay=0`,
      ),
    ),
    ...set("router", "net.ipv6.conf.all.forwarding=1", "net.ipv6.conf.all.proxy_ndp=1"),
    ...up6("server", "eth0", `${SERVER6}/64`),
    ["router", `ip -6 neigh add proxy ${SERVER6} dev eth0`],
    ["router", `ip -6 neigh add proxy ${CLIENT6} dev eth1`],
    ["router", `ip route add ${LAN6} dev eth0`],
    ["router", `ip route add ${SERVER6} dev eth1`],
    ["router", `ip route add default via ${SERVER6}`],
    ...detours("-6"),
  ];
}

/** What comes in by eth0 is looked up in table 100 first, by eth1 in 101. They are empty: see emulator.ts. */
const detours = (version: "-4" | "-6") =>
  SIDES.map((device, i): OnHost => ["router", `ip ${version} rule add iif ${device} lookup ${100 + i}`]);

/**
 * A veth says that it can cut TCP (TSO) and UDP (GSO) like a network card, and does not. Without that, the
 * kernel cuts before it sends. The two ends put together what arrives, as behind a real card (GRO).
 */
const cutsItself = ([host, device]: (typeof ENDS)[number]): OnHost[] => {
  const joins = host === "router" ? "off" : "on";
  return [[host, `ethtool -K ${device} tso off tx-udp-segmentation off gro ${joins}`]];
};

/**
 * From now on the router forwards at most `mtu` bytes at once, both ways. Its links still take 1,500, so
 * neither end knows unless the router's ICMP tells it. For IPv6 it does so from 1,280 on: no link has less.
 */
export function narrow(lab: Lab, mtu: number): void {
  const routes = [`${SERVER} dev eth1`, `${LAN} dev eth0`];
  if (mtu >= 1280 && lab.hasIPv6("router")) routes.push(`${SERVER6} dev eth1`, `${LAN6} dev eth0`);
  lab.runAll(routes.map((route) => ["router", `ip route change ${route} mtu ${mtu}`]));
}

/** From now on the router says nothing about packets that are too big: a "black hole". */
export function swallowTooBig(lab: Lab): void {
  const drop = (iptables: string, what: string): OnHost => [
    "router",
    `${iptables} -A OUTPUT -p ${what} -j DROP`,
  ];
  lab.runAll([
    drop("iptables", "icmp --icmp-type fragmentation-needed"),
    ...(lab.hasIPv6("router") ? [drop("ip6tables", "icmpv6 --icmpv6-type packet-too-big")] : []),
  ]);
}

/** Packets that came to the router by `device` so far, and their bytes, IP headers included. */
export function arrived(lab: Lab, device: (typeof SIDES)[number]): { packets: number; bytes: number } {
  const [link] = JSON.parse(lab.run("router", `ip -s -j link show dev ${device}`)) as [
    { stats64: { rx: { packets: number; bytes: number } } },
  ];
  const { packets, bytes } = link.stats64.rx;
  return { packets, bytes: bytes - packets * ETHERNET };
}

/** Throws unless both ends' packets had at most 1,500 bytes so far, on average. Call it after bulk. */
export function assertHonest(lab: Lab): void {
  for (const [i, device] of SIDES.entries()) {
    const { packets, bytes } = arrived(lab, device);
    if (bytes > packets * 1500)
      throw new Failure(
        `Cannot measure on an honest wire: its packets have ${(bytes / packets).toFixed(0)} bytes on average`,
        `see whether 'ethtool -k eth0' on the ${["client", "server"][i]} shows that sending is offloaded`,
      );
  }
}
