/** The pages of a running lab, as `make run` serves them. */

import { test } from "uvu";
import * as assert from "uvu/assert";
import { Lab } from "../lab/network.ts";
import { Browser } from "./browser.ts";
import { type Served, servePages } from "./serve.ts";
import { shot } from "./street.ts";

let lab: Lab;
let browser: Browser;
let served: Served;
let reloads = 0;

test.before(async () => {
  [lab, browser] = await Promise.all([Lab.up(), Browser.start()]);
  served = await servePages({ pid: process.pid, reload: () => void reloads++ });
});

test.after(async () => {
  served?.close();
  await browser?.close();
  await lab?.close();
});

test("servePages: its address lets a browser in, which then walks through every page by the menu", async () => {
  await lab.must("laptop", ["ping", "-c", "1", "10.77.0.1"]);
  const page = await browser.open(served.url);
  await page.until("devices", `document.querySelectorAll("tr[data-key]").length > 0`);
  assert.not.ok((await page.evaluate<string>("location.href")).includes("token"));
  const count = await page.evaluate<number>(`document.querySelectorAll("nav a").length`);
  for (let at = 0; at < count; at++) {
    await page.click(`nav a:nth-of-type(${at + 1})`);
    await page.until(
      `page ${at}`,
      `document.querySelector("nav a:nth-of-type(${at + 1})")?.hasAttribute("aria-current")`,
    );
    await page.until("its content", `document.querySelector("#view h2, #view h3") !== null`);
  }
  assert.equal(page.faults, []);
  await page.screenshot(shot("serve"));
  await page.close();
});

test("servePages: what is applied in Settings has the agent read it again", async () => {
  const page = await browser.open(served.url);
  await page.go(`${new URL(served.url).origin}/cgi-bin/luci/admin/services/gatehouse/settings`);
  await page.fill('[id="widget.cbid.gatehouse.main.max_nodes"]', "5000");
  await page.click(".cbi-button-apply");
  await page.until("the word", `document.querySelector(".alert-message.success") !== null`);
  assert.is(reloads, 1);
  await page.close();
});

test("servePages: without the token nothing is to be seen", async () => {
  const page = await browser.open("about:blank");
  await page.send("Network.clearBrowserCookies");
  await page.go(new URL(served.url).origin);
  assert.is(await page.evaluate("document.body.innerText.trim()"), "Open the address with the token");
  await page.close();
});

test.run();
