/** The pages Flows, Lists and Explain in a real browser, on a lab with the real agent. */

import { suite } from "uvu";
import * as assert from "uvu/assert";
import { eventually } from "../lab/children.ts";
import { servers } from "../lab/topology.ts";
import type { Host } from "./host.ts";
import { type Street, sharedStreet, shot } from "./street.ts";

export const flows = suite("flows");

let street: Street;
let host: Host;
let laptop: number;
let web: number;

flows.before(async () => {
  street = await sharedStreet();
  host = await street.host();
  for (const name of servers.web.names) await street.lab.must("laptop", ["getent", "ahostsv4", name]);
  laptop = await street.idOf("10.77.0.10");
  web = await street.idOf(servers.web.address4);
});

const pairOf = (one: number, other: number) => `${Math.min(one, other)} ${Math.max(one, other)}`;
const open = (view: string) => street.browser.open(host.urlOf(view));

flows(
  "Flows: a pair has a row with its service; Block there stops its download, and the block shows its hits",
  async () => {
    const download = await street.lab.stream({ from: "laptop", to: servers.web.address4, kind: "udp" });
    const witness = await street.lab.stream({ from: "camera", to: servers.web.address4, kind: "udp" });
    const page = await open("flows");
    const row = `tr[data-key="${pairOf(laptop, web)}"]`;
    await page.until("the pair", `document.querySelector('${row}')?.innerText.includes("udp")`);
    const text = await page.evaluate<string>(`document.querySelector('${row}').innerText`);
    for (const part of ["laptop", "web.example.net", "udp"])
      assert.ok(text.includes(part), `${part} in ${text}`);
    await page.press(row, "Block");
    await download.isCut();
    await witness.flows();
    await page.until(
      "the block's hits",
      `[...document.querySelectorAll('${row}')].some((each) => each.cells.length === 5 && Number(each.cells[2].textContent) > 0)`,
    );
    await page.until(
      "the line",
      `document.querySelector('.gatehouse-line[data-pair="${pairOf(laptop, web)}"] line').getAttribute("stroke-dasharray") !== "none"`,
    );
    await page.screenshot(shot("flows-blocked"));
    await page.press(row, "Unblock");
    await download.flows();
    assert.equal(page.faults, []);
    for (const each of [download, witness]) await each.end();
    await page.close();
  },
);

flows(
  "Flows: a click on a line of the picture offers its Block, which stops a download; so does a bubble",
  async () => {
    const download = await street.lab.stream({ from: "laptop", to: servers.web.address4, kind: "udp" });
    const page = await open("flows");
    const line = `.gatehouse-line[data-pair="${pairOf(laptop, web)}"]`;
    await page.until(
      "the picture at rest",
      `document.querySelector("svg[data-still]") && document.querySelector('${line}')`,
    );
    await page.evaluate(
      `document.querySelector('${line}').dispatchEvent(new MouseEvent("click", { bubbles: true }))`,
    );
    await page.press("[data-sign]", "Block");
    await download.isCut();
    await page.click(`.gatehouse-bubble[data-node="${laptop}"] circle`);
    await page.until("its name", `document.querySelector("[data-sign] h3").textContent === "laptop"`);
    await page.screenshot(shot("flows-chosen"));
    await page.press("[data-sign]", "Unblock");
    await download.flows();
    assert.equal(page.faults, []);
    await download.end();
    await page.close();
  },
);

flows(
  "Lists: a device, an address and a prefix go on a list and off it, and what is no address is refused",
  async () => {
    const page = await open("lists");
    const lists = async () =>
      (await street.ubus.call("gatehouse.flows", "lists")) as unknown as Record<
        string,
        { nodes: number[]; prefixes: string[] }
      >;
    const part = '[data-list="block"]';
    await page.until(
      "devices to choose",
      `document.querySelector('${part} option[value="${laptop}"]') !== null`,
    );
    await page.evaluate(`document.querySelector('${part} select').value = "${laptop}"`);
    await page.press(part, "Add device");
    await page.until(
      "its row",
      `document.querySelector('${part} tr[data-key="#${laptop}"]')?.innerText.includes("laptop")`,
    );
    for (const prefix of ["203.0.113.77", "2001:db8:7::/48"]) {
      await page.fill(`${part} input`, prefix);
      await page.press(part, "Add address");
      await page.until(
        `row of ${prefix}`,
        `[...document.querySelectorAll('${part} tr[data-key]')].some((row) => row.innerText.includes("${prefix}"))`,
      );
    }
    const { block } = await lists();
    assert.equal(block!.nodes, [laptop]);
    assert.is(block!.prefixes.length, 2);
    await page.screenshot(shot("lists"));
    await page.fill(`${part} input`, "300.1.2.3");
    await page.press(part, "Add address");
    await page.until("the refusal", `document.querySelector(".alert-message.danger") !== null`);
    for (let left = 2; left >= 0; left--) {
      await page.press(`${part} tr[data-key]`, "Remove");
      await page.until(
        `${left} rows`,
        `document.querySelectorAll('${part} tr[data-key]').length === ${left}`,
      );
    }
    assert.equal({ ...(await lists()).block }, { nodes: [], prefixes: [], hits: [] });
    assert.equal(page.faults, []);
    await page.close();
  },
);

