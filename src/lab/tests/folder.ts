/** Folders for a test's own files. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const made: string[] = [];
// Chromium's helpers write a little longer than it lives.
const remove = (folder: string) => rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
process.on("exit", () => made.forEach(remove));

/** A new, empty folder; it goes when the test's process ends. */
export function newFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), "simple-vpn-test-"));
  made.push(folder);
  return folder;
}
