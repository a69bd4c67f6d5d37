/**
 * A real Chromium without a window, spoken to by its DevTools protocol over a pipe.
 *
 *     const browser = await Browser.start();
 *     const page = await browser.open("http://127.0.0.1:8000/", { width: 1200, height: 800 });
 *     await page.click("button", "Block");
 *     await page.until("the row is blocked", "document.body.innerText.includes('blocked')");
 *     await browser.close();
 *
 * Pages keep what their scripts threw and what they wrote to the console as errors, in `faults`.
 */

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import type { Readable, Writable } from "node:stream";

type Fields = Record<string, unknown>;

const limitMs = 60_000;
const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

export interface Size {
  readonly width: number;
  readonly height: number;
  /** Behaves as a phone: touch, and a layout as wide as the screen. */
  readonly mobile?: boolean;
  readonly dark?: boolean;
}

interface Waiting {
  resolve(result: Fields): void;
  reject(error: Error): void;
}

export class Browser {
  readonly #child: ChildProcess;
  readonly #folder: string;
  readonly #waiting = new Map<number, Waiting>();
  readonly #pages = new Map<string, Page>();
  #lastId = 0;
  #text = "";

  private constructor(child: ChildProcess, folder: string) {
    this.#child = child;
    this.#folder = folder;
    const parts: Buffer[] = [];
    (child.stdio[4] as Readable).on("data", (chunk: Buffer) => {
      let from = 0;
      for (let at = chunk.indexOf(0); at >= 0; at = chunk.indexOf(0, from)) {
        parts.push(chunk.subarray(from, at));
        this.#take(JSON.parse(Buffer.concat(parts.splice(0)).toString()) as Fields);
        from = at + 1;
      }
      parts.push(chunk.subarray(from));
    });
    child.stderr!.setEncoding("utf8").on("data", (text: string) => {
      this.#text = (this.#text + text).slice(-4_000);
    });
    child.on("exit", () => {
      for (const each of this.#waiting.values()) each.reject(new Error(`Chromium has ended:\n${this.#text}`));
      this.#waiting.clear();
    });
  }

  static async start(): Promise<Browser> {
    const program = ["/usr/bin/chromium", "/usr/bin/chromium-browser"].find((path) => existsSync(path));
    if (program === undefined) throw new Error("Cannot start a browser: chromium is not installed");
    const folder = mkdtempSync(join(tmpdir(), "browser-"));
    const args = [
      "--headless=new",
      "--remote-debugging-pipe",
      `--user-data-dir=${folder}`,
      "--no-sandbox",
      "--no-first-run",
      "--disable-gpu",
      "--disable-dev-shm-usage",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-extensions",
      "--mute-audio",
      "--lang=en",
    ];
    const child = spawn(program, args, {
      stdio: ["ignore", "ignore", "pipe", "pipe", "pipe"],
      env: { PATH: process.env.PATH, HOME: folder, TMPDIR: folder },
    });
    await once(child, "spawn");
    const browser = new Browser(child, folder);
    await browser.send("Browser.getVersion");
    return browser;
  }

  /** Opens a page and waits until it has loaded; what its scripts do then is not waited for. */
  async open(url: string, size: Size = { width: 1280, height: 900 }): Promise<Page> {
    const { targetId } = await this.send("Target.createTarget", { url: "about:blank" });
    const { sessionId } = await this.send("Target.attachToTarget", { targetId, flatten: true });
    const page = new Page(this, String(sessionId), String(targetId));
    this.#pages.set(String(sessionId), page);
    await page.prepare(size);
    await page.go(url);
    return page;
  }

  /** @throws Error with what Chromium says is wrong, or that it says nothing. */
  send(method: string, params: Fields = {}, sessionId?: string): Promise<Fields> {
    const id = ++this.#lastId;
    const message = { id, method, params, ...(sessionId !== undefined && { sessionId }) };
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#waiting.delete(id);
        reject(new Error(`No answer to ${method}:\n${this.#text}`));
      }, limitMs);
      this.#waiting.set(id, {
        resolve(result) {
          clearTimeout(timer);
          resolve(result);
        },
        reject(error) {
          clearTimeout(timer);
          reject(error);
        },
      });
      (this.#child.stdio[3] as Writable).write(`${JSON.stringify(message)}\0`);
    });
  }

  async close(): Promise<void> {
    if (this.#child.exitCode === null && this.#child.signalCode === null) {
      const gone = once(this.#child, "exit");
      void this.send("Browser.close").catch(() => {});
      const timer = setTimeout(() => this.#child.kill("SIGKILL"), 10_000);
      await gone;
      clearTimeout(timer);
    }
    rmSync(this.#folder, { recursive: true, force: true, maxRetries: 5 });
  }

  #take(message: Fields): void {
    if (typeof message.id !== "number") {
      this.#pages.get(String(message.sessionId))?.notice(String(message.method), message.params as Fields);
      return;
    }
    const waiting = this.#waiting.get(message.id);
    this.#waiting.delete(message.id);
    const error = message.error as { message: string } | undefined;
    if (error) waiting?.reject(new Error(error.message));
    else waiting?.resolve((message.result ?? {}) as Fields);
  }
}

export class Page {
  /** What scripts threw, and what was written to the console as an error. */
  readonly faults: string[] = [];
  /** Requests since the page was opened, and the bytes of their answers. */
  requests = 0;
  receivedBytes = 0;
  readonly #browser: Browser;
  readonly #session: string;
  readonly #target: string;
  #loaded: (() => void) | undefined;

  constructor(browser: Browser, session: string, target: string) {
    this.#browser = browser;
    this.#session = session;
    this.#target = target;
  }

  send(method: string, params: Fields = {}): Promise<Fields> {
    return this.#browser.send(method, params, this.#session);
  }

  async prepare({ width, height, mobile = false, dark = false }: Size): Promise<void> {
    for (const domain of ["Page", "Runtime", "Network", "Performance", "Log"])
      await this.send(`${domain}.enable`);
    const scale = { deviceScaleFactor: 1, mobile, screenWidth: width, screenHeight: height };
    await this.send("Emulation.setDeviceMetricsOverride", { width, height, ...scale });
    const features = [{ name: "prefers-color-scheme", value: dark ? "dark" : "light" }];
    await this.send("Emulation.setEmulatedMedia", { features });
  }

  async go(url: string): Promise<void> {
    const loaded = new Promise<void>((resolve) => {
      this.#loaded = resolve;
    });
    await this.send("Page.navigate", { url });
    await loaded;
  }

  /** The value of an expression, or of the promise that it is. @throws Error as the script does */
  async evaluate<Value>(expression: string): Promise<Value> {
    const options = { expression, awaitPromise: true, returnByValue: true, userGesture: true };
    const answer = await this.send("Runtime.evaluate", options);
    const details = answer.exceptionDetails as
      | { text: string; exception?: { description?: string } }
      | undefined;
    if (details) throw new Error(details.exception?.description ?? details.text);
    return (answer.result as { value: Value }).value;
  }

  /** Waits until an expression is true, and gives its value. */
  async until<Value = true>(what: string, expression: string): Promise<Value> {
    const endAt = Date.now() + limitMs;
    for (;;) {
      const value = await this.evaluate<Value>(expression);
      if (value) return value;
      if (Date.now() > endAt) {
        const text = await this.evaluate<string>("document.body.innerText.slice(0, 3000)");
        throw new Error(`Waited in vain for ${what}\n${this.faults.join("\n")}\nThe page says: ${text}`);
      }
      await sleep(50);
    }
  }

  /** Presses the mouse on the first element that the selector finds, once it is there and can be hit. */
  async click(selector: string): Promise<void> {
    // What has moved between the look and the click was not clicked: then once more.
    for (let tries = 10; !(await this.#clickOnce(selector)); tries--) {
      if (tries === 0) throw new Error(`Cannot click ${selector}: it does not hold still`);
    }
  }

  /** Presses the mouse on the button that says this, among those within what the selector finds. */
  async press(within: string, label: string): Promise<void> {
    await this.until(
      `a button ${label} in ${within}`,
      `(() => {
        for (const each of document.querySelectorAll("[data-press]")) each.removeAttribute("data-press");
        const found = [...document.querySelectorAll(${JSON.stringify(`${within} button`)})].find((each) => each.textContent === ${JSON.stringify(label)} && each.offsetParent);
        found?.setAttribute("data-press", "");
        return !!found;
      })()`,
    );
    await this.click("[data-press]");
  }

  async #clickOnce(selector: string): Promise<boolean> {
    const spot = await this.until<{ x: number; y: number }>(
      `something to click at ${selector}`,
      `new Promise((resolve) => {
        const element = document.querySelector(${JSON.stringify(selector)});
        if (!element || element.disabled) return resolve(false);
        element.scrollIntoView({ block: "center" });
        const look = () => element.getBoundingClientRect();
        const first = look();
        setTimeout(() => {
          const box = look();
          const [x, y] = [box.left + box.width / 2, box.top + box.height / 2];
          const hit = document.elementFromPoint(x, y);
          const rests = box.left === first.left && box.top === first.top;
          if (!rests || !hit || !(element === hit || element.contains(hit))) return resolve(false);
          window.clicked = false;
          element.addEventListener("click", () => { window.clicked = true; }, { once: true, capture: true });
          resolve({ x, y });
        }, 50);
      })`,
    );
    const press = { ...spot, button: "left", clickCount: 1 };
    await this.send("Input.dispatchMouseEvent", { type: "mousePressed", ...press });
    await this.send("Input.dispatchMouseEvent", { type: "mouseReleased", ...press });
    // Undefined where the click led to another page.
    return this.evaluate<boolean>("window.clicked !== false");
  }

  /** Puts text into a field as typing does. */
  async fill(selector: string, text: string): Promise<void> {
    await this.until(`field ${selector}`, `document.querySelector(${JSON.stringify(selector)}) !== null`);
    await this.evaluate(`(() => {
      const field = document.querySelector(${JSON.stringify(selector)});
      field.focus();
      field.value = "";
    })()`);
    if (text === "") {
      await this.evaluate(`document.activeElement.dispatchEvent(new Event("input", { bubbles: true }))`);
    } else await this.send("Input.insertText", { text });
    // Text that is put in at once lifts no key, which is when LuCI checks a field.
    await this.evaluate(
      `document.activeElement.dispatchEvent(new KeyboardEvent("keyup", { bubbles: true }))`,
    );
  }

  /** Seconds that the page's main thread has worked so far. */
  async workedSeconds(): Promise<number> {
    const { metrics } = (await this.send("Performance.getMetrics")) as {
      metrics: { name: string; value: number }[];
    };
    return metrics.find((each) => each.name === "TaskDuration")!.value;
  }

  async screenshot(path: string): Promise<void> {
    const { data } = await this.send("Page.captureScreenshot", {
      format: "png",
      captureBeyondViewport: false,
    });
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, Buffer.from(String(data), "base64"));
  }

  async close(): Promise<void> {
    await this.#browser.send("Target.closeTarget", { targetId: this.#target });
  }

  notice(method: string, params: Fields): void {
    if (method === "Page.loadEventFired") this.#loaded?.();
    else if (method === "Network.requestWillBeSent") this.requests++;
    else if (method === "Network.loadingFinished") this.receivedBytes += Number(params.encodedDataLength);
    else if (method === "Runtime.exceptionThrown") {
      const { text, exception } = params.exceptionDetails as {
        text: string;
        exception?: { description?: string };
      };
      this.faults.push(exception?.description ?? text);
    } else if (method === "Runtime.consoleAPICalled" && params.type === "error") {
      this.faults.push(JSON.stringify(params.args));
    }
  }
}
