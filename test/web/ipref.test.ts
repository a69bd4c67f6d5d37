/** The page IPREF in a real browser, on a lab whose router is a gateway. */

import { writeFileSync } from "node:fs";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { eventually } from "../lab/children.ts";
import { router } from "../lab/topology.ts";
import type { Page, Size } from "./browser.ts";
import { type Host, sessions } from "./host.ts";
import { Street, shot } from "./street.ts";

const hostsFile = "/etc/hosts.ipref";
const configuration = `
config ipref 'ipref'
	option enabled '1'
	option gateway_bind '${router.wan4}'
	option encode_net '10.240.0.0/12'
	option hosts '${hostsFile}'
	list zone 'example.org'
	list upstream '127.0.0.1'
`;
/** Markup where a reference, a type and an address should be: the page tells each with its line. */
const hostile = [
  "10.77.0.20 a #= <img src=x onerror=window.hit=1>",
  "10.77.0.21 b #= pub + <b>bold</b>",
  "10.240.9.9 c #= <svg/onload=window.hit=1> + 5",
];

interface Mapping {
  readonly id: number;
  readonly kind: string;
  readonly address: string;
  readonly reference: string;
  readonly source?: string;
}

let street: Street;
let host: Host;

test.before(async () => {
  street = await Street.up({ configuration });
  host = await street.host();
});

test.after(async () => {
  await street?.down();
});

const mappings = async () =>
  ((await street.ubus.call("gatehouse.ipref", "mappings")) as unknown as { mappings: Mapping[] }).mappings;

async function open(from: Host = host, size?: Size): Promise<Page> {
  const page = await street.browser.open(from.urlOf("ipref"), size);
  await page.until("the page", `document.querySelector("#view h3")?.offsetParent != null`);
  return page;
}

const textOf = (page: Page) => page.evaluate<string>(`document.querySelector("#view").innerText`);
const rows = `[...document.querySelectorAll("tr[data-key]")].map((each) => each.innerText)`;
const hasRow = (part: string) => `${rows}.some((each) => each.includes(${JSON.stringify(part)}))`;
const keyOf = (page: Page, part: string) =>
  page.until<string>(
    `a row with ${part}`,
    `[...document.querySelectorAll("tr[data-key]")].find((each) => each.innerText.includes(${JSON.stringify(part)}))?.dataset.key`,
  );
const choose = (page: Page, name: string, value: string) =>
  page.evaluate(
    `(() => { const field = document.querySelector('select[name="${name}"]'); field.value = ${JSON.stringify(value)}; field.dispatchEvent(new Event("change", { bubbles: true })); })()`,
  );

test("IPREF: the page says what the gateway is, and a mapping is written down and removed by clicks", async () => {
  const page = await open();
  const about = await textOf(page);
  for (const part of [`${router.wan4}, port 1045`, "10.240.0.0/12", "yes, by ipref", "example.org"])
    assert.ok(about.includes(part), `${part} in ${about}`);
  await page.fill('input[name="new-address"]', "10.77.0.10");
  await page.fill('input[name="new-reference"]', "2711");
  await page.press(".cbi-section", "Add");
  await page.until("its row", hasRow("2711"));
  await choose(page, "new-kind", "theirs");
  await page.fill('input[name="new-address"]', "10.240.2.98");
  await page.fill('input[name="new-context"]', "192.0.2.98");
  await page.fill('input[name="new-reference"]', "b-7");
  await page.press(".cbi-section", "Add");
  await page.until("the other row", hasRow("b-7"));
  assert.equal(
    (await mappings()).map(({ kind, address, reference, source }) => [kind, address, reference, source]),
    [
      ["ours", "10.77.0.10", "2711", "user"],
      ["theirs", "10.240.2.98", "b-7", "user"],
    ],
  );
  await page.until("the peer", `${rows}.filter((each) => each.includes("192.0.2.98")).length === 2`);
  await page.screenshot(shot("ipref"));
  await page.press(`tr[data-key="${await keyOf(page, "2711")}"]`, "Remove");
  await page.until("no row", `!(${hasRow("2711")})`);
  assert.equal(
    (await mappings()).map(({ reference }) => reference),
    ["b-7"],
  );
  assert.equal(page.faults, []);
  await page.close();
});

