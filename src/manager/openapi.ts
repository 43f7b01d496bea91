/** GET /openapi.json: the table of routes as an OpenAPI 3.1 document (spec.openapis.org/oas/v3.1.0). */
import type { Field, Route, Schema } from "./route.ts";

const ERROR: Schema = {
  type: "object",
  required: ["error"],
  properties: { error: { type: "string", description: "what is wrong, the field first" } },
};
const json = (schema: Schema) => ({ "application/json": { schema } });

/** Why any request may be refused, and those that change something. */
const REFUSALS = {
  ANY: { 400: "a field is wrong", 403: "Host or Origin is another's", 429: "too many requests" },
  CHANGING: { 401: "the token is missing", 413: "the body is too large", 415: "the body is not JSON" },
};

export function openapi(routes: readonly Route[], version: string): object {
  const paths: Record<string, Record<string, object>> = {};
  for (const route of routes) (paths[route.path] ??= {})[route.method.toLowerCase()] = operation(route);
  const securitySchemes = { token: { type: "http", scheme: "bearer" } };
  return {
    openapi: "3.1.0",
    info: { title: "Simple VPN: the interface manager", version },
    paths,
    components: { schemas: { Error: ERROR }, securitySchemes },
  };
}

function operation({ method, path, summary, takes, answers, fails, open }: Route): object {
  const changes = method !== "GET";
  const fields = Object.entries(takes);
  const parameter = ([name, { schema, required }]: [string, Field]) => ({
    name,
    in: "query",
    required,
    schema,
  });
  const body = {
    type: "object",
    additionalProperties: false,
    required: fields.flatMap(([name, { required }]) => (required ? [name] : [])),
    properties: Object.fromEntries(fields.map(([name, { schema }]) => [name, schema])),
  };
  const refusals = { ...REFUSALS.ANY, ...(changes && REFUSALS.CHANGING), ...fails };
  const error = json({ $ref: "#/components/schemas/Error" });
  const good = typeof answers === "string" ? { [answers]: { schema: { type: "string" } } } : json(answers);
  return {
    operationId: `${method.toLowerCase()}${path.replace(/[^a-z]+(\w?)/g, (_, letter) => letter.toUpperCase())}`,
    summary,
    ...(!changes && fields.length > 0 && { parameters: fields.map(parameter) }),
    ...(changes && { requestBody: { required: body.required.length > 0, content: json(body) } }),
    responses: {
      200: { description: "done", content: good },
      ...Object.fromEntries(
        Object.entries(refusals).map(([status, description]) => [status, { description, content: error }]),
      ),
    },
    security: open ? [] : [{}, { token: [] }],
  };
}
