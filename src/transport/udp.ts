/**
 * Frames over UDP. Unlike tcp.ts: each frame is a datagram of its own. The network may lose it, bring it
 * twice, or bring a later one first. Nobody sends it again, except perhaps a TCP inside the tunnel. So a lost
 * packet holds up nothing behind it. What TCP did for us is done here, or not at all:
 *
 *   TCP                                            here
 *   connect(), accept(): one fd for each session   one socket for all; each session has an index
 *   bytes in order, each once                      each frame has a number (datagram-keys.ts, replay.ts)
 *   segments that fit the path                     cut and joined (segments.ts); probes (path.ts)
 *   a connection is bound to two addresses         answers go where the newest good frame came from
 *   a handshake before any state                   cookies, when the server is busy (cookie.ts)
 *   what is lost is sent again                     only the first message of a handshake or rekey is
 *
 * All numbers are big-endian. An index is a session's name at the end that receives: the first 4 bytes of the
 * public key that this end has sent.
 *
 *   data, control: type 2, 3         message 1: type 1                message 2: type 4; cookie: type 5
 *   offset size                      offset size                      offset size
 *   0      1    type                 0      1    type                 0      1    type
 *   1      1    key                  1      1    0                    1      1    0
 *   2      2    length of the body   2      2    length of message 1  2      2    length of what follows
 *   4      4    receiver's index     4      16   cookie, or zeros     4      4    client's index
 *   8      8    number               20     …    message 1; zeros     8      …    message 2, cookie; zeros
 *   16     …    body, sealed; tag
 *
 * A server that was started anew knows no session. It answers a frame with its own header, type 6. Anybody
 * can forge that, so it ends nothing. Neither does an ICMP error. The client then asks, in a sealed frame,
 * and the session is over if no answer comes.
 */
import { isIPv6 } from "node:net";
import { endpoint, sockaddr } from "./addresses.ts";
import { DatagramSocket, Remote } from "./datagrams.ts";
import {
  type Answer,
  type IsGood,
  type Port,
  type PortEvents,
  type Transport,
  Unreachable,
} from "./transport.ts";
import { HELLO } from "./udp-format.ts";
import { Call, Reception } from "./udp-hello.ts";
import { Hub } from "./udp-hub.ts";

export const udp: Transport = { open: ({ listen, port }) => new UdpPort(port, listen) };

export class UdpPort implements Port {
  private readonly port: number;
  private readonly hub: Hub | undefined; // of a server

  constructor(port: number, listen?: string) {
    this.port = port;
    this.hub = listen === undefined ? undefined : new Hub(DatagramSocket.listen(listen, port));
  }

  async dial(address: string, ms: number, message1: Buffer, isGood: IsGood = () => true): Promise<Answer> {
    const socket = DatagramSocket.open(isIPv6(address.replace(/%.*/, "")));
    if (typeof socket === "number") throw new Unreachable(this.endpoint(address), socket);
    return new Call(socket, new Remote(sockaddr(address, this.port)), message1, isGood).answer(ms);
  }

  serve(server: PortEvents): void {
    const hub = this.hub!;
    const reception = new Reception(hub, server);
    hub.start((type, at, size) => (type === HELLO ? reception.hello(at, size) : reception.other(type, at)));
  }

  /** Nobody new is answered. The sessions go on, for they have to say goodbye. */
  end(): void {
    this.hub?.deafen();
  }

  endpoint(address: string): string {
    return endpoint(address, this.port);
  }
}
