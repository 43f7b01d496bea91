/** Lesson 1: its solution, and wrong ones. */
import { lesson } from "../../lessons/checks/1-tun.ts";
import { lessonTest } from "../../lessons/trial.ts";
import { WRONG } from "../../lessons/wrong/1-tun.ts";

lessonTest(lesson, WRONG);
