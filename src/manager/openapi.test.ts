/** The OpenAPI document against the table of routes. Lab tests hold it against real answers. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ROUTES } from "./api.ts";
import { openapi } from "./openapi.ts";

const document = JSON.parse(JSON.stringify(openapi(ROUTES, "1.2.3")));

test("openapi() has each route with its fields, and no other", () => {
  assert.deepEqual([document.openapi, document.info.version], ["3.1.0", "1.2.3"]);
  const there = Object.entries<object>(document.paths).flatMap(([path, methods]) =>
    Object.keys(methods).map((method) => `${method.toUpperCase()} ${path}`),
  );
  assert.deepEqual(there.sort(), ROUTES.map(({ method, path }) => `${method} ${path}`).sort());
  for (const { method, path, takes, open } of ROUTES) {
    const { parameters, requestBody, security } = document.paths[path][method.toLowerCase()];
    const schema = requestBody?.content["application/json"].schema;
    const named = (places: string[]) =>
      parameters.flatMap((one: { name: string; in: string }) => (places.includes(one.in) ? [one.name] : []));
    assert.deepEqual(
      named(["path", "query"]),
      Object.keys(takes).filter((one) => one === "name"),
      path,
    );
    if (schema)
      assert.deepEqual(Object.keys(schema.properties), path.includes("{") ? [] : Object.keys(takes));
    assert.equal(security.length, open ? 0 : 2);
    if (schema) assert.equal(schema.additionalProperties, false); // as take() has it
  }
});

test("openapi() promises what any request may be answered, each with a description", () => {
  const ids = new Set<string>();
  for (const { method, path, open } of ROUTES) {
    const { operationId, summary, responses } = document.paths[path][method.toLowerCase()];
    assert.ok(summary && !ids.has(operationId), operationId);
    ids.add(operationId);
    const least = ["200", "400", "403", "429", ...(method === "GET" ? [] : ["413", "415"])];
    for (const status of least) assert.ok(responses[status].description, `${path} ${status}`);
    assert.equal("401" in responses, !open, path);
    for (const [status, { content }] of Object.entries<any>(responses))
      if (status !== "200")
        assert.equal(content["application/json"].schema.$ref, "#/components/schemas/Error");
  }
  assert.deepEqual(document.components.schemas.Error.required, ["error"]);
});
