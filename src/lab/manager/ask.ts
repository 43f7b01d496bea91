/** Asking the manager over HTTP. */
import { type Agent, request } from "node:http";

/** Its unix socket, or its TCP port on this machine. */
export type Where = { socketPath: string } | { port: number };
export interface Answer {
  status: number;
  headers: Record<string, string | string[] | undefined>;
  text: string;
  json: Record<string, any>; // {} if it is none
}

/** One request. A body that is no text is sent as JSON; `headers` come on top. Errors: the connection's. */
export function ask(
  where: Where,
  method: string,
  path: string,
  body?: unknown,
  headers: Record<string, string> = {},
  agent: Agent | false = false, // false: a connection of its own
): Promise<Answer> {
  const bytes =
    body === undefined || Buffer.isBuffer(body) || typeof body === "string" ? body : JSON.stringify(body);
  // Node adds none to DELETE
  const length = bytes === undefined ? {} : { "Content-Length": Buffer.byteLength(bytes) };
  const type = bytes === undefined ? {} : { "Content-Type": "application/json" };
  return new Promise((resolve, reject) => {
    const options = {
      host: "127.0.0.1",
      ...where,
      method,
      path,
      agent,
      headers: { Host: "localhost", ...type, ...length, ...headers },
    };
    const sent = request(options, (response) => {
      let text = "";
      response.setEncoding("utf8").on("data", (part) => (text += part));
      response.on("error", reject);
      response.on("end", () => {
        const isJson = text !== "" && response.headers["content-type"] === "application/json";
        resolve({
          status: response.statusCode!,
          headers: response.headers,
          text,
          json: isJson ? JSON.parse(text) : {},
        });
      });
    });
    sent.on("error", reject);
    sent.end(bytes);
  });
}

/** Server-sent events: what has come so far. */
export class Events {
  readonly all: { event: string; data: any }[] = [];
  private rest = "";
  private wake = () => {};
  private readonly sent;

  constructor(where: Where) {
    this.sent = request(
      { host: "127.0.0.1", ...where, path: "/api/events", headers: { Host: "localhost" } },
      (response) => response.setEncoding("utf8").on("data", (text: string) => this.take(text)),
    );
    this.sent.on("error", () => {}); // end() is one
    this.sent.on("socket", (socket) => socket.unref());
    this.sent.end();
  }

  private take(text: string): void {
    const blocks = (this.rest + text).split("\n\n");
    this.rest = blocks.pop()!;
    for (const block of blocks) {
      const [, event = "", data = "{}"] = /^event: (.*)\ndata: (.*)$/.exec(block) ?? [];
      this.all.push({ event, data: JSON.parse(data) }); // a comment: ""
    }
    this.wake();
  }

  /** Waits for an event of which `test` is true, at most 10 s. */
  async until(test: (event: string, data: any) => boolean): Promise<any> {
    for (const deadline = Date.now() + 10_000; ;) {
      const found = this.all.find(({ event, data }) => test(event, data));
      if (found) return found.data;
      if (Date.now() > deadline) throw new Error(`no such event, but ${JSON.stringify(this.all)}`);
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, 1_000);
        this.wake = () => (clearTimeout(timer), resolve());
      });
    }
  }

  end(): void {
    this.sent.destroy();
  }
}
