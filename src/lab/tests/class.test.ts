/** A class on one server: `make class` and `make join` on the hosts of a lab, from the code to the end. */
import assert from "node:assert/strict";
import { type Lab, ours } from "../lab.ts";
import { Running } from "../running.ts";
import { labTest, retry, snapshot } from "./testing.ts";

const [SERVER, PAGE] = ["203.0.113.1", "http://10.8.0.1/"];
const START = 60_000; // ms, at most

async function open(lab: Lab, HOURS: string) {
  const env = { ...process.env, NAT: "eth1", HOURS };
  const running = new Running(lab.spawn("server", ours("class/class"), { env }));
  const [, line, code] = await running.until(/make join (SERVER=203\.0\.113\.1 CODE=(\S+) NAME=)/, START);
  return { running, code: code!, line };
}

function join(lab: Lab, host: string, CODE: string, NAME: string): Running {
  return new Running(lab.spawn(host, ours("class/join"), { env: { ...process.env, SERVER, CODE, NAME } }));
}

/** Requests by node on a host, one after the other; each answer's status and text. */
function ask(lab: Lab, host: string, ...requests: [url: string, init?: object][]): [number, string][] {
  const script = `(async () => {
    const all = [];
    for (const [url, { body, ...options } = {}] of ${JSON.stringify(requests)})
      all.push(await new Promise((resolve, reject) => {
        const request = require("node:http").request(url, options, async (response) => {
          let text = "";
          for await (const part of response.setEncoding("utf8")) text += part;
          resolve([response.statusCode, text]);
        });
        request.on("error", reject).end(body);
      }));
    console.log(JSON.stringify(all));
  })()`;
  return JSON.parse(lab.run(host, [process.execPath, "-e", script]));
}

/** A class of some seconds, with one student in it: both end by themselves. A slow machine gets longer. */
async function untilItsEnd(lab: Lab) {
  for (let hours = 0.003; ; hours *= 2) {
    const short = await open(lab, `${hours}`);
    const student = join(lab, "client", short.code, "Ana");
    assert.equal(await short.running.ended, 0, short.running.output);
    assert.match(short.running.output, /The class is over: the server ends, and the code/);
    if (!student.output.includes("(the server) answers")) {
      await student.stop();
      continue;
    }
    assert.equal(await student.ended, 0, student.output);
    assert.match(student.output, /^The class is over\.$/m);
    return short;
  }
}

labTest("a class: its code, the page, who reaches whom, strangers' words, and its end", async (lab) => {
  const hosts = ["client", lab.addClient(2), lab.addClient(3)];
  const all = () => ["server", ...hosts].map((host) => snapshot(lab, host));
  const before = all();

  const short = await untilItsEnd(lab);
  assert.deepEqual(all(), before);

  const { running, code } = await open(lab, "1");
  assert.notEqual(code, short.code);
  const late = join(lab, "client", short.code, "Ana");
  assert.equal(await late.ended, 1);
  const refusal = `^error Cannot join: the server does not know the code ${short.code}\\. Try: .*today's$`;
  assert.match(late.output, new RegExp(refusal, "m"));
  assert.doesNotMatch(late.output, /secret/);

  const names = ["Ana", "Ben", "Zoë"];
  const students = hosts.map((host, i) => join(lab, host, code, names[i]!));
  const addresses: string[] = [];
  for (const student of students) {
    addresses.push((await student.until(/this end of the tunnel is ([\d.]+)\/24/, START))[1]!);
    await student.until(/The page of the class: http:\/\/10\.8\.0\.1\//);
  }
  assert.deepEqual([...addresses].sort(), ["10.8.0.2", "10.8.0.3", "10.8.0.4"]);
  await retry(() => {
    const [[status, text]] = ask(lab, "client2", [`${PAGE}roster`]) as [[number, string]];
    const told = JSON.parse(text);
    assert.deepEqual([status, told.you, told.students.length], [200, addresses[1], 3]);
    for (const { address, name, answered, silent } of told.students) {
      assert.equal(name, names[addresses.indexOf(address)]);
      const others = ["10.8.0.1", ...addresses].filter((other) => other !== address);
      assert.deepEqual([answered.sort(), silent], [others.sort(), []]);
    }
  });
  const [page, teachers] = ["client2", "server"].map((host) => ask(lab, host, [PAGE])[0]![1]) as [
    string,
    string,
  ];
  assert.match(page, new RegExp(`<h1>Hello, you are ${addresses[1]} \\(Ben\\)</h1>`));
  for (const [i, name] of names.entries())
    assert.match(page, new RegExp(`<td>${addresses[i]}<td>${name}<td>\\d\\d:\\d\\d<td>✓.*✓.*✓`));
  assert.match(teachers, /Hello, you are 10\.8\.0\.1 \(the teacher&#39;s machine\)/);
  await students[0]!.until(new RegExp(`✓ ${addresses[2]} \\(Zoë\\) answers`));
  for (const { output } of students) assert.doesNotMatch(output, /has not taken/);

  const [, dashboard] = /machine: (http\S+)/.exec(running.output)!;
  await retry(() => {
    const { progress } = JSON.parse(ask(lab, "server", [`${dashboard}api/progress`])[0]![1]);
    const student = `Zoë (${addresses[2]})`;
    const zoe = progress.find((one: any) => one.student === student && one.passed === 3);
    assert.deepEqual(zoe, { student, lesson: "pings answered", passed: 3, total: 3 });
  });

  const post = (
    body: object | string,
    headers = { "Content-Type": "application/json" },
  ): [string, object] => [
    `${PAGE}me`,
    { method: "POST", headers, body: typeof body === "string" ? body : JSON.stringify(body) },
  ];
  const refused = ask(
    lab,
    "client2",
    post({ name: "Eve" }),
    post({ name: "<b>" }),
    post({ answered: ["10.8.0.4", 1] }),
    [PAGE, { headers: { Host: "page.example" } }],
    post("x".repeat(20_000)),
    post("name=Eve", { "Content-Type": "application/x-www-form-urlencoded" }),
    [PAGE, { method: "DELETE" }],
    [`${PAGE}etc/passwd`],
    ...Array.from({ length: 40 }, (): [string] => [`${PAGE}roster`]),
  );
  const statuses = refused.map(([status]) => status);
  assert.deepEqual(statuses.slice(0, 8), [200, 400, 400, 403, 413, 415, 405, 404]);
  assert.ok(statuses.includes(429), "too many in a second");
  const now = JSON.parse(refused[0]![1]).students.map(({ name }: any) => name);
  assert.deepEqual(now.sort(), ["Ana", "Eve", "Zoë"], "who asks has another name, and nobody else");
  const onDashboard = () => {
    const { progress } = JSON.parse(ask(lab, "server", [`${dashboard}api/progress`])[0]![1]);
    return progress.map(({ student }: any) => student.replace(/ .*/, "")).sort();
  };
  await students[1]!.stop("SIGINT");
  await retry(() => assert.deepEqual(onDashboard(), ["Ana", "Zoë"], "neither old names, nor who has gone"));
  const [own] = ask(lab, "server", post({ name: "Eve" })) as [[number, string]];
  assert.equal(own[0], 403, "the teacher's machine is no student");
  assert.throws(() => ask(lab, "client", [`http://${SERVER}/`]), /ECONNREFUSED/, "inside only");

  for (const student of students) assert.equal(await student.stop("SIGINT"), 0, student.output);
  await running.stop("SIGKILL"); // the hardest end
  await retry(() => assert.deepEqual(all(), before));
  assert.doesNotMatch(lab.run("server", "ss -ltn"), /LISTEN/);
});
