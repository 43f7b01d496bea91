/** The seven lessons, in their order. */
import { lesson as tun } from "./checks/1-tun.ts";
import { lesson as answer } from "./checks/2-answer.ts";
import { lesson as loop } from "./checks/3-loop.ts";
import { lesson as tunnel } from "./checks/4-tunnel.ts";
import { lesson as xor } from "./checks/5-xor.ts";
import { lesson as aes } from "./checks/6-aes.ts";
import { lesson as vpn } from "./checks/7-vpn.ts";
import type { Lesson } from "./check.ts";

export const LESSONS: Lesson[] = [tun, answer, loop, tunnel, xor, aes, vpn];
