/** The API: one table, from which each request finds its row, and what it may send. */
import { readFileSync } from "node:fs";
import type { IncomingMessage, ServerResponse } from "node:http";
import { Failure } from "../base/failure.ts";
import { config, isLocal } from "./config.ts";
import { listen } from "./events.ts";
import { admit, authorize, HEADERS, readBody } from "./http.ts";
import * as interfaces from "./interfaces.ts";
import { inTurn } from "./interfaces.ts";
import { answered, metrics } from "./metrics.ts";
import { openapi } from "./openapi.ts";
import { PAGE, POLICY } from "./page.ts";
import { progress, PROGRESS, report } from "./progress.ts";
import { Refusal, type Route, route, type Schema, take } from "./route.ts";

const PACKAGE = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8"));
const VERSION: string = PACKAGE.version;

// ---- what is answered ----

const object = (properties: Record<string, Schema>): Schema => ({
  type: "object",
  required: Object.keys(properties),
  properties,
});
const [STRING, NUMBER] = [{ type: "string" }, { type: "number" }];
const SUCCESS = object({ status: { const: "success" }, message: STRING });
const NUMBERS = { type: "object", additionalProperties: NUMBER };
const BOTH = object({ packets: NUMBER, bytes: NUMBER });
const INTERFACE = object({
  status: { enum: ["running", "stopped"] },
  ...{ name: STRING, type: { enum: ["tun", "tap"] }, mtu: NUMBER, address: STRING, netmask: STRING },
  ...{
    address6: STRING,
    active: { type: "boolean" },
    mode: { enum: ["monitor", "echo", ""] },
    index: NUMBER,
  },
  ...{ flags: { type: "array", items: STRING }, hardware_addr: STRING },
  counters: object({
    ...{ read: BOTH, written: BOTH, discarded: NUMBER, refused: NUMBER, protocols: NUMBERS },
    kernel: object({ rx: NUMBERS, tx: NUMBERS }),
  }),
});
const NO_INTERFACE = object({ status: { const: "no_interface" }, message: STRING });
const PROGRESSES = object(
  Object.fromEntries(Object.entries(PROGRESS).map(([name, { schema }]) => [name, schema])),
);

// ---- the table ----

const done = (message: string) => ({ status: "success", message });
const FREE = { 400: "a field is wrong, or there is no such interface" };

export const ROUTES: Route[] = [
  route({
    ...{ method: "GET", path: "/health", summary: "is the manager alive?", takes: {}, open: true },
    answers: object({
      status: { const: "healthy" },
      version: STRING,
      uptime_seconds: NUMBER,
      interfaces: NUMBER,
    }),
    run: () => ({
      ...{ status: "healthy", version: VERSION, uptime_seconds: process.uptime() },
      interfaces: interfaces.all().length,
    }),
  }),
  route({
    ...{ method: "POST", path: "/api/interface/create", summary: "creates an interface, and brings it up" },
    ...{ takes: interfaces.CREATE, answers: SUCCESS, fails: { 409: "the name is taken" } },
    run: async (values) => {
      const { name, address, netmask, mtu } = config;
      const asked = { name, address, netmask, mtu, ...values };
      await inTurn(() => interfaces.create(asked));
      return done(`Interface ${asked.name} created successfully`);
    },
  }),
  route({
    ...{ method: "GET", path: "/api/interface/status", summary: "what an interface has, and has seen" },
    ...{ takes: interfaces.NAME, answers: { anyOf: [INTERFACE, NO_INTERFACE] } },
    run: ({ name }) => interfaces.status(name),
  }),
  route({
    ...{ method: "GET", path: "/api/interface/list", summary: "all interfaces" },
    ...{ takes: {}, answers: object({ interfaces: { type: "array", items: INTERFACE } }) },
    run: async () => ({ interfaces: await interfaces.list() }),
  }),
  route({
    ...{ method: "POST", path: "/api/interface/start", summary: "reads its packets from now on" },
    ...{ takes: interfaces.START, answers: SUCCESS, fails: FREE },
    run: async (values) => done(await inTurn(() => interfaces.start(values))),
  }),
  route({
    ...{ method: "POST", path: "/api/interface/stop", summary: "reads them no more" },
    ...{ takes: interfaces.NAME, answers: SUCCESS, fails: FREE },
    run: async (values) => done(await inTurn(() => interfaces.stop(values))),
  }),
  route({
    ...{ method: "POST", path: "/api/interface/configure", summary: "gives it another address or MTU" },
    ...{ takes: interfaces.CONFIGURE, answers: SUCCESS, fails: FREE },
    run: async (values) => done(await inTurn(() => interfaces.configure(values))),
  }),
  route({
    ...{ method: "DELETE", path: "/api/interface/delete", summary: "deletes it" },
    ...{ takes: interfaces.NAME, answers: SUCCESS, fails: FREE },
    run: async (values) => done(await inTurn(async () => interfaces.remove(values))),
  }),
  route({
    ...{ method: "GET", path: "/api/events", summary: "server-sent events: packets, and all that changes" },
    ...{ takes: {}, answers: "text/event-stream", fails: { 429: "too many requests, or listeners" } },
    run: (_, response) => listen(response),
  }),
  route({
    ...{ method: "POST", path: "/api/progress", summary: "tells how far a student is" },
    ...{ takes: PROGRESS, answers: SUCCESS, fails: { 409: "there is no room for one more" } },
    run: (values) => (report(values), done(`${values.student} is at ${values.passed} of ${values.total}`)),
  }),
  route({
    ...{ method: "GET", path: "/api/progress", summary: "how far everyone is", takes: {} },
    answers: object({ progress: { type: "array", items: PROGRESSES } }),
    run: () => ({ progress: progress() }),
  }),
  route({
    ...{ method: "GET", path: "/metrics", summary: "for Prometheus", takes: {}, answers: "text/plain" },
    run: async (_, response) => send(response, "text/plain; version=0.0.4; charset=utf-8", await metrics()),
  }),
  route({
    ...{
      method: "GET",
      path: "/openapi.json",
      summary: "this table",
      takes: {},
      answers: { type: "object" },
    },
    open: true,
    run: () => openapi(ROUTES, VERSION),
  }),
];

