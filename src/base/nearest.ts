/** ", the nearest is mtu": the known name with the fewest letters to change; "" if none is known. */
export function nearest(name: string, known: string[]): string {
  const near = known.map((one) => ({ one, letters: distance(name.slice(0, 40), one) }));
  const [first] = near.sort((a, b) => a.letters - b.letters);
  return first ? `, the nearest is ${first.one}` : "";
}

/** Letters to insert, delete or replace (Levenshtein). */
function distance(from: string, to: string): number {
  let row = Array.from({ length: to.length + 1 }, (_, i) => i);
  for (let i = 1; i <= from.length; i++) {
    const next = [i];
    for (let j = 1; j <= to.length; j++)
      next[j] = Math.min(row[j]! + 1, next[j - 1]! + 1, row[j - 1]! + Number(from[i - 1] !== to[j - 1]));
    row = next;
  }
  return row[to.length]!;
}
