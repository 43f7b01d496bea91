/** What an exercise of the lab sheet is, and what their runs share. */
import { Failure } from "../../base/failure.ts";
import type { Part, Seen } from "./judge.ts";
import type { Terminals } from "./terminals.ts";

/** Opens the five terminals, over that transport. */
export type Open = (transport: "tcp" | "udp") => Promise<Terminals>;

export interface Exercise {
  parts: Part[];
  /** Does it, for real; for each part, what is right. Takes ten seconds or so. */
  measure: (open: Open) => Promise<Seen[]>;
}

export const yes = (is: boolean) => (is ? "yes" : "no");

/** The first group of a pattern. Throws a Failure where the run has not shown it. */
export function find(pattern: RegExp, text: string): string {
  const found = pattern.exec(text)?.[1];
  if (found !== undefined) return found;
  throw new Failure(
    `Cannot judge: the run did not show ${pattern}`,
    "run it again; by hand, see the lab sheet of walkthrough.md",
  );
}
