/** The shared secret: where it is kept, and which ones are taken. */
import { closeSync, constants, fchmodSync, fstatSync, openSync, readFileSync } from "node:fs";
import { type Stats, statfsSync } from "node:fs";
import { KEY_LENGTH } from "../core/aes.ts";
import { Failure } from "../base/failure.ts";
import { thisProcess } from "../base/libc.ts";
import { room, wipe } from "../base/wipe.ts";

const getenv = thisProcess.func("void *getenv(const char *name)"); // getenv(3): where the value is
const memset = thisProcess.func("void *memset(void *bytes, int value, size_t count)");
const LEAST_DIFFERENT = 16; // of a secret's 32 bytes; of 32 random ones, about 30 are

/** Takes a secret out of the environment, before any command is started: none needs to know it. */
export function takeFromEnvironment(name = "SIMPLE_VPN_SECRET"): string | undefined {
  const value = process.env[name];
  const there: unknown = getenv(name);
  // /proc/PID/environ would go on to show it.
  if (value !== undefined) memset(there, 0, Buffer.byteLength(value));
  delete process.env[name];
  return value;
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
  const fromShell = (typed: string) => `SIMPLE_VPN_SECRET=$(cat ${typed}) in front of npx or node${instead}`;
  const missing = "'make secret' makes one; the other end needs the same";
  const hint = "move it away, then 'make secret' makes a good one; the other end needs the same";
  return parseSecret(path, readPrivate("secret", path, fromShell, missing), hint);
}

/**
 * The bytes of a file that nobody else may read or change. `what` it is, in an error; `otherwise`: how to do
 * without the file, given its path as a shell takes it; `missing`: what to try if there is none. Errors: a
 * Failure.
 */
export function readPrivate(
  what: string,
  path: string,
  otherwise: (typed: string) => string,
  missing: string,
): Buffer {
  const typed = /^[\w@%+=:,./-]+$/.test(path) ? path : `'${path.replaceAll("'", "'\\''")}'`; // in a shell
  const refuse = (why: string, hint: string) => new Failure(`Cannot use the ${what} ${path}: ${why}`, hint);
  let fd: number | undefined;
  try {
    // Once: what is checked is what is read. A FIFO must not hold us up: it would be deaf to Ctrl-C.
    fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    const status = fstatSync(fd);
    if (status.isDirectory()) throw refuse("it is a folder", "name a file in it");
    if (!status.isFile()) throw refuse("it is no regular file", otherwise(typed));
    const chown = `chown root ${typed}; or ${otherwise(typed)}`;
    if (!isTrusted(status)) throw refuse(`it belongs to user ${status.uid}, who can change it`, chown);
    if (status.mode & 0o077)
      throw refuse(
        "other users can read it",
        canHide(fd, path, status) ? `chmod 600 ${typed}` : otherwise(typed),
      );
    return readFileSync(fd);
  } catch (error) {
    if (error instanceof Failure) throw error;
    const { code } = error as NodeJS.ErrnoException;
    const hints: Record<string, string> = {
      ENOENT: missing,
      EACCES: `start as root (sudo), or as a user who may read it: 'namei -l ${typed}' shows who`,
    };
    throw new Failure(`Cannot read the ${what} ${path}: ${code}`, hints[code!] ?? "check the path");
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
}

/** Is it root's, ours, or that of the user who called us by sudo(8)? */
const isTrusted = ({ uid }: Stats) => [0, process.getuid!(), Number(process.env.SUDO_UID ?? 0)].includes(uid);

/**
 * Can chmod(1) hide the file from others? Not on a read-only mount, and not for who does not own it: to set
 * the mode that it has tells. Not on a drive without modes: there chmod may do nothing, and say nothing.
 */
function canHide(fd: number, path: string, { mode }: Stats): boolean {
  try {
    fchmodSync(fd, mode & 0o7777);
    return !WITHOUT_MODES.has(statfsSync(path).type);
  } catch {
    return false;
  }
}

/** linux/magic.h: vfat, exFAT, FUSE, 9p (WSL), vboxsf, CIFS, SMB2. */
const WITHOUT_MODES = new Set([
  0x4d44, 0x2011bab0, 0x65735546, 0x01021997, 0x786f4256, 0xff534d42, 0xfe534d42,
]);

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
  if (isPattern(secret)) throw refuse("it can be guessed: its bytes follow a pattern");
  return secret;
}

/** Is it a piece that is repeated, or do all its bytes differ by the same number from the ones before? */
function isPattern(secret: Buffer): boolean {
  const repeats = (period: number) => secret.every((byte, i) => i < period || byte === secret[i - period]);
  const step = (i: number) => (secret[i]! - secret[i - 1]! + 256) % 256;
  const isRow = secret.every((_, i) => i < 2 || step(i) === step(1));
  return isRow || Array.from({ length: KEY_LENGTH / 2 }, (_, i) => i + 1).some(repeats);
}

/** The value of a hex digit in ASCII; -1 for any other character. */
const digit = (code: number) => "0123456789abcdef".indexOf(String.fromCharCode(code).toLowerCase());
