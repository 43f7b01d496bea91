/**
 * The libc functions and kernel constants of the VPN. The calls are the C program's own (open, ioctl, read,
 * write …), made through koffi. Like the kernel itself, each returns a result >= 0, or a negative errno:
 * `read(fd, …) === -EAGAIN`.
 */
import koffi from "koffi";

// koffi.load(null) is dlopen(NULL): the symbols that are in this process already, libc's and OpenSSL's.
export const thisProcess = koffi.load(null);

/** Makes `prototype` (C syntax) callable. -1 becomes the negative errno, before anything overwrites that. */
export function libc(prototype: string): (...args: unknown[]) => number {
  const call = thisProcess.func(prototype);
  return (...args) => {
    const result: number = call(...args);
    return result < 0 ? -koffi.errno() : result;
  };
}

export const open = libc("int open(const char *path, int flags)"); // open(2)
export const close = libc("int close(int fd)"); // close(2)
export const ioctl = libc("int ioctl(int fd, unsigned long request, void *argument)"); // ioctl(2)
export const exitNow = libc("void _exit(int status)"); // _exit(2)
export const pipe2 = libc("int pipe2(_Out_ int *ends, int flags)"); // pipe(2)
export const waitpid = libc("int waitpid(int pid, _Out_ int *status, int options)"); // waitpid(2)

/**
 * A fixed piece of memory, seen three ways: as bytes, as 32-bit words (for XOR), by address (for C calls).
 * The garbage collector never moves its bytes. Keep the Memory while C may use the address.
 */
export class Memory {
  readonly bytes: Buffer;
  readonly words: Uint32Array;
  readonly address: number;

  /** @param size bytes, a multiple of 4 */
  constructor(size: number) {
    this.bytes = Buffer.allocUnsafeSlow(size);
    this.words = new Uint32Array(this.bytes.buffer, 0, size >> 2); // .buffer moves a small one off the heap
    this.address = Number(koffi.address(this.bytes));
  }

  /** C checks no bounds: this does. Throws RangeError unless `count` bytes from `at` on are inside. */
  check(at: number, count: number): void {
    if (at < 0 || count < 0 || at + count > this.bytes.length)
      throw new RangeError(`bytes ${at} to ${at + count} of ${this.bytes.length}`);
  }
}

// The two calls of the data path are written out: no argument arrays, and koffi has no ssize_t but int64_t.
const cRead = thisProcess.func("int64_t read(int fd, void *buffer, size_t count)");
const cWrite = thisProcess.func("int64_t write(int fd, const void *buffer, size_t count)");

/** read(2) of at most `count` bytes to memory[at …]; the bytes read (0: the end), or a negative errno. */
export function read(fd: number, memory: Memory, at: number, count: number): number {
  memory.check(at, count);
  const result: number = cRead(fd, memory.address + at, count);
  return result < 0 ? -koffi.errno() : result;
}

/** write(2) of `count` bytes from memory[at …]; the bytes written, possibly fewer, or a negative errno. */
export function write(fd: number, memory: Memory, at: number, count: number): number {
  memory.check(at, count);
  const result: number = cWrite(fd, memory.address + at, count);
  return result < 0 ? -koffi.errno() : result;
}

// fcntl.h
export const O_RDWR = 0o2;
export const O_NONBLOCK = 0o4000;
export const O_CLOEXEC = 0o2000000;

// asm-generic/ioctl.h: _IOW(type, number, size) = write (1) << 30 | size << 16 | type << 8 | number
const iow = (type: string, number: number, size: number) =>
  ((1 << 30) | (size << 16) | (type.charCodeAt(0) << 8) | number) >>> 0;

// linux/if_tun.h, linux/if.h
export const TUNSETIFF = iow("T", 202, 4); // 0x400454ca
export const TUNSETOFFLOAD = iow("T", 208, 4); // 0x400454d0
export const TUNSETVNETHDRSZ = iow("T", 216, 4); // 0x400454d8
export const TUN_F_CSUM = 0x01; // the reader takes packets whose checksum is still to be computed
export const TUN_F_TSO4 = 0x02; // the reader takes TCP segments larger than the MTU, over IPv4
export const TUN_F_TSO6 = 0x04; // the same over IPv6
export const IFF_TUN = 0x0001; // packets start at the IP header (IFF_TAP: at the Ethernet header)
export const IFF_NO_PI = 0x1000; // no 4 bytes of "packet information" before each packet
export const IFF_VNET_HDR = 0x4000; // a struct virtio_net_hdr before each packet: offload.ts
export const IFNAMSIZ = 16; // a name is at most 15 bytes and a NUL
export const SIZEOF_IFREQ = 40; // struct ifreq: name at 0, flags (short) at 16
