/** Lesson 3: its solution, and wrong ones. */
import { lesson } from "../../lessons/checks/3-loop.ts";
import { lessonTest } from "../../lessons/trial.ts";
import { WRONG } from "../../lessons/wrong/3-loop.ts";

lessonTest(lesson, WRONG);
