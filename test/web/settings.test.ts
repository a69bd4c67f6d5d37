/**
 * The page Settings in a real browser, on a lab with the real agent, and the options that it is made of; and all pages
 * as `make run` serves them, at the end.
 */

import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { loadConfig, sectionKinds } from "../../src/config/config.ts";
import { eventually } from "../lab/children.ts";
import { paths } from "../lab/topology.ts";
import type { Page } from "./browser.ts";
import { type Host, sessions } from "./host.ts";
import { optionsFile, renderOptions } from "./options.ts";
import { type Served, servePages } from "./serve.ts";
import { Street, shot } from "./street.ts";

let street: Street;
let host: Host;
let served: Served;
let reloads = 0;

test.before(async () => {
  street = await Street.up();
  host = await street.host();
  served = await servePages({ pid: process.pid, reload: () => void reloads++ });
});

test.after(async () => {
  served?.close();
  await street?.down();
});

const widget = (section: string, option: string) => `[id="widget.cbid.gatehouse.${section}.${option}"]`;
const file = () => readFileSync(paths.configuration, "utf8");

async function open(from: Host = host): Promise<Page> {
  const page = await street.browser.open(from.urlOf("settings"));
  await page.until("the form", `document.querySelector(".cbi-map .cbi-value") !== null`);
  return page;
}

/** The configuration, once the page has said that it is applied: LuCI takes it back if the page is left before. */
async function applied(page: Page) {
  await page.until("the word", `document.body.innerText.includes("Configuration changes applied.")`);
  return loadConfig(file());
}

const tab = (page: Page, type: string) => page.click(`.cbi-tabmenu [data-tab="${type}"] a`);

test("Settings: the options of the page are those of the configuration", () => {
  const path = join(process.cwd(), optionsFile);
  if (process.env.OPTIONS === "write") writeFileSync(path, renderOptions());
  assert.is(readFileSync(path, "utf8"), renderOptions(), "OPTIONS=write make test ONLY=web/settings");
});

test("Settings: every option has a field with its default, and says what it means", async () => {
  const page = await open();
  for (const [type, { options, many }] of sectionKinds) {
    if (many) continue;
    await page.evaluate(`(() => {
      const add = document.querySelector('[data-tab="${type}"] .cbi-section-create .cbi-button-add');
      if (add) add.click();
    })()`);
    await page.until(
      `a section ${type}`,
      `document.querySelector('.cbi-section[data-tab="${type}"] .cbi-value') !== null`,
    );
    const shown = await page.evaluate<string[]>(
      `[...document.querySelectorAll('.cbi-section[data-tab="${type}"] .cbi-value')].map((each) => each.dataset.name)`,
    );
    assert.equal(shown, Object.keys(options), type);
    const texts = await page.evaluate<string[]>(
      `[...document.querySelectorAll('.cbi-section[data-tab="${type}"] .cbi-value-description')].map((each) => each.textContent)`,
    );
    assert.equal(
      texts,
      Object.values(options).map(({ doc, unit }) => (unit === undefined ? doc : `${doc}, in ${unit}`)),
    );
  }
  await page.screenshot(shot("settings"));
  await tab(page, "mqtt");
  await page.screenshot(shot("settings-mqtt"));
  assert.equal(page.faults, []);
  await page.close();
});

test("Settings: what is saved and applied is in the file, and the agent goes by it", async () => {
  const page = await open();
  await page.fill(widget("main", "max_nodes"), "4096");
  await tab(page, "mqtt");
  await page.fill(widget("mqtt", "prefix"), "HOME");
  await page.click(".cbi-button-apply");
  const { config, warnings } = await applied(page);
  assert.equal(warnings, []);
  assert.is(config.main.maxNodes, 4096);
  assert.is(config.mqtt.prefix, "HOME");
  // What nobody touched is as it was.
  assert.is(config.main.stateDir, paths.state);
  assert.equal(config.main.lanDevice, ["br-lan"]);
  await eventually("messages under the new prefix", async () => {
    const { stdout } = await street.lab.exec("router", [
      "mosquitto_sub",
      "-t",
      "HOME/#",
      "-C",
      "1",
      "-W",
      "20",
      "-v",
    ]);
    return /^HOME\//.test(stdout) || undefined;
  });
  assert.equal(page.faults, []);
  await page.close();
});

