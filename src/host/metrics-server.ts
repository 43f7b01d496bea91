/** --metrics: a small HTTP server that gives one page, /metrics, and takes nothing. */
import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { isIP } from "node:net";
import { isLoopback } from "../base/address.ts";
import { Failure } from "../base/failure.ts";
import { PROMETHEUS } from "../base/prometheus.ts";

const MAX_CONNECTIONS = 16;
const PATIENCE = 2_000; // ms, for a request, and until the next one
const FRESH = 500; // ms

/** Listens from now on; `text`: the page. Errors: a Failure. */
export async function serveMetrics(
  { host, port }: { host: string; port: number },
  text: () => string,
): Promise<void> {
  let [page, madeAt] = ["", -Infinity];
  const latest = () => {
    // whoever asks often gets the same: with many peers it takes milliseconds, and the tunnel waits meanwhile
    if (performance.now() - madeAt > FRESH) [page, madeAt] = [text(), performance.now()];
    return page;
  };
  const limits = { headersTimeout: PATIENCE, requestTimeout: PATIENCE, keepAliveTimeout: PATIENCE };
  const server = createServer(
    { ...limits, maxHeaderSize: 8192, connectionsCheckingInterval: PATIENCE },
    (request, response) => answer(request, response, isLoopback(host), latest),
  );
  server.maxConnections = MAX_CONNECTIONS;
  server.listen(port, host).unref();
  try {
    await once(server, "listening");
  } catch (error) {
    const where = `${isIP(host) === 6 ? `[${host}]` : host}:${port}`;
    const hint = "another port, or another address of this machine ('ip address' lists them)";
    throw new Failure(`Cannot use --metrics ${where}: ${(error as NodeJS.ErrnoException).code}`, hint);
  }
}

function answer(
  request: IncomingMessage,
  response: ServerResponse,
  onlyHere: boolean,
  text: () => string,
): void {
  const { method, url = "", headers } = request;
  const end = (code: number, text: string, more: Record<string, string> = {}) => {
    response.writeHead(code, { "Content-Type": PROMETHEUS, ...more });
    response.end(method === "HEAD" ? undefined : text);
  };
  // A page in a browser here could reach us by a name of its own that leads to this machine (DNS rebinding).
  if (onlyHere && !isOwn(headers.host ?? "")) return end(403, "ask for an address, not for a name\n");
  if (url.split("?")[0] !== "/metrics") return end(404, "there is only /metrics\n");
  if (method !== "GET" && method !== "HEAD") return end(405, "only GET\n", { Allow: "GET, HEAD" });
  end(200, text());
}

const isOwn = (host: string) => {
  const name = host.replace(/:\d+$/, "").replace(/^\[(.*)\]$/, "$1");
  return name === "localhost" || isIP(name) !== 0;
};
