/** What stands between the network and the API: who may ask, how much, how often, and how slowly. */
import { createHash, timingSafeEqual } from "node:crypto";
import { once } from "node:events";
import { readFileSync, unlinkSync } from "node:fs";
import { createServer, type IncomingMessage, type RequestListener, type ServerResponse } from "node:http";
import { createServer as createTls } from "node:https";
import type { Socket } from "node:net";
import { isLoopback } from "../base/address.ts";
import { Failure } from "../base/failure.ts";
import { atExit, fail } from "../host/program.ts";
import { readPrivate } from "../host/secret.ts";
import { listenAt } from "../host/status-socket.ts";
import { config } from "./config.ts";
import { asObject, Refusal } from "./route.ts";

const MOST_BODY = 16 * 1024; // bytes
export const LIMITS = {
  maxHeaderSize: 8 * 1024, // bytes
  headersTimeout: 5_000, // ms, also for who says nothing at all
  requestTimeout: 10_000, // ms, body included
  connectionsCheckingInterval: 1_000, // ms
};
/** A server has these as properties. They are far more connections than a class needs, and none for ever. */
export const MORE_LIMITS = {
  maxConnections: 2048,
  timeout: 30_000, // ms without a byte, either way: who takes no answer is closed, too
};

/** On each answer. */
export const HEADERS = new Headers({
  "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'", // the page has its own
  "X-Content-Type-Options": "nosniff",
  "Referrer-Policy": "no-referrer",
  "Cross-Origin-Resource-Policy": "same-origin",
  "Cache-Control": "no-store",
});

const asked = new Map<string, number>(); // requests of this second, by address
setInterval(() => asked.clear(), 1000).unref();

/** Does this one ask too often? `most`: requests a second from one address. Errors: a Refusal. */
export function limit({ socket: { remoteAddress = "" } }: IncomingMessage, most: number): void {
  const count = (asked.get(remoteAddress) ?? 0) + 1;
  asked.set(remoteAddress, count);
  if (count > most) throw new Refusal(429, `rate: at most ${most} requests a second`, { "Retry-After": "1" });
}

/** May this one ask at all? Errors: a Refusal. */
export function admit({ socket, headers }: IncomingMessage): void {
  // A page elsewhere can let its own name lead to us (DNS rebinding): then that name is in Host.
  const { host = "", origin } = headers;
  if (!isOurs(host.replace(/:\d+$/, "").toLowerCase(), socket))
    throw new Refusal(403, "Host: this name is not mine; --allow-host names more");
  if (origin !== undefined && origin !== `${"encrypted" in socket ? "https" : "http"}://${host}`)
    throw new Refusal(403, "Origin: a page of another place may not ask here");
}

let isPath = false; // do we listen on a unix socket?

/** Did it come to an address of this machine alone? A socket that is closed has none any more. */
const isNear = ({ localAddress = "" }: Socket) => isPath || isLoopback(localAddress.replace(/^::ffff:/, ""));

function isOurs(name: string, socket: Socket): boolean {
  if (isNear(socket) && (name === "localhost" || name === "[::1]" || isLoopback(name))) return true;
  const to = socket.localAddress?.replace(/^::ffff:/, "");
  return name === to || name === `[${to}]` || config["allow-host"].includes(name);
}

/**
 * A request that changes something needs the token, if there is one. A request from another machine always
 * needs it. Errors: a Refusal.
 */
export function authorize({ headers, socket }: IncomingMessage, changes: boolean): void {
  const { token } = config;
  if (isNear(socket) && (!changes || token === undefined)) return;
  const digest = (text = "") => createHash("sha256").update(text).digest(); // so both are of one length
  const isGood = timingSafeEqual(digest(headers.authorization), digest(`Bearer ${token}`));
  if (token !== undefined && isGood) return;
  throw new Refusal(401, "Authorization: expected Bearer and the token", { "WWW-Authenticate": "Bearer" });
}

/** The body, an object as JSON; {} for none. Errors: a Refusal. */
export async function readBody(request: IncomingMessage): Promise<object> {
  const bytes = await readBytes(request);
  const type = request.headers["content-type"];
  const isOther = type === undefined ? bytes.length > 0 : !/^application\/json *(;|$)/i.test(type);
  if (isOther) throw new Refusal(415, "Content-Type: expected application/json");
  if (bytes.length === 0) return {};
  try {
    return asObject(JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes)));
  } catch (error) {
    throw new Refusal(400, `body: ${(error as Error).message.replace(/[^ -~]/g, "?")}`);
  }
}

function readBytes(request: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let size = 0;
  return new Promise((resolve, reject) => {
    request.on("data", (chunk: Buffer) => {
      size += chunk.length;
      if (size <= MOST_BODY) chunks.push(chunk);
      else reject(new Refusal(413, `body: more than ${MOST_BODY} bytes`, { Connection: "close" }));
    });
    request.on("end", () => resolve(Buffer.concat(chunks)));
    request.on("close", () => reject(new Refusal(400, "body: cut short")));
  });
}

export function send(response: ServerResponse, type: string, body: string): void {
  response.setHeader("Content-Type", type);
  response.setHeader("Content-Length", Buffer.byteLength(body));
  response.end(body);
}

export const sendJson = (response: ServerResponse, value: unknown) =>
  send(response, "application/json", `${JSON.stringify(value)}\n`);

/** The answer of a request that failed: a Refusal's status; else 500, which is told to us, too. */
export function refuse(response: ServerResponse, error: unknown): void {
  if (response.headersSent) return void response.destroy();
  const { status, headers } = error instanceof Refusal ? error : { status: 500, headers: {} };
  const { message } = error as Error;
  const text = error instanceof Failure ? `${message}. Try: ${error.hint}` : message;
  if (status === 500) console.error(text);
  response.statusCode = status;
  response.setHeaders(new Headers(headers));
  sendJson(response, { error: text });
}

/** Listens, and returns where: "http://127.0.0.1:8080/", or the path. Errors: a Failure. */
export async function serve(handle: RequestListener): Promise<string> {
  const { host, port, "tls-cert": cert, "tls-key": key } = config;
  const server = cert ? tlsServer(cert, key, handle) : createServer(LIMITS, handle);
  Object.assign(server, MORE_LIMITS);
  isPath = host.startsWith("/");
  if (isPath) {
    await listenAt(host, server, "--host");
    atExit(() => unlinkSync(host));
  } else {
    server.listen(port, host);
    await once(server, "listening").catch(({ code }) => {
      throw new Failure(`Cannot listen on ${host} port ${port}: ${code}`, "another --port, --host");
    });
  }
  server.on("error", fail);
  const at = server.address()!;
  if (typeof at === "string") return at;
  return `http${cert ? "s" : ""}://${at.family === "IPv6" ? `[${at.address}]` : at.address}:${at.port}/`;
}

function tlsServer(cert: string, key: string, handle: RequestListener) {
  const files = { cert: readFileSync(cert), key: readPrivate("key", key, () => PRIVATELY, "check the path") };
  const tls = { minVersion: "TLSv1.2" as const, handshakeTimeout: LIMITS.headersTimeout };
  try {
    return createTls({ ...LIMITS, ...tls, ...files }, handle);
  } catch (error) {
    const why = `Cannot use TLS with ${cert} and ${key}: ${(error as Error).message}`;
    throw new Failure(why, "the certificate and its own key, both as PEM");
  }
}
const PRIVATELY = "keep it in a file that you alone can read";
