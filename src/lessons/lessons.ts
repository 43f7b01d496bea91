/** The seven lessons, in their order. */
import { lesson as tun } from "./checks/1-tun.ts";
import type { Lesson } from "./check.ts";

export const LESSONS: Lesson[] = [tun];
