/** How far everyone in the class is: told by the lessons, kept in memory, shown on the page. */
import { whole } from "../host/options.ts";
import { present, publish } from "./events.ts";
import { integer, Refusal, required, text, type Values } from "./route.ts";

const [MOST_STUDENTS, MOST_LESSONS] = [200, 50]; // lessons of each
const LONGEST = 64; // characters

export const PROGRESS = {
  student: required(text(plain, "who", { maxLength: LONGEST, examples: ["Ada"] })),
  lesson: required(text(plain, "which", { maxLength: LONGEST, examples: ["xor"] })),
  passed: required(integer(whole(0, 1000), "checks passed", { examples: [3] })),
  total: required(integer(whole(1, 1000), "of so many", { examples: [5] })),
};
type Progress = Required<Values<typeof PROGRESS>>;

const students = new Map<string, Map<string, Progress>>(); // by name, then by lesson

export const progress = () => [...students.values()].flatMap((lessons) => [...lessons.values()]);
present(async () => progress().map((one) => ["progress", one]));

/** Errors: a Refusal. */
export function report(values: Values<typeof PROGRESS>): void {
  const one = values as Progress;
  const lessons = students.get(one.student) ?? new Map<string, Progress>();
  if (one.passed > one.total)
    throw new Refusal(400, `passed: ${one.passed} is more than ${one.total}, the total`);
  if (lessons.size === 0 && students.size >= MOST_STUDENTS)
    throw new Refusal(409, `student: there are ${MOST_STUDENTS} already`);
  if (!lessons.has(one.lesson) && lessons.size >= MOST_LESSONS)
    throw new Refusal(409, `lesson: there are ${MOST_LESSONS} already`);
  students.set(one.student, lessons.set(one.lesson, one));
  publish("progress", one);
}

/** No orders to a terminal, no lone surrogates, nothing that turns text around. */
function plain(text: string): string {
  if (text === "" || [...text].length > LONGEST) throw new Error(`is no text of 1 to ${LONGEST} characters`);
  if (/[\p{Cc}\p{Cs}\u2028-\u202e\u2066-\u2069]/u.test(text)) throw new Error("has a control character");
  return text;
}
