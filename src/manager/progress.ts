/** How far everyone in the class is: told by whoever reports it, kept in memory, shown on the page. */
import { whole } from "../host/options.ts";
import { present, publish } from "./events.ts";
import { integer, Refusal, text, type Values } from "./route.ts";

const [MOST_STUDENTS, MOST_LESSONS] = [200, 50]; // lessons of each student
const LONGEST = 64; // characters

export const PROGRESS = {
  student: { ...text(plain, "who", { maxLength: LONGEST }), required: true },
  lesson: { ...text(plain, "which one", { maxLength: LONGEST }), required: true },
  passed: { ...integer(whole(0, 1000), "checks passed"), required: true },
  total: { ...integer(whole(1, 1000), "of so many"), required: true },
};
type Progress = Required<Values<typeof PROGRESS>>;

const students = new Map<string, Map<string, Progress>>(); // by name, then by lesson

export const progress = () => ({
  progress: [...students.values()].flatMap((lessons) => [...lessons.values()]),
});
present(async () => progress().progress.map((one) => ["progress", one]));

/** Errors: a Refusal. */
export function report(values: Values<typeof PROGRESS>): string {
  const one = values as Progress; // all are required
  const { student, lesson, passed, total } = one;
  const lessons = students.get(student) ?? new Map<string, Progress>();
  if (passed > total) throw new Refusal(400, `passed: ${passed} is more than the total, ${total}`);
  if (!students.has(student) && students.size >= MOST_STUDENTS)
    throw new Refusal(409, `student: there are ${MOST_STUDENTS} already`);
  if (!lessons.has(lesson) && lessons.size >= MOST_LESSONS)
    throw new Refusal(409, `lesson: this student has ${MOST_LESSONS} already`);
  students.set(student, lessons.set(lesson, one));
  publish("progress", one);
  return `${student} is at ${passed} of ${total}`;
}

/** Forgets a student, and tells all who listen. Errors: a Refusal. */
export function forget({ student = "" }: Pick<Values<typeof PROGRESS>, "student">): string {
  if (!students.delete(student)) throw new Refusal(404, "student: nobody has told progress of this one");
  publish("progress", { student, state: "deleted" });
  return `${student} is forgotten`;
}

/** No orders to a terminal, no half characters, nothing that turns the line around. */
function plain(text: string): string {
  if (text === "" || [...text].length > LONGEST) throw new Error(`is no text of 1 to ${LONGEST} characters`);
  if (/[\p{Cc}\p{Cs}\u2028-\u202e\u2066-\u2069]/u.test(text)) throw new Error("has a control character");
  return text;
}
