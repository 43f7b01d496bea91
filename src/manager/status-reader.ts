/** Reads what a program tells by --status: src/host/status-socket.ts is the other end. */
import { connect, type Socket } from "node:net";
import type { Status } from "../base/status.ts";

const LONGEST = 1024 * 1024; // bytes of a line
const AGAIN = 500; // ms until the next try to connect

/** What is told of one program. */
export interface StatusEvents {
  status(status: Status): void;
  step(event: object): void; // of the trace
  /** Lines that we did not get. */
  lost(lines: number): void;
  /** It tells nothing any more, or nothing yet: why. Told once. */
  silent(why: string): void;
}

export class StatusReader {
  private readonly path: string;
  private readonly events: StatusEvents;
  private socket: Socket | undefined;
  private timer: NodeJS.Timeout | undefined;
  private why = ""; // it is silent; "": it is not

  /** Reads from now on, and connects again and again while nobody listens at `path`. */
  constructor(path: string, events: StatusEvents) {
    this.path = path;
    this.events = events;
    this.open();
  }

  close(): void {
    clearTimeout(this.timer);
    this.socket
      ?.removeAllListeners()
      .on("error", () => {})
      .destroy();
  }

  private open(): void {
    let rest = "";
    let why = "it has closed its status socket";
    const socket = (this.socket = connect(this.path).setEncoding("utf8"));
    socket.on("data", (text: string) => {
      const lines = (rest + text).split("\n");
      rest = lines.pop()!;
      const isGood = rest.length < LONGEST && lines.every((line) => this.take(line));
      if (isGood) return;
      why = "it does not speak as our programs do";
      socket.destroy();
    });
    socket.on("error", ({ code }: NodeJS.ErrnoException) => (why = `its status socket: ${code}`));
    socket.on("close", () => {
      if (this.why !== why) this.events.silent((this.why = why));
      this.timer = setTimeout(() => this.open(), AGAIN).unref();
    });
  }

  /** False: it makes no sense. */
  private take(line: string): boolean {
    try {
      const { type, ...rest } = JSON.parse(line);
      if (type === "status" && isLike({ type, ...rest }, SHAPE)) {
        this.why = "";
        this.events.status({ type, ...rest });
      } else if (type === "step" && isLike(rest, STEP)) this.events.step(rest);
      else if (type === "lost" && isLike(rest, { lines: 0 })) this.events.lost(rest.lines);
      else return type === "error"; // there are too many readers: it closes
      return true;
    } catch {
      return false;
    }
  }
}

const AMOUNT = { packets: 0, bytes: 0 };
const COUNTER = { ...AMOUNT, frames: 0 };
/** A status by example. `name?` may be missing, `*` is any name, a list's items are all like its first. */
export const SHAPE = {
  ...{
    type: "",
    time: "",
    role: "",
    pid: 0,
    version: "",
    state: "",
    transport: "",
    endpoint: "",
    inner: [""],
  },
  tun: { name: "", mtu: 0 },
  counters: { sent: COUNTER, received: COUNTER },
  drops: { "*": 0 },
  handshakes: { ok: 0, failed: 0 },
  ...{ rekeys: 0, reconnects: 0, peerCount: 0 },
  "socks?": { open: 0, ok: 0, failed: 0 },
  peers: [
    {
      ...{ inner: "", "inner6?": "", remote: "", sent: AMOUNT, received: AMOUNT },
      ...{ "keyAge?": 0, lastSeen: 0, connected: 0 },
    },
  ],
  loop: { p50: 0, p99: 0, max: 0 },
  memory: { rss: 0, heapUsed: 0 },
};
const STEP = { time: 0, host: "", step: "", id: "", bytes: 0, text: "", hex: "" };

/** Has it all that the example has, of the same types? A program of another version may have other fields. */
export function isLike(value: unknown, example: unknown): boolean {
  if (typeof example !== "object" || example === null) return typeof value === typeof example;
  if (Array.isArray(example)) return Array.isArray(value) && value.every((item) => isLike(item, example[0]));
  if (typeof value !== "object" || value === null || Array.isArray(value)) return false;
  const found = value as Record<string, unknown>;
  return Object.entries(example).every(([key, one]) => {
    if (key === "*") return Object.values(found).every((item) => isLike(item, one));
    const [name = "", optional] = key.split(/(\?)/);
    return optional && found[name] === undefined ? true : isLike(found[name], one);
  });
}
