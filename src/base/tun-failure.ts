/** Why there is no TUN: from an errno to what happened, and what to try. */
import { spawnSync } from "node:child_process";
import { Failure } from "./failure.ts";
import { EACCES, EBADFD, EBUSY, EINVAL, ENODEV, ENOENT, ENXIO, EPERM, errnoName } from "./errno.ts";

/** Why open(2) of the clone device failed. */
export function notOpened(device: string, errno: number): Failure {
  const because = (hint: string) => new Failure(`Cannot open ${device}: ${errnoName(errno)}`, hint);
  const container = "in a container, pass the device: --device /dev/net/tun";
  const missing = [ENOENT, ENODEV, ENXIO].includes(errno);
  if (missing) return because(`load the driver with 'modprobe tun'; ${container}`);
  if (errno === EACCES || errno === EPERM) return because(`run as root (sudo); ${container}`);
  return because("see open(2) for this error");
}

/**
 * Why TUNSETIFF failed: its errno, and what ip(8) says of an interface that has this name. (/sys shows
 * those of the network namespace that mounted it, which may be another one than ours.)
 */
export function notCreated(name: string, errno: number): Failure {
  const { stdout } = spawnSync("ip", ["-d", "-o", "link", "show", "dev", name], { encoding: "utf8" });
  const found = stdout || ""; // none, or no ip
  const failed = `Cannot create the interface ${name}: ${errnoName(errno)}`;
  if (errno === EPERM) {
    const [, owner] = / persist \w+ ((?:user|group) \S+(?: group \S+)?)/.exec(found) ?? [];
    const container = "in a container, as root with --cap-add NET_ADMIN";
    if (!owner) return new Failure(failed, `run as root (sudo); ${container}`);
    const hint = `run as root (sudo), or as ${owner}; ${container}`;
    return new Failure(`${failed}, for it belongs to ${owner}`, hint);
  }
  const another = "choose another name with --tun";
  const taken = `${another}, or stop the program that holds this one`;
  if (errno === EBUSY) return new Failure(failed, taken, 1, "EBUSY");
  if (errno !== EINVAL) return new Failure(failed, "see linux Documentation/networking/tuntap.rst");
  if (!found) return new Failure(failed, `${another}: this one's is no TUN, or was made with multi_queue`);
  const tun = / tun type tun .*multi_queue/.test(found) ? "a TUN made with multi_queue" : "what is no TUN";
  const kind = / tun type tap /.test(found) ? "a TAP" : tun;
  const removal = / persist on /.test(found) ? `, or remove this one: ip link del ${name}` : "";
  return new Failure(`${failed}, for ${kind} has this name`, another + removal);
}

/** Why read() on the interface failed. The errno is EBADFD once the interface has been deleted. */
export function notRead(name: string, errno = -EBADFD): Failure {
  const isDeleted = errno === -EBADFD;
  const hint = isDeleted
    ? "someone deleted the interface: start the program again"
    : "see read(2) for this error";
  return new Failure(`Cannot read from ${name}: ${errnoName(errno)}`, hint);
}
