/** A status line as a client tells it, for tests. */
import { type OwnStatus, type Status, statusOf } from "../../base/status.ts";

const OWN: OwnStatus = {
  role: "client",
  state: "connected",
  tun: { name: "tun0", mtu: 1400 },
  transport: "tcp",
  endpoint: "192.168.1.1:5555",
  inner: ["10.8.0.2/24"],
  peers: [
    {
      inner: "10.8.0.1",
      remote: "192.168.1.1:5555",
      sent: { packets: 1, bytes: 84 },
      received: { packets: 1, bytes: 84 },
      keyAge: 3,
      lastSeen: 0.1,
      connected: 3,
    },
  ],
  peerCount: 1,
};
export const STATUS: Status = JSON.parse(JSON.stringify(statusOf(OWN, "1.2.3", { p50: 0, p99: 1, max: 2 })));
export const STEP = {
  time: 1,
  host: "client",
  step: "6.read",
  id: "up0.0",
  bytes: 84,
  text: "read",
  hex: "45",
};