test("Settings: an emptied option is its default again, and a service is added with its segment", async () => {
  const page = await open();
  await page.fill(widget("main", "max_nodes"), "");
  await page.evaluate(
    `document.querySelector('${widget("main", "max_nodes")}').dispatchEvent(new Event("change", { bubbles: true }))`,
  );
  await tab(page, "segment");
  await page.fill('.cbi-section[data-tab="segment"] .cbi-section-create-name', "apps");
  await page.click('.cbi-section[data-tab="segment"] .cbi-button-add');
  await page.fill(widget("apps", "device"), "br-apps");
  await tab(page, "service");
  await page.fill('.cbi-section[data-tab="service"] .cbi-section-create-name', "web");
  await page.click('.cbi-section[data-tab="service"] .cbi-button-add');
  await page.fill(widget("web", "segment"), "apps");
  await page.fill(widget("web", "mac"), "02:00:00:00:00:01");
  await page.screenshot(shot("settings-service"));
  await page.click(".cbi-button-apply");
  const { config, warnings } = await applied(page);
  assert.equal(warnings, []);
  assert.not.match(file(), /max_nodes/);
  assert.is(config.services.find(({ name }) => name === "web")?.segment, "apps");
  assert.equal(config.segments.find(({ name }) => name === "apps")?.device, ["br-apps"]);
  await eventually(
    "the agent",
    async () =>
      ((await street.ubus.call("gatehouse", "status").catch(() => ({}))) as { ready?: boolean }).ready ||
      undefined,
  );
  await page.close();
});

test("Settings: what an option does not take is refused at its field, and not saved", async () => {
  const before = file();
  for (const [option, value] of [
    ["max_nodes", "12"],
    ["state_dir", "relative"],
    ["node_expiry", "soon"],
  ] as const) {
    const page = await open();
    await page.fill(widget("main", option), value);
    await page.until(
      "its mark",
      `document.querySelector('${widget("main", option)}').classList.contains("cbi-input-invalid")`,
    );
    await page.click(".cbi-button-apply");
    await page.until(
      "the refusal",
      `document.querySelector(".alert-message") !== null || document.body.classList.contains("modal-overlay-active")`,
    );
    assert.is(file(), before);
    await page.close();
  }
});

test("Settings: who may only read finds every field and button dead", async () => {
  const page = await open(await street.host({ session: sessions.reader }));
  const alive = `[...document.querySelectorAll("#view button, #view input, #view select")].filter((each) => !each.disabled && each.offsetParent).length`;
  assert.is(await page.evaluate(alive), 0);
  assert.ok(await page.evaluate(`document.querySelectorAll("#view input").length > 10`));
  await page.close();
});

test("Settings: on a phone nothing is wider than the screen", async () => {
  const page = await street.browser.open(host.urlOf("settings"), {
    width: 390,
    height: 844,
    mobile: true,
    dark: true,
  });
  await page.until("the form", `document.querySelector(".cbi-map .cbi-value") !== null`);
  assert.ok(await page.evaluate("document.documentElement.scrollWidth <= innerWidth"));
  await page.screenshot(shot("settings-phone"));
  await page.close();
});

test("servePages: its address lets a browser in, which then walks through every page by the menu", async () => {
  await street.lab.must("laptop", ["ping", "-c", "1", "-w", "30", "10.77.0.1"]);
  const page = await street.browser.open(served.url);
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
  const page = await street.browser.open(served.url);
  await page.go(`${new URL(served.url).origin}/cgi-bin/luci/admin/services/gatehouse/settings`);
  await page.fill('[id="widget.cbid.gatehouse.main.max_nodes"]', "5000");
  await page.click(".cbi-button-apply");
  await page.until("the word", `document.querySelector(".alert-message.success") !== null`);
  assert.is(reloads, 1);
  await page.close();
});

test("servePages: without the token nothing is to be seen", async () => {
  const page = await street.browser.open("about:blank");
  await page.send("Network.clearBrowserCookies");
  await page.go(new URL(served.url).origin);
  assert.is(await page.evaluate("document.body.innerText.trim()"), "Open the address with the token");
  await page.close();
});

test.run();
