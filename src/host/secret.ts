/** The shared secret: where it is kept, and which ones are taken. */
import { chmodSync, readFileSync, type Stats, statSync } from "node:fs";
import { KEY_LENGTH } from "../core/aes.ts";
import { Failure } from "../base/failure.ts";
import { room, wipe } from "../base/wipe.ts";

const LEAST_DIFFERENT = 16; // of a secret's 32 bytes; of 32 random ones, about 30 are

/** Takes SIMPLE_VPN_SECRET out of the environment, before any command is started: none needs to know it. */
export function takeFromEnvironment(): string | undefined {
  const { SIMPLE_VPN_SECRET } = process.env;
  delete process.env.SIMPLE_VPN_SECRET;
  return SIMPLE_VPN_SECRET;
}

/**
 * The secrets, 32 bytes each: from the files that --secret names, else from the environment, else from
 * secret.key. Errors: a Failure.
 */
export function readSecrets(files: string[] = [], environment = takeFromEnvironment()): Buffer[] {
  if (files.length > 0) return files.map((file) => readSecret(file, ", instead of --secret"));
  if (environment === undefined) return [readSecret("secret.key", "")];
  const hint = "'make secret' writes a good one to secret.key: 'unset SIMPLE_VPN_SECRET', to use that";
  return [parseSecret("SIMPLE_VPN_SECRET", Buffer.from(environment), hint)];
}

function readSecret(path: string, instead: string): Buffer {
  const typed = /^[\w@%+=:,./-]+$/.test(path) ? path : `'${path.replaceAll("'", "'\\''")}'`; // in a shell
  const fromShell = `SIMPLE_VPN_SECRET=$(cat ${typed}) in front of npx or node${instead}`;
  const refuse = (why: string, hint: string) => new Failure(`Cannot use the secret ${path}: ${why}`, hint);
  try {
    const status = statSync(path);
    if (status.isDirectory()) throw refuse("it is a folder", "name a file in it");
    if (!status.isFile()) throw refuse("it is no regular file", fromShell); // a FIFO holds up even Ctrl-C
    if (!isTrusted(status))
      throw refuse(
        `it belongs to user ${status.uid}, who can change it`,
        `chown root ${typed}; or ${fromShell}`,
      );
    if (status.mode & 0o077)
      throw refuse("other users can read it", canHide(path, status.mode) ? `chmod 600 ${typed}` : fromShell);
    const hint = "move it away, then 'make secret' makes a good one; the other end needs the same";
    return parseSecret(path, readFileSync(path), hint);
  } catch (error) {
    if (error instanceof Failure) throw error;
    const { code } = error as NodeJS.ErrnoException;
    const hints: Record<string, string> = {
      ENOENT: "'make secret' makes one; the other end needs the same",
      EACCES: `start as root (sudo), or as a user who may read it: 'namei -l ${typed}' shows who`,
    };
    throw new Failure(`Cannot read the secret ${path}: ${code}`, hints[code!] ?? "check the path");
  }
}

/** Is it root's, ours, or that of the user who called us by sudo(8)? */
const isTrusted = ({ uid }: Stats) => [0, process.getuid!(), Number(process.env.SUDO_UID ?? 0)].includes(uid);

/**
 * Can chmod(1) hide the file from others? Not on a read-only mount, not on a drive without modes (vfat, many
 * shared folders), and not if another user owns it. Some of these refuse, some do nothing. So we try it, and
 * put the mode back: to change it is for the owner.
 */
function canHide(path: string, mode: number): boolean {
  try {
    chmodSync(path, 0o600);
    const hidden = (statSync(path).mode & 0o077) === 0;
    chmodSync(path, mode & 0o7777);
    return hidden;
  } catch {
    return false;
  }
}

/** 64 hex digits as 32 bytes. `text` is wiped. */
function parseSecret(source: string, text: Buffer, hint: string): Buffer {
  const byteOrderMark = [0xef, 0xbb, 0xbf];
  const isSpace = (at: number) => text[at]! <= 0x20 || byteOrderMark.includes(text[at]!);
  let [start, end] = [0, text.length];
  while (start < end && isSpace(start)) start++;
  while (start < end && isSpace(end - 1)) end--;
  const secret = room(KEY_LENGTH);
  const refuse = (why: string) => {
    wipe(text, secret);
    return new Failure(`Cannot use the secret in ${source}: ${why}`, hint);
  };
  const got = `expected ${2 * KEY_LENGTH} hex digits, got ${end - start} characters`;
  if (end - start !== 2 * KEY_LENGTH) throw refuse(got);
  for (let i = 0; i < KEY_LENGTH; i++) {
    const [high, low] = [digit(text[start + 2 * i]!), digit(text[start + 2 * i + 1]!)];
    if (high < 0 || low < 0) throw refuse(got);
    secret[i] = high * 16 + low;
  }
  wipe(text);
  if (new Set(secret).size < LEAST_DIFFERENT) throw refuse("it can be guessed: too few different bytes");
  return secret;
}

/** The value of a hex digit in ASCII; -1 for any other character. */
const digit = (code: number) => "0123456789abcdef".indexOf(String.fromCharCode(code).toLowerCase());
