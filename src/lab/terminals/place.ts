/** The one lab that all terminals share: a file says which it is. `make down` ends it. */
import { randomBytes } from "node:crypto";
import { accessSync, constants, existsSync, mkdirSync, readFileSync, rmSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { writeNew } from "../../base/new-file.ts";
import { Lab, ROOT } from "../lab.ts";

// Tests have a lab of their own; and so has each user of a checkout that they may not write.
const PLACE = isWritable(ROOT, ".lab") ? join(ROOT, ".lab") : join(homedir(), ".simple-vpn");
const FOLDER = process.env.SIMPLE_VPN_LAB ?? PLACE;
const HOLDER = join(FOLDER, "holder"); // a file with the lab's name

/** Can `name` in `folder` be written, or made where it is not there? */
function isWritable(folder: string, name: string): boolean {
  try {
    const path = join(folder, name);
    accessSync(existsSync(path) ? path : folder, constants.W_OK);
    return true;
  } catch {
    return false;
  }
}

export function find(): Lab | undefined {
  try {
    return Lab.attach(readFileSync(HOLDER, "utf8"), console.log);
  } catch {
    return undefined; // no such file: no lab
  }
}

/** From now on find() finds it. */
export function remember(lab: Lab): void {
  mkdirSync(FOLDER, { recursive: true });
  writeNew(HOLDER, lab.name, 0o644);
}

export const forget = () => rmSync(HOLDER, { force: true });

/**
 * The option that names a secret of the user's own, where the Makefile could make none: the checkout cannot
 * be written.
 */
export function ownSecret(): string[] {
  if (isWritable(ROOT, "secret.key") || process.env.SIMPLE_VPN_SECRET !== undefined) return [];
  const file = join(FOLDER, "secret.key");
  if (!existsSync(file)) writeNew(file, `${randomBytes(32).toString("hex")}\n`);
  return ["--secret", file];
}
