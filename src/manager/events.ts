/**
 * GET /api/events: server-sent events (WHATWG HTML, "Server-sent events"). Each is a name and an object.
 * A new listener first gets the present state. A slow listener costs no memory: it gets nothing more until it
 * has taken what was sent. Then it is told how many events it missed, and gets the state anew.
 */
import type { ServerResponse } from "node:http";
import { Fold } from "../base/fold.ts";
import { Refusal } from "./route.ts";

const MOST_LISTENERS = 64;
const MOST_WAITING = 256 * 1024; // bytes that may wait for one listener
const HEARTBEAT = 15_000; // ms: a comment. Who has taken nothing for twice as long is closed: http.ts
export const STREAM = "text/event-stream";

type Event = [name: string, data: unknown];
interface Listener {
  response: ServerResponse;
  missed: number; // events, since it last took all
  early: string | undefined; // events that came while its state was being read
}

const listeners = new Set<Listener>();
const states: (() => Promise<Event[]>)[] = [];

/** `state`: what a new listener is told first. */
export const present = (state: () => Promise<Event[]>) => void states.push(state);
export const listening = () => listeners.size;

/** Tells all listeners. */
export function publish(event: string, data: unknown): void {
  if (listeners.size === 0) return;
  const text = encode([event, data]);
  for (const listener of listeners) send(listener, text);
}
setInterval(() => {
  for (const { response } of listeners) if (response.writableLength === 0) response.write(": still here\n\n");
}, HEARTBEAT).unref();

const encode = ([name, data]: Event) => `event: ${name}\ndata: ${JSON.stringify(data)}\n\n`;

function send(listener: Listener, text: string): void {
  const { response, early } = listener;
  if (response.writableLength + (early ?? "").length > MOST_WAITING) listener.missed++;
  else if (early === undefined) response.write(text);
  else listener.early += text;
}

/** The answer to GET /api/events. It ends when the listener goes. */
export async function listen(response: ServerResponse): Promise<void> {
  if (listeners.size >= MOST_LISTENERS) throw new Refusal(429, `events: ${MOST_LISTENERS} listen already`);
  response.setHeader("Content-Type", STREAM);
  response.flushHeaders();
  if (response.req.method === "HEAD") return void response.end();
  const listener: Listener = { response, missed: 0, early: "" };
  listeners.add(listener);
  response.on("close", () => listeners.delete(listener));
  response.on("drain", () => catchUp(listener));
  await greet(listener);
}

/** Writes the present state, then what has happened while it was read. */
async function greet(listener: Listener): Promise<void> {
  const { response } = listener;
  listener.early = "";
  const state = await Promise.all(states.map((one) => one().catch(() => [])));
  const text = [": the state\n\n", ...state.flat().map(encode), listener.early].join("");
  listener.early = undefined;
  if (response.write(text)) catchUp(listener); // else with "drain"
}

/** It has taken all that was sent. What came meanwhile is lost: it is told so, and gets the state anew. */
function catchUp(listener: Listener): void {
  if (listener.missed === 0 || listener.early !== undefined) return;
  listener.response.write(encode(["lost", { events: listener.missed }]));
  listener.missed = 0;
  void greet(listener);
}

// ---- packets: shown one by one, or folded, as in the terminal ----

const fold = new Fold();
const folded = new Map<string, { packets: number; bytes: number }>(); // by interface

/** One more packet of `bytes`: is it shown? */
export function shows(host: string, bytes: number): boolean {
  if (fold.show()) return listeners.size > 0;
  const sum = folded.get(host) ?? { packets: 0, bytes: 0 };
  folded.set(host, { packets: sum.packets + 1, bytes: sum.bytes + bytes });
  return false;
}

/** Nanoseconds of CLOCK_MONOTONIC: the trace's clock, the same for all programs of this machine. */
export const now = () => Number(process.hrtime.bigint());

setInterval(() => {
  for (const [host, sum] of folded) publish("folded", { time: now(), host, ...sum });
  fold.second();
  folded.clear();
}, 1000).unref();
