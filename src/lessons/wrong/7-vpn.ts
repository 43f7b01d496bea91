/** Lesson 7 as students get it wrong. */
import type { Wrong } from "../trial.ts";

const [ADDRESS, PING] = ["your client gets an address from the real server", "ping 8.8.8.8 goes through it"];
const [REAL, NAT] = [
  "the real client gets an address from your server",
  "and pings 8.8.8.8: forwarding and NAT",
];

export const WRONG: Wrong[] = [
  {
    what: "the starter",
    text: "the starter",
    check: ADDRESS,
    hint: /no session with your client.*\nTODO 3, in send/,
  },
  { what: "an empty file", text: "nothing", check: ADDRESS, hint: /the file is empty/ },
  {
    what: "the keys the wrong way round",
    text: [
      "= handshake.finish(message2, address);\n  [sealer, opener]",
      "= handshake.finish(message2, address);\n  [opener, sealer]",
    ],
    check: ADDRESS,
    hint: /the real one says: .*wrong tag/,
  },
  {
    what: "an address of its own",
    text: [
      "ip addr add ${formatIPv4(config.address)}/${config.prefix} dev tun0",
      "ip addr add 10.8.0.2/24 dev tun0",
    ],
    check: ADDRESS,
    hint: /inet 10\.8\.0\.2\/24, and the server gave 10\.9\.0\.2\/20\nTODO 5/,
  },
  {
    what: "no route",
    text: ["run(`ip route add ${route} dev tun0`)", "console.log(route)"],
    check: "the way to 8.8.8.8 leads into tun0",
    hint: /8\.8\.8\.8 via 192\.168\.1\.1 dev eth0.*\nTODO 5, in begin/,
  },
  {
    what: "all routes into the tunnel, the tunnel's own, too",
    text: ['["8.8.8.8/32"]', '["0.0.0.0/0"]'],
    check: [ADDRESS, "the way to 8.8.8.8 leads into tun0"],
    hint: /File exists\nTODO 5/,
  },
  {
    what: "no 10 bytes in front",
    text: ["c.IFF_NO_PI | 0x4000", "c.IFF_NO_PI"],
    check: PING,
    hint: /0 of 50 answered[^]*TODO 1: IFF_VNET_HDR/,
  },
  {
    what: "the first record of a frame only",
    text: ["at < text.length;", "at === 0;"],
    check: PING,
    hint: /\d+ of 50 answered[^]*TODO 2 and 4: the records/,
  },
  {
    what: "the server's tun0 is not up",
    text: ["run(`ip link set tun0 mtu ${OURS.mtu} up`)", "OURS"],
    check: REAL,
    hint: /ip -o link show dev tun0: .*mtu 1500.*\nTODO 7, in serve\(\): ip addr/,
  },
  {
    what: "message 2 is not sent",
    text: ["if (message2) send(HANDSHAKE, message2);", "message2;"],
    check: REAL,
    hint: /no session with your server.*\nTODO 6, in welcome/,
  },
  {
    what: "the server's keys the wrong way round",
    text: ["[nextSealer, opener] = [newKey(keys.send)", "[opener, nextSealer] = [newKey(keys.send)"],
    check: REAL,
    hint: /0 of 1 answered.*\nTODO 6: opener is/,
  },
  {
    what: "the server takes packets from any source",
    text: ['role === "client" || packet.readUInt32BE(VNET + 12) === OURS.address', "true"],
    check: REAL,
    hint: /from 10\.7\.7\.7.* wrote it into tun0\n.*OURS\.address/,
  },
  {
    what: "no NAT",
    text: ["! -o tun0 -j MASQUERADE", "! -o tun0 -j ACCEPT"],
    check: NAT,
    hint: /no rule says MASQUERADE.*\nTODO 7/,
  },
];
