/** What stands in front of the manager's API: who may ask, how much, how often, and how slowly. */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { chmodSync, readFileSync, writeFileSync } from "node:fs";
import { Agent } from "node:http";
import { request } from "node:https";
import { connect, type Socket } from "node:net";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { ours } from "../lab.ts";
import { type Answer, ask, Events } from "../manager/ask.ts";
import { Running } from "../running.ts";
import { newFolder } from "./folder.ts";
import { labTest, retry, runProgram } from "./testing.ts";
import { has } from "../tools.ts";

// On loopback, and with no request that would make an interface: /api/progress is what changes something.
const DONE = { student: "Ada", lesson: "xor", passed: 1, total: 2 };
const TOKEN = "a-token-of-the-class";

async function start(t: TestContext, args: string[] = [], env: NodeJS.ProcessEnv = {}) {
  const [node, ...words] = ours("manager/main");
  const child = spawn(node!, [...words, "--port", "0", ...args], { env: { ...process.env, ...env } });
  const running = new Running(child);
  t.after(() => running.stop("SIGKILL"));
  const [, port] = await running.until(/the interface manager: .*:(\d+)\//);
  return { running, port: Number(port), host: `localhost:${port}` };
}

/** Bytes as they are, and all that comes back until the other end closes. */
function raw(port: number, text: string): Promise<string> {
  return new Promise((resolve, reject) => {
    let answer = "";
    const socket = connect(port, "127.0.0.1", () => socket.write(text));
    socket.setEncoding("utf8").on("data", (data) => (answer += data));
    socket.on("error", reject).on("close", () => resolve(answer));
  });
}

/** Whoever does not finish a header, or a body, is told so, and closed. It takes 6 s, and 11. */
const slow = (async () => {
  const [node, ...words] = ours("manager/main");
  const running = new Running(spawn(node!, [...words, "--port", "0"]));
  const [, port] = await running.until(/the interface manager: .*:(\d+)\//);
  const head = "POST /api/progress HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n";
  const since = performance.now();
  const one = async (text: string) => [await raw(Number(port), text), performance.now() - since] as const;
  const begun = [head, `${head}Content-Type: application/json\r\n\r\n{`, ""]; // a header, a body, nothing
  const answers = await Promise.all(begun.map(one));
  await running.stop();
  return answers;
})().catch((error: Error) => error);

test("each answer bears the headers that keep a page in its place", async (t) => {
  const { port } = await start(t);
  for (const path of ["/health", "/nowhere", "/", "/metrics"]) {
    const { headers } = await ask({ port }, "GET", path);
    const policy = String(headers["content-security-policy"]);
    assert.match(policy, /^default-src 'none'; .*frame-ancestors 'none'$/);
    const isOwn = /script-src 'sha256-[\w+/]{43}='; style-src 'sha256-/.test(policy);
    assert.equal(isOwn, path === "/", "the page has a policy of its own");
    assert.equal(headers["x-content-type-options"], "nosniff");
    assert.equal(headers["cross-origin-resource-policy"], "same-origin");
  }
});

test("only names of this machine are taken in Host, and only our own page in Origin", async (t) => {
  const { port, host } = await start(t, ["--allow-host", "Desk.lan"]);
  const asked = (headers: Record<string, string>) => ask({ port }, "POST", "/api/progress", DONE, headers);
  for (const Host of [host, "localhost", "127.0.0.1:99", "[::1]:80", "LOCALHOST", "desk.lan:8080"])
    assert.equal((await asked({ Host })).status, 200, Host);
  for (const Host of [
    "evil.example",
    `evil.example:${port}`,
    "localhost.evil.example",
    "192.168.1.1",
    "desk.lan.evil",
    "[::2]",
  ])
    assert.equal((await asked({ Host })).status, 403, Host);
  assert.equal((await asked({ Host: host, Origin: `http://${host}` })).status, 200);
  for (const Origin of [
    "http://evil.example",
    "null",
    "http://localhost:1",
    `http://${host}.evil.example`,
    `ftp://${host}`,
    `https://${host}`, // another scheme is another origin
  ]) {
    const { status, json } = await asked({ Host: host, Origin });
    assert.deepEqual(
      [Origin, status, json.error],
      [Origin, 403, "Origin: a page of another place may not ask here"],
    );
  }
  assert.match(await raw(port, "GET /health HTTP/1.1\r\nConnection: close\r\n\r\n"), /^HTTP\/1\.1 400 /);
  assert.match(await raw(port, "GET /health HTTP/1.0\r\n\r\n"), /^HTTP\/1\.1 403 /);
  const { port: plain } = await start(t);
  assert.match(await raw(plain, "GET /health HTTP/1.0\r\n\r\n"), /^HTTP\/1\.1 403 /);
});

test("with a token, what changes something needs it; it is in no answer, environment, log", async (t) => {
  const { port, running } = await start(t, [], { SIMPLE_VPN_MANAGER_TOKEN: TOKEN });
  const asked = (Authorization?: string) =>
    ask({ port }, "POST", "/api/progress", DONE, Authorization === undefined ? {} : { Authorization });
  const answers: Answer[] = [];
  for (const wrong of [
    undefined,
    "",
    "Bearer",
    "Bearer ",
    `Bearer ${TOKEN}x`,
    `Bearer ${TOKEN.slice(0, -1)}`,
    TOKEN,
    `Basic ${TOKEN}`,
  ]) {
    const answer = await asked(wrong);
    assert.deepEqual([answer.status, answer.headers["www-authenticate"]], [401, "Bearer"], wrong);
    answers.push(answer);
  }
  assert.deepEqual((await ask({ port }, "GET", "/api/progress")).json, { progress: [] });
  answers.push(await asked(`Bearer ${TOKEN}`));
  assert.equal(answers.at(-1)!.status, 200);
  for (const path of ["/api/progress", "/metrics", "/openapi.json", "/health"])
    answers.push(await ask({ port }, "GET", path));
  for (const { text, headers } of answers) assert.ok(!(text + JSON.stringify(headers)).includes(TOKEN));
  assert.ok(!running.output.includes(TOKEN));
  assert.ok(!readFileSync(`/proc/${running.child.pid}/environ`, "utf8").includes(TOKEN));
  // a DELETE, too; it would find no interface
  assert.equal((await ask({ port }, "DELETE", "/api/interface/delete")).status, 401);
});

test("--print-config and --help end at once; a port that is taken is a failure with a hint", async (t) => {
  const config = runProgram("manager/main", ["--print-config", "--port", "81"]);
  assert.deepEqual([config.status, config.stderr], [0, ""]);
  assert.match(config.stdout, /^port +81 \(a flag\)$/m);
  assert.match(
    runProgram("manager/main", ["--help"]).stdout,
    /^ +--port N +TCP port to listen on; .* \(8080\)$/m,
  );
  const { port } = await start(t);
  const second = runProgram("manager/main", ["--port", `${port}`]);
  assert.equal(second.status, 1);
  assert.match(second.stderr, /Cannot listen on 127\.0\.0\.1 port \d+: EADDRINUSE\. Try: another --port/);
  const file = join(newFolder(), "file");
  writeFileSync(file, "mine");
  const third = runProgram("manager/main", ["--host", file]);
  assert.equal(third.status, 1);
  assert.match(third.stderr, /Cannot use --host .*: there is something else, and no socket\. Try: another/);
});

labTest("another address than loopback needs a token, to look as well", async (lab) => {
  const words = [...ours("manager/main"), "--host", "192.168.1.100"];
  const without = new Running(lab.spawn("client", words));
  assert.equal(await without.ended, 1);
  assert.match(without.output, /Cannot listen on 192\.168\.1\.100 without a token: others reach it/);
  const file = join(newFolder(), "token");
  writeFileSync(file, TOKEN, { mode: 0o600 });
  const running = new Running(lab.spawn("client", [...words, "--token-file", file]));
  await running.until(/the interface manager: http:\/\/192\.168\.1\.100:8080\//);
  const status = (path: string, ...more: string[]) =>
    lab.run("server", [
      "curl",
      "-s",
      "-o",
      "/dev/null",
      "-w",
      "%{http_code}",
      ...more,
      `http://192.168.1.100:8080${path}`,
    ]);
  assert.equal(status("/health"), "200");
  assert.equal(status("/openapi.json"), "200");
  for (const path of [
    "/api/interface/status",
    "/api/interface/list",
    "/api/events",
    "/metrics",
    "/api/progress",
  ]) {
    assert.equal(status(path), "401", path);
    if (path !== "/api/events")
      assert.equal(status(path, "-H", `Authorization: Bearer ${TOKEN}`), "200", path);
  }
  assert.equal(status("/health", "-H", "Host: localhost"), "403");
  assert.equal(status("/health", "-H", "Host: evil.example"), "403");
});

test("too much, too often, too many: each has its limit, and /health answers meanwhile", async (t) => {
  const { port } = await start(t);
  const big = await ask({ port }, "POST", "/api/progress", "x".repeat(16 * 1024 + 1));
  assert.deepEqual([big.status, big.json.error], [413, "body: more than 16384 bytes"]);
  assert.match(
    await raw(port, `GET /health HTTP/1.1\r\nHost: localhost\r\nX: ${"x".repeat(9000)}\r\n\r\n`),
    /^HTTP\/1\.1 431 /,
  );
  const text = await ask({ port }, "POST", "/api/progress", JSON.stringify(DONE), {
    "Content-Type": "text/plain",
  });
  assert.equal(text.status, 415);
  const empty = await ask({ port }, "POST", "/api/interface/stop", "", { "Content-Type": "text/plain" });
  assert.equal(empty.status, 415);

  // listeners
  const listeners = Array.from({ length: 64 }, () => new Events({ port }));
  for (const one of listeners) await one.until((event) => event === "");
  assert.equal((await ask({ port }, "GET", "/api/events")).status, 429);
  for (const one of listeners) one.end();

  // connections that say nothing, or too little of a header, or of a body
  const starts = [
    "",
    "GET /health HTTP/1.1\r\n",
    "POST /api/progress HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{",
  ];
  const listener = new Events({ port });
  await listener.until((event) => event === "");
  const agent = new Agent({ keepAlive: true, maxSockets: 1 }); // a page's connection, used now and then
  t.after(() => agent.destroy());
  const sockets: Socket[] = [];
  let dropped = 0; // closed without a byte
  const begin = (text: string) => {
    const socket = connect(port, "127.0.0.1", () => socket.write(text)).resume();
    sockets.push(socket.on("error", () => {}).on("close", () => (dropped += Number(socket.bytesRead === 0))));
  };
  const ports = new Set<number | undefined>();
  for (let i = 0; i < 900; i++) {
    begin(starts[i % 3]!);
    if (i % 60 !== 0) continue;
    assert.equal((await ask({ port }, "GET", "/health")).status, 200);
    assert.equal((await ask({ port }, "GET", "/health", undefined, {}, agent)).status, 200);
    await new Promise(setImmediate);
    ports.add(Object.values(agent.freeSockets)[0]![0]!.localPort);
  }
  assert.equal(ports.size, 1); // it is still the same
  for (let i = 900; i < 2100; i++) begin("");
  await retry(() => assert.ok(dropped > 0, "2,048 connections are the most"));
  for (const socket of sockets) socket.destroy();
  await retry(async () => assert.equal((await ask({ port }, "GET", "/health")).status, 200));
  assert.equal((await ask({ port }, "POST", "/api/progress", DONE)).status, 200);
  await listener.until((event) => event === "progress"); // it was not closed
  listener.end();
});

test("a second has so many requests from one address; the next one has them again", async (t) => {
  const { port } = await start(t, ["--rate", "5"]);
  const many = await Promise.all(Array.from({ length: 50 }, () => ask({ port }, "GET", "/health")));
  const refused = many.filter(({ status }) => status === 429);
  assert.ok(refused.length > 0 && refused.length <= 45, `${refused.length} refused`);
  assert.ok(refused.every(({ headers }) => headers["retry-after"] === "1"));
  await new Promise((resolve) => setTimeout(resolve, 1100));
  assert.equal((await ask({ port }, "GET", "/health")).status, 200);
});

test("progress: bounded, and told to the listeners", async (t) => {
  const { port } = await start(t, ["--rate", "100000"]);
  const events = new Events({ port });
  await events.until((event) => event === "");
  const report = (student: string, lesson = "xor") =>
    ask({ port }, "POST", "/api/progress", { ...DONE, student, lesson });
  assert.equal((await report("Ada")).json.message, "Ada is at 1 of 2");
  assert.deepEqual(await events.until((event) => event === "progress"), { ...DONE });
  events.end();
  for (let i = 1; i < 200; i++) assert.equal((await report(`student ${i}`)).status, 200);
  const refused = await report("one more");
  assert.deepEqual([refused.status, refused.json.error], [409, "student: there are 200 already"]);
  for (let i = 1; i < 50; i++) assert.equal((await report("Ada", `lesson ${i}`)).status, 200);
  assert.equal((await report("Ada", "one more")).status, 409);
  assert.equal((await report("Ada")).status, 200);
  const passed = await ask({ port }, "POST", "/api/progress", { ...DONE, passed: 3 });
  assert.deepEqual([passed.status, passed.json.error], [400, "passed: 3 is more than the total, 2"]);
  assert.equal((await ask({ port }, "GET", "/api/progress")).json.progress.length, 249);
  const more = new Events({ port });
  await more.until((event) => event === "");
  const forget = () => ask({ port }, "DELETE", "/api/progress", { student: "Ada" });
  assert.equal((await forget()).json.message, "Ada is forgotten");
  const gone = await more.until((event, { state }) => event === "progress" && state !== undefined);
  assert.deepEqual(gone, { student: "Ada", state: "deleted" });
  more.end();
  assert.deepEqual([(await forget()).status, (await report("one more")).status], [404, 200]);
});

const missing = has("openssl") ? false : "openssl is not installed";
test("TLS, with a certificate and its key", { skip: missing && !process.env.CI && missing }, async (t) => {
  assert.equal(missing, false);
  const folder = newFolder();
  const [key, cert] = [join(folder, "key.pem"), join(folder, "cert.pem")];
  const kind = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=localhost";
  const words = `req -x509 ${kind} -keyout ${key} -out ${cert}`;
  assert.equal(spawnSync("openssl", words.split(" ")).status, 0);
  const args = ["--tls-cert", cert, "--tls-key", key];
  chmodSync(key, 0o640);
  const refused = runProgram("manager/main", args);
  assert.match(refused.stderr, /Cannot use the key .*: other users can read it\. Try: chmod 600 /);
  chmodSync(key, 0o600);
  const noPem = runProgram("manager/main", ["--tls-cert", key, "--tls-key", key]);
  assert.match(
    noPem.stderr,
    /^error Cannot use TLS with .*: .*no start line.*Try: the certificate and its own/,
  );
  const { port, running } = await start(t, args);
  assert.match(running.output, /https:\/\/127\.0\.0\.1:/);
  const asked = (headers: Record<string, string>, maxVersion: "TLSv1.3" | "TLSv1.1" = "TLSv1.3") =>
    new Promise<number>((resolve, reject) => {
      const options = {
        host: "127.0.0.1",
        port,
        path: "/health",
        ca: readFileSync(cert),
        servername: "localhost",
        headers,
      };
      const sent = request({ ...options, maxVersion, minVersion: maxVersion }, (response) => {
        response.resume();
        resolve(response.statusCode!);
      });
      sent.on("error", reject).end();
    });
  assert.equal(await asked({ Host: "localhost", Origin: "https://localhost" }), 200);
  assert.equal(await asked({ Host: "evil.example" }), 403);
  await assert.rejects(asked({ Host: "localhost" }, "TLSv1.1"));
});

test("a header has 5 s, silence too, a whole request 10 s", async () => {
  const answers = await slow; // begun with the first test, for it takes so long
  assert.ok(Array.isArray(answers), String(answers));
  const [header, body, silent] = answers.map(([, ms]) => ms) as [number, number, number];
  for (const [answer] of answers) assert.match(answer, /^HTTP\/1\.1 408 /);
  assert.ok(
    header > 4_900 && body > 9_900 && Math.max(header, silent) < body,
    `${[header, body, silent]} ms`,
  );
});
