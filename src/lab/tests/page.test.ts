/** `make manager`, and its page in a real browser: what a teacher does in class. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { Lab, ROOT, spawned } from "../lab.ts";
import { Running, startProgram } from "../running.ts";
import { Browser } from "./browser.ts";
import { newFolder } from "./folder.ts";
import { labTest, needs, ping, SECRET } from "./testing.ts";

const SHOTS = process.env.SHOTS; // a folder for a picture of each state, to look at

/** In the page: presses the button that says so, in an element that a selector finds. */
const click = (text: string, within = "body") =>
  `[...document.querySelectorAll("${within} button")].find((one) => one.textContent === "${text}").click()`;

/** In the page: the texts that are too small for the last row, below 20 px as they are shown. */
const SMALL = `[...document.querySelectorAll("body *")].flatMap((one) => {
  const text = [...one.childNodes].find((node) => node.nodeType === 3 && node.data.trim());
  const scale = one.getScreenCTM?.().a ?? 1, size = parseFloat(getComputedStyle(one).fontSize) * scale;
  const shown = text && one.checkVisibility() && !["SCRIPT", "STYLE", "OPTION"].includes(one.tagName);
  return shown && size < 19.99 ? [text.data + ": " + size] : [];
})`;

/** In the page: the step that the packet is at. */
const NOW = `document.querySelector(".step.now .id").textContent`;

/** Presses an arrow until the packet is at a step. */
async function stepTo(browser: Browser, arrow: "ArrowLeft" | "ArrowRight", id: string): Promise<void> {
  for (let i = 0; i < 40 && (await browser.ask(NOW)) !== id; i++) await browser.press(arrow);
}

