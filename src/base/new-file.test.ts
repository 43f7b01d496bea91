import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { closeSync, constants, linkSync, lstatSync, openSync, readFileSync } from "node:fs";
import { statSync, symlinkSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { Failure } from "./failure.ts";
import { openNew } from "./new-file.ts";
import { newFolder } from "../lab/tests/folder.ts";

const folder = newFolder();
const mode = (path: string) => lstatSync(path).mode & 0o777;
function write(path: string, text: string): void {
  const fd = openNew(path);
  writeSync(fd, text);
  closeSync(fd);
}

test("a file is new, and its owner's alone; one that was there is replaced, not written into", () => {
  const [path, other] = [join(folder, "file"), join(folder, "other name")];
  write(path, "first");
  assert.equal(mode(path), 0o600);
  writeFileSync(other, "everybody reads this", { mode: 0o644 });
  const reader = openSync(other, "r"); // who has it open reads on in the old one
  linkSync(other, join(folder, "link"));
  write(other, "second");
  assert.deepEqual([mode(other), readFileSync(other, "utf8")], [0o600, "second"]);
  assert.equal(readFileSync(reader, "utf8"), "everybody reads this");
  assert.equal(readFileSync(join(folder, "link"), "utf8"), "everybody reads this");
  closeSync(reader);
});

test("a symlink is refused, wherever it leads; so is a folder, and one that is not there", () => {
  writeFileSync(join(folder, "target"), "precious");
  for (const [name, target] of [
    ["to a file", "target"],
    ["to nothing", "nothing"],
    ["to a device", "/dev/null"],
  ] as const) {
    symlinkSync(target, join(folder, name));
    assert.throws(
      () => openNew(join(folder, name)),
      (error) => error instanceof Failure && /: it is a symlink$/.test(error.message) && error.hint !== "",
    );
  }
  assert.equal(readFileSync(join(folder, "target"), "utf8"), "precious");
  assert.equal(statSync(join(folder, "nothing"), { throwIfNoEntry: false }), undefined);
  assert.throws(() => openNew(folder), /: EISDIR/);
  assert.throws(() => openNew(join(folder, "no/such")), /: ENOENT/);
});

test("a device and a FIFO are written as they are; a FIFO of another user's is refused", (t) => {
  closeSync(openNew("/dev/null"));
  const fd = openSync(join(folder, "opened"), "w");
  write(`/dev/fd/${fd}`, "as >(jq) in a shell"); // /dev/fd leads to /proc/self/fd
  closeSync(fd);
  assert.equal(readFileSync(join(folder, "opened"), "utf8"), "as >(jq) in a shell");
  const fifo = join(folder, "fifo");
  spawnSync("mkfifo", [fifo]);
  const reader = openSync(fifo, constants.O_RDONLY | constants.O_NONBLOCK);
  write(fifo, "through");
  assert.equal(readFileSync(reader, "utf8"), "through");
  if (process.getuid!() !== 0) return t.skip("only root can give a FIFO to somebody else");
  spawnSync("chown", ["65534", fifo]);
  assert.throws(() => openNew(fifo), /: it is a FIFO of another user's/);
});
