/** The API: one table, in which each request finds its row, and what it may send. */
import type { IncomingMessage, ServerResponse } from "node:http";
import { Failure } from "../base/failure.ts";
import { PROMETHEUS } from "../base/prometheus.ts";
import { version } from "../host/options.ts";
import { listen } from "./events.ts";
import { CONFIGURE, CREATE, NAME, START } from "./fields.ts";
import { admit, authorize, HEADERS, readBody } from "./http.ts";
import * as interfaces from "./interfaces.ts";
import { answered, metrics } from "./metrics.ts";
import { openapi } from "./openapi.ts";
import { PAGE, POLICY } from "./page.ts";
import { all, forget, PROGRESS, report } from "./progress.ts";
import { get, post, Refusal, remove, type Route, take } from "./route.ts";
import { list, NUMBER, object, STRING, SUCCESS, success } from "./route.ts";
import * as vpn from "./vpn.ts";
import { CLIENT_FIELDS, NAMED, SERVER_FIELDS, VPN } from "./vpn-fields.ts";

// ---- what is answered ----

const NUMBERS = { type: "object", additionalProperties: NUMBER };
const COUNTER = object({ packets: NUMBER, bytes: NUMBER });
const INTERFACE = object({
  ...{ status: { enum: ["running", "stopped"] }, name: STRING, type: CREATE.type.schema, mtu: NUMBER },
  ...{ address: STRING, netmask: STRING, address6: STRING, active: { type: "boolean" }, mode: STRING },
  ...{ index: NUMBER, flags: list(STRING), hardware_addr: STRING },
  counters: object({
    ...{ read: COUNTER, written: COUNTER, discarded: NUMBER, refused: NUMBER, protocols: NUMBERS },
    kernel: object({ rx: NUMBERS, tx: NUMBERS }),
  }),
});
const NONE = object({ status: { const: "no_interface" }, message: STRING });
const ONE_OR_NONE = { anyOf: [INTERFACE, NONE] };
const DONE = object(Object.fromEntries(Object.entries(PROGRESS).map(([name, { schema }]) => [name, schema])));
const HEALTHY = { status: { const: "healthy" }, version: STRING, uptime_seconds: NUMBER, interfaces: NUMBER };

// ---- the table ----

type Work<V> = (values: V) => Promise<string>; // what was done
function done<V>(work: Work<V>): (values: V) => Promise<object> {
  return async (values) => success(await work(values));
}
/** Changes something, when all changes before it are done. */
function change<V>(work: Work<V>): (values: V) => Promise<object> {
  return done((values) => interfaces.inTurn(() => work(values)));
}
const TAKEN = { fails: { 409: "the name is taken, or there is no room" } };
const OPEN = { open: true };
const UNKNOWN = { fails: { 404: "there is no such VPN" } };
const WHO = { student: PROGRESS.student };
const UNTOLD = { fails: { 404: "nobody has told progress of this student" } };
const ELSEWHERE = { fails: { ...UNKNOWN.fails, 409: "it was started elsewhere" } };

export const ROUTES: Route[] = [
  get("/health", "is the manager alive?", {}, object(HEALTHY), health, OPEN),
  post("/api/interface/create", "makes one, brings it up", CREATE, SUCCESS, change(interfaces.create), TAKEN),
  get("/api/interface/status", "what it has, and has seen", NAME, ONE_OR_NONE, interfaces.status),
  get("/api/interface/list", "all of them", {}, object({ interfaces: list(INTERFACE) }), interfaces.list),
  post("/api/interface/start", "reads its packets from now on", START, SUCCESS, change(interfaces.start)),
  post("/api/interface/stop", "reads them no more", NAME, SUCCESS, change(interfaces.stop)),
  post("/api/interface/configure", "another address, MTU", CONFIGURE, SUCCESS, change(interfaces.configure)),
  remove("/api/interface/delete", "deletes it", NAME, SUCCESS, change(interfaces.remove)),
  get("/api/events", "packets, and all that changes", {}, "text/event-stream", (_, to) => listen(to)),
  post("/api/progress", "how far a student is", PROGRESS, SUCCESS, (one) => success(report(one)), TAKEN),
  get("/api/progress", "how far everyone is", {}, object({ progress: list(DONE) }), () => ({
    progress: all(),
  })),
  remove("/api/progress", "forgets a student", WHO, SUCCESS, (one) => success(forget(one)), UNTOLD),
  post("/api/vpn/server", "starts a server", SERVER_FIELDS, SUCCESS, done(vpn.start("server")), TAKEN),
  post("/api/vpn/client", "starts a client", CLIENT_FIELDS, SUCCESS, done(vpn.start("client")), TAKEN),
  ...["server", "client"].flatMap((name) => [
    get(`/api/vpn/${name}`, `what the one named ${name} tells`, {}, VPN, () => vpn.show({ name }), UNKNOWN),
    remove(
      `/api/vpn/${name}`,
      "ends it",
      {},
      SUCCESS,
      done(() => vpn.end({ name })),
      ELSEWHERE,
    ),
  ]),
  get("/api/vpn", "all VPN programs", {}, object({ vpns: list(VPN) }), () => ({ vpns: vpn.list() })),
  get("/api/vpn/{name}", "what it tells", NAMED, VPN, vpn.show, UNKNOWN),
  remove("/api/vpn/{name}", "ends it", NAMED, SUCCESS, done(vpn.end), ELSEWHERE),
  get("/metrics", "for Prometheus", {}, "text/plain", async (_, to) => send(to, PROMETHEUS, await metrics())),
  get("/openapi.json", "this table", {}, { type: "object" }, () => openapi(ROUTES, version), OPEN),
  get("/", "the page of the class", {}, "text/html", home, OPEN),
];

