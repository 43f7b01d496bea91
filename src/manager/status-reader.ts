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

/** Reads from now on, and connects again and again while nobody listens at `path`. Returns what ends it. */
export function readStatus(path: string, events: StatusEvents): () => void {
  let socket: Socket;
  let again: NodeJS.Timeout | undefined;
  let silence = ""; // why it is silent; "": it is not

  const open = () => {
    let rest = "";
    let why = "it has closed its status socket";
    socket = connect(path).setEncoding("utf8");
    socket.on("data", (text: string) => {
      const lines = (rest + text).split("\n");
      rest = lines.pop()!;
      if (rest.length < LONGEST && lines.every(isTaken)) return;
      why = "it does not speak as our programs do";
      socket.destroy();
    });
    socket.on("error", ({ code }: NodeJS.ErrnoException) => (why = `its status socket: ${code}`));
    socket.on("close", () => {
      if (silence !== why) events.silent((silence = why));
      again = setTimeout(open, AGAIN).unref();
    });
  };

  const isTaken = (line: string): boolean => {
    try {
      const { type, ...rest } = JSON.parse(line);
      if (type === "status") {
        events.status({ type, ...rest });
        silence = "";
      } else if (type === "step" && TEXTS.every((name) => typeof rest[name] === "string")) events.step(rest);
      else if (type === "lost") events.lost(Number(rest.lines));
      else return type === "error"; // there are too many readers: it closes
      return true;
    } catch {
      return false; // it makes no sense
    }
  };

  open();
  return () => {
    clearTimeout(again);
    socket
      .removeAllListeners()
      .on("error", () => {})
      .destroy();
  };
}