test("IPREF: mappings come by pages, and the filter finds one among all", async () => {
  const own = Array.from({ length: 205 }, (_, at) => `10.77.1.${at + 1}`);
  await Promise.all(
    own.map((address, at) => {
      const mapping = { kind: "ours", address, reference: String(3_000 + at) };
      return street.ubus.call("gatehouse.ipref", "add", mapping);
    }),
  );
  const page = await open();
  const count = `[...document.querySelectorAll("tr[data-key]")].filter((each) => each.cells.length === 9).length`;
  await page.until("a full page", `${count} === 100`);
  assert.is(await page.evaluate(`document.body.innerText.includes("Page 1")`), true);
  await page.press(".cbi-section", "Next");
  await page.until("the second page", `document.body.innerText.includes("Page 2") && ${count} === 100`);
  await page.press(".cbi-section", "Next");
  await page.until("the last page", `document.body.innerText.includes("Page 3") && ${count} === 6`);
  const hidden = (label: string) =>
    page.evaluate<boolean>(
      `getComputedStyle([...document.querySelectorAll("button")].find((each) => each.textContent === "${label}")).visibility === "hidden"`,
    );
  assert.equal([await hidden("Back"), await hidden("Next")], [false, true]);
  await page.press(".cbi-section", "Back");
  await page.until("the second page again", `document.body.innerText.includes("Page 2")`);
  await page.fill('input[name="address"]', "10.77.1.205");
  await page.press(".cbi-section", "Show");
  await page.until("one row", `${count} === 1 && ${hasRow("10.77.1.205")}`);
  assert.equal([await hidden("Back"), await hidden("Next")], [true, true]);
  await page.fill('input[name="address"]', "");
  await choose(page, "kind", "theirs");
  await page.press(".cbi-section", "Show");
  await page.until("theirs", `${count} === 1 && ${hasRow("b-7")}`);
  await page.fill('input[name="address"]', "no address");
  await page.press(".cbi-section", "Show");
  await page.until("the refusal", `document.querySelector(".alert-message.danger") !== null`);
  await page.close();
});

test("IPREF: a name in no zone is refused in words, and what nobody knows changes nothing", async () => {
  const page = await open();
  const before = (await mappings()).length;
  await page.fill('input[name="name"]', "host.example.com");
  await page.press(".cbi-section", "Resolve");
  await page.until("the refusal", `document.querySelector(".alert-message.danger") !== null`);
  assert.is((await mappings()).length, before);
  await page.close();
});

test("IPREF: what is wrong in the hosts file is told as it stands there, and stays text", async () => {
  writeFileSync(hostsFile, `${hostile.join("\n")}\n`);
  await eventually("the file to be read", async () => {
    const status = (await street.ubus.call("gatehouse.ipref", "status")) as { hosts_mistakes?: unknown[] };
    return (status.hosts_mistakes?.length ?? 0) >= hostile.length || undefined;
  });
  const page = await open();
  const text = await textOf(page);
  for (const part of ['"<img"', '"<b>bold</b>"', '"<svg/onload=window.hit=1>"'])
    assert.ok(text.includes(part), text);
  assert.is(await page.evaluate(`document.querySelectorAll("#view img, #view b, #view svg").length`), 0);
  await page.fill('input[name="name"]', "<img src=x onerror=window.hit=1>");
  await page.press(".cbi-section", "Resolve");
  await page.until("the refusal", `document.querySelector(".alert-message.danger") !== null`);
  assert.is(await page.evaluate(`document.querySelector("#maincontent img")`), null);
  assert.is(await page.evaluate("window.hit ?? null"), null);
  await page.close();
});

test("IPREF: who may only read can look through all of it, and change nothing", async () => {
  const page = await open(await street.host({ session: sessions.reader }));
  await page.until("rows", "document.querySelectorAll('tr[data-key]').length > 50");
  const alive = `[...new Set([...document.querySelectorAll("#view button, #view input, #view select")].filter((each) => !each.disabled).map((each) => each.name || each.textContent))].sort()`;
  assert.equal(await page.evaluate(alive), ["Back", "Next", "Show", "address", "kind", "peer", "state"]);
  await page.close();
});

test("IPREF: on a phone nothing is wider than the screen, light or dark", async () => {
  for (const dark of [false, true]) {
    const page = await open(host, { width: 390, height: 844, mobile: true, dark });
    assert.ok(await page.evaluate("document.documentElement.scrollWidth <= innerWidth"));
    await page.screenshot(shot(`ipref-phone-${dark ? "dark" : "light"}`));
    await page.close();
  }
});

test("IPREF: while it is off the page says how to switch it on, and is there as soon as it is on", async () => {
  const page = await open();
  const reload = async (enabled: boolean) => {
    street.lab.configure(enabled ? configuration : configuration.replace("enabled '1'", "enabled '0'"));
    process.kill(street.lab.agent.pid!, "SIGHUP");
  };
  await reload(false);
  const isOff = `document.querySelector(".alert-message.notice")?.offsetParent != null && document.querySelector("#view h3").offsetParent === null`;
  await page.until("the word", isOff);
  assert.match(await textOf(page), /option enabled of the section ipref/);
  const link = `document.querySelector(".alert-message.notice a").getAttribute("href")`;
  assert.match(await page.evaluate<string>(link), /services\/gatehouse\/settings$/);
  await page.screenshot(shot("ipref-off"));
  await page.close();
  const other = await street.browser.open(host.urlOf("ipref"));
  await other.until("the word at once", isOff);
  await reload(true);
  await other.until("all of it", `!(${isOff}) && ${hasRow("10.77.1.1")}`);
  assert.ok((await mappings()).length > 200, "mappings outlive it");
  await other.close();
});

test("IPREF: without an agent the page says so", async () => {
  await street.lab.agent.stop();
  const page = await street.browser.open(host.urlOf("ipref"));
  await page.until("the word", `document.querySelector(".alert-message.warning")?.offsetParent != null`);
  assert.ok(!(await textOf(page)).includes("switched off"));
  await street.lab.agent.start();
  await page.until("the page", `document.querySelector("#view h3")?.offsetParent != null`);
  await page.close();
});

test.run();
