/**
 * Names that devices and users give are shown as they are: as text, never as markup, whatever page shows them.
 *
 * 60 names reach the agent by rename, others by the lease file and by DNS answers; each page and dialogue is drawn
 * with all of them. Pages are compared with themselves among harmless names: as many elements of each kind.
 */

import { appendFileSync } from "node:fs";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { eventually } from "../lab/children.ts";
import { paths } from "../lab/topology.ts";
import type { Page } from "./browser.ts";
import { Street, shot } from "./street.ts";

const probes = [
  "<script>window.hit=1</script>",
  "<img src=x onerror=window.hit=1>",
  "<svg onload=window.hit=1>",
  "<svg><script>window.hit=1</script></svg>",
  '"><script>window.hit=1</script>',
  "'><script>window.hit=1</script>",
  "</title><script>window.hit=1</script>",
  "</option></select><img src=x onerror=window.hit=1>",
  "</td></tr></table><img src=x onerror=window.hit=1>",
  "</style><script>window.hit=1</script>",
  "</textarea><script>window.hit=1</script>",
  "<!--<img src=x onerror=window.hit=1>-->",
  "--><img src=x onerror=window.hit=1>",
  "<![CDATA[<img src=x onerror=window.hit=1>]]>",
  "<iframe src=javascript:window.hit=1>",
  "<object data=javascript:window.hit=1>",
  "<embed src=javascript:window.hit=1>",
  "<a href=javascript:window.hit=1>x</a>",
  "<form action=javascript:window.hit=1><input type=submit>",
  "<input autofocus onfocus=window.hit=1>",
  "<details open ontoggle=window.hit=1>",
  "<video><source onerror=window.hit=1></video>",
  "<math href=javascript:window.hit=1>x</math>",
  "<base href=http://127.0.0.1:9/>",
  "<meta http-equiv=refresh content=0>",
  "<link rel=stylesheet href=http://127.0.0.1:9/x.css>",
  "<body onload=window.hit=1>",
  "<template><img src=x onerror=window.hit=1></template>",
  '<noscript><p title="</noscript><img src=x onerror=window.hit=1>">',
  "<b>bold</b>",
  "javascript:window.hit=1",
  "data:text/html,<script>window.hit=1</script>",
  "&lt;script&gt;window.hit=1&lt;/script&gt;",
  "&#60;img src=x onerror=window.hit=1&#62;",
  "\\u003cimg src=x onerror=window.hit=1\\u003e",
  "%3Cimg src=x onerror=window.hit=1%3E",
  "'-window.hit=1-'",
  '"-window.hit=1-"',
  "`\x24{window.hit=1}`",
  "\x24{window.hit=1}",
  "{{window.hit=1}}",
  "<%= window.hit=1 %>",
  "';window.hit=1;//",
  "*/window.hit=1/*",
  "%s %d %h %m %%",
  "%1$s %n %x",
  "__proto__",
  "constructor",
  "toString",
  "null",
  "undefined",
  "NaN",
  "\u202emoc.elpmaxe\u202c",
  "\u200b\u200d\ufeff",
  "a\u0301\u0302\u0303\u0304\u0305",
  "👩‍👩‍👧‍👦 <b>🏳️‍🌈</b>",
  "ｓｃｒｉｐｔ＜img src=x onerror=window.hit=1＞",
  "<",
  "  spaces   within  ",
  `<${"i".repeat(126)}>`,
];

/** By elements, attributes and what could run. */
const census = `(() => {
  const tags = {};
  const handlers = [];
  for (const element of document.querySelectorAll("body *")) {
    const tag = element.tagName.toLowerCase();
    tags[tag] = (tags[tag] ?? 0) + 1;
    for (const { name, value } of element.attributes)
      if (name.startsWith("on") || /^\\s*javascript:/i.test(value) && name !== "value" && name !== "title" && name !== "aria-label")
        handlers.push(tag + " " + name);
  }
  return { tags, handlers, hit: window.hit ?? null };
})()`;

