/**
 * The names that programs ask `--socks` to connect to. They are looked up at the far end: the query leaves
 * through the tunnel, or not at all, so nobody on the client's network sees it. This is a stub resolver (RFC
 * 1035, section 5.3.1): it asks, and leaves the work to the name server.
 */
import { randomInt } from "node:crypto";
import { isIP, isIPv6 } from "node:net";
import { formatIPv4, formatIPv6 } from "../base/address.ts";
import { udpThrough, type Way } from "./socks-sockets.ts";

const PORT = 53;
const TRIES = 3;
const PATIENCE = 2_000; // ms, for each
const MAX_ADDRESSES = 4; // of a name: more are not tried
export const [A, AAAA] = [1, 28]; // types of records: IPv4, IPv6
const [IN, OPT] = [1, 41]; // the class "Internet"; RFC 6891
const HEADER = 12;
const LARGEST = 1232; // bytes of an answer that we take: they fit into one packet of 1,280

/** Its addresses, IPv4 ones first. None: there is no such name, or nobody answers. */
export async function lookUp(way: Way, name: string): Promise<string[]> {
  if (isIP(name)) return [name];
  const types = way.own().some(isIPv6) ? [A, AAAA] : [A];
  const found = await Promise.all(types.map((type) => askAll(way, name, type)));
  return found.flat().slice(0, MAX_ADDRESSES);
}

/** One server after the other, round and round. */
async function askAll(way: Way, name: string, type: number): Promise<string[]> {
  for (let i = 0; i < TRIES; i++) {
    for (const server of way.nameServers()) {
      const query = queryOf(name, type); // each with a number of its own
      const found = query ? await ask(way, server, query) : [];
      if (found) return found;
    }
  }
  return [];
}

/** Undefined: no answer. Each query has a socket, so a port that nobody can guess (RFC 5452). */
function ask(way: Way, server: string, query: Buffer): Promise<string[] | undefined> {
  const socket = udpThrough(way, server);
  if (typeof socket === "number") return Promise.resolve(undefined);
  return new Promise((resolve) => {
    const done = (found?: string[]) => {
      clearTimeout(deadline);
      socket.close();
      resolve(found);
    };
    const deadline = setTimeout(done, PATIENCE);
    socket.once("error", () => done()); // ECONNREFUSED, for one
    socket.on("message", (message) => {
      const found = answerTo(query, message);
      if (found) done(found);
    });
    // from now on the kernel takes datagrams of that server alone
    socket.connect(PORT, server, (error?: Error) => (error ? done() : socket.send(query)));
  });
}

/** The query for a name; undefined for one that cannot be: a label has 1 to 63 bytes, the name 253. */
export function queryOf(name: string, type: number, id = randomInt(0x10000)): Buffer | undefined {
  const labels = name.replace(/\.$/, "").split(".");
  if (name.length > 254 || labels.some(({ length }) => length < 1 || length > 63)) return undefined;
  const word = (...values: number[]) => Buffer.from(values.flatMap((value) => [value >> 8, value & 255]));
  return Buffer.concat([
    word(id, 0x0100, 1, 0, 0, 1), // a query, please do the work; one question, one additional record
    ...labels.flatMap((label) => [Buffer.from([label.length]), Buffer.from(label, "latin1")]),
    Buffer.from([0]),
    word(type, IN),
    Buffer.from([0]), // the root's name: the record is about the message
    word(OPT, LARGEST, 0, 0, 0),
  ]);
}

/**
 * The addresses in an answer, those of the type asked for. A name that is another one's alias (CNAME) has the
 * other one's beside it. Undefined: it is no answer to this query.
 */
export function answerTo(query: Buffer, answer: Buffer): string[] | undefined {
  const question = query.indexOf(0, HEADER) + 5; // its end
  const isSame = answer.subarray(HEADER, question).equals(query.subarray(HEADER, question));
  if (!isSame || answer.readUInt16BE(0) !== query.readUInt16BE(0) || !(answer[2]! & 0x80)) return undefined;
  const type = query.readUInt16BE(question - 4);
  const size = type === A ? 4 : 16;
  const found: string[] = [];
  let at = question;
  for (let records = answer.readUInt16BE(6); records > 0; records--) {
    at = nameEnd(answer, at);
    if (at + 10 > answer.length) return found;
    const [its, length] = [answer.readUInt16BE(at), answer.readUInt16BE(at + 8)];
    at += 10;
    if (at + length > answer.length) return found;
    if (its === type && length === size)
      found.push(type === A ? formatIPv4(answer.readUInt32BE(at)) : formatIPv6(answer, at));
    at += length;
  }
  return found;
}

/** Where the name at `at` ends: after a zero, or after two bytes that point to the rest of it. */
function nameEnd(bytes: Buffer, at: number): number {
  while (at < bytes.length && bytes[at]! > 0 && bytes[at]! < 0xc0) at += 1 + bytes[at]!;
  return at + (bytes[at] === 0 ? 1 : 2);
}
