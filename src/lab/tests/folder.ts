/** Folders for a test's own files. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const made: string[] = [];
process.on("exit", () => made.forEach((folder) => rmSync(folder, { recursive: true, force: true })));

/** A new, empty folder; it goes when the test's process ends. */
export function newFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), "simple-vpn-test-"));
  made.push(folder);
  return folder;
}
