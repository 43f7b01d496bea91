/** Does an answer fit the OpenAPI document? As much of JSON Schema as the document uses. */
import assert from "node:assert/strict";
import type { Answer } from "./ask.ts";

type Schema = Record<string, any>;

/** Throws unless `answer` is one that the document promises for this request. */
export function fits(document: Schema, method: string, path: string, answer: Answer): void {
  const operation = document.paths[path]?.[method.toLowerCase().replace("head", "get")];
  if (!operation)
    return assert.ok([404, 405].includes(answer.status), `${method} ${path} is not in the document`);
  const response = operation.responses[answer.status];
  if (answer.status >= 500) return; // the system's trouble, not the API's
  assert.ok(response, `${method} ${path}: the document has no answer ${answer.status}`);
  const type = String(answer.headers["content-type"]).split(";")[0]!;
  const media = response.content[type];
  assert.ok(media, `${method} ${path} ${answer.status}: the document has no ${type}`);
  const reference: string | undefined = media.schema.$ref;
  const schema = reference ? document.components.schemas[reference.split("/").at(-1)!] : media.schema;
  if (type !== "application/json" || method === "HEAD") return;
  const wrong = misfit(schema, answer.json, "");
  assert.equal(wrong, undefined, `${method} ${path} ${answer.status}: ${wrong}`);
}

/** What does not fit, undefined if all does. */
function misfit(schema: Schema, value: any, at: string): string | undefined {
  const known = [
    "type",
    "required",
    "properties",
    "items",
    "enum",
    "const",
    "anyOf",
    "additionalProperties",
    "description",
  ];
  const limits = ["maxLength", "minimum", "maximum"];
  const odd = Object.keys(schema).find((word) => ![...known, ...limits].includes(word));
  if (odd) return `${at}: this test does not know ${odd}`;
  const is = Array.isArray(value) ? "array" : Number.isInteger(value) ? "integer" : typeof value;
  if (schema.type && is !== schema.type && !(is === "integer" && schema.type === "number"))
    return `${at} is ${is}`;
  if ("const" in schema && value !== schema.const) return `${at} is ${value}`;
  if (schema.enum && !schema.enum.includes(value)) return `${at} is ${value}`;
  if (schema.anyOf) {
    const misfits = schema.anyOf.map((one: Schema) => misfit(one, value, at));
    return misfits.includes(undefined) ? undefined : misfits.join(", and ");
  }
  const missing = schema.required?.find((name: string) => !(name in value));
  if (missing) return `${at}.${missing} is missing`;
  if (is === "array") return value.map((one: any) => misfit(schema.items, one, `${at}[]`)).find(Boolean);
  if (is !== "object") return undefined;
  const { properties, additionalProperties } = schema;
  if (!properties && !additionalProperties) return undefined; // any object
  return Object.entries(value)
    .map(([name, one]) => {
      const inner = properties?.[name] ?? additionalProperties;
      return inner ? misfit(inner, one, `${at}.${name}`) : `${at}.${name} is not in the document`;
    })
    .find(Boolean);
}
