/** Lesson 7: its solution, and wrong ones. */
import { lesson } from "../../lessons/checks/7-vpn.ts";
import { lessonTest } from "../../lessons/trial.ts";
import { WRONG } from "../../lessons/wrong/7-vpn.ts";

lessonTest(lesson, WRONG);
