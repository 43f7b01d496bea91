/**
 * For fuzz.ts: inputs that are kept, those that once found something and some that are hard. Each is a file
 * src/lab/fuzz/corpus/PARSER/NAME. Its first line says what it is, the rest is the input itself:
 *
 *   text: the server's address is the subnet's last         hex: 20 zero bytes behind an IPv4 header's first
 *   {"address":"10.8.0.255","prefix":24,"mtu":1400}         45 00*20
 *
 * The bytes are kept, not the seed: a seed means another input as soon as the fuzzer changes.
 */
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { ROOT } from "../lab.ts";

export const CORPUS = join(ROOT, "src/lab/fuzz/corpus");

export interface Kept {
  name: string; // of its file
  what: string;
  input: Buffer;
  chance: number | undefined; // of a finding: the seed of what else happened by chance
}

/** The inputs that are kept for a parser. */
export function keptFor(parser: string, corpus = CORPUS): Kept[] {
  return readdirSync(join(corpus, parser))
    .sort()
    .map((name) => {
      const file = readFileSync(join(corpus, parser, name), "utf8");
      const found = /^(text|hex)(?:, chance (\d+))?: (.+)\n([^]*)\n$/.exec(file);
      if (!found) throw new Error(`${parser}/${name} is not written as corpus.ts says`);
      const [, kind, chance, what, body] = found;
      const input = kind === "text" ? Buffer.from(body!) : fromHex(body!);
      return { name, what: what!, input, chance: chance === undefined ? undefined : Number(chance) };
    });
}

/** Keeps one; the path of its file. */
export function keep(parser: string, { name, what, input, chance }: Kept, corpus = CORPUS): string {
  const isText = /^[ -~\n]*$/.test(input.toString("latin1"));
  const body = isText
    ? input.toString()
    : (input
        .toString("hex")
        .match(/.{1,64}/g)
        ?.join("\n") ?? "");
  const path = join(corpus, parser, name);
  mkdirSync(join(corpus, parser), { recursive: true });
  writeFileSync(path, `${isText ? "text" : "hex"}, chance ${chance}: ${what}\n${body}\n`);
  return path;
}

/** Hex digits with any white space; "00*20" is a byte 20 times. */
function fromHex(text: string): Buffer {
  const digits = text
    .replace(/([0-9a-f]{2})\*(\d+)/g, (_, byte: string, times: string) => byte.repeat(Number(times)))
    .replace(/\s/g, "");
  if (!/^([0-9a-f]{2})*$/.test(digits)) throw new Error(`not hex: ${text.slice(0, 50)}`);
  return Buffer.from(digits, "hex");
}
