/**
 * A row of the API's table: method, path, what is sent and what is answered. From it come the answers 404,
 * 405 and 400, and the OpenAPI document.
 */
import type { ServerResponse } from "node:http";
import { nearest } from "../base/nearest.ts";

/** A request that is refused. The message begins with the field that is wrong: "mtu: 67 is no …". */
export class Refusal extends Error {
  readonly status: number; // of HTTP, 4xx
  readonly headers: Record<string, string>;

  constructor(status: number, message: string, headers = {}) {
    super(message);
    this.status = status;
    this.headers = headers;
  }
}

export type Schema = Record<string, unknown>; // JSON Schema, as OpenAPI 3.1 has it

/** One field of what is sent. `read` takes it as text, and throws what is wrong with it. */
export interface Field<T = unknown> {
  schema: Schema;
  read: (text: string) => T;
  required?: boolean;
}
export type Fields = Record<string, Field>;
export type Values<F extends Fields> = { [Name in keyof F]?: F[Name] extends Field<infer T> ? T : never };

const field =
  (type: "string" | "integer") =>
  <T>(read: (text: string) => T, description: string, more: Schema = {}): Field<T> => ({
    schema: { type, description, ...more },
    read,
  });
export const [text, integer] = [field("string"), field("integer")];

/** One row. `run` returns an object, which is sent as JSON; or answers itself, and returns undefined. */
export interface Route<F extends Fields = Fields> {
  method: "GET" | "POST" | "DELETE";
  path: string; // "{name}" in it is a field
  summary: string;
  takes: F; // in the body; the name, where there is one, also in the query
  answers: Schema | string; // with 200: JSON of this schema, or another media type
  run: (values: Values<F>, response: ServerResponse) => unknown;
  fails?: Record<number, string>; // why else it may be refused, by status
  open?: boolean; // never needs the token
}
type More = Pick<Route, "fails" | "open">;
export type Work<V> = (values: V) => string | Promise<string>;
/** A row that tells something. */
export const get = <F extends Fields>(
  path: string,
  summary: string,
  takes: F,
  answers: Schema | string,
  run: Route<F>["run"],
  more?: More,
) => ({ method: "GET", path, summary, takes, answers, run, ...more }) as Route;

/** A row that changes something. `run` returns what was done, in words. */
const changing =
  (method: "POST" | "DELETE") =>
  <F extends Fields>(path: string, summary: string, takes: F, run: Work<Values<F>>, more?: More) =>
    ({
      ...{ method, path, summary, takes, answers: SUCCESS, ...more },
      run: async (values) => ({ status: "success", message: await run(values as Values<F>) }),
    }) as Route;
export const [post, remove] = [changing("POST"), changing("DELETE")];

// What is answered, as a schema
export const object = (properties: Record<string, Schema>, optional = {}): Schema => ({
  type: "object",
  required: Object.keys(properties),
  properties: { ...properties, ...optional },
});
export const list = (items: Schema): Schema => ({ type: "array", items });
export const [STRING, NUMBER] = [{ type: "string" }, { type: "number" }];
const SUCCESS = object({ status: { const: "success" }, message: STRING });

/** What was sent, read field by field. Errors: a Refusal with status 400. */
export function take<F extends Fields>(fields: F, given: object): Values<F> {
  const names = Object.keys(fields);
  const values = Object.entries(given).map(([name, value]) => {
    if (!names.includes(name)) throw new Refusal(400, `${shown(name)}: no such field${nearest(name, names)}`);
    const { schema, read } = fields[name]!;
    try {
      if (!isOf(schema, value)) throw new Error(`is no ${schema.type}`);
      return [name, Array.isArray(value) ? value.map((one) => read(one)) : read(String(value))];
    } catch (error) {
      throw new Refusal(400, `${name}: ${shown(value)} ${(error as Error).message}`);
    }
  });
  const missing = names.find((name) => fields[name]!.required && !Object.hasOwn(given, name));
  if (missing) throw new Refusal(400, `${missing}: is missing`);
  return Object.fromEntries(values);
}

/** A JSON object as it is. Errors: it is none. */
export function asObject(value: unknown): object {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value;
  throw new Error("expected an object");
}

function isOf({ type, items, maxItems }: Schema, value: unknown): boolean {
  if (type === "integer") return Number.isInteger(value);
  if (type !== "array") return typeof value === type;
  return (
    Array.isArray(value) &&
    value.length <= Number(maxItems) &&
    value.every((one) => isOf(items as Schema, one))
  );
}

/** What somebody sent, in a message: short, no orders to a terminal, and nothing that may be a secret. */
export const shown = (value: unknown) =>
  JSON.stringify(value)
    .replace(/[^ -~]/g, "?")
    .replace(/[\da-f]{64}/gi, "…")
    .replace(/^(.{60}).+/, "$1…");