function health(): object {
  return {
    status: "healthy",
    version,
    uptime_seconds: process.uptime(),
    interfaces: interfaces.all().length,
  };
}

/** The page, with the policy that lets its own style and script in. */
function home(_: object, response: ServerResponse): void {
  response.setHeader("Content-Security-Policy", POLICY);
  send(response, "text/html; charset=utf-8", PAGE);
}

/** Answers one request. */
export async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const since = performance.now();
  let row: Route | undefined;
  for (const [name, value] of Object.entries(HEADERS)) response.setHeader(name, value);
  try {
    admit(request);
    const [path = "", query] = request.url!.split("?");
    const found = find(request.method!, path);
    row = found.row;
    if (!row.open) authorize(request, row.method !== "GET");
    const body = row.method === "GET" ? {} : await readBody(request);
    const given = { ...Object.fromEntries(new URLSearchParams(query)), ...body, ...found.inPath };
    const values = row.open ? {} : take(row.takes, given); // "/?class" is the page, too
    const result = await row.run(values, response);
    if (result !== undefined) sendJson(response, 200, result);
  } catch (error) {
    refuse(response, error);
  }
  const ms = performance.now() - since;
  answered(row?.method ?? "other", row?.path ?? "other", response.statusCode, ms / 1000);
  if (row && row.method !== "GET")
    console.log(row.method, row.path, response.statusCode, `${ms.toFixed(1)} ms`);
}

/** The row, and the fields that stand in the path. */
function find(method: string, path: string): { row: Route; inPath: Record<string, string> } {
  const inPath = (row: Route) => {
    const pattern = row.path.replaceAll(".", "\\.").replace(/\{(\w+)\}/g, "(?<$1>[^/]+)");
    return new RegExp(`^${pattern}$`).exec(path);
  };
  const exact = ROUTES.filter((row) => row.path === path); // these first (OpenAPI, "Paths Object")
  const rows = exact.length > 0 ? exact : ROUTES.filter(inPath);
  const row = rows.find((row) => row.method === (method === "HEAD" ? "GET" : method));
  if (row) return { row, inPath: { ...inPath(row)!.groups } };
  if (rows.length === 0) throw new Refusal(404, "there is no such path; /openapi.json has all");
  const Allow = rows.map((row) => (row.method === "GET" ? "GET, HEAD" : row.method)).join(", ");
  throw new Refusal(405, `this path takes ${Allow}`, { Allow });
}

function refuse(response: ServerResponse, error: unknown): void {
  if (response.headersSent) return void response.destroy();
  const { status, headers } = error instanceof Refusal ? error : { status: 500, headers: {} };
  for (const [name, value] of Object.entries(headers)) response.setHeader(name, value);
  const { message } = error as Error;
  const text = error instanceof Failure ? `${message}. Try: ${error.hint}` : message;
  if (status === 500) console.error(text);
  sendJson(response, status, { error: text });
}

function sendJson(response: ServerResponse, status: number, value: unknown): void {
  response.statusCode = status;
  send(response, "application/json", `${JSON.stringify(value)}\n`);
}

function send(response: ServerResponse, type: string, body: string | Buffer): void {
  response.setHeader("Content-Type", type);
  response.setHeader("Content-Length", Buffer.byteLength(body));
  response.end(body);
}