interface Census {
  readonly tags: Readonly<Record<string, number>>;
  readonly handlers: readonly string[];
  readonly hit: number | null;
}

let street: Street;
let ids: number[];

test.before(async () => {
  street = await Street.up();
  await street.addDevices(probes.length);
  ids = (await street.devices()).filter(({ mac }) => mac?.startsWith("02:99")).map(({ id }) => id);
});

test.after(async () => {
  await street?.down();
});

const rename = async (names: readonly string[]) => {
  for (const [at, name] of names.entries()) {
    await street.ubus.call("gatehouse.nodes", "rename", { node: ids[at]!, name });
  }
};
const harmless = probes.map((_, at) => `harmless ${at}`);
const isDrawn = `document.querySelectorAll("tr[data-key]").length >= ${probes.length}`;

/** Each text that the page shows as a whole text node, or as a field's value. */
const texts = `(() => {
  const all = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) all.push(walker.currentNode.data);
  for (const field of document.querySelectorAll("input")) all.push(field.value);
  return all;
})()`;

/** Draws a page with these names and gives what it is made of. */
async function draw(
  view: string,
  names: readonly string[],
  ready: string,
): Promise<{ page: Page; census: Census }> {
  await rename(names);
  const page = await street.browser.open((await street.host()).urlOf(view));
  await page.until(`${view} drawn`, ready);
  return { page, census: await page.evaluate<Census>(census) };
}

async function isTextOnly(view: string, ready: string): Promise<void> {
  const before = await draw(view, harmless, ready);
  await before.page.close();
  const { page, census: after } = await draw(view, probes, ready);
  assert.is(after.hit, null, `a name ran on ${view}`);
  assert.equal(after.handlers, [], view);
  assert.equal(after.tags, before.census.tags, `a name became an element on ${view}`);
  const shown = new Set(await page.evaluate<string[]>(texts));
  for (const probe of probes) {
    assert.ok(shown.has(probe), `${view} does not show ${JSON.stringify(probe)} as it is`);
  }
  assert.equal(page.faults, []);
  await page.screenshot(shot(`hostile-${view}`));
  await page.close();
}

test("there are 60 names", () => assert.is(new Set(probes).size, 60));

test("Devices shows hostile names as text", () => isTextOnly("devices", isDrawn));

test("Flows shows hostile names as text, in table, graph and choice", async () => {
  for (let at = 0; at + 1 < ids.length; at += 2) {
    await street.ubus.call("gatehouse.flows", "block", { node1: ids[at]!, node2: ids[at + 1]! });
  }
  const drawn = `document.querySelectorAll("tr[data-key]").length >= ${probes.length / 2}
    && document.querySelectorAll(".gatehouse-bubble").length >= ${probes.length}`;
  await isTextOnly("flows", drawn);
});

test("Lists shows hostile names as text", async () => {
  for (const id of ids) await street.ubus.call("gatehouse.flows", "list_add", { list: "block", node: id });
  await isTextOnly("lists", isDrawn);
  for (const id of ids) await street.ubus.call("gatehouse.flows", "list_remove", { list: "block", node: id });
});

test("the dialogue of a device shows its hostile name as text, in title, field and choice", async () => {
  const { page } = await draw("devices", probes, isDrawn);
  for (const [at, probe] of probes.entries()) {
    await page.evaluate(`document.querySelector('tr[data-key="${ids[at]}"] .cbi-button-action').click()`);
    await page.until(
      "its dialogue",
      `document.querySelector(".modal h4")?.textContent === ${JSON.stringify(probe)}`,
    );
    const state = await page.evaluate<{ inside: number; value: string } & Census>(
      `({ ...${census}, inside: document.querySelector(".modal h4").childElementCount, value: document.querySelector(".modal input").value })`,
    );
    assert.is(state.inside, 0);
    assert.is(state.value, probe);
    assert.is(state.hit, null);
    assert.equal(state.handlers, []);
  }
  assert.equal(page.faults, []);
  await page.close();
});

