/**
 * Does the program at the other end live? TCP asks only its kernel, which answers for a program that hangs. So, as in WireGuard: who
 * got data and had nothing to send since says "keepalive" within 3 s; who sent data and hears nothing at all for 12 to 15 s gives the
 * other end up. A keepalive is no data: a tunnel that nobody uses is quiet. Not in --cipher xor, whose protocol has no such word.
 */
import { Control } from "./frame.ts";
import { type Peer, sendControl } from "./tunnel.ts";

export const PULSE = 3_000; // ms between two checks
const PATIENCE = 5; // checks: so 9 s are left for the way there and back, for lost packets and busy machines

/** Called every PULSE ms for a peer, closed or not. */
export function checkPulse(peer: Peer): void {
  if (peer.owesAnswer) sendControl(peer, Control.keepalive);
  if (!peer.sealer || !peer.awaitsAnswer) return;
  if (++peer.silentChecks === PATIENCE) peer.close(`it has not answered for ${((PATIENCE - 1) * PULSE) / 1000} s: its program hangs, or its machine is gone`);
}
