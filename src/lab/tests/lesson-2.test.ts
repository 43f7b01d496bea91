/** Lesson 2: its solution, and wrong ones. */
import { lesson } from "../../lessons/checks/2-answer.ts";
import { lessonTest } from "../../lessons/trial.ts";
import { WRONG } from "../../lessons/wrong/2-answer.ts";

lessonTest(lesson, WRONG);
