/** Lesson 5: its solution, and wrong ones. */
import { lesson } from "../../lessons/checks/5-xor.ts";
import { lessonTest } from "../../lessons/trial.ts";
import { WRONG } from "../../lessons/wrong/5-xor.ts";

lessonTest(lesson, WRONG);
