/**
 * The sandbox: what the kernel refuses this program with --user, whoever's code runs in it. A seccomp(2)
 * filter is a small program for the kernel, in BPF: it looks at each system call before it is made, and says
 * what becomes of it. Nobody can take it off again. How it looks: linux/filter.h, and
 * Documentation/userspace-api/seccomp_filter.rst.
 */
import { ENOSYS, EPERM, errnoName } from "../base/errno.ts";
import { libc, Memory, TUNSETIFF } from "../base/libc.ts";

// prctl(2)
export const prctl = libc("int prctl(int option, long a, long b, long c, long d)");
// syscall(2): the C library has no function for seccomp(2)
const syscall = libc("long syscall(long number, long operation, long flags, void *argument)");

const NONE = -1; // this machine has no such call
type Numbers = [x64: number, arm64: number];
const BY_ARCH: Partial<Record<NodeJS.Architecture, 0 | 1>> = { x64: 0, arm64: 1 };
const AUDIT_ARCH: Numbers = [0xc000003e, 0xc00000b7]; // linux/audit.h: whose numbers these are

/** Refused altogether, by the numbers of asm/unistd.h. The programs need none of these any more. */
const REFUSED: Record<string, Numbers>[] = [
  // another program
  { execve: [59, 221], execveat: [322, 281] },
  // another process, which could outlive us and keep our TUN and the keeper's pipe: see clone() below, too
  { fork: [57, NONE], vfork: [58, NONE] },
  // what other processes have in memory, and have open
  {
    ptrace: [101, 117],
    process_vm_readv: [310, 270],
    process_vm_writev: [311, 271],
    pidfd_getfd: [438, 438],
  },
  // another file system; namespaces, in one of which everybody is root
  {
    mount: [165, 40],
    umount2: [166, 39],
    pivot_root: [155, 41],
    chroot: [161, 51],
    mount_setattr: [442, 442],
  },
  {
    open_tree: [428, 428],
    move_mount: [429, 429],
    fsopen: [430, 430],
    fsmount: [432, 432],
    fspick: [433, 433],
  },
  { unshare: [272, 97], setns: [308, 268] },
  // code for the kernel
  { init_module: [175, 105], finit_module: [313, 273], delete_module: [176, 106], bpf: [321, 280] },
  { kexec_load: [246, 104], kexec_file_load: [320, 294] },
  // parts of the kernel that had many holes. No filter sees what io_uring is asked to do.
  { add_key: [248, 217], request_key: [249, 218], keyctl: [250, 219] },
  { perf_event_open: [298, 241], userfaultfd: [323, 282], io_uring_setup: [425, 425] },
];
const CLONE: Numbers = [56, 220];
const CLONE3: Numbers = [435, 435];
const IOCTL: Numbers = [16, 29];
const SECCOMP: Numbers = [317, 277];

/** Refused of ioctl(2). The TUN must go when we go, and belong to root; linux/if_tun.h. */
const [TUNSETPERSIST, TUNSETOWNER, TUNSETGROUP] = [TUNSETIFF + 1, TUNSETIFF + 2, TUNSETIFF + 4];
/** Both type into the terminal that we were started on, where root's shell waits; asm-generic/ioctls.h. */
const [TIOCSTI, TIOCLINUX] = [0x5412, 0x541c];

/** One instruction, a struct sock_filter: what to do, lines to skip if it holds, and if not, its operand. */
type Instruction = [code: number, yes: number, no: number, operand: number];

