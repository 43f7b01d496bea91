/** The options of client.ts and server.ts as fields of the API, from the programs' own tables. */
import { CLIENT, SERVER } from "../host/options.ts";
import { type Field, type Fields, NUMBER, object, STRING, text } from "./route.ts";

// The manager's own; and those that would write a file, or open a port, for whoever asks
const NOT_HERE = ["status", "metrics", "trace-file", "help", "version"];

type Option = { value: string; help: string; read: (text: string) => unknown; repeatable?: true };

function fieldsOf(table: Record<string, Option>): Fields {
  const options = Object.entries(table).filter(([name]) => !NOT_HERE.includes(name));
  return Object.fromEntries(options.map(([name, option]) => [name, fieldOf(name, option)]));
}

/** What an option takes is read as the program reads it, and handed on as it is. */
function fieldOf(name: string, { value, help: description, read, repeatable }: Option): Field {
  if (value === "") return { schema: { type: "boolean", description }, read: (text) => text === "true" };
  const type = ["N", "SECONDS"].includes(value) ? "integer" : "string";
  const schema = repeatable ? { type: "array", items: { type: "string" }, maxItems: 64 } : { type };
  const handOn = (text: string) => {
    if (name !== "user") read(text); // whether there is such a user takes long: the program asks
    // Everyone can read the words of a command.
    const isSecret = name === "secret" && /^\s*[\da-f]{64}\s*$/i.test(text);
    if (isSecret) throw new Error("is the secret itself: name its file");
    return plain(text);
  };
  return { schema: { ...schema, description }, read: handOn };
}

/** No argument of a program can have a zero byte in it (execve(2)), and none of these makes sense. */
function plain(text: string): string {
  if (/[\x00-\x1f\x7f]/.test(text)) throw new Error("has a control character in it");
  return text;
}

export const isVpnName = (text: string) => /^[a-z\d][\w.-]{0,31}$/i.test(text);
function vpnName(text: string): string {
  if (isVpnName(text)) return text;
  throw new Error("is no name of 1 to 32 letters, digits, or . _ -, with one of the first two in front");
}
const name = text(vpnName, "of the VPN", { maxLength: 32 });
export const NAMED = { name: { ...name, required: true } };
export const SERVER_FIELDS = { name, ...fieldsOf(SERVER) };
export const CLIENT_FIELDS = {
  name,
  server: { ...text(plain, "its name or address", { maxLength: 255 }), required: true },
  ...fieldsOf(CLIENT),
};

/** What is told of one. */
export const VPN = object(
  { name: STRING, started: { type: "boolean" }, running: { type: "boolean" } },
  { pid: NUMBER, problem: STRING, status: { type: "object" } },
);

/** The command line for these fields. No value of theirs can become an option, and no shell reads it. */
export function argumentsOf({ server, ...options }: { server?: string }): string[] {
  const given = Object.entries(options as Record<string, string | string[] | boolean>);
  const words = given.flatMap(([option, value]) => {
    if (typeof value === "boolean") return value ? [`--${option}`] : [];
    return [value].flat().map((text) => `--${option}=${text}`);
  });
  return [...words, ...(server === undefined ? [] : ["--", server])];
}
