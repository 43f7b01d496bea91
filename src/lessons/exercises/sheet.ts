/**
 * The lab sheet of walkthrough.md, as exercises: what is asked, and the answer that is printed there. The
 * document is the one source of both.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import chalk from "chalk";
import { fill, fold } from "../../lab/columns.ts";
import { ROOT } from "../../lab/lab.ts";

export interface Sheet {
  number: number;
  title: string;
  question: string; // Markdown, without number and title
  answer: string; // Markdown, without number
  experiment: string | undefined; // that the question names: make experiment NAME=…
}

const HEADING = "\n## Lab sheet\n";
const ANSWERS = "\n<details><summary><b>Answers</b></summary>\n";

/** The exercises in the text of walkthrough.md. Throws where one has no answer, or an answer no question. */
export function parseSheet(document: string): Sheet[] {
  const [questions = "", answers = ""] = (document.split(HEADING)[1] ?? "").split(ANSWERS);
  const answered = new Map<number, string>();
  let number = 0;
  for (const line of answers.split("\n")) {
    const begin = /^(\d+)\. (.*)/.exec(line);
    if (begin) answered.set((number = Number(begin[1])), begin[2]!);
    else if (/^\S/.test(line))
      number = 0; // a paragraph that is no answer's
    else if (number > 0) answered.set(number, `${answered.get(number)}\n${line.replace(/^ {3,4}/, "")}`);
  }
  const sheet = questions
    .split(/^(?=\*\*\d+\. )/m)
    .slice(1)
    .map((text) => {
      const [head, digits, title] = /^\*\*(\d+)\. (.*?)\*\*\s*/.exec(text)!;
      const question = text.slice(head.length).split(/^###/m)[0]!.trim();
      const answer = answered.get(Number(digits))?.trim();
      if (answer === undefined) throw new Error(`the lab sheet has no answer ${digits}`);
      answered.delete(Number(digits));
      const experiment = /make experiment NAME=([\w-]+)/.exec(question)?.[1];
      return { number: Number(digits), title: title!.replace(/[.]$/, ""), question, answer, experiment };
    });
  if (answered.size > 0) throw new Error(`the lab sheet has no question ${[...answered.keys()].join(", ")}`);
  return sheet;
}

export const readSheet = () => parseSheet(readFileSync(join(ROOT, "walkthrough.md"), "utf8"));

/** Markdown for a terminal of that many columns: paragraphs filled anew, listings as they are. */
export function shown(markdown: string, columns: number): string {
  return markdown
    .split(/^```.*\n([^]*?)^```$/m) // every second one is a listing
    .map((part, i) => (i % 2 ? fold(part.trimEnd().replace(/^/gm, "  ")) : paragraphs(part, columns)))
    .filter((part) => part !== "")
    .join("\n\n");
}

const paragraphs = (text: string, columns: number) =>
  text
    .trim()
    .split(/\n{2,}/)
    .map((paragraph) =>
      fill(paragraph.replace(/\[([^\]]+)\]\([^)]+\)/g, "$1"), columns)
        .replace(/`([^`]+)`/g, (_, code: string) => chalk.cyan(code))
        .replace(/\*\*([^*]+)\*\*/g, (_, strong: string) => chalk.bold(strong)),
    )
    .join("\n\n");
