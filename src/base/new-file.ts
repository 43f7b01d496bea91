/**
 * Files that our programs write where others may have been first: as root, in /tmp. Whoever made a symlink of
 * that name there would let root overwrite any file; whoever made the file could read what we write into it.
 */
import { closeSync, constants, lstatSync, openSync, unlinkSync, writeFileSync } from "node:fs";
import { Failure } from "./failure.ts";

const { O_CREAT, O_EXCL, O_NOCTTY, O_NOFOLLOW, O_WRONLY } = constants;
const OWN_STREAM = /^\/dev\/(stdout|stderr|fd\/\d+)$/; // symlinks, too, but in a folder that is root's

export const asSymlink = (path: string) =>
  new Failure(
    `Cannot write ${path}: it is a symlink`,
    "name the file that it leads to, or remove the symlink",
  );

/**
 * Opens `path` for writing: a new file with this mode (its owner's alone), in place of one that was there. A
 * device or our own FIFO is opened as it is. A symlink is refused. Source: open(2), O_EXCL and O_NOFOLLOW.
 * Errors: a Failure.
 */
export function openNew(path: string, mode = 0o600): number {
  const refuse = (why: string) => new Failure(`Cannot write ${path}: ${why}`, "name another file");
  try {
    if (OWN_STREAM.test(path)) return openSync(path, O_WRONLY);
    const old = lstatSync(path, { throwIfNoEntry: false });
    if (old?.isSymbolicLink()) throw asSymlink(path);
    if (old?.isFIFO() && old.uid !== process.getuid!()) throw refuse("it is a FIFO of another user's");
    if (old && !old.isFile()) return openSync(path, O_WRONLY | O_NOCTTY | O_NOFOLLOW);
    if (old) unlinkSync(path); // those who have it open keep the old one
    return openSync(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, mode);
  } catch (error) {
    if (error instanceof Failure) throw error;
    throw refuse((error as NodeJS.ErrnoException).code!);
  }
}

/** Writes a whole file, likewise. */
export function writeNew(path: string, data: string | Buffer, mode?: number): void {
  const fd = openNew(path, mode);
  try {
    writeFileSync(fd, data);
  } finally {
    closeSync(fd);
  }
}
