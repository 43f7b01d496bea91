import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";
import { isName, POLICY, Roster } from "./roster.ts";

const OWN = "10.8.0.1";
const peer = (number: number, connected = 0) => ({ inner: `10.8.0.${number}`, connected });

/** A roster of three, in which Ana has pinged. */
function roster(): Roster {
  const one = new Roster(OWN, new Date(7_200_000));
  one.update([peer(10), peer(3), peer(2, 60)], 120_000);
  one.tell(one.find("10.8.0.2")!, "Ana", [OWN, "10.8.0.3", "8.8.8.8"], ["10.8.0.10"]);
  return one;
}

test("isName() takes names of any language, and nothing that could be markup or an order", () => {
  for (const name of ["Ana", "Zoë d'Arc", "王小明", "Nº 5", "José-M. 2", "अना"])
    assert.ok(isName(name), name);
  for (const name of ["", " Ana", "<b>", "a&b", 'a"b', "a\u202eb", "a\nb", "a\x1b[2J", "x".repeat(25), "'"])
    assert.ok(!isName(name), JSON.stringify(name));
});

test("the page escapes whatever a name is", () => {
  const one = roster();
  one.find("10.8.0.3")!.name = `<script>alert("1")</script>&'`; // as if isName() had let it through
  for (const page of [one.html("10.8.0.3"), one.html("10.8.0.2"), one.html("<i>")]) {
    assert.doesNotMatch(page, /<script|<i>|alert\("/);
    assert.match(page, /&#60;script&#62;alert\(&#34;1&#34;\)&#60;\/script&#62;&#38;&#39;/);
  }
});

test("the page's policy lets in its own style, and nothing else", () => {
  const [, style = ""] = /<style>([^]*?)<\/style>/.exec(roster().html(OWN)) ?? [];
  const hash = createHash("sha256").update(style).digest("base64");
  assert.equal(
    POLICY,
    `default-src 'none'; style-src 'sha256-${hash}'; ` +
      "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  );
});

test("the page says who you are, who is here, and who reaches whom", () => {
  const page = roster().html("10.8.0.2");
  assert.match(page, /<h1>Hello, you are 10\.8\.0\.2 \(Ana\)<\/h1>/);
  assert.match(page, /<tr><th><th>address<th>name<th>since<th>server<th>1<th>2<th>3\n/);
  assert.match(page, /<tr class="you"><td>1<td>10\.8\.0\.2<td>Ana<td>\d\d:\d\d<td>✓<td><td>✓<td>✗\n/);
  assert.match(
    page,
    /<tr><td>2<td>10\.8\.0\.3<td><td>\d\d:\d\d<td>·<td>·<td><td>·\n<tr><td>3<td>10\.8\.0\.10</,
  );
  assert.match(roster().html(OWN), /you are 10\.8\.0\.1 \(the teacher&#39;s machine\)/);
});

test("a program is told the same, and how long the class goes on", () => {
  const told = JSON.parse(JSON.stringify(roster().json("10.8.0.2", 7_190_000)));
  assert.deepEqual([told.you, told.server, told.left, told.students.length], ["10.8.0.2", OWN, 10, 3]);
  assert.deepEqual(told.students[0], {
    ...{ address: "10.8.0.2", name: "Ana", since: new Date(60_000).toISOString() },
    ...{ answered: [OWN, "10.8.0.3"], silent: ["10.8.0.10"] },
  });
});

test("a name goes with its client, and pings go with either of the two", () => {
  const one = roster();
  one.tell(one.find("10.8.0.2")!, "", [], []);
  assert.equal(one.find("10.8.0.2")!.name, "Ana");
  one.update([peer(2), peer(10)]);
  assert.deepEqual(
    [...one.find("10.8.0.2")!.pings],
    [
      [OWN, true],
      ["10.8.0.10", false],
    ],
  );
  one.update([peer(10)]);
  one.update([peer(2), peer(10)]);
  assert.deepEqual([one.find("10.8.0.2")!.name, one.find("10.8.0.2")!.pings.size], ["", 0]);
});