labTest("the manager's page: create, start, ping, a client comes, stop, delete", async (_, t) => {
  if (!needs(t, "chromium")) return;
  const place = newFolder();
  const token = "a-token-of-the-class";
  const env = { ...SECRET.env, SIMPLE_VPN_LAB: place, SIMPLE_VPN_MANAGER_TOKEN: token };
  const start = () => new Running(spawn(...spawned("lab/terminals/manager"), { cwd: ROOT, env }));
  const taken = createServer()
    .on("error", () => {})
    .listen(8080, "127.0.0.1"); // by us, or by somebody
  const manager = start();
  const browser = await Browser.open(1280, 720);
  try {
    const [, url] = await manager.until(/Open (http:\S+) in/, 60_000);
    assert.doesNotMatch(url!, /:8080/);
    const another = start();
    const lab = Lab.attach(readFileSync(join(place, "holder"), "utf8"))!;
    await browser.go(url!);
    await browser.until(`$("link").textContent === "● live"`);
    await browser.ask("$('speed').value = 3; $('speed').onchange()"); // a packet takes 4 s, not 12
    await look(browser, "1-loaded");
    await wholeWalk(browser);

    await browser.ask(click("create", "#create"));
    await browser.until(`!$("door").hidden`);
    assert.match(browser.complaints.splice(0).join(), /^[^\n]*401[^\n]*$/, "the token is asked for, once");
    await browser.ask(`$("door").elements.token.value = "${token}"; ${click("enter", "#door")}`);
    await browser.ask(click("create", "#create"));
    const badge = `document.querySelector("#cards .badge")?.textContent`;
    await browser.until(`${badge} === "stopped"`);
    // What is gone leaves no card: a VPN that was deleted, and all after "lost", or after a new connection
    const headers = { "Content-Type": "application/json", Authorization: `Bearer ${token}` };
    const send = async (method: string, path: string, body: object) =>
      assert.equal((await fetch(url + path, { method, headers, body: JSON.stringify(body) })).status, 200);
    const ghost = { name: "ghost", cipher: "xor", port: 5556, tun: "tun9", subnet: "10.99.0.0/24" };
    await browser.until(`["server", "client"].every((name) => vpns.has(name))`);
    await send("POST", "api/vpn/server", ghost);
    await browser.until(`vpns.has("ghost") && $("vpn").innerText.includes("10.99.0.1")`);
    await send("DELETE", "api/vpn/ghost", {});
    await browser.until(`!vpns.has("ghost") && !$("vpn").innerText.includes("10.99.0.1")`);
    const cards = "document.querySelectorAll('.card, #students td, #who option').length";
    assert.ok((await browser.ask<number>(cards)) > 3);
    await browser.ask(`showProgress({ student: "ghost", lesson: "XOR", passed: 1, total: 2 })`);
    const forgotten = `(TAKE.lost({ events: 1 }), [${cards}, $("side").innerText])`; // before the next event
    const [left, text] = await browser.ask<[number, string]>(forgotten);
    assert.equal(left, 1, "everyone");
    assert.match(text, /No VPN program[^]*Nobody/);
    await browser.go(url!);
    await browser.ask("$('speed').value = 3; $('speed').onchange()");
    await browser.until(`${badge} === "stopped"`);
    await browser.ask(click("start echo"));
    await browser.until(`${badge} === "running, echo"`);
    ping(lab, "server", "10.0.0.7", 1);
    const passed = (own: string, steps: string[]) =>
      `walks.some((one) => ${own} && ${JSON.stringify(steps)}.every((step) =>
        one.events.some((event) => event.step === step)))`;
    await browser.until(passed(`one.own === "tun1"`, ["6.read", "R6.write"]));
    await look(browser, "2-interface", "#interfaces");

    ping(lab, "client", "8.8.8.8", 1);
    await browser.until(passed("one.answered", ["5", "6.seal", "8.open", "R4.seal", "R6.xor"]));
    const packet = (kind: string, bytes: string, step: string) => `${NOW} === "${step}" &&
      $("packet").getAttribute("class") === "${kind}" &&
      $("packet").textContent.trim() === "${bytes}"`;
    await browser.until(`walk?.answered && stop > 5`); // it moves
    await browser.press(" ");
    assert.match(await browser.ask("$('play').textContent"), /play/);
    await stepTo(browser, "ArrowLeft", "1");
    await stepTo(browser, "ArrowRight", "7");
    assert.ok(await browser.ask(packet("sealed", "02 00 00 74", "7")));
    await look(browser, "3-ping");
    await browser.press("f");
    assert.equal(await browser.ask("getComputedStyle($('side')).display"), "none");
    assert.ok(await browser.ask("document.documentElement.scrollHeight <= innerHeight"), "the walk fits");
    await look(browser, "4-large");
    await stepTo(browser, "ArrowRight", "R9");
    assert.ok(await browser.ask(packet("plain", "45 00 00 54", "R9")));
    await browser.press("ArrowLeft");
    assert.ok(await browser.ask(packet("plain", "45 00 00 54", "R8")));
    await browser.press("f");
    await browser.ask(`document.querySelectorAll(".step")[5].dispatchEvent(new MouseEvent("click"))`);
    await browser.until(packet("plain", "45 00 00 54", "6"));
    const bytes = await browser.ask<string>("$('panel').innerText");
    assert.match(bytes, /6\.read.*10\.8\.0\.2 → 8\.8\.8\.8 ICMP echo request[^]*0a 08 00 02\s*source/);
    assert.match(bytes, /6\.xor[^]*07[^]*6\.seal[^]*6\.frame[^]*02\s*type\s*00 00 74\s*length/);
    await look(browser, "5-bytes");
    await browser.press("Escape");

    const host = lab.addClient(2);
    const route = ["--configure", "--route", "8.8.8.8/32"];
    const second = startProgram(lab, host, "client", ["192.168.2.1", ...route], SECRET);
    await browser.until(
      `/10\\.8\\.0\\.2[^]*10\\.8\\.0\\.3[^]*192\\.168\\.2\\.100:/.test($("vpn").innerText)`,
    );
    const sends = lab.spawn(host, ["ping", "-i", "0.01", "-s", "1000", "8.8.8.8"], { stdio: "ignore" });
    await browser.until(`/▲ [\\d.]+ kbit/.test($("vpn").querySelector("li:nth-child(2)").innerText)`);
    const line = `document.querySelector("li:nth-child(2) polyline").getAttribute("points")`;
    await browser.until(`${line}.split(" ").length > 2`);
    await look(browser, "6-client", "#vpn");
    sends.kill();
    await second.stop("SIGINT");
    await browser.until(`!$("vpn").innerText.includes("192.168.2.100")`);

    const student = `<img src=x onerror="document.title = 'broken'">`;
    for (const who of [student, "Ana (10.8.0.2)"])
      await send("POST", "api/progress", { student: who, lesson: "XOR", passed: 2, total: 5 });
    await browser.until(`$("vpn").querySelector(".client h3").textContent === "Ana (10.8.0.2)"`);
    await browser.until(`$("students").innerText.includes("2 of 5")`);
    assert.ok(await browser.ask(`$("students").innerText.includes(${JSON.stringify(student)})`), "as text");
    assert.equal(await browser.ask("document.images.length"), 0);
    await look(browser, "7-students", "#students");

    await browser.ask(click("stop"));
    await browser.until(`${badge} === "stopped"`);
    await browser.ask(click("delete"));
    await browser.until(`${badge} === undefined`);
    assert.notEqual(lab.try("server", "ip link show tun1").status, 0);
    await look(browser, "8-deleted", "#interfaces");
    assert.deepEqual(browser.complaints, []);
    assert.equal(await another.ended, 1);
    assert.match(another.output, /^error Cannot bring up a lab: there is one already\. Try: make down/);
  } finally {
    taken.close();
    await browser.close();
    assert.equal(await manager.stop("SIGINT"), 0, manager.output);
  }
  assert.ok(!existsSync(join(place, "holder")));
});

/** The whole journey is in sight, below the header and above the end of the window. */
async function wholeWalk(browser: Browser): Promise<void> {
  const edges = `[$("walk"), [...document.querySelectorAll(".step")].at(-1), $("back")].flatMap((one) => {
    const { top, bottom } = one.getBoundingClientRect(); return [top, bottom]; })`;
  for (const [width, height] of [
    [1280, 720],
    [1920, 1080],
  ] as const) {
    await browser.look(width, height, "light");
    const places = await browser.ask<number[]>(edges);
    assert.ok(Math.min(...places) >= 0 && Math.max(...places) <= height, `${width}: ${places}`);
  }
  await browser.look(1280, 720, "light");
}

/** What is shown is large enough. With SHOTS, a picture of it, light and dark. */
async function look(browser: Browser, name: string, top = "header"): Promise<void> {
  assert.deepEqual(await browser.ask(SMALL), [], `${name}: too small for the last row`);
  if (!SHOTS) return;
  // no message before it, and the packet where it goes
  await browser.ask(`$("said").textContent = ""; new Promise((resolve) => setTimeout(resolve, 500))`);
  await browser.ask(`document.querySelector("${top}").scrollIntoView()`);
  for (const scheme of ["light", "dark"] as const) {
    for (const [width, height] of [
      [1280, 720],
      [1920, 1080],
      [390, 844],
    ] as const) {
      await browser.look(width, height, scheme);
      await browser.screenshot(join(SHOTS, `${name}-${scheme}-${width}.png`));
    }
  }
  await browser.look(1280, 720, "light");
}
