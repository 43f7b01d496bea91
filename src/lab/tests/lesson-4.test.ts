/** Lesson 4: its solution, and wrong ones. */
import { lesson } from "../../lessons/checks/4-tunnel.ts";
import { lessonTest } from "../../lessons/trial.ts";
import { WRONG } from "../../lessons/wrong/4-tunnel.ts";

lessonTest(lesson, WRONG);
