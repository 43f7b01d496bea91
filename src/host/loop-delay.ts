/** How late the event loop is. */
import { monitorEventLoopDelay } from "node:perf_hooks";

const TICK = 20; // ms between two looks of Node's at how late the loop is; it counts them as lateness

/** Measures from now on. Returns a function that tells how late it was since the last call, in ms. */
export function measureLoop(): () => { p50: number; p99: number; max: number } {
  const delay = monitorEventLoopDelay({ resolution: TICK });
  delay.enable();
  const late = (ns: number) => Math.max(0, Math.round(ns / 1e4 - TICK * 100) / 100); // ms
  return () => {
    const [p50, p99, max] = [delay.percentile(50), delay.percentile(99), delay.max].map(late);
    const { count } = delay;
    delay.reset();
    return count === 0 ? { p50: 0, p99: 0, max: 0 } : { p50: p50!, p99: p99!, max: max! };
  };
}
