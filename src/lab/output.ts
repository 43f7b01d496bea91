/** The files that a run leaves behind. */
import { accessSync, constants, existsSync, mkdirSync, mkdtempSync, rmdirSync } from "node:fs";
import { join } from "node:path";
import { Failure } from "../program.ts";

/** Makes `folder`, where it is missing. Throws a Failure if `files` cannot be written in it: before the run, not after it. */
export function checkOutput(folder: string, files: string[], hint: string): void {
  try {
    mkdirSync(folder, { recursive: true });
    rmdirSync(mkdtempSync(join(folder, ".writable-")));
    for (const file of files.map((name) => join(folder, name))) if (existsSync(file)) accessSync(file, constants.W_OK);
  } catch (error) {
    const { code, path } = error as NodeJS.ErrnoException;
    const place = files.some((name) => path === join(folder, name)) ? path : folder === "." ? "this folder" : folder;
    throw new Failure(`Cannot write ${files.join(", ")}: ${place} cannot be written (${code})`, hint);
  }
}