// The codes, of linux/bpf_common.h. BPF has one register. `at`: an offset in struct seccomp_data (linux/
// seccomp.h), which is what it can see: the call's number, the machine, where it was made, six arguments.
const load = (at: number): Instruction => [0x20, 0, 0, at]; // BPF_LD | BPF_W | BPF_ABS
const [NUMBER, ARCH, ARGUMENT1, ARGUMENT2] = [0, 4, 16, 24]; // of 64-bit arguments, the lower half
const skipUnless = (value: number, lines = 1): Instruction => [0x15, 0, lines, value]; // BPF_JMP | BPF_JEQ
const skipIf = (value: number, lines = 1): Instruction => [0x15, lines, 0, value];
const skipBelow = (value: number): Instruction => [0x35, 0, 1, value]; // BPF_JMP | BPF_JGE
const skipIfSet = (bits: number): Instruction => [0x45, 1, 0, bits]; // BPF_JMP | BPF_JSET
const ALLOW: Instruction = [0x06, 0, 0, 0x7fff0000]; // BPF_RET, SECCOMP_RET_ALLOW
const fail = (errno: number): Instruction => [0x06, 0, 0, 0x50000 | errno]; // SECCOMP_RET_ERRNO
// Not SECCOMP_RET_KILL: whoever calls by mistake is told, and the tunnel goes on.
const REFUSE = fail(EPERM);

const CLONE_THREAD = 0x10000; // linux/sched.h
const X32 = 0x40000000; // asm/unistd.h: the same calls again, for programs with short pointers

/** The filter. From line to line; a "skip" that does not skip goes on with the next one, as all others do. */
function filter(arch: 0 | 1): Instruction[] {
  const refused = REFUSED.flatMap((group) => Object.values(group)).map((numbers) => numbers[arch]);
  const requests = [TUNSETPERSIST, TUNSETOWNER, TUNSETGROUP, TIOCSTI, TIOCLINUX];
  return [
    // A 64-bit process may make 32-bit calls, too. Their numbers are others.
    load(ARCH),
    skipIf(AUDIT_ARCH[arch]),
    REFUSE,
    load(NUMBER),
    skipBelow(X32),
    REFUSE,
    ...refused.filter((number) => number !== NONE).flatMap((number) => [skipUnless(number), REFUSE]),
    // A new thread is good, a new process is not. The flags of clone3() are in memory, where no filter can
    // look. "There is no such call" makes the C library take clone().
    skipUnless(CLONE3[arch]),
    fail(ENOSYS),
    skipUnless(CLONE[arch], 4),
    load(ARGUMENT1), // its flags
    skipIfSet(CLONE_THREAD),
    REFUSE,
    ALLOW,
    skipUnless(IOCTL[arch], 1 + 2 * requests.length),
    load(ARGUMENT2), // its request
    ...requests.flatMap((request) => [skipUnless(request), REFUSE]),
    ALLOW,
  ];
}

const PR_SET_NO_NEW_PRIVS = 38; // linux/prctl.h
const [SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC] = [1, 1]; // linux/seccomp.h

/**
 * Puts all threads of this process into the sandbox, for good. Returns a warning, or "": where a container's
 * own sandbox refuses ours, we go on without.
 */
export function enterSandbox(): string {
  prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); // of this thread, and those that it starts; see install()
  const arch = BY_ARCH[process.arch];
  if (arch === undefined) return `no sandbox: for ${process.arch} there is none yet`;
  const result = install(filter(arch), arch);
  if (result === 0) return "";
  const why = result > 0 ? `thread ${result} has another one` : errnoName(result);
  return `no sandbox: the kernel, or a container around us, refuses the filter (${why})`;
}

/**
 * Gives a filter to all threads of this process: Node has about ten. prctl(2) is for the thread that calls
 * it. seccomp(2) with TSYNC gives the others our filter, and no_new_privs with it: from then on no program
 * makes us more than we are, whatever set-user-ID bit or capabilities its file has. New threads inherit both.
 * Returns 0, a negative errno, or the number of a thread that has another filter.
 */
export function install(lines: Instruction[], arch: 0 | 1): number {
  const [code, program] = [new Memory(8 * lines.length), new Memory(16)];
  lines.forEach(([operation, yes, no, operand], i) => {
    code.bytes.set([operation, 0, yes, no], 8 * i);
    code.bytes.writeUInt32LE(operand, 8 * i + 4);
  });
  program.bytes.fill(0).writeUInt16LE(lines.length); // struct sock_fprog: how many, and where
  program.bytes.writeBigUInt64LE(BigInt(code.address), 8);
  prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); // without it, or root, no filter is taken
  return syscall(SECCOMP[arch], SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, program.bytes);
}
