/** Which packet of the followed command a piece of evidence belongs to: for the chooser of walk.html. */
import { WALK } from "../../picture/steps.ts";
import type { Evidence } from "./timeline.ts";

/** A packet that the command sent: "SYN", say, and the evidence of its way, and of the answers to it. */
export interface Sent {
  name: string;
  evidence: Set<Evidence>;
}

/**
 * What stays of an IPv4 packet on its whole way, NAT included (RFC 791): total length, identification and
 * protocol; of TCP (RFC 9293) the numbers of sequence and acknowledgment, too.
 */
const keyOf = (hex: string) =>
  hex.slice(4, 12) + hex.slice(18, 20) + (hex.slice(18, 20) === "06" ? hex.slice(48, 64) : "");

/** Is it of an answer? */
const isBack = ({ step, packet }: Evidence) =>
  step.startsWith("R") || (step === "10" && packet?.out === true);

/** Where evidence shows the plain packet itself: its name there. Two alike are told apart by their order. */
function plainNames(evidence: Evidence[]): Map<Evidence, string[]> {
  const counts = new Map<string, number>();
  const names = new Map<Evidence, string[]>();
  for (const one of evidence) {
    if (one.kind !== "plain" || !one.hex.startsWith("4")) continue;
    const key = `${isBack(one) ? "back" : "there"} ${keyOf(one.hex)}`;
    const place = [one.step, one.host, one.source, /^\S+/.exec(one.text), key].join(" ");
    counts.set(place, (counts.get(place) ?? 0) + 1);
    names.set(one, [`${key} ${counts.get(place)}`]);
  }
  return names;
}

/**
 * Evidence → the names of the packets that it tells of. A frame has the names of those inside. What the
 * kernel or a command says has those of the evidence beside it.
 */
function namesOf(evidence: Evidence[]): Map<Evidence, string[]> {
  const names = plainNames(evidence);
  const inside = new Map<string, Set<string>>(); // "up1", or "up1.0" → names
  for (const [{ id }, [name]] of names)
    for (const one of id ? [id, id.split(".")[0]!] : [])
      inside.set(one, (inside.get(one) ?? new Set()).add(name!));
  const frames = new Map(
    evidence.flatMap(({ hex, id, kind }) => (id && kind !== "plain" ? [[hex, id]] : [])),
  );
  for (const one of evidence) {
    const found = inside.get(one.id || (frames.get(one.hex) ?? ""));
    if (!names.has(one) && found) names.set(one, [...found]);
  }
  const known = evidence.filter((one) => names.has(one));
  for (const one of evidence) {
    const found = names.has(one) || one.id || one.packet ? undefined : beside(one, known);
    if (found) names.set(one, names.get(found)!);
  }
  return names;
}

/** A packet is asked for before it leaves, and told of after it has come; elsewhere, the nearest in time. */
function beside({ step, host, time }: Evidence, known: Evidence[]): Evidence | undefined {
  if (step === "1" || step === "3") return known.find((one) => one.step === "4" && one.time >= time);
  if (step === "R8" || step === "R9")
    return known.filter((one) => one.step === "R7" && one.time <= time).at(-1);
  const far = (one: Evidence) => Math.abs(Number(one.time - time));
  return known
    .filter((one) => one.step === step && one.host === host)
    .reduce<Evidence | undefined>((best, one) => (best && far(best) <= far(one) ? best : one), undefined);
}

/** "TCP 40812 → 80 SYN" is SYN. A request has its first word: GET. */
function describeSent({ text, packet }: Evidence): string {
  const { bytes, link } = packet!;
  const tcp = link + (bytes[link]! & 15) * 4;
  const payload = bytes[link + 9] === 6 ? bytes.toString("latin1", tcp + (bytes[tcp + 12]! >> 4) * 4) : "";
  return (
    /^[A-Z]+(?= )/.exec(payload)?.[0] ?? text.replace(/^\S+ → \S+ → \S+ (TCP \d+ → \d+ )?| 0 bytes$/g, "")
  );
}

/**
 * The packets that the command sent into the tunnel, in their order. An answer belongs to the packet that had
 * arrived last when it left. `evidence`: in the order of time.
 */
export function packetsOf(evidence: Evidence[]): Sent[] {
  const names = namesOf(evidence);
  const byName = new Map<string, Evidence[]>();
  for (const [one, all] of names)
    for (const name of all) byName.set(name, [...(byName.get(name) ?? []), one]);
  const index = ({ step }: Evidence) => WALK.findIndex(({ id }) => id === step);
  const first = (all: Evidence[]) => all.reduce((a, b) => (b.time < a.time ? b : a));
  const last = (all: Evidence[]) => all.reduce((a, b) => (index(b) > index(a) ? b : a));
  const sent = evidence
    .filter(({ step, packet }) => step === "4" && packet)
    .map((one) => {
      const mine = byName.get(names.get(one)![0]!)!;
      return { name: describeSent(one), arrival: last(mine).time, evidence: new Set(mine) };
    });
  for (const [name, answer] of byName) {
    if (!name.startsWith("back")) continue;
    const before = sent.filter(({ arrival }) => arrival <= first(answer).time);
    if (before.length === 0) continue;
    const asked = before.reduce((a, b) => (b.arrival >= a.arrival ? b : a));
    for (const one of answer) asked.evidence.add(one);
  }
  return sent;
}
