/** The API: one table, in which each request finds its row, and what it may send. */
import type { IncomingMessage, ServerResponse } from "node:http";
import { PROMETHEUS } from "../base/prometheus.ts";
import { version } from "../host/options.ts";
import { config } from "./config.ts";
import { listen, STREAM } from "./events.ts";
import { CONFIGURE, CREATE, NAME, START } from "./fields.ts";
import { admit, authorize, HEADERS, limit, readBody, refuse, send, sendJson } from "./http.ts";
import * as interfaces from "./interfaces.ts";
import { answered, metrics } from "./metrics.ts";
import { openapi } from "./openapi.ts";
import { PAGE, POLICY } from "./page.ts";
import { forget, PROGRESS, progress, report } from "./progress.ts";
import { get, post, Refusal, remove, type Route, shown, take } from "./route.ts";
import { list, NUMBER, object, STRING } from "./route.ts";
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

/** Changes something, when all changes before it are done. */
const inTurn =
  <V>(work: (values: V) => Promise<string>) =>
  (values: V) =>
    interfaces.inTurn(() => work(values));
const TAKEN = { fails: { 409: "the name is taken, or there is no room" } };
const OPEN = { open: true };
const WHO = { student: PROGRESS.student };
const UNTOLD = { fails: { 404: "nobody has told progress of this student" } };
const UNKNOWN = { 404: "there is no such VPN" };
const ELSEWHERE = { ...UNKNOWN, 409: "it was started elsewhere" };
/** Two have a path of their own: they are also started there. */
const ofVpn = (path: string, takes: Partial<typeof NAMED>, own = {}) => [
  get(path, "what it tells", takes, VPN, (given) => vpn.show({ ...given, ...own }), { fails: UNKNOWN }),
  remove(path, "ends it", takes, (given) => vpn.end({ ...given, ...own }), { fails: ELSEWHERE }),
];

export const ROUTES: Route[] = [
  get("/health", "is the manager alive?", {}, object(HEALTHY), health, OPEN),
  post("/api/interface/create", "makes one, brings it up", CREATE, inTurn(interfaces.create), TAKEN),
  get("/api/interface/status", "what it has, and has seen", NAME, ONE_OR_NONE, interfaces.status),
  get("/api/interface/list", "all of them", {}, object({ interfaces: list(INTERFACE) }), interfaces.list),
  post("/api/interface/start", "reads its packets from now on", START, inTurn(interfaces.start)),
  post("/api/interface/stop", "reads them no more", NAME, inTurn(interfaces.stop)),
  post("/api/interface/configure", "another address, MTU", CONFIGURE, inTurn(interfaces.configure)),
  remove("/api/interface/delete", "deletes it", NAME, inTurn(interfaces.remove)),
  get("/api/events", "packets, and all that changes", {}, STREAM, (_, to) => listen(to)),
  post("/api/progress", "how far a student is", PROGRESS, report, TAKEN),
  get("/api/progress", "how far everyone is", {}, object({ progress: list(DONE) }), progress),
  remove("/api/progress", "forgets a student", WHO, forget, UNTOLD),
  post("/api/vpn/server", "starts a server", SERVER_FIELDS, vpn.start("server"), TAKEN),
  post("/api/vpn/client", "starts a client", CLIENT_FIELDS, vpn.start("client"), TAKEN),
  ...ofVpn("/api/vpn/server", {}, { name: "server" }),
  ...ofVpn("/api/vpn/client", {}, { name: "client" }),
  get("/api/vpn", "all VPN programs", {}, object({ vpns: list(VPN) }), vpn.list),
  ...ofVpn("/api/vpn/{name}", NAMED),
  get("/metrics", "for Prometheus", {}, "text/plain", async (_, to) => send(to, PROMETHEUS, await metrics())),
  get("/openapi.json", "this table", {}, { type: "object" }, () => openapi(ROUTES, version), OPEN),
  get("/", "the page of the class", {}, "text/html", home, OPEN),
];

function health(): object {
  const uptime_seconds = process.uptime();
  return { status: "healthy", version, uptime_seconds, interfaces: interfaces.all().length };
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
  response.setHeaders(HEADERS);
  try {
    limit(request, config.rate);
    admit(request);
    const [path = "", query] = request.url!.split("?");
    const found = find(request.method!, path);
    row = found.row;
    if (!row.open) authorize(request, row.method !== "GET");
    const body = row.method === "GET" ? {} : await readBody(request);
    const inUrl = [...new URLSearchParams(query), ...Object.entries(found.inPath)];
    const values = row.open ? {} : take(row.takes, together(inUrl, body)); // "/?class" is the page, too
    const result = await row.run(values, response);
    if (result !== undefined) sendJson(response, result);
  } catch (error) {
    refuse(response, error);
  }
  const ms = performance.now() - since;
  const { method, path } = row ?? { method: "other", path: "other" };
  answered(method, path, response.statusCode, ms / 1000);
  if (row && method !== "GET") console.log(method, path, response.statusCode, `${ms.toFixed(1)} ms`);
}

/** The row, and the fields that stand in the path. */
function find(method: string, path: string): { row: Route; inPath: Record<string, string> } {
  const exact = ROUTES.filter((row) => row.path === path); // these first (OpenAPI, "Paths Object")
  const inPath = (row: Route) => new RegExp(`^${row.path.replace(/\{(\w+)\}/, "(?<$1>[^/]+)")}$`).exec(path);
  const rows = exact.length > 0 ? exact : ROUTES.filter(inPath);
  const row = rows.find((row) => row.method === (method === "HEAD" ? "GET" : method));
  if (row) return { row, inPath: { ...inPath(row)!.groups } };
  if (rows.length === 0) throw new Refusal(404, "there is no such path; /openapi.json has all");
  const Allow = rows.map((row) => (row.method === "GET" ? "GET, HEAD" : row.method)).join(", ");
  throw new Refusal(405, `this path takes ${Allow}`, { Allow });
}

/** What was sent: the body, and the name, which may also stand in the URL. Errors: a Refusal. */
function together(inUrl: [string, string][], body: object): object {
  const other = inUrl.find(([name]) => name !== "name");
  if (other) throw new Refusal(400, `${shown(other[0])}: no field of a URL, name alone is`);
  if (inUrl.length + Number("name" in body) > 1) throw new Refusal(400, "name: is given twice");
  return { ...Object.fromEntries(inUrl), ...body };
}
