/** What stands between the network and the API: who may ask, how much, how often, and how slowly. */
import { createHash, timingSafeEqual } from "node:crypto";
import { lstatSync, readFileSync, unlinkSync } from "node:fs";
import { createServer, type IncomingMessage, type RequestListener } from "node:http";
import type { Server, ServerResponse } from "node:http";
import { createServer as createTls } from "node:https";
import { connect, type Socket } from "node:net";
import { Failure } from "../base/failure.ts";
import { atExit, fail } from "../host/program.ts";
import { config, isLocal } from "./config.ts";
import { STREAM } from "./events.ts";
import { asObject, Refusal } from "./route.ts";

const MOST_CONNECTIONS = 256;
const MOST_BODY = 16 * 1024; // bytes
export const LIMITS = {
  maxHeaderSize: 8 * 1024, // bytes
  headersTimeout: 5_000, // ms
  requestTimeout: 10_000, // ms, body included
  connectionsCheckingInterval: 1_000, // ms
};

/** On each answer. */
export const HEADERS = {
  "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'", // the page has its own
  "X-Content-Type-Options": "nosniff",
  "Referrer-Policy": "no-referrer",
  "Cross-Origin-Resource-Policy": "same-origin",
  "Cache-Control": "no-store",
};

const asked = new Map<string, number>(); // requests of this second, by address
setInterval(() => asked.clear(), 1000).unref();

/** May this one ask at all? Errors: a Refusal. */
export function admit({ socket, headers }: IncomingMessage): void {
  const from = socket.remoteAddress ?? "";
  const count = (asked.get(from) ?? 0) + 1;
  asked.set(from, count);
  if (count > config.rate)
    throw new Refusal(429, `rate: at most ${config.rate} requests a second`, { "Retry-After": "1" });
  // A page elsewhere can let its own name lead to us (DNS rebinding): then that name is in Host.
  const { host = "", origin } = headers;
  if (!isOurs(host.replace(/:\d+$/, "").toLowerCase(), socket))
    throw new Refusal(403, "Host: this name is not mine; --allow-host names more");
  if (origin !== undefined && origin !== `${"encrypted" in socket ? "https" : "http"}://${host}`)
    throw new Refusal(403, "Origin: a page of another place may not ask here");
}

let isPath = false; // do we listen on a unix socket?

/** Did it come to an address of this machine alone? A socket that is closed has none any more. */
const isNear = ({ localAddress = "" }: Socket) => isPath || isLocal(localAddress.replace(/^::ffff:/, ""));

function isOurs(name: string, socket: Socket): boolean {
  if (isNear(socket) && /^(localhost|127\.\d+\.\d+\.\d+|\[::1\])$/.test(name)) return true;
  const to = socket.localAddress?.replace(/^::ffff:/, "");
  return name === to || name === `[${to}]` || config["allow-host"].includes(name);
}

/** Who changes something needs the token, if there is one; who comes from elsewhere always. A Refusal. */
export function authorize({ headers, socket }: IncomingMessage, changes: boolean): void {
  const { token } = config;
  if (isNear(socket) && (!changes || token === undefined)) return;
  const digest = (text = "") => createHash("sha256").update(text).digest(); // so both are of one length
  if (token !== undefined && timingSafeEqual(digest(headers.authorization), digest(`Bearer ${token}`)))
    return;
  throw new Refusal(401, "Authorization: expected Bearer and the token", { "WWW-Authenticate": "Bearer" });
}

/** The body, an object as JSON; {} for none. Errors: a Refusal. */
export async function readBody(request: IncomingMessage): Promise<object> {
  const bytes = await readBytes(request);
  const type = request.headers["content-type"];
  if (bytes.length === 0 && type === undefined) return {};
  if (!/^application\/json *(;|$)/i.test(type ?? ""))
    throw new Refusal(415, "Content-Type: expected application/json");
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

/** Listens, and returns where: "http://127.0.0.1:8080/", or the path. Errors: a Failure. */
export async function serve(handle: RequestListener): Promise<string> {
  const { host, port, "tls-cert": cert, "tls-key": key } = config;
  const tls = { minVersion: "TLSv1.2" as const, handshakeTimeout: LIMITS.headersTimeout };
  const server = cert
    ? createTls({ ...LIMITS, ...tls, cert: readFileSync(cert), key: readFileSync(key) }, handle)
    : createServer(LIMITS, handle);
  makeRoom(server);
  isPath = host.startsWith("/");
  if (isPath) await removeStale(host);
  const mask = process.umask(0o177); // a unix socket is its owner's alone
  server.listen(isPath ? { path: host } : { host, port });
  process.umask(mask);
  await new Promise<void>((resolve, reject) => {
    const problem = `Cannot listen on ${host}${isPath ? "" : ` port ${port}`}: `;
    const refuse = ({ code }: NodeJS.ErrnoException) =>
      reject(new Failure(problem + code, "another --port, --host"));
    server.once("listening", resolve).once("error", refuse);
  });
  server.on("error", fail);
  if (isPath) atExit(() => unlinkSync(host));
  const at = server.address()!;
  if (typeof at === "string") return at;
  return `http${cert ? "s" : ""}://${at.family === "IPv6" ? `[${at.address}]` : at.address}:${at.port}/`;
}

/**
 * When all places are taken, the next one gets that of the connection that has asked nothing for the longest
 * time; of one whose request is being answered only if there is no other. So who says nothing, or says it
 * very slowly, keeps nobody out. Listeners to events stay.
 */
export function makeRoom(server: Server): void {
  const open = new Map<unknown, { socket: Socket; response?: ServerResponse }>(); // who asked last at the end
  // TLS puts another socket around it, of the same addresses.
  const keyOf = (socket: Socket) =>
    socket.remotePort ? `${socket.remoteAddress} ${socket.remotePort}` : socket;
  server.on("connection", (socket: Socket) => {
    const key = keyOf(socket);
    const others = [...open.values()].filter(
      ({ response }) => response?.getHeader("Content-Type") !== STREAM,
    );
    const isIdle = ({ response }: { response?: ServerResponse }) =>
      !response?.req.complete || response.writableFinished;
    open.set(key, { socket });
    socket.on("close", () => open.delete(key));
    if (open.size > MOST_CONNECTIONS) (others.find(isIdle) ?? others[0])?.socket.destroy();
  });
  server.on("request", (request, response) => {
    const key = keyOf(request.socket);
    const { socket } = open.get(key) ?? request;
    open.delete(key);
    if (!socket.destroyed) open.set(key, { socket, response });
  });
}

/** The socket file of a manager that was killed. Errors: a Failure if one still listens there. */
async function removeStale(path: string): Promise<void> {
  if (!lstatSync(path, { throwIfNoEntry: false })?.isSocket()) return;
  const code = await new Promise<string | undefined>((resolve) => {
    const probe = connect(path, () => (probe.destroy(), resolve("in use")));
    probe.on("error", (error: NodeJS.ErrnoException) => resolve(error.code));
  });
  if (code !== "ECONNREFUSED") throw new Failure(`Cannot listen on ${path}: ${code}`, "another --host");
  unlinkSync(path);
}
