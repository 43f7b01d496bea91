/** Runs a lesson's checks on a student's file, in a lab of its own, up to the first that fails. */
import { readFileSync } from "node:fs";
import { Lab } from "../lab/lab.ts";
import { type Check, type Lesson, Miss, Stage } from "./check.ts";

/** What became of the checks: the names of those that passed, and the one that failed. */
export interface Outcome {
  passed: string[];
  failed?: { check: string; miss: Miss };
}

/** `told` hears of each check as it ends. */
export async function runChecks(
  lab: Lab,
  file: string,
  lesson: Lesson,
  told: (check: Check, result: string | Miss) => void = () => {},
): Promise<Outcome> {
  const stage = new Stage(lab, file, lesson);
  const passed: string[] = [];
  try {
    for (const check of lesson.checks) {
      const result = await attempt(check, stage);
      told(check, result);
      if (result instanceof Miss) return { passed, failed: { check: check.name, miss: result } };
      passed.push(check.name);
    }
    return { passed };
  } finally {
    await stage.over();
  }
}

async function attempt(check: Check, stage: Stage): Promise<string | Miss> {
  if (readFileSync(stage.file, "utf8").trim() === "")
    return new Miss("the file is empty", "remove it, and make lesson puts the starter there again");
  try {
    return await check.run(stage);
  } catch (error) {
    if (error instanceof Miss) return error;
    throw error;
  }
}
