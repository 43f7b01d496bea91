/** The picture's colours can be read: WCAG 2.2, success criterion 1.4.3, level AA. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { LANES_CSS } from "./lanes.ts";

/** The colours of lanes.css, light and dark: name → "#rrggbb". */
const [light, dark] = LANES_CSS.split("prefers-color-scheme: dark").map((part) => {
  const found = part.matchAll(/--(\w+): #(\w+);/g);
  return new Map(
    [...found].map(([, name, hex]) => [name!, hex!.length === 3 ? hex!.replace(/./g, "$&$&") : hex!]),
  );
});

/** Relative luminance, 0 to 1. */
function luminance(hex: string): number {
  const [red, green, blue] = hex.match(/../g)!.map((pair) => {
    const value = parseInt(pair, 16) / 255;
    return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red! + 0.7152 * green! + 0.0722 * blue!;
}

function contrast(one: string, other: string): number {
  const [dim, bright] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (bright! + 0.05) / (dim! + 0.05);
}

test("each colour of text has a contrast of 4.5 with each ground, light and dark", () => {
  for (const [scheme, colours] of Object.entries({ light, dark }))
    for (const text of ["ink", "dim", "up", "down", "plain", "xor", "sealed"])
      for (const ground of ["page", "panel", "band"]) {
        const ratio = contrast(colours!.get(text)!, colours!.get(ground)!);
        assert.ok(ratio >= 4.5, `${scheme}: ${text} on ${ground} has ${ratio.toFixed(2)}`);
      }
});
