/**
 * Does the program at the other end live? TCP asks only its kernel, which answers for a program that hangs.
 * So, as in WireGuard: within 3 s of receiving data, an end that has sent nothing since sends a keepalive. An
 * end that sent data and receives no byte for 12 to 15 s closes the session. A keepalive is no data: a tunnel
 * that nobody uses is quiet. With --cipher xor this does nothing, because that protocol has no such word.
 *
 * Over UDP no kernel answers, and a router in between (NAT) forgets who is quiet. So there both ends send
 * something every 3 s, and close when nothing comes for 12 to 15 s.
 */
import { Control } from "../core/frame.ts";
import type { Pulse } from "../core/link.ts";
import type { Peer } from "../core/peer.ts";

export const CHECK = 3_000; // ms between two checks
const SILENT_CHECKS = 5; // so 9 s are left for the way there and back, for lost packets and busy machines

export class Heartbeat implements Pulse {
  private readonly peer: Peer;
  private owesAnswer = false; // data came, and no frame of ours has followed it
  private quiet = false; // no frame of ours since the last check
  private awaitsAnswer = false; // data has gone, and not a byte has come since
  private silentChecks = 0; // how many checks have found it so

  constructor(peer: Peer) {
    this.peer = peer;
  }

  sealed(): void {
    this.owesAnswer = this.quiet = false;
  }
  awaitAnswer(): void {
    this.awaitsAnswer = true;
  }
  heard(): void {
    this.awaitsAnswer = false;
    this.silentChecks = 0;
  }
  oweAnswer(): void {
    this.owesAnswer = true;
  }

  /** Called every CHECK ms, be the peer closed or not. */
  check(): void {
    const { peer } = this;
    const always = !peer.link.framing.ordered;
    if (this.owesAnswer || (always && this.quiet)) peer.sendControl(Control.keepalive);
    this.quiet = true;
    if (!peer.keys || !(this.awaitsAnswer || always) || ++this.silentChecks !== SILENT_CHECKS) return;
    const silence = ((SILENT_CHECKS - 1) * CHECK) / 1000; // s
    peer.close(`it has not answered for ${silence} s: its program hangs, or its machine is gone`);
  }
}
