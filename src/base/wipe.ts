/**
 * Room for secrets that can be wiped. V8 keeps a small Buffer on its heap, moves it about, and leaves copies
 * behind. So a secret lies outside of that heap. Whoever owns it wipes it as soon as it has done its work.
 */

/** `size` bytes of zeros that stay where they are. */
export function room(size: number): Buffer {
  const bytes = Buffer.allocUnsafeSlow(size);
  return Buffer.from(bytes.buffer, 0, size).fill(0); // asking for .buffer is what puts it elsewhere
}

export function wipe(...secrets: (Buffer | undefined)[]): void {
  for (const secret of secrets) secret?.fill(0);
}
