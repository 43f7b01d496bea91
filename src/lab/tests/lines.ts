/** A reader of a unix socket that gives lines: what it has got so far. */
import { connect, type Socket } from "node:net";

export function readLines(path: string): { socket: Socket; lines: string[] } {
  const socket = connect(path).setEncoding("utf8");
  const lines: string[] = [];
  let rest = "";
  socket
    .on("error", () => {})
    .on("data", (text: string) => {
      const parts = (rest + text).split("\n");
      rest = parts.pop()!;
      lines.push(...parts);
    });
  return { socket, lines };
}
