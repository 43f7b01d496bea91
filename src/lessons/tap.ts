/** What passes a device of the lab while a check runs: src/lab/walk/taps.ts, as a list. */
import { type Lab, ours } from "../lab/lab.ts";
import { Running } from "../lab/running.ts";
import { decodeTaps, type TapPacket } from "../lab/walk/taps.ts";

export class Tap {
  private readonly running: Running;

  private constructor(running: Running) {
    this.running = running;
  }

  static async start(lab: Lab, host: string, device: string): Promise<Tap> {
    const tap = new Tap(new Running(lab.spawn(host, [...ours("lab/walk/taps"), host, device])));
    await tap.running.until(/^ready$/m);
    return tap;
  }

  /** All so far. */
  get packets(): TapPacket[] {
    return decodeTaps(this.running.output);
  }

  /** What the program has written into the TUN so far: it comes in through it. */
  get written(): Buffer[] {
    return this.packets.filter(({ out }) => !out).map(({ bytes }) => bytes);
  }

  /** What the kernel has sent into it. */
  get sent(): Buffer[] {
    return this.packets.filter(({ out }) => out).map(({ bytes }) => bytes);
  }

  stop(): Promise<number | string> {
    return this.running.stop("SIGKILL");
  }
}
