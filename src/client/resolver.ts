/**
 * Client only: `--dns`, where names are asked from now on. Programs ask the servers in /etc/resolv.conf
 * (resolv.conf(5)). If that is systemd-resolved, it is told of ours, for our interface alone. Else a file of
 * ours is mounted over that one. So the user's own stays as it is, through a power cut, too. A container may
 * not mount: there the file is copied, and copied back. As commands: see changes.ts.
 */
import { existsSync, readFileSync, readlinkSync, realpathSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { hostRoute } from "../base/block.ts";
import type { Change } from "../host/changes.ts";
import { inPath } from "../host/command.ts";
import { Failure } from "../base/failure.ts";
import type { Machine } from "../host/machine.ts";

const TARGET = "/etc/resolv.conf";
const COPY = `${TARGET}.before-simple-vpn`; // of the user's file; not in /run, which a restart empties
const fileOf = (pid: number | string) => `/run/simple-vpn-${pid}.resolv.conf`;

/**
 * The commands for these name servers. Called once, before we change anything: later the file that lies there
 * is ours. Errors: a Failure if another client has its own there.
 */
export function resolver(tun: string, dns: string[], machine: Machine): Change[] {
  if (dns.length === 0) return [];
  const { resolved, first } = readTarget();
  const file = fileOf(process.pid);
  const servers = dns.map((address) => `nameserver ${address}\n`).join("");
  const ifOurs = `find ${TARGET} -exec grep -q simple-vpn-${process.pid}$ {} ;`; // if not, it is theirs
  const copies: Change[] = [
    { run: `cp ${TARGET} ${COPY}`, undo: `find ${COPY} -exec cmp -s {} ${TARGET} ; -exec rm {} ;` },
    { run: `cp ${file} ${TARGET}`, undo: `${ifOurs} -exec cp ${COPY} {} ;` },
  ];
  const byFile: Change[] = [
    ...first,
    { run: `tee ${file}`, input: `# of simple-vpn-${process.pid}\n${servers}`, undo: `rm -f ${file}` },
    { run: `chmod 644 ${file}` }, // whatever the umask: everybody asks for names
    { run: `mount --bind ${file} ${TARGET}`, undo: `${ifOurs} -exec umount -l {} ;`, otherwise: copies },
  ];
  if (!resolved) return byFile;
  const undo = machine.tun && `resolvectl revert ${tun}`;
  return [
    { run: `resolvectl dns ${tun} ${dns.join(" ")}`, undo, otherwise: [] }, // the next one's will do for both
    { run: `resolvectl domain ${tun} ~.`, otherwise: byFile },
  ];
}

/** Is it systemd-resolved? Else `first` takes a killed client's file away, or makes a missing one. */
function readTarget(): { resolved: boolean; first: Change[] } {
  const path = followed(TARGET);
  const text = existsSync(path) ? readFileSync(path, "utf8") : undefined;
  const mounts = readFileSync("/proc/self/mountinfo", "utf8")
    .split("\n")
    .map((line) => line.split(" "));
  const root = mounts.filter((words) => words[4] === path).at(-1)?.[3]; // proc(5): the topmost one's file
  const mounted = /\/simple-vpn-(\d+)\.resolv\.conf(\/\/deleted)?$/.exec(root ?? "")?.[1];
  const pid = mounted ?? (existsSync(COPY) ? /simple-vpn-(\d+)$/m.exec(text ?? "")?.[1] : undefined);
  if (pid !== undefined) {
    const problem = `Cannot use --dns: the client with pid ${pid} has its own file at ${TARGET}`;
    if (isClient(pid)) throw new Failure(problem, `kill ${pid}, which ends that client; or leave --dns out`);
    const restore = mounted ? [`umount -l ${TARGET}`] : [`cp ${COPY} ${TARGET}`, `rm ${COPY}`];
    return { resolved: false, first: [...restore, `rm -f ${fileOf(pid)}`].map((run) => ({ run })) };
  }
  const named = path.startsWith("/run/systemd/resolve/") || /^nameserver\s+127\.0\.0\.53\b/m.test(text ?? "");
  const make = { run: `install -m 644 /dev/null ${path}`, undo: `find ${path} -size 0 -exec rm {} ;` };
  return {
    resolved: named && inPath("resolvectl"),
    first: text === undefined ? [...folders(dirname(path)), make] : [],
  };
}

/** Where a path leads to in the end, through symlinks of files and folders; also if nothing is there. */
function followed(path: string): string {
  if (existsSync(path)) return realpathSync(path);
  const folder = dirname(path) === path ? path : followed(dirname(path));
  try {
    return followed(resolve(folder, readlinkSync(path)));
  } catch {
    return join(folder, basename(path));
  }
}

function folders(path: string): Change[] {
  if (existsSync(path)) return [];
  return [...folders(dirname(path)), { run: `mkdir -m 755 ${path}`, undo: `rmdir ${path}` }];
}

/** Does that client run? If it does not, another program may have its pid by now, even this one. */
function isClient(pid: string): boolean {
  try {
    const command = readFileSync(`/proc/${pid}/cmdline`, "utf8");
    return Number(pid) !== process.pid && /\bclient\.[jt]s\b/.test(command);
  } catch {
    return false;
  }
}

/** Runs a check of routes. What it says of a name server's route is said of --dns: nobody gave a --route. */
export function inItsName(dns: string[], check: () => void): void {
  try {
    check();
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    const address = dns.find((one) => error.message.includes(` ${hostRoute(one)}`));
    if (!address) throw error;
    const route = hostRoute(address);
    const message = error.message
      .replace(`route ${route} into`, `ask --dns ${address} through`)
      .replace(`--route ${route}`, `--dns ${address}`);
    throw new Failure(message, error.hint.replaceAll("that --route", "that --dns"));
  }
}