flows("Explain: says that packets pass, then, once blocked, by which pair they do not", async () => {
  const page = await open("explain");
  await page.fill('input[name="from"]', "laptop");
  await page.fill('input[name="to"]', servers.web.address4);
  await page.click(".cbi-button-action");
  await page.until("the answer", `document.querySelector("#view h3")?.textContent === "Packets pass."`);
  await street.ubus.call("gatehouse.flows", "block", { node1: laptop, node2: web });
  await page.click(".cbi-button-action");
  await page.until("the other", `document.querySelector("#view h3")?.textContent === "Packets are dropped."`);
  const [low, high] = pairOf(laptop, web).split(" ");
  assert.ok(
    (await page.evaluate<string>("document.body.innerText")).includes(
      `The pair #${low} and #${high} is blocked.`,
    ),
  );
  assert.match(
    await page.evaluate<string>(`document.querySelector("#view code").textContent`),
    /gatehouse_flows/,
  );
  await page.screenshot(shot("explain"));
  await page.fill('input[name="from"]', "nobody at all");
  await page.click(".cbi-button-action");
  await page.until("the refusal", `document.querySelector(".alert-message.danger") !== null`);
  await street.ubus.call("gatehouse.flows", "unblock", { node1: laptop, node2: web });
  assert.equal(page.faults, []);
  await page.close();
});

flows("Flows: 300 nodes find their places and come to rest, and then nothing is moved any more", async () => {
  await street.addDevices(300);
  const ids = (await street.devices()).filter(({ mac }) => mac?.startsWith("02:99")).map(({ id }) => id);
  // Twelves around one of them each, and those around the first.
  const hubOf = (at: number) => (at % 12 === 0 ? 0 : at - (at % 12));
  const blocks = ids.slice(1, 300).map((id, at) => ({ node1: id, node2: ids[hubOf(at + 1)]! }));
  while (blocks.length > 0) {
    const some = blocks.splice(0, 100);
    await Promise.all(some.map((each) => street.ubus.call("gatehouse.flows", "block", each)));
  }
  const page = await open("flows");
  await page.until("its bubbles", `document.querySelectorAll(".gatehouse-bubble").length >= 290`);
  await page.until("rest", `document.querySelector("svg[data-still]") !== null`);
  const outside =
    await page.evaluate<number>(`[...document.querySelectorAll(".gatehouse-bubble")].filter((each) => {
    const [x, y] = each.getAttribute("transform").match(/-?[0-9.]+/g).map(Number);
    return !(x >= 0 && x <= 960 && y >= 0 && y <= 540);
  }).length`);
  assert.is(outside, 0);
  const places = `[...document.querySelectorAll(".gatehouse-bubble")].map((each) => each.getAttribute("transform")).join()`;
  const before = await page.evaluate<string>(places);
  const asked = page.requests;
  await eventually("a look", async () => page.requests >= asked + 2 || undefined);
  assert.is(await page.evaluate<string>(places), before);
  await page.screenshot(shot("flows-300"));
  assert.equal(page.faults, []);
  await page.close();
});

flows("Flows: on a phone the picture is as wide as the screen, and nothing is wider", async () => {
  const page = await street.browser.open(host.urlOf("flows"), { width: 390, height: 844, mobile: true });
  await page.until("rest", `document.querySelector("svg[data-still]") !== null`);
  assert.ok(await page.evaluate("document.documentElement.scrollWidth <= innerWidth"));
  assert.ok((await page.evaluate<number>(`document.querySelector("svg").viewBox.baseVal.width`)) < 600);
  await page.screenshot(shot("flows-phone"));
  await page.close();
});
