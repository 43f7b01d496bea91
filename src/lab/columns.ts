/** Text in lines that fit the terminal. */

/** Of the terminal, 100 at most: longer lines are hard to read. 80 where there is none. */
export const COLUMNS = Math.min(process.stdout.columns || 80, 100);

/** Words filled into lines of at most so many columns; code in backquotes stays on one. */
export function fill(text: string, columns = COLUMNS, indent = ""): string {
  const words = text.match(/(?:`[^`]*`|\S)+/g) ?? [];
  const lines = [""];
  for (const word of words.map((one) => one.replace(/\s+/g, " "))) {
    const line = lines.at(-1)!;
    if (line !== "" && line.length + 1 + word.length > columns - indent.length) lines.push(word);
    else lines[lines.length - 1] = line === "" ? word : `${line} ${word}`;
  }
  return lines.join(`\n${indent}`);
}

/**
 * Lines as they are, with all their spaces. On a terminal, one that is too long goes on in the next, behind
 * `indent`; in a pipe it stays whole.
 */
export function fold(
  text: string,
  indent = "    ",
  end = "",
  columns = process.stdout.columns || Infinity,
): string {
  return text.replace(/.+/g, (line) => {
    const at = line.lastIndexOf(" ", columns - end.length);
    if (line.length <= columns || at <= indent.length) return line; // it fits, or is one word
    return `${line.slice(0, at)}${end}\n${fold(indent + line.slice(at).trimStart(), indent, end, columns)}`;
  });
}
