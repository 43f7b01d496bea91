/**
 * --status PATH: a unix socket (unix(7)) for its owner alone, which gives lines and takes nothing. Whoever is
 * slow to read loses lines, and is told how many. The tunnel never waits for a reader, nor keeps much for it.
 */
import { once } from "node:events";
import { lstatSync, unlinkSync } from "node:fs";
import { connect, createServer, type Server, type Socket } from "node:net";
import { Failure } from "../base/failure.ts";

export const MAX_READERS = 8;
export const MAX_WAITING = 256 * 1024; // bytes that may wait for one reader
const MAX_TAKEN = 64 * 1024; // bytes that a reader may write; nobody looks at them

export class StatusSocket {
  private readonly server: Server;
  private readonly readers = new Set<Reader>();

  /**
   * Listens at `path`; `greet`: the first line that a reader gets. What a dead program has left there is
   * replaced. Errors: a Failure.
   */
  static async open(path: string, greet: () => string): Promise<StatusSocket> {
    const socket = new StatusSocket(greet);
    await listenAt(path, socket.server, "--status");
    return socket;
  }

  private constructor(greet: () => string) {
    // A reader whose own input has ended (nc < /dev/null) still reads.
    this.server = createServer({ allowHalfOpen: true }, (socket) => {
      const reader = new Reader(socket, () => this.readers.delete(reader));
      if (this.readers.size >= MAX_READERS)
        return reader.refuse(`${MAX_READERS} readers are connected already`);
      this.readers.add(reader);
      reader.write([greet()]);
    }).unref();
  }

  /** Does anybody read? */
  get isRead(): boolean {
    return this.readers.size > 0;
  }

  /** Gives all readers these lines, each without its end. */
  write(lines: string[]): void {
    for (const reader of this.readers) reader.write(lines);
  }

  /** For tests: a program's own end closes it. */
  close(): void {
    this.server.close();
    for (const reader of this.readers) reader.end();
  }
}

class Reader {
  private readonly socket: Socket;
  private lost = 0; // lines

  constructor(socket: Socket, onClose: () => void) {
    let taken = 0;
    this.socket = socket;
    socket.unref();
    socket.on("data", ({ length }) => (taken += length) > MAX_TAKEN && socket.destroy());
    socket.on("error", () => {}); // it has gone: "close" follows
    socket.on("close", onClose);
  }

  write(lines: string[]): void {
    if (this.socket.writableLength > MAX_WAITING) {
      this.lost += lines.length;
      return;
    }
    const before = this.lost > 0 ? [JSON.stringify({ type: "lost", lines: this.lost })] : [];
    this.lost = 0;
    this.socket.write([...before, ...lines].map((line) => `${line}\n`).join(""));
  }

  refuse(error: string): void {
    this.socket.end(`${JSON.stringify({ type: "error", error })}\n`, () => this.end());
  }

  end(): void {
    this.socket.destroy();
  }
}

/**
 * Lets `server` listen at `path`, which `option` names, for our own user alone. What a dead program has left
 * there is replaced. Errors: a Failure.
 */
export async function listenAt(path: string, server: Server, option: string): Promise<void> {
  const refused = (why: string, hint: string) => new Failure(`Cannot use ${option} ${path}: ${why}`, hint);
  await makeRoom(path, refused);
  const before = process.umask(0o177); // so that it never has another mode than 0600
  try {
    server.listen(path); // bind(2), which makes the file, is called before this returns
  } finally {
    process.umask(before);
  }
  try {
    await once(server, "listening");
  } catch (error) {
    throw refused((error as NodeJS.ErrnoException).code!, "a path in a folder that you may write to");
  }
}

type Refuse = (why: string, hint: string) => Failure;

/** Removes a socket that nobody listens at any more. Errors: a Failure if somebody does, or if it is none. */
async function makeRoom(path: string, refused: Refuse): Promise<void> {
  const found = lstatSync(path, { throwIfNoEntry: false });
  if (!found) return;
  if (!found.isSocket()) throw refused("there is something else, and no socket", "another path");
  const socket = connect(path);
  try {
    await once(socket, "connect");
    throw refused("a program that runs has it", `another path; 'ss -lxp src ${path}' shows which one`);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (error instanceof Failure) throw error;
    const isFull = code === "EAGAIN"; // its queue of connections
    if (isFull) throw refused("a program that runs has it", "another path");
    if (code !== "ECONNREFUSED" && code !== "ENOENT") throw refused(code!, "another path");
  } finally {
    socket.destroy();
  }
  try {
    unlinkSync(path);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== "ENOENT") throw refused(`a dead program's cannot be removed: ${code}`, `rm ${path}`);
  }
}
