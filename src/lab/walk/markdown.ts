/**
 * As much Markdown as the step sections of walkthrough.md use, as HTML for walk.html: headings, paragraphs,
 * lists, tables, listings.
 */
import { escape } from "../../picture/lanes.ts";

/** Links become their text: the files that they lead to are not there beside walk.html. */
const inline = (text: string) =>
  escape(text)
    .replace(/`([^`]+)`/g, "<code>$1</code>")
    .replace(/\*\*(.+?)\*\*/gs, "<b>$1</b>")
    .replace(/\*(.+?)\*/gs, "<i>$1</i>")
    .replace(/\[([^\]]+)\]\([^)]+\)/g, "$1");

export function markdown(text: string): string {
  const parts = text.split(/^```.*\n([^]*?)^```$/m); // every second one is a listing
  return parts
    .map((part, i) =>
      i % 2
        ? `<pre>${escape(part)}</pre>`
        : part
            .trim()
            .split(/\n{2,}/)
            .map(block)
            .join("\n"),
    )
    .join("\n");
}

function block(text: string): string {
  if (text === "") return "";
  if (text.startsWith("### ")) return `<h2>${inline(text.slice(4))}</h2>`;
  if (text.startsWith("- "))
    return `<ul>${text
      .slice(2)
      .split("\n- ")
      .map((item) => `<li>${inline(item)}</li>`)
      .join("")}</ul>`;
  if (!text.startsWith("|")) return `<p>${inline(text)}</p>`;
  const [head, , ...rows] = text.split("\n").map((row) => row.split("|").slice(1, -1));
  const line = (cells: string[], tag: string) =>
    `<tr>${cells.map((cell) => `<${tag}>${inline(cell.trim())}</${tag}>`).join("")}</tr>`;
  return `<table>${line(head!, "th")}${rows.map((cells) => line(cells, "td")).join("")}</table>`;
}
