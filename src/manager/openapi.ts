/** GET /openapi.json: the table of routes as an OpenAPI 3.1 document (spec.openapis.org/oas/v3.1.0). */
import type { Route, Schema } from "./route.ts";

const error: Schema = { type: "object", required: ["error"], properties: { error: { type: "string" } } };
const json = (schema: Schema) => ({ "application/json": { schema } });

// Why any request may be refused, and which of those that change something
const ANY = { 400: "a field is wrong", 403: "Host or Origin is another's", 429: "too many requests" };
const CLOSED = { 401: "the token is missing" };
const CHANGING = { 413: "the body is too long", 415: "the body is no JSON" };

export function openapi(routes: readonly Route[], version: string): object {
  const paths: Record<string, Record<string, object>> = {};
  for (const route of routes) (paths[route.path] ??= {})[route.method.toLowerCase()] = operation(route);
  return {
    openapi: "3.1.0",
    info: { title: "Simple VPN: the interface manager", version },
    paths,
    components: { schemas: { Error: error }, securitySchemes: { token: { type: "http", scheme: "bearer" } } },
  };
}

function operation({ method, path, summary, takes, answers, fails, open }: Route): object {
  const isInPath = path.includes("{name}");
  const fields = Object.entries(isInPath ? {} : takes);
  const required = fields.flatMap(([name, field]) => (field.required ? [name] : []));
  const properties = Object.fromEntries(fields.map(([name, { schema }]) => [name, schema]));
  const body = { type: "object", additionalProperties: false, required, properties };
  const place = isInPath ? { in: "path", required: true } : { in: "query" };
  const parameters = takes.name ? [{ name: "name", ...place, schema: takes.name.schema }] : [];
  const wrong = Object.entries({ ...ANY, ...(!open && CLOSED), ...(method !== "GET" && CHANGING), ...fails });
  const content = json({ $ref: "#/components/schemas/Error" });
  const good = typeof answers === "string" ? { [answers]: { schema: { type: "string" } } } : json(answers);
  return {
    operationId: `${method.toLowerCase()}${path.replace(/\W+/g, "_")}`,
    summary,
    parameters,
    ...(method !== "GET" && { requestBody: { required: required.length > 0, content: json(body) } }),
    responses: {
      200: { description: "done", content: good },
      ...Object.fromEntries(wrong.map(([status, description]) => [status, { description, content }])),
    },
    security: open ? [] : [{}, { token: [] }],
  };
}
