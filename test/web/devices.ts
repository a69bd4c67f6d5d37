/** The page Devices in a real browser, on a lab with the real agent. */

import { suite } from "uvu";
import * as assert from "uvu/assert";
import { eventually } from "../lab/children.ts";
import { servers } from "../lab/topology.ts";
import { tables } from "../package/acl.ts";
import type { Page, Size } from "./browser.ts";
import { readCatalogue } from "./catalogue.ts";
import type { Host } from "./host.ts";
import { sessions } from "./host.ts";
import { type Street, sharedStreet, shot } from "./street.ts";

export const devices = suite("devices");

let street: Street;
let host: Host;

devices.before(async () => {
  street = await sharedStreet();
  host = await street.host();
});

async function open(from: Host = host, size?: Size): Promise<Page> {
  const page = await street.browser.open(from.urlOf("devices"), size);
  await page.until("rows", "document.querySelectorAll('tr[data-key]').length > 0");
  return page;
}

const rowOf = (id: number) => `tr[data-key="${id}"]`;
const textOf = (page: Page, id: number) =>
  page.evaluate<string>(`document.querySelector('${rowOf(id)}')?.innerText ?? ""`);

devices(
  "Devices: real devices have a row each, with name, addresses, MAC, rate and the last day",
  async () => {
    const download = await street.lab.stream({ from: "laptop", to: servers.web.address4, kind: "tcp" });
    const laptop = await street.idOf("10.77.0.10");
    const page = await open();
    const row = (await street.nodes()).find(({ id }) => id === laptop)!;
    await page.until("its row", `document.querySelector('${rowOf(laptop)}') !== null`);
    const ours = (await street.devices()).map(({ id }) => id);
    const shown = `[...document.querySelectorAll("tr[data-key]")].map((each) => Number(each.dataset.key))`;
    for (const id of await page.evaluate<number[]>(shown))
      assert.ok(ours.includes(id), `${id} is none of ours`);
    const text = await textOf(page, laptop);
    for (const part of ["laptop", "10.77.0.10", row.mac!])
      assert.ok(text.includes(part), `${part} in ${text}`);
    await page.until(
      "a rate above nothing",
      `/[1-9][0-9.]*\\s[kMG]?bit/.test(document.querySelector('${rowOf(laptop)}').innerText)`,
    );
    await page.until("the last day", `document.querySelectorAll('${rowOf(laptop)} svg path').length === 2`);
    await page.screenshot(shot("devices"));
    assert.equal(page.faults, []);
    await page.close();
    await download.end();
  },
);

devices(
  "Devices: a click on Block stops a running download, a click on Unblock lets the next begin",
  async () => {
    const download = await street.lab.stream({ from: "laptop", to: servers.web.address4, kind: "tcp" });
    const witness = await street.lab.stream({ from: "camera", to: servers.web.address4, kind: "tcp" });
    const laptop = await street.idOf("10.77.0.10");
    const page = await open();
    await page.click(`${rowOf(laptop)} .cbi-button-negative`);
    await page.until("the badge", `document.querySelector('${rowOf(laptop)}').innerText.includes("blocked")`);
    await download.isCut();
    await witness.flows();
    assert.ok((await street.nodes()).find(({ id }) => id === laptop)!.is_blocked);
    await page.screenshot(shot("devices-blocked"));
    await page.click(`${rowOf(laptop)} .cbi-button-positive`);
    await page.until("no badge", `!document.querySelector('${rowOf(laptop)}').innerText.includes("blocked")`);
    await download.end();
    const next = await street.lab.stream({ from: "laptop", to: servers.web.address4, kind: "tcp" });
    await next.flows();
    assert.equal(page.faults, []);
    for (const each of [next, witness]) await each.end();
    await page.close();
  },
);

devices("Devices: rename, pin, merge and split by clicks", async () => {
  await street.addDevices(3);
  const devices = await street.devices();
  const [one, other] = devices.filter(({ mac }) => mac?.startsWith("02:99")).map(({ id }) => id) as [
    number,
    number,
  ];
  const page = await open();
  const openMore = async (id: number) => {
    // A dialogue that was closed stays in LuCI's document.
    await page.evaluate(`document.querySelector(".modal")?.replaceChildren()`);
    await page.click(`${rowOf(id)} .cbi-button-action`);
  };
  const field = ".modal input.cbi-input-text";
  await openMore(one);
  await page.fill(field, "Fridge of <b>ours</b>");
  await page.press(".modal", "Rename");
  await page.until(
    "the name",
    `document.querySelector('${rowOf(one)} strong').textContent === "Fridge of <b>ours</b>"`,
  );
  assert.is(await page.evaluate(`document.querySelector('${rowOf(one)} b')`), null);
  await openMore(one);
  await page.press(".modal", "Pin");
  await page.until("the pin", `document.querySelector('${rowOf(one)}').innerText.includes("pinned")`);
  await openMore(one);
  await page.until("the dialogue", `document.querySelector(".modal select") !== null`);
  await page.evaluate(`document.querySelector(".modal select").value = "${other}"`);
  await page.screenshot(shot("devices-more"));
  await page.press(".modal", "Merge");
  await page.until("one row of two", `document.querySelector('${rowOf(other)}') === null`);
  assert.is((await street.ubus.call("gatehouse.nodes", "get", { node: other })).id, one);
  await openMore(one);
  await page.press(".modal", `Split off #${other}`);
  await page.until("two rows again", `document.querySelector('${rowOf(other)}') !== null`);
  assert.is((await street.ubus.call("gatehouse.nodes", "get", { node: other })).id, other);
  assert.equal(page.faults, []);
  await page.close();
});

