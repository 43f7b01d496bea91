/** Errors of the kernel, by number and by name (errno(3)). */
import { constants } from "node:os";
import { getSystemErrorName } from "node:util";
import { thisProcess } from "./libc.ts";

const cStrerror = thisProcess.func("const char *strerror(int number)"); // strerror(3)

export const EBADFD = 77; // asm-generic/errno.h: a TUN whose interface was deleted. Node has no name for it

/**
 * The name of an errno, positive or negative: "EAGAIN". Node does not know them all; strerror(3) then helps.
 */
export function errnoName(errno: number): string {
  if (errno === 0) return "no error";
  if (Math.abs(errno) === EBADFD) return "EBADFD";
  const name = getSystemErrorName(-Math.abs(errno));
  return name.startsWith("Unknown") ? `errno ${Math.abs(errno)}, ${cStrerror(Math.abs(errno))}` : name;
}

// errno.h, by name (numbers differ between machines; Node knows this one's)
export const { EACCES, EADDRINUSE, EADDRNOTAVAIL, EAFNOSUPPORT, EAGAIN, EBUSY, EMSGSIZE } = constants.errno;
export const { ECONNREFUSED, EHOSTUNREACH, EINPROGRESS, EINVAL, EIO, ENETUNREACH } = constants.errno;
export const { EMFILE, ENFILE, ENOBUFS, ENODEV, ENOENT, ENOMEM, ENOSYS, ENXIO, EPERM, ETIMEDOUT } =
  constants.errno;
