/**
 * What a row of the API's table says: method, path, what is sent and what is answered. From it come the
 * answers 404, 405 and 400, and the OpenAPI document.
 */
import type { ServerResponse } from "node:http";

/** A request that is refused. The message names the field: "mtu: 67 is no whole number from 68 to 65535". */
export class Refusal extends Error {
  readonly status: number; // of HTTP, 4xx

  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }
}

/** JSON Schema, as OpenAPI 3.1 has it. */
export type Schema = Record<string, unknown>;

/** One field of what is sent. `read` takes it as text, and throws what is wrong with it. */
export interface Field<T = unknown> {
  schema: Schema;
  required: boolean;
  read: (text: string) => T;
}
export type Fields = Record<string, Field>;
export type Values<F extends Fields> = { [Name in keyof F]?: F[Name] extends Field<infer T> ? T : never };

export const text = <T>(read: (text: string) => T, description: string, more: Schema = {}): Field<T> => ({
  schema: { type: "string", description, ...more },
  required: false,
  read,
});
export const integer = (
  read: (text: string) => number,
  description: string,
  more: Schema = {},
): Field<number> => ({
  schema: { type: "integer", description, ...more },
  required: false,
  read,
});
export const required = <T>(field: Field<T>): Field<T> => ({ ...field, required: true });

/** One row. `run` answers with an object, which is sent as JSON; or answers itself, with undefined. */
export interface Route<F extends Fields = Fields> {
  method: "GET" | "POST" | "DELETE";
  path: string;
  summary: string;
  takes: F; // in the query, and of POST and DELETE also in the body
  answers: Schema | string; // what 200 brings: JSON of this schema, or another media type
  fails?: Record<number, string>; // why else it may be refused
  open?: boolean; // never needs the token
  run: (values: Values<F>, response: ServerResponse) => unknown;
}
export const route = <F extends Fields>(row: Route<F>) => row as unknown as Route;

/** What was sent, read field by field. Errors: a Refusal with status 400. */
export function take<F extends Fields>(fields: F, given: Record<string, unknown>): Values<F> {
  const values: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(given)) {
    const field = Object.hasOwn(fields, name) ? fields[name] : undefined;
    if (!field)
      throw new Refusal(400, `${shown(name)}: there is no such field${nearest(name, Object.keys(fields))}`);
    const fits = field.schema.type === "string" ? typeof value === "string" : Number.isInteger(value);
    try {
      if (!fits) throw new Error(`is no ${field.schema.type}`);
      values[name] = field.read(String(value));
    } catch (error) {
      throw new Refusal(400, `${name}: ${shown(value)} ${(error as Error).message}`);
    }
  }
  const missing = Object.keys(fields).find((name) => fields[name]!.required && !(name in values));
  if (missing) throw new Refusal(400, `${missing}: is missing`);
  return values as Values<F>;
}

/** What somebody sent, in a message: short, and no orders to a terminal. */
const shown = (value: unknown) => {
  const json = JSON.stringify(value).replace(/[^ -~]/g, "?");
  return json.length > 60 ? `${json.slice(0, 60)}…` : json;
};

/** ", the nearest one is --port", by the fewest letters to change (Levenshtein); "" if there is none. */
export function nearest(name: string, known: string[]): string {
  const distance = (from: string, to: string) => {
    let row = [...to, ""].map((_, i) => i);
    for (const [i, one] of [...from].entries()) {
      const next = [i + 1];
      for (const [j, other] of [...to].entries())
        next.push(Math.min(row[j]! + (one === other ? 0 : 1), row[j + 1]! + 1, next[j]! + 1));
      row = next;
    }
    return row.at(-1)!;
  };
  const short = name.slice(0, 40);
  const [first] = known.map((one) => [distance(short, one), one] as const).sort(([a], [b]) => a - b);
  return first ? `; the nearest one is ${first[1]}` : "";
}