devices("Devices: search, filter and order choose among rows", async () => {
  const laptop = await street.idOf("10.77.0.10");
  const page = await open();
  const shown = () =>
    page.evaluate<number[]>(
      `[...document.querySelectorAll("tr[data-key]")].map((row) => Number(row.dataset.key))`,
    );
  await page.fill('input[type="search"]', "10.77.0.10");
  assert.equal(await shown(), [laptop]);
  await page.fill('input[type="search"]', "nobody is called so");
  assert.equal(await shown(), []);
  assert.ok(await page.evaluate(`document.querySelector(".placeholder").offsetParent !== null`));
  await page.fill('input[type="search"]', "");
  const all = await shown();
  assert.is(all.length, (await street.devices()).length);
  await page.evaluate(`(() => {
    const choice = document.querySelector("select");
    choice.value = "private";
    choice.dispatchEvent(new Event("change"));
  })()`);
  const privates = (await street.nodes()).filter((node) => "randomised_mac" in node).map(({ id }) => id);
  assert.equal((await shown()).sort(), [...privates].sort());
  await page.evaluate(`(() => {
    const choice = document.querySelector("select");
    choice.value = "all";
    choice.dispatchEvent(new Event("change"));
  })()`);
  const upward = await shown();
  await page.click("th:first-child");
  assert.equal(await shown(), upward.reverse());
  assert.equal(page.faults, []);
  await page.close();
});

devices(
  "Devices: who may only read sees all, and finds every button dead that would change something",
  async () => {
    const laptop = await street.idOf("10.77.0.10");
    const page = await open(await street.host({ session: sessions.reader }));
    await page.until("its row", `document.querySelector('${rowOf(laptop)} .cbi-button-negative')?.disabled`);
    await page.click(`${rowOf(laptop)} .cbi-button-action`);
    await page.until("the dialogue", `document.querySelector(".modal button") !== null`);
    const alive = `[...document.querySelectorAll(".modal button")].filter((each) => !each.disabled).map((each) => each.textContent)`;
    assert.equal(await page.evaluate(alive), ["Close"]);
    // Whoever calls all the same, is refused.
    const refused = await page.evaluate<string>(
      `L.require("gatehouse.bus").then((bus) => bus.calls.listNode("block", ${laptop})).then(() => "done", String)`,
    );
    assert.match(refused, /Access denied/);
    assert.not((await street.nodes()).find(({ id }) => id === laptop)!.is_blocked);
    await page.close();
  },
);

devices("Devices: while the agent is away the page says so and keeps its rows; then it goes on", async () => {
  const page = await open();
  const notice = `document.querySelector(".alert-message.warning").offsetParent !== null`;
  assert.not(await page.evaluate(notice));
  await street.lab.agent.kill();
  await page.until("the notice", notice);
  assert.ok((await page.evaluate<number>(`document.querySelectorAll("tr[data-key]").length`)) > 0);
  await street.lab.agent.start();
  await page.until("no notice", `!(${notice})`);
  await page.close();
});

devices("Devices: with 250 devices a page left open touches only what changed", async () => {
  await street.addDevices(250);
  const page = await open();
  await page.until("250 rows", `document.querySelectorAll("tr[data-key]").length >= 250`);
  await page.evaluate(`(() => {
    window.moved = 0;
    const watch = new MutationObserver((list) => {
      for (const each of list) if (each.target.tagName === "TABLE") window.moved += each.addedNodes.length;
    });
    watch.observe(document.querySelector("table"), { childList: true, subtree: true });
  })()`);
  const before = page.requests;
  await eventually("three looks", async () => page.requests >= before + 3 || undefined);
  const few = 20;
  assert.ok((await page.evaluate<number>("window.moved")) < few, "rows were put into the table again");
  await page.screenshot(shot("devices-250"));
  await page.close();
});

devices("Devices: speaks the user's language", async () => {
  const translations = Object.fromEntries(readCatalogue("nl/gatehouse.po"));
  const page = await open(await street.host({ translations }));
  const text = await page.evaluate<string>("document.body.innerText");
  for (const word of ["Apparaten", "Snelheid", "Blokkeren", "Laatst gezien"])
    assert.ok(text.includes(word), word);
  assert.not.match(text, /\b(?:Devices|Rate|Block|Last seen)\b/);
  await page.screenshot(shot("devices-nl"));
  await page.close();
});

devices("Devices: the agent has no method on the bus that the access rules forget", async () => {
  const offered = await street.ubus.lookup("gatehouse*");
  assert.ok(offered.length >= 3);
  for (const { path, signature } of offered) {
    assert.equal(signature.map(({ name }) => name).sort(), Object.keys(tables[path]!).sort(), path);
  }
});

devices("Devices: on a phone nothing is wider than the screen, light or dark", async () => {
  for (const dark of [false, true]) {
    const page = await open(host, { width: 390, height: 844, mobile: true, dark });
    assert.ok(await page.evaluate("document.documentElement.scrollWidth <= innerWidth"));
    await page.screenshot(shot(`devices-phone-${dark ? "dark" : "light"}`));
    await page.close();
  }
  await eventually("calls", () => host.called.has("gatehouse.nodes list"));
});
