/**
 * What the lessons are given: C's calls, named as in C and made through koffi, and watch(). Nothing that a
 * lesson is about. Each call returns what the kernel returns: a number >= 0, or a negative errno, so that
 * `read(fd, …) === -EAGAIN` says "nothing there yet". A C program gets -1 instead, and looks into `errno`.
 */
import koffi, { node } from "koffi";
import { constants } from "node:os";
import { getSystemErrorName } from "node:util";

const thisProcess = koffi.load(null); // dlopen(NULL): the libc that Node itself uses

/** Makes `prototype` (C syntax) callable. */
function libc(prototype: string): (...args: unknown[]) => number {
  const call = thisProcess.func(prototype);
  return (...args) => {
    const result: number = call(...args);
    return result < 0 ? -koffi.errno() : result;
  };
}

export const open = libc("int open(const char *path, int flags)"); // man 2 open
export const close = libc("int close(int fd)"); // man 2 close; stop watching the fd first
export const ioctl = libc("int ioctl(int fd, unsigned long request, void *argument)"); // man 2 ioctl
export const socket = libc("int socket(int domain, int type, int protocol)"); // man 2 socket
export const bind = libc("int bind(int fd, void *address, uint32_t length)"); // man 2 bind
export const listen = libc("int listen(int fd, int backlog)"); // man 2 listen
export const connect = libc("int connect(int fd, void *address, uint32_t length)"); // man 2 connect
const cAccept = libc("int accept(int fd, void *address, void *length)");
const cSetsockopt = libc("int setsockopt(int fd, int level, int name, void *value, uint32_t length)");
const cRead = libc("int64_t read(int fd, void *buffer, size_t count)");
const cWrite = libc("int64_t write(int fd, const void *buffer, size_t count)");

/** man 2 read: at most `count` bytes into `buffer`; how many they were (0: the end), or a negative errno. */
export function read(fd: number, buffer: Buffer, count = buffer.length): number {
  return cRead(fd, buffer, inside(buffer, count));
}

/** man 2 write: the first `count` bytes of `buffer`; how many were taken (maybe fewer), or -errno. */
export function write(fd: number, buffer: Buffer, count = buffer.length): number {
  return cWrite(fd, buffer, inside(buffer, count));
}

/** C would go on behind the buffer's end, and break whatever is there. */
function inside(buffer: Buffer, count: number): number {
  if (count >= 0 && count <= buffer.length) return count;
  throw new RangeError(`${count} bytes do not fit: the buffer has ${buffer.length}`);
}

/** man 2 accept: the fd of the next connection, whoever it is from, or a negative errno. */
export const accept = (fd: number): number => cAccept(fd, null, null);

/** man 2 setsockopt, with an int as the option's value. */
export function setsockopt(fd: number, level: number, name: number, value: number): number {
  const int = Buffer.alloc(4);
  int.writeInt32LE(value);
  return cSetsockopt(fd, level, name, int, 4);
}

/** man 7 ip: struct sockaddr_in, 16 bytes: family (host order), port (network order), address, 8 zeros. */
export function sockaddr_in(address: string, port: number): Buffer {
  const bytes = Buffer.alloc(16);
  bytes.writeUInt16LE(AF_INET, 0);
  bytes.writeUInt16BE(port, 2);
  bytes.set(address.split(".").map(Number), 4);
  return bytes;
}

/** `result`, if it is >= 0. Else the program ends: "open /dev/net/tun: EACCES". */
export function check(result: number, what: string): number {
  if (result < 0) throw new Error(`${what}: ${errorName(result)}`);
  return result;
}

/** -11 → "EAGAIN"; Node does not know EBADFD, which is what a TUN without an interface answers. */
export const errorName = (errno: number) => (errno === -77 ? "EBADFD" : getSystemErrorName(errno));

/** "45 00 00 54": the first `count` bytes. */
export const hex = (bytes: Buffer, count = bytes.length) =>
  (bytes.toString("hex", 0, count).match(/../g) ?? []).join(" ");

const watched = new Set<node.PollHandle>(); // a handle that is garbage-collected falls silent

/**
 * Puts `fd` into Node's loop, as FD_SET and select() would: `onReadable` is called whenever read() or
 * accept() would not have to wait, `onWritable` (if there is one) whenever write() would not. An error of the
 * fd, and its end, count as readable: read() says which. The fd is non-blocking from now on: where a call
 * would have to wait, it returns -EAGAIN. Only for fds of open(), socket() and accept(), and 0, the keyboard.
 * @returns a function that takes the fd out of the loop: before close(), or to watch it in another way
 */
export function watch(fd: number, onReadable: () => void, onWritable?: () => void): () => void {
  const stop = () => {
    if (watched.delete(handle)) handle.close();
  };
  const callback = (status: number, { readable, writable }: { readable: boolean; writable: boolean }) => {
    try {
      if (status !== 0) stop(); // POLLERR: libuv has stopped it already
      if (readable || status !== 0) onReadable();
      if (writable && watched.has(handle)) onWritable?.();
    } catch (error) {
      setImmediate(() => {
        throw error; // koffi would swallow it
      });
    }
  };
  const events = { readable: true, writable: onWritable !== undefined };
  const handle = node.poll(fd, events, callback as unknown as (events: node.PollEvents) => void);
  watched.add(handle);
  return stop;
}

export const { EAGAIN, EIO, EINVAL } = constants.errno;
export const O_RDWR = 0o2; // fcntl.h
export const TUNSETIFF = 0x400454ca; // linux/if_tun.h
export const IFF_TUN = 0x0001; // whole IP packets; IFF_TAP would be Ethernet frames
export const IFF_NO_PI = 0x1000; // no 4 bytes of "packet information" in front of each
export const AF_INET = 2; // sys/socket.h, netinet/tcp.h
export const SOCK_STREAM = 1;
export const [SOL_SOCKET, SO_REUSEADDR] = [1, 2];
export const [IPPROTO_TCP, TCP_NODELAY] = [6, 1];
