/** draft/wire.md is the protocol for others: what it shows must be what the programs do. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { vectors } from "../docs/vectors.ts";
import { ROOT } from "../lab.ts";

test("the vectors of draft/wire.md are those of this program", () => {
  const document = readFileSync(join(ROOT, "draft/wire.md"), "utf8");
  assert.ok(document.includes(`\`\`\`\n${vectors()}\n\`\`\`\n`), "node --import tsx src/lab/docs/vectors.ts");
});
