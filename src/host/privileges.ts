/**
 * Less to steal, and less to steal with: nobody else reads this program's memory; and with --user it gives up
 * root, for good. setuid(2) and its kin are for one thread in the kernel, for all of a process's in the C
 * library (nptl(7)). prctl(2) is for the calling thread alone, wherever it is not about the whole memory.
 */
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { Failure } from "../base/failure.ts";
import { libc } from "../base/libc.ts";
import type { Account } from "./options.ts";
import { enterSandbox, prctl } from "./sandbox.ts";

const setrlimit = libc("int setrlimit(int resource, void *limit)"); // setrlimit(2)
const RLIMIT_CORE = 4; // asm-generic/resource.h
const [PR_SET_DUMPABLE, PR_CAPBSET_DROP] = [4, 24]; // linux/prctl.h

/**
 * A crash leaves no core file, and other processes of our user can neither ptrace(2) us nor open our mem and
 * environ in /proc: the keys are there. Root still can. The limit is for those who start a helper to write a
 * core file, which may ask for it (core(5)), and for our children: execve(2) makes them dumpable again.
 */
export function hideMemory(): void {
  setrlimit(RLIMIT_CORE, Buffer.alloc(16)); // struct rlimit: now, and at most
  prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
  process.on("SIGUSR1", () => {}); // else it opens Node's debugger, on a port for everybody on this machine
}

/**
 * From here on we are `user`, without a capability, in the sandbox, and have no child but `keeper` (a pid).
 * Returns a warning, or "". Errors: a Failure, also if root could be had back.
 */
export function become(user: Account, keeper: number | undefined): string {
  refuseOldRings();
  endChildren(keeper);
  // The bounding set: what a program that we start may get of capabilities. It takes root to empty it. This
  // is for our thread, and those that it starts; for the others, the sandbox's no_new_privs does the same.
  for (let capability = 0; prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) === 0; capability++);
  try {
    process.setgroups!([]); // in this order: each of them takes root
    process.setgid!(user.gid);
    process.setuid!(user.uid); // for root: all its user ids, and its capabilities with them (capabilities(7))
  } catch (error) {
    throw new Failure(
      `Cannot become ${user.name}: ${(error as Error).message}`,
      "start as root (sudo), or leave --user out",
    );
  }
  if (canBeRoot())
    throw new Failure(
      `Cannot drop root: as ${user.name}, this process can still have it back`,
      "name another user with --user",
    );
  hideMemory(); // again: setuid() has set what fs.suid_dumpable says (proc(5))
  return enterSandbox();
}

function canBeRoot(): boolean {
  try {
    process.seteuid!(0);
    return true;
  } catch {
    return false; // as it should be
  }
}

/**
 * tsx has a compiler (esbuild) running, if it had to compile. It is root, and would write any file for
 * whoever has its pipe, which is us. Nothing is left to compile.
 */
function endChildren(keeper: number | undefined): void {
  const others = readdirSync("/proc").filter((pid) => /^\d+$/.test(pid) && Number(pid) !== keeper);
  for (const pid of others) {
    try {
      const parent = /^PPid:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1];
      if (Number(parent) === process.pid) process.kill(Number(pid), "SIGKILL");
    } catch {
      // it has ended meanwhile
    }
  }
}

/**
 * Node.js below 20.11.1 gives files to a thread of the kernel (io_uring(7), IORING_SETUP_SQPOLL), which stays
 * root when we do not: CVE-2024-22017. Errors: a Failure.
 */
function refuseOldRings(): void {
  const isRoots = (fd: string) => {
    try {
      if (!readlinkSync(`/proc/self/fd/${fd}`).includes("io_uring")) return false;
      return /^SqThread:\s+\d/m.test(readFileSync(`/proc/self/fdinfo/${fd}`, "utf8"));
    } catch {
      return false; // readdir's own
    }
  };
  if (!readdirSync("/proc/self/fd").some(isRoots)) return;
  const problem = `Cannot drop root: a thread that works for Node.js ${process.version} would stay root`;
  throw new Failure(problem, "UV_USE_IO_URING=0 in front of npx or node; or Node.js 20.11.1 or later");
}
