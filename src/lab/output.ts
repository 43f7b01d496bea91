/** The files that a run leaves behind. */
import { accessSync, constants, lstatSync, mkdirSync, mkdtempSync, rmdirSync } from "node:fs";
import { join } from "node:path";
import { Failure } from "../base/failure.ts";
import { asSymlink } from "../base/new-file.ts";

/**
 * Makes `folder`, if it is missing. Throws a Failure if `files` cannot be written in it: before the run, not
 * after.
 */
export function checkOutput(folder: string, files: string[], hint: string): void {
  try {
    mkdirSync(folder, { recursive: true });
    rmdirSync(mkdtempSync(join(folder, ".writable-")));
    const paths = files.map((name) => join(folder, name));
    for (const path of paths) {
      const old = lstatSync(path, { throwIfNoEntry: false });
      if (old?.isSymbolicLink()) throw asSymlink(path);
      if (old) accessSync(path, constants.W_OK);
    }
  } catch (error) {
    if (error instanceof Failure) throw error;
    const { code, syscall, path } = error as NodeJS.ErrnoException;
    const place = syscall === "access" ? path : folder === "." ? "this folder" : folder;
    throw new Failure(`Cannot write ${files.join(", ")}: ${place} cannot be written (${code})`, hint);
  }
}
