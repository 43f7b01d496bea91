/**
 * What stands between the network and the API: who may ask, how, how often, and how slowly. Each limit is
 * here, and no request reaches the table of routes before it has passed.
 */
import { createHash, timingSafeEqual } from "node:crypto";
import {
  createServer as createHttp,
  type IncomingMessage,
  type RequestListener,
  type Server,
} from "node:http";
import { createServer as createHttps } from "node:https";
import { connect, type Socket } from "node:net";
import { lstatSync, unlinkSync } from "node:fs";
import { Failure } from "../base/failure.ts";
import { atExit, fail } from "../host/program.ts";
import { config, isLocal } from "./config.ts";
import { Refusal } from "./route.ts";

const MOST_CONNECTIONS = 256;
const MOST_BODY = 16 * 1024; // bytes
const SLOWEST_HEADER = 5_000; // ms from the connection to the end of the header
const SLOWEST_REQUEST = 10_000; // ms, with its body
const MOST_HEADER = 8 * 1024; // bytes

/** On each answer. */
export const HEADERS = {
  "Content-Security-Policy":
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; " +
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  "X-Content-Type-Options": "nosniff",
  "Referrer-Policy": "no-referrer",
  "Cross-Origin-Resource-Policy": "same-origin",
  "Cache-Control": "no-store",
};

const asked = new Map<string, number>(); // requests of this second, by address
setInterval(() => asked.clear(), 1000).unref();

/** May this request be looked at? Errors: a Refusal. */
export function admit({ socket, headers }: IncomingMessage): void {
  const from = socket.remoteAddress ?? "";
  const count = (asked.get(from) ?? 0) + 1;
  asked.set(from, count);
  if (count > config.rate)
    throw new Refusal(429, `too many requests: ${config.rate} a second from one address`);
  // A page elsewhere can let its own name lead to us (DNS rebinding). Its name is then in Host.
  const { host = "", origin } = headers;
  if (!isOurName(host.replace(/:\d+$/, "").toLowerCase(), socket))
    throw new Refusal(403, "Host: this name is not mine; --allow-host names more");
  if (origin !== undefined && ![`http://${host}`, `https://${host}`].includes(origin))
    throw new Refusal(403, "Origin: pages of other places may not ask here");
}

function isOurName(name: string, { localAddress }: Socket): boolean {
  const plain = (address: string) => address.replace(/^::ffff:/, "").replace(/^\[(.*)\]$/, "$1");
  const to = plain(localAddress ?? "localhost"); // none: a unix socket
  if (isLocal(to) && /^(localhost|127\.\d+\.\d+\.\d+|\[::1\])$/.test(name)) return true;
  return plain(name) === to || (config["allow-host"] ?? []).includes(name);
}

/** Does it bear the token? Errors: a Refusal. */
export function authorize({ headers }: IncomingMessage): void {
  if (config.token === undefined) return;
  const digest = (text: string) => createHash("sha256").update(text).digest(); // of one length, whatever was sent
  if (!timingSafeEqual(digest(headers.authorization ?? ""), digest(`Bearer ${config.token}`)))
    throw new Refusal(401, "Authorization: Bearer and the token are needed");
}

/** The body, an object as JSON; {} for none. Errors: a Refusal. */
export async function readBody(request: IncomingMessage): Promise<Record<string, unknown>> {
  const bytes = await readBytes(request);
  if (bytes.length === 0) return {};
  const [type] = (request.headers["content-type"] ?? "").split(";");
  if (type!.trim().toLowerCase() !== "application/json")
    throw new Refusal(415, "Content-Type: expected application/json");
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (error) {
    throw new Refusal(400, "body: is no JSON");
  }
  if (typeof value === "object" && value !== null && !Array.isArray(value))
    return value as Record<string, unknown>;
  throw new Refusal(400, "body: expected an object");
}

function readBytes(request: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let size = 0;
  return new Promise((resolve, reject) => {
    request.on("data", (chunk: Buffer) => {
      size += chunk.length;
      if (size <= MOST_BODY) chunks.push(chunk);
      else reject(new Refusal(413, `body: more than ${MOST_BODY} bytes`));
    });
    request.on("end", () => resolve(Buffer.concat(chunks)));
    request.on("close", () => reject(new Refusal(400, "body: is cut short")));
  });
}

/** Listens, and returns where: "http://127.0.0.1:8080/". Errors: a Failure. */
export async function serve(handle: RequestListener): Promise<string> {
  const { host, port, "tls-cert": cert, "tls-key": key } = config;
  const limits = {
    maxHeaderSize: MOST_HEADER,
    headersTimeout: SLOWEST_HEADER,
    requestTimeout: SLOWEST_REQUEST,
    connectionsCheckingInterval: 1_000, // ms
  };
  const server: Server = cert
    ? createHttps(
        { ...limits, cert, key: key!, minVersion: "TLSv1.2", handshakeTimeout: SLOWEST_HEADER },
        handle,
      )
    : createHttp(limits, handle);
  makeRoom(server);
  if (host.startsWith("/")) await removeStale(host);
  const mask = process.umask(0o177); // a unix socket is its owner's alone
  server.listen(host.startsWith("/") ? { path: host } : { host, port });
  process.umask(mask);
  await new Promise<void>((resolve, reject) => {
    server.once("listening", resolve);
    server.once("error", ({ code }: NodeJS.ErrnoException) => {
      const hint = code === "EADDRINUSE" ? "--port with another one" : "another --host or --port";
      reject(
        new Failure(`Cannot listen on ${host}${host.startsWith("/") ? "" : ` port ${port}`}: ${code}`, hint),
      );
    });
  });
  server.on("error", fail);
  const address = server.address()!;
  if (typeof address === "string") {
    atExit(() => unlinkSync(host));
    return host;
  }
  const name = address.family === "IPv6" ? `[${address.address}]` : address.address;
  return `${cert ? "https" : "http"}://${name}:${address.port}/`;
}

/**
 * Who connects when all places are taken gets that of the one who has waited longest without an open request.
 * So those who say nothing, or very slowly, keep nobody out.
 */
function makeRoom(server: Server): void {
  const waiting = new Map<unknown, Socket>(); // the oldest first
  const keyOf = (socket: Socket) =>
    socket.remotePort ? `${socket.remoteAddress} ${socket.remotePort}` : socket;
  let count = 0;
  server.on("connection", (socket: Socket) => {
    const key = keyOf(socket); // TLS puts another socket around it, with the same address
    waiting.set(key, socket);
    if (++count > MOST_CONNECTIONS) [...waiting.values()][0]?.destroy();
    socket.on("close", () => {
      count--;
      waiting.delete(key);
    });
  });
  server.on("request", ({ socket }, response) => {
    const key = keyOf(socket);
    const raw = waiting.get(key);
    waiting.delete(key);
    response.on("close", () => raw && !raw.destroyed && waiting.set(key, raw));
  });
}

/** The socket file of a manager that was killed. One that still listens keeps it. Errors: a Failure. */
async function removeStale(path: string): Promise<void> {
  if (!lstatSync(path, { throwIfNoEntry: false })?.isSocket()) return;
  const code = await new Promise<string>((resolve) => {
    const probe = connect(path, () => (probe.destroy(), resolve("")));
    probe.on("error", ({ code }: NodeJS.ErrnoException) => resolve(code!));
  });
  if (code !== "ECONNREFUSED") throw new Failure(`Cannot listen on ${path}: it is in use`, "another --host");
  unlinkSync(path);
}
