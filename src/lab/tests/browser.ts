/**
 * A headless Chromium that a test drives by the DevTools protocol, over two pipes: JSON messages, each with a
 * zero byte behind it (https://chromedevtools.github.io/devtools-protocol/). No name is looked up, so nothing
 * leaves this machine.
 */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { writeFileSync } from "node:fs";
import type { Readable, Writable } from "node:stream";
import { newFolder } from "./folder.ts";

const ARGUMENTS = [
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
  "--remote-debugging-pipe", // we write to its descriptor 3, and read from 4
];

type Answer = {
  id?: number;
  method?: string;
  params?: unknown;
  error?: { message: string };
  result?: unknown;
};

export class Browser {
  readonly complaints: string[] = []; // what the page's console said
  private readonly child = spawn("chromium", [...ARGUMENTS, `--user-data-dir=${newFolder()}`], {
    stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"],
  });
  private readonly waiting = new Map<number, (answer: Answer) => void>();
  private session: string | undefined;
  private calls = 0;

  private constructor() {
    let rest = "";
    (this.child.stdio[4] as Readable).setEncoding("utf8").on("data", (text: string) => {
      const messages = (rest + text).split("\0");
      rest = messages.pop()!;
      for (const message of messages) this.take(JSON.parse(message) as Answer);
    });
  }

  /** A window of so many pixels, dark or light, without a page. */
  static async open(width: number, height: number, scheme: "light" | "dark" = "light"): Promise<Browser> {
    const browser = new Browser();
    const { targetId } = await browser.call<{ targetId: string }>("Target.createTarget", {
      url: "about:blank",
    });
    const { sessionId } = await browser.call<{ sessionId: string }>("Target.attachToTarget", {
      targetId,
      flatten: true,
    });
    browser.session = sessionId;
    for (const domain of ["Page", "Runtime", "Log"]) await browser.call(`${domain}.enable`);
    await browser.look(width, height, scheme);
    return browser;
  }

  async look(width: number, height: number, scheme: "light" | "dark"): Promise<void> {
    await this.call("Emulation.setDeviceMetricsOverride", {
      width,
      height,
      deviceScaleFactor: 1,
      mobile: false,
    });
    const features = [{ name: "prefers-color-scheme", value: scheme }];
    await this.call("Emulation.setEmulatedMedia", { features });
  }

  async go(url: string): Promise<void> {
    await this.call("Page.navigate", { url });
    await this.until("document.readyState === 'complete'");
  }

  /** What an expression of the page gives. */
  async ask<T>(expression: string): Promise<T> {
    const { result, exceptionDetails } = await this.call<{
      result: { value: T };
      exceptionDetails?: { exception?: { description: string } };
    }>("Runtime.evaluate", { expression, returnByValue: true, awaitPromise: true });
    assert.ok(!exceptionDetails, `${expression}: ${exceptionDetails?.exception?.description}`);
    return result.value;
  }

  /** Waits until an expression of the page is true. */
  async until(expression: string, ms = 20_000): Promise<void> {
    for (const deadline = Date.now() + ms; !(await this.ask(expression));) {
      if (Date.now() > deadline)
        throw new Error(`not in ${ms} ms: ${expression}\n${await this.ask("document.body.innerText")}`);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  /** Presses a key, as a user would: "f", "Tab", "ArrowLeft". */
  async press(key: string): Promise<void> {
    const text = key === "Enter" ? "\r" : [...key].length === 1 ? key : undefined;
    const windowsVirtualKeyCode = KEYS[key] ?? key.toUpperCase().charCodeAt(0);
    for (const type of ["keyDown", "keyUp"])
      await this.call("Input.dispatchKeyEvent", { type, key, text, windowsVirtualKeyCode });
  }

  async screenshot(file: string): Promise<void> {
    const { data } = await this.call<{ data: string }>("Page.captureScreenshot", { format: "png" });
    writeFileSync(file, Buffer.from(data, "base64"));
  }

  async close(): Promise<void> {
    const ended = new Promise((resolve) => this.child.once("exit", resolve));
    this.child.kill("SIGKILL");
    await ended;
  }

  private call<T = unknown>(method: string, params: object = {}): Promise<T> {
    const id = ++this.calls;
    const message = { id, method, params, sessionId: this.session };
    (this.child.stdio[3] as Writable).write(`${JSON.stringify(message)}\0`);
    return new Promise((resolve, reject) =>
      this.waiting.set(id, ({ error, result }) =>
        error ? reject(new Error(`${method}: ${error.message}`)) : resolve(result as T),
      ),
    );
  }

  private take(answer: Answer): void {
    if (answer.id !== undefined) this.waiting.get(answer.id)?.(answer);
    else if (/^(Log.entryAdded|Runtime.exceptionThrown)$/.test(answer.method ?? ""))
      this.complaints.push(JSON.stringify(answer.params));
  }
}

const KEYS: Record<string, number> = { Tab: 9, Enter: 13, Escape: 27, ArrowLeft: 37, ArrowRight: 39 };
