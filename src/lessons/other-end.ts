/**
 * The other end of a student's connection, in the hands of a check: what each read() brought, and bytes to
 * write, cut as the check likes. TCP may join what is written; pauses mostly prevent that.
 */
import type { ChildProcess } from "node:child_process";
import type { Lab } from "../lab/lab.ts";

/** Runs on a host of the lab: node -e, since tsx would take a second. */
const PROGRAM = `
  const net = require("node:net"), [role, address] = process.argv.slice(1);
  const use = (socket) => {
    socket.setNoDelay(true).on("error", () => {}).on("close", () => process.send("closed"));
    socket.on("data", (bytes) => process.send(bytes.toString("hex")));
    process.removeAllListeners("message");
    process.on("message", async (pieces) => {
      for (const piece of pieces) {
        await new Promise((resolve) => socket.write(Buffer.from(piece, "hex"), resolve));
        await new Promise((resolve) => setTimeout(resolve, pieces.length > 1 ? 3 : 0));
      }
    });
    process.send("connected");
  };
  if (role === "listen") net.createServer(use).listen(5555, () => process.send("listening"));
  else use(net.connect(5555, address));`;

export class OtherEnd {
  private readonly child: ChildProcess;
  stream = Buffer.alloc(0); // all that has come
  state = ""; // "listening", "connected" or "closed"

  private constructor(child: ChildProcess) {
    this.child = child;
    child.on("message", (message: string) => {
      if (/^[a-z]{5,}$/.test(message)) this.state = message;
      else this.stream = Buffer.concat([this.stream, Buffer.from(message, "hex")]);
    });
  }

  /** Listens on port 5555 of a host, or connects from there to that port of `address`. */
  static async start(lab: Lab, host: string, address?: string): Promise<OtherEnd> {
    const role = address ? ["connect", address] : ["listen"];
    const stdio = ["ignore", "inherit", "inherit", "ipc"] as const;
    const child = lab.spawn(host, [process.execPath, "-e", PROGRAM, ...role], { stdio: [...stdio] });
    const end = new OtherEnd(child);
    await new Promise((resolve) => child.once("message", resolve));
    return end;
  }

  /** Each piece with a write() of its own. */
  send(...pieces: Buffer[]): void {
    this.child.send(pieces.map((piece) => piece.toString("hex")));
  }

  async stop(): Promise<void> {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return;
    const gone = new Promise((resolve) => this.child.once("exit", resolve));
    this.child.kill("SIGKILL");
    await gone;
  }
}
