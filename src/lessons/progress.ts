/**
 * How far one is: lessons/progress.json, an object by the lesson's name. It is the student's own. Only with
 * --report URL it is told to a manager (src/manager/progress.ts).
 */
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { Failure } from "../base/failure.ts";
import { ROOT } from "../lab/lab.ts";

/** Where the student's files are. */
export const FOLDER = process.env.SIMPLE_VPN_LESSONS ?? join(ROOT, "lessons"); // tests have their own
const FILE = join(FOLDER, "progress.json");

/** What the last run of a lesson came to. */
export interface Progress {
  passed: number;
  total: number;
  when: string; // ISO 8601
}

/** All of it, by name: "1-tun". Errors: a Failure. */
export function readProgress(): Record<string, Progress> {
  if (!existsSync(FILE)) return {}; // nothing was done yet
  try {
    return { ...JSON.parse(readFileSync(FILE, "utf8")) };
  } catch {
    throw new Failure(`Cannot read ${FILE}: it is no JSON file`, `rm ${FILE}: it only says how far you are`);
  }
}

/** Keeps what was reached now. */
export function keep(name: string, passed: number, total: number): void {
  const all = readProgress();
  all[name] = { passed, total, when: new Date().toISOString() };
  mkdirSync(FOLDER, { recursive: true });
  writeFileSync(`${FILE}.new`, `${JSON.stringify(all, null, 2)}\n`);
  renameSync(`${FILE}.new`, FILE);
}

/**
 * Tells the manager at `url`; a line that says so, or why not: the lesson itself goes on. The token, where
 * the manager wants one, is in SIMPLE_VPN_MANAGER_TOKEN.
 */
export async function report(
  url: string,
  student: string | undefined,
  lesson: string,
  { passed, total }: { passed: number; total: number },
): Promise<string> {
  const who = student ?? `${process.env.USER ?? "somebody"} on ${hostname()}`.slice(0, 64);
  const token = process.env.SIMPLE_VPN_MANAGER_TOKEN;
  try {
    const answer = await fetch(new URL("/api/progress", url), {
      method: "POST",
      headers: { "Content-Type": "application/json", ...(token && { Authorization: `Bearer ${token}` }) },
      body: JSON.stringify({ student: who, lesson, passed, total }),
      signal: AbortSignal.timeout(5_000),
    });
    if (answer.ok) return `Reported to ${url} as "${who}".`;
    const { error } = (await answer.json()) as { error: string };
    return `Not reported: ${url} answers ${answer.status}, ${error}`;
  } catch (error) {
    const { message, cause } = error as Error & { cause?: Error };
    return `Not reported to ${url}: ${cause?.message ?? message}`;
  }
}
