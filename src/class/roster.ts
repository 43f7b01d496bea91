/** Who is in the class, and who reaches whom: each student's address, name, and pings. And the page of it. */
import { createHash } from "node:crypto";
import type { PeerStatus } from "../base/status.ts";

export interface Student {
  address: string; // the server's: it drops packets from another source
  name: string; // what the student says; "" until then
  since: Date;
  pings: Map<string, boolean>; // by address: was it answered?
}

/** Letters and digits of any language, and some of what stands between: nothing that could be markup. */
export const isName = (text: string) =>
  /^[\p{L}\p{N}][\p{L}\p{M}\p{N} .'_-]*$/u.test(text) && [...text].length <= 24;

/** What may stand anywhere in HTML, attributes included. */
export const escape = (text: string) => text.replace(/[&<>"']/g, (one) => `&#${one.charCodeAt(0)};`);

export class Roster {
  readonly own: string; // the server's inner address
  readonly ends: Date;
  private readonly students = new Map<string, Student>(); // by address

  constructor(own: string, ends: Date) {
    this.own = own;
    this.ends = ends;
  }

  get all(): Student[] {
    const order = ({ address }: Student) =>
      address.split(".").reduce((sum, byte) => sum * 256 + Number(byte), 0);
    return [...this.students.values()].sort((one, other) => order(one) - order(other));
  }

  find(address: string): Student | undefined {
    return this.students.get(address);
  }

  /** Who is connected, as the server says. With who has gone goes the name: another may get the address. */
  update(peers: Pick<PeerStatus, "inner" | "connected">[], now = Date.now()): void {
    const there = new Set(peers.map(({ inner }) => inner));
    for (const address of this.students.keys()) if (!there.has(address)) this.students.delete(address);
    for (const { inner: address, connected } of peers) {
      const since = new Date(now - connected * 1000);
      const { name = "", pings = new Map<string, boolean>() } = this.students.get(address) ?? {};
      for (const other of pings.keys()) if (other !== this.own && !there.has(other)) pings.delete(other);
      this.students.set(address, { address, name, since, pings });
    }
  }

  /** What a student tells. "" leaves the name as it is; of pings, those to who is here count. */
  tell(student: Student, name: string, answered: string[], silent: string[]): void {
    student.name = name || student.name;
    const ping = (answers: boolean) => (address: string) => {
      if (address === this.own || this.students.has(address)) student.pings.set(address, answers);
    };
    answered.forEach(ping(true));
    silent.forEach(ping(false));
  }

  /** The same for a program. */
  json(you: string, now = Date.now()): object {
    const students = this.all.map(({ address, name, since, pings }) => {
      const which = (answers: boolean) => [...pings].flatMap(([to, one]) => (one === answers ? to : []));
      return { address, name, since, answered: which(true), silent: which(false) };
    });
    return { you, server: this.own, left: Math.max(0, this.ends.getTime() - now) / 1000, students };
  }

  /** The page, for who comes from the address `you`. It loads itself again, and runs no script. */
  html(you: string): string {
    const { all, own } = this;
    const name = this.find(you)?.name || (you === own ? "the teacher's machine" : "no name yet");
    const columns = ["server", ...all.map((_, i) => `${i + 1}`)];
    const mark = ({ pings }: Student, to: string) => {
      const answered = pings.get(to);
      return answered === undefined ? "·" : answered ? "✓" : "✗";
    };
    const rows = all.map((one, i) => {
      const cells = [`${i + 1}`, one.address, one.name, clock(one.since)];
      const marks = [own, ...all.map(({ address }) => address)].map((to) =>
        to === one.address ? "" : mark(one, to),
      );
      return row("td", [...cells, ...marks], one.address === you);
    });
    return `<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="refresh" content="10"><title>The class</title><style>${STYLE}</style>
<h1>Hello, you are ${escape(you)} (${escape(name)})</h1>
<p>Students: ${all.length}. The class ends at ${clock(this.ends)}.
<div><table>${row("th", ["", "address", "name", "since", ...columns])}
${rows.join("\n")}
</table></div>
<p>Who reaches whom, row by row: ✓ the ping was answered, ✗ it was not, · nobody has tried yet.
`;
  }
}

/** 14:05, as the clock of this machine has it. */
export const clock = (time: Date) => time.toTimeString().slice(0, 5);
const row = (tag: string, cells: string[], isYou = false) =>
  `<tr${isYou ? ' class="you"' : ""}>${cells.map((text) => `<${tag}>${escape(text)}`).join("")}`;

const STYLE = `
:root { color-scheme: light dark; font: 20px/1.4 system-ui, sans-serif; } body { margin: 1rem; }
h1 { font-size: 1.5em; overflow-wrap: anywhere; } div { overflow-x: auto; }
table { border-collapse: collapse; }
th, td { padding: .2em .35em; border-bottom: 1px solid GrayText; text-align: left; white-space: nowrap; }
td:nth-child(3) { white-space: normal; min-width: 5em; max-width: 10em; }
.you { font-weight: bold; }
/* the marks: thirty students fit 1280 pixels */
:is(th, td):nth-child(n+6) { padding: .2em .05em; text-align: center; min-width: 1.1em; }
th:nth-child(n+6) { font-size: .8em; }
`;

/** Content-Security-Policy (W3C): this style, and nothing else. */
export const POLICY = [
  "default-src 'none'",
  `style-src 'sha256-${createHash("sha256").update(STYLE).digest("base64")}'`,
  ...["base-uri", "form-action", "frame-ancestors"].map((what) => `${what} 'none'`),
].join("; ");
