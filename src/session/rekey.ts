/**
 * Fresh keys while a session lasts, by a second handshake inside the sealed frames of the first. So a stolen
 * key opens two minutes of traffic, and no nonce counter comes near its end. TCP keeps frames in order, so
 * each end changes its key between two frames. No frame is lost, and each has one key that it can mean.
 *
 *   client                                                server
 *   rekey, message 1  ──────────────────────────────────▶
 *                     ◀──────────────────────────────────  rekey, message 2: its last frame under the old key
 *   switch: our last frame under the old key  ──────────▶
 *
 * Over UDP, a frame says itself which key it has (transport/datagram-keys.ts). There is no switch: the server
 * seals with its fresh key as soon as it has heard the client's. Either message may be lost, so the client
 * repeats message 1 each second, and the server its answer.
 */
import { counters } from "../base/counters.ts";
import { BrokenStream } from "../base/failure.ts";
import { Control } from "../core/frame.ts";
import { Handshake, REKEY_PROLOGUE } from "./handshake.ts";
import { trace } from "../base/trace.ts";
import { wipe } from "../base/wipe.ts";
import type { Peer } from "../core/peer.ts";

/**
 * A key seals no more than about 64 GiB. TLS 1.3 counts 2^24.5 records of 16 KiB, six times as much, as safe
 * for AES-GCM (RFC 8446, section 5.5); at 6 Gbit/s the two minutes are over first.
 */
const BYTES = 2 ** 36;
const MAX_OVERDUE = 60; // s that fresh keys may come late: WireGuard's REJECT_AFTER_TIME - REKEY_AFTER_TIME
const PAUSE = 900; // ms between two rekeys that the server answers; a client waits a second after each
const NOTHING = Buffer.alloc(0);

/** The client's side: asks for fresh keys when the session's are `seconds` old, or have sealed enough. */
export function keepFresh(peer: Peer, secret: Buffer, seconds: number): void {
  const keys = peer.keys!; // its handshake made some
  let age = 0; // of the keys, s
  let overdue = 0; // s
  let handshake: Handshake | undefined; // its message 1 is on its way
  let message1: Buffer = NOTHING;
  let message2: Buffer = NOTHING; // of the latest rekey
  const { ordered } = peer.link.framing;
  whenClosed(peer, () => handshake?.end());
  const clock = setInterval(() => {
    if (peer.closed) return clearInterval(clock);
    const due = ++age >= seconds || Math.max(keys.sealer.bytes, keys.opener.bytes) >= BYTES;
    if (!due) return;
    if (overdue++ === MAX_OVERDUE)
      return peer.close(
        `no fresh keys within ${MAX_OVERDUE} s: it does not answer, or takes no bytes from us`,
      );
    if (handshake && !ordered) peer.sendControl(Control.rekey, message1);
    if (handshake || !keys.settled) return;
    const next = new Handshake("client", secret, REKEY_PROLOGUE);
    message1 = next.write(NOTHING);
    if (!peer.sendControl(Control.rekey, message1)) return next.end();
    handshake = next;
    peer.pulse.awaitAnswer(); // a server from which nothing comes is left sooner
  }, 1000).unref();

  peer.events.onRekey = (word, message) => {
    if (!ordered && message.equals(message2))
      throw new BrokenStream("an answer to a rekey that has come before"); // we had asked twice
    if (word !== Control.rekey || !handshake) throw new BrokenStream("a rekey that we did not ask for");
    handshake.read(message);
    message2 = message;
    const { send, receive } = handshake.split();
    try {
      keys.receiveWith(receive);
      if (ordered) must(peer.sendControl(Control.switch));
      keys.sendWith(send);
      if (!ordered) peer.sendControl(Control.keepalive); // the first frame under it: the server waits for one
    } finally {
      wipe(send);
    }
    handshake = undefined;
    age = overdue = 0;
    clock.refresh();
    tell(peer);
  };
}

/** The server's side. A peer that asks too often, or out of turn, breaks its stream. */
export function answerRekeys(peer: Peer, secret: Buffer): void {
  const keys = peer.keys!;
  let next: Buffer | undefined; // the client's key from its `switch` on
  let earliest = 0; // performance.now()
  let message1: Buffer = NOTHING;
  let message2: Buffer = NOTHING; // of the latest rekey
  const { ordered } = peer.link.framing;
  whenClosed(peer, () => wipe(next));

  peer.events.onRekey = (word, message) => {
    if (word === Control.switch && next) {
      keys.receiveWith(next);
      next = undefined;
      return tell(peer);
    }
    if (word === Control.switch || next) throw new BrokenStream("a rekey out of turn");
    if (!ordered && message.equals(message1)) return void peer.sendControl(Control.rekey, message2);
    if (!keys.settled) throw new BrokenStream("a rekey before the last one was used");
    if (performance.now() < earliest)
      throw new BrokenStream("it asks for fresh keys more than once a second");
    earliest = performance.now() + PAUSE;
    const handshake = new Handshake("server", secret, REKEY_PROLOGUE);
    try {
      handshake.read(message);
      const answer = handshake.write(NOTHING);
      must(peer.sendControl(Control.rekey, answer));
      const { send, receive } = handshake.split();
      [message1, message2] = [message, answer];
      if (ordered) next = receive;
      else keys.receiveWith(receive);
      keys.sendWith(send, true);
      if (!ordered) tell(peer);
    } finally {
      handshake.end();
    }
  };
}

/** Wipes what is left of a rekey when the session is over. */
function whenClosed(peer: Peer, wipeRest: () => void): void {
  const { onClose } = peer.events;
  peer.events.onClose = (reason, ended) => (wipeRest(), onClose(reason, ended));
}

function tell({ link, traffic }: Peer): void {
  counters.rekeys++;
  traffic.keysSince = performance.now();
  const count = link.framing.ordered ? "nonces count from 0 again" : "the numbers go on";
  trace.note(`fresh keys with ${link.remote}: ${count}`);
}

function must(sent: boolean): void {
  if (!sent) throw new BrokenStream("no room for a rekey: it takes no bytes from us");
}