test("Explain shows hostile names as text", async () => {
  await rename(probes);
  const page = await street.browser.open((await street.host()).urlOf("explain"));
  for (const at of [0, 1, 7, 8]) {
    await page.fill('input[name="from"]', String(ids[at]));
    await page.fill('input[name="to"]', String(ids[at + 1]));
    await page.click(".cbi-button-action");
    const name = JSON.stringify(probes[at]);
    await page.until(
      "the answer",
      `[...document.querySelectorAll("#view p")].some((each) => each.textContent.includes(${name}))`,
    );
    const { hit, handlers, tags } = await page.evaluate<Census>(census);
    assert.is(hit, null);
    assert.equal(handlers, []);
    for (const tag of ["script", "img", "iframe"]) assert.is(tags[tag] ?? 0, tag === "script" ? 3 : 0, tag);
  }
  assert.equal(page.faults, []);
  await page.close();
});

test("Tables shows hostile purposes as text", async () => {
  const lease = (method: string, tag: string) =>
    street.ubus.call("gatehouse.tables", method, {
      ...{ family: "inet", interface: "wan", tag },
      ...(method === "request" && { rules: false }),
    });
  // Longer ones, and those beyond the basic plane, are refused.
  const tags = probes.filter((probe) => probe.length <= 127 && !/[\ud800-\udfff]/.test(probe));
  assert.ok(tags.length > 50);
  const drawn = async (purposes: readonly string[]) => {
    for (const each of purposes) await lease("request", each);
    const page = await street.browser.open((await street.host()).urlOf("tables"));
    const count = `document.querySelectorAll("tr[data-key]").length === ${purposes.length}`;
    await page.until("all leases", count);
    const made = await page.evaluate<Census>(census);
    const shown = new Set(await page.evaluate<string[]>(texts));
    for (const each of purposes) {
      assert.ok(shown.has(each), `Tables does not show ${JSON.stringify(each)} as it is`);
      await lease("release", each);
    }
    assert.equal(page.faults, []);
    await page.close();
    return made;
  };
  const before = await drawn(tags.map((_, at) => `harmless ${at}`));
  const after = await drawn(tags);
  assert.is(after.hit, null);
  assert.equal(after.handlers, []);
  assert.equal(after.tags, before.tags);
});

test("names from the lease file are shown as text too", async () => {
  const end = Math.floor(Date.now() / 1000) + 3_600;
  const names = [
    "<img/src=x/onerror=window.hit=1>",
    "<svg/onload=window.hit=1>",
    "'><script>window.hit=1</script>",
    "__proto__",
  ];
  const lines = names.map((name, at) => `${end} 02:99:00:01:00:0${at} 10.77.0.${200 + at} ${name} *`);
  appendFileSync(paths.leases, `${lines.join("\n")}\n`);
  const devices = await eventually("devices of the leases", async () => {
    const found = (await street.devices()).filter(({ mac }) => mac?.startsWith("02:99:00:01"));
    return found.length >= names.length ? found : undefined;
  });
  const page = await street.browser.open((await street.host()).urlOf("devices"));
  await page.until("their rows", `document.querySelector('tr[data-key="${devices.at(-1)!.id}"]') !== null`);
  for (const { id, name, ips } of devices) {
    const row = `document.querySelector('tr[data-key="${id}"] strong')`;
    assert.is(await page.evaluate(`${row}.textContent`), name ?? ips[0]);
    assert.is(await page.evaluate(`${row}.childElementCount`), 0);
  }
  assert.is((await page.evaluate<Census>(census)).hit, null);
  assert.ok(
    devices.some(({ name }) => name?.includes("<")),
    "no hostile name came through: the test shows nothing",
  );
  assert.equal(page.faults, []);
  await page.close();
});

test.run();
