/** Lesson 6: its solution, and wrong ones. */
import { lesson } from "../../lessons/checks/6-aes.ts";
import { lessonTest } from "../../lessons/trial.ts";
import { WRONG } from "../../lessons/wrong/6-aes.ts";

lessonTest(lesson, WRONG);