/** The page, with the policy that lets its own script run. */
const HOME = route({
  ...{ method: "GET", path: "/", summary: "the page of the class", takes: {}, answers: "text/html" },
  open: true,
  run: (_, response) => {
    response.setHeader("Content-Security-Policy", POLICY);
    send(response, "text/html; charset=utf-8", PAGE);
  },
});

const find = (method: string, path: string): Route => {
  const rows = [HOME, ...ROUTES].filter((row) => row.path === path);
  if (rows.length === 0) throw new Refusal(404, "there is no such path; /openapi.json names all");
  const row = rows.find((row) => row.method === (method === "HEAD" ? "GET" : method));
  const allowed = rows.flatMap((row) => (row.method === "GET" ? ["GET", "HEAD"] : [row.method]));
  if (!row) throw new WrongMethod(allowed.join(", "));
  return row;
};
class WrongMethod extends Refusal {
  readonly allow: string;
  constructor(allow: string) {
    super(405, `method: this path takes ${allow}`);
    this.allow = allow;
  }
}

/** Answers one request. */
export async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const since = performance.now();
  const { method = "" } = request;
  let row: Route | undefined;
  for (const [name, value] of Object.entries(HEADERS)) response.setHeader(name, value);
  try {
    admit(request);
    const url = urlOf(request);
    row = find(method, url.pathname);
    const isFree = row.open || (row.method === "GET" && isLocal(config.host));
    if (!isFree) authorize(request);
    const body = row.method === "GET" ? {} : await readBody(request);
    const values = take(row.takes, { ...Object.fromEntries(url.searchParams), ...body });
    const result = await row.run(values, response);
    if (result !== undefined) sendJson(response, 200, result);
  } catch (error) {
    refuse(request, response, error);
  }
  const ms = performance.now() - since;
  answered(row ? row.method : "other", row ? row.path : "other", response.statusCode, ms / 1000);
  if (row && row.method !== "GET")
    console.log(`${method} ${row.path} ${response.statusCode} ${ms.toFixed(1)} ms`);
}

function urlOf({ url = "" }: IncomingMessage): URL {
  try {
    return new URL(url, "http://localhost");
  } catch {
    throw new Refusal(404, "there is no such path");
  }
}

function refuse(request: IncomingMessage, response: ServerResponse, error: unknown): void {
  if (response.headersSent) return void response.destroy();
  if (error instanceof WrongMethod) response.setHeader("Allow", error.allow);
  const status = error instanceof Refusal ? error.status : 500;
  if (status === 401) response.setHeader("WWW-Authenticate", "Bearer");
  if (status === 429) response.setHeader("Retry-After", "1");
  if (!request.complete) response.setHeader("Connection", "close"); // what is left of it is not read
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
