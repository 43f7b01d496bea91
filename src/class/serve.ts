/**
 * The page of the class, at the server's inner address, and nowhere else. GET / is the page, GET /roster the
 * same as JSON. POST /me is how a student tells a name and pings; the source address says which student.
 */
import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";
import { Failure } from "../base/failure.ts";
import { HEADERS, limit, LIMITS, MORE_LIMITS, readBody, refuse, send } from "../manager/http.ts";
import { type Field, Refusal, take, text } from "../manager/route.ts";
import { isName, POLICY, type Roster } from "./roster.ts";

const RATE = 20; // requests a second from one address
const MOST = 256; // addresses in one report

const addresses: Field<string> = {
  schema: { type: "array", items: { type: "string" }, maxItems: MOST },
  read: String,
};
const REPORT = { name: text(name, "who"), answered: addresses, silent: addresses };

function name(text: string): string {
  if (isName(text)) return text;
  throw new Error(
    "is no name of 1 to 24 letters, digits, spaces or . ' _ -, with one of the first two in front",
  );
}

/** Listens from now on. `look`: asks the server who is connected. Errors: a Failure. */
export async function serve(roster: Roster, port: number, look: () => Promise<unknown>): Promise<void> {
  const answer = async (request: IncomingMessage, response: ServerResponse) => {
    response.setHeaders(HEADERS);
    try {
      limit(request, RATE);
      const { type, body } = await result(request, request.socket.remoteAddress ?? "");
      if (type === HTML) response.setHeader("Content-Security-Policy", POLICY);
      send(response, type, body);
    } catch (error) {
      refuse(response, error);
    }
  };
  const result = async (request: IncomingMessage, from: string) => {
    const { method, url, headers } = request;
    // A page elsewhere can let its own name lead to us (DNS rebinding): then that name is in Host.
    if (headers.host?.replace(/:\d+$/, "") !== roster.own)
      throw new Refusal(403, `Host: ask for ${roster.own}`);
    const allowed = { "/": "GET", "/roster": "GET", "/me": "POST" }[url ?? ""];
    if (!allowed) throw new Refusal(404, "there are /, /roster and /me");
    if (method !== allowed) throw new Refusal(405, `this path takes ${allowed}`, { Allow: allowed });
    if (method === "POST") {
      const { name = "", answered, silent } = take(REPORT, await readBody(request));
      // Who has only just come stands in the server's next status, which it tells once a second.
      for (let i = 0; i < 4 && !roster.find(from); i++) await sleep(500).then(look);
      const student = roster.find(from);
      if (!student) throw new Refusal(403, `${from} is no address of a student`);
      roster.tell(student, name, [answered ?? []].flat(), [silent ?? []].flat());
    }
    return url === "/"
      ? { type: HTML, body: roster.html(from) }
      : { type: JSON_TYPE, body: JSON.stringify(roster.json(from)) };
  };
  const server = createServer(LIMITS, (request, response) => void answer(request, response));
  Object.assign(server, MORE_LIMITS);
  try {
    server.listen(port, roster.own);
    await once(server, "listening");
  } catch (error) {
    const problem = `Cannot listen on ${roster.own} port ${port}: ${(error as NodeJS.ErrnoException).code}`;
    throw new Failure(problem, "PAGE=8080 behind make class");
  }
}

const [HTML, JSON_TYPE] = ["text/html; charset=utf-8", "application/json"];
