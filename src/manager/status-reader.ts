/** Reads what a program tells by --status: src/host/status-socket.ts is the other end. */
import { connect, type Socket } from "node:net";
import type { Status } from "../base/status.ts";

const LONGEST = 1024 * 1024; // bytes of a line
const AGAIN = 500; // ms until the next try to connect
const TEXTS = ["host", "step", "id", "text", "hex"]; // of a step

/** What is told of one program. */
export interface StatusEvents {
  status(status: Status): void; // throws if it is none
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
      if (type === "status") {
        this.events.status({ type, ...rest });
        this.why = "";
      } else if (type === "step" && TEXTS.every((name) => typeof rest[name] === "string"))
        this.events.step(rest);
      else if (type === "lost") this.events.lost(Number(rest.lines));
      else return type === "error"; // there are too many readers: it closes
      return true;
    } catch {
      return false;
    }
  }
}
