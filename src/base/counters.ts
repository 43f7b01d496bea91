/** What went through the tunnel, counted. */

/** What one direction carried: the packets, their bytes, and the frames they shared. */
export class Counter {
  packets = 0;
  bytes = 0;
  frames = 0;
}

/** "sent 3 packets (252 bytes) in 2 frames": since `before`. */
export function rates(now: Counter, before: Counter, verb: string): string {
  const [packets, frames, bytes] = [
    now.packets - before.packets,
    now.frames - before.frames,
    now.bytes - before.bytes,
  ];
  const size = bytes < 1e5 ? `${bytes} bytes` : `${(bytes / 1e6).toFixed(1)} MB`;
  return `${verb} ${packets} packets (${size}) in ${frames} frames`;
}
