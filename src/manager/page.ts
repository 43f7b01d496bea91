/** The page at /: one file that loads nothing. Its policy names its style and script by their hashes. */
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { STAGES, UP, DOWN } from "../base/walk.ts";
import { fill, lanes, LANES_CSS, LANES_JS, literal } from "../picture/lanes.ts";
import { kindOf, WALK } from "../picture/steps.ts";

const OURS = STAGES.flatMap((stage) => [UP[stage], DOWN[stage]]); // the steps that our programs see
// From src/manager and from build/manager the same file.
const read = (file: string) => readFileSync(new URL(`../../src/manager/${file}`, import.meta.url), "utf8");

export const PAGE = fill(read("page.html"), {
  CSS: LANES_CSS,
  LANES: LANES_JS,
  PAGE: read("page.js"),
  PICTURE: lanes(() => undefined),
  DATA: literal({
    steps: WALK,
    kinds: Object.fromEntries(OURS.map((step) => [step, kindOf(step, "frame")])),
  }),
});

/** The hash of what stands in the page's one `tag`, as Content-Security-Policy takes it. */
function hash(tag: string): string {
  const [, text = ""] = new RegExp(`<${tag}>([^]*?)</${tag}>`).exec(PAGE) ?? [];
  return `'sha256-${createHash("sha256").update(text).digest("base64")}'`;
}

/** Content-Security-Policy (W3C): nothing else runs, and nothing is loaded but from this server. */
export const POLICY = [
  "default-src 'none'",
  `script-src ${hash("script")}`,
  `style-src ${hash("style")}`,
  "connect-src 'self'",
  ...["base-uri", "form-action", "frame-ancestors"].map((what) => `${what} 'none'`),
].join("; ");
