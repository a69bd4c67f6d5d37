/** The pages Tables and Neighbours and the part of LuCI's status page, in a real browser, on a lab with the real agent. */

import { suite } from "uvu";
import * as assert from "uvu/assert";
import { eventually } from "../lab/children.ts";
import { router } from "../lab/topology.ts";
import type { Size } from "./browser.ts";
import { type Host, sessions } from "./host.ts";
import { type Street, sharedStreet, shot } from "./street.ts";

export const tables = suite("tables");

let street: Street;
let host: Host;

interface Lease {
  readonly table: number;
  readonly family: string;
  readonly address: string;
  readonly expires_in: number;
}

tables.before(async () => {
  street = await sharedStreet();
  host = await street.host();
});

const leases = async () =>
  ((await street.ubus.call("gatehouse.tables", "list")) as unknown as { leases: Lease[] }).leases;
const open = (view: string, size?: Size, from: Host = host) => street.browser.open(from.urlOf(view), size);
const rowOf = (key: string) => `tr[data-key="${key}"]`;
const isShown = (key: string) => `document.querySelector('${rowOf(key)}') !== null`;

tables(
  "Tables: Lease leases a table with its rules, Renew puts its end off, Release takes both away",
  async () => {
    const page = await open("tables");
    await page.until("the page", `document.querySelector(".placeholder")?.offsetParent != null`);
    await page.fill('input[name="interface"]', "wan");
    await page.fill('input[name="address"]', router.wan4);
    await page.press(".cbi-section", "Lease");
    const [lease] = await eventually("a lease", async () => {
      const found = await leases();
      return found.length > 0 ? found : undefined;
    });
    const key = `inet ${lease!.table}`;
    await page.until("its row", isShown(key));
    const text = await page.evaluate<string>(`document.querySelector('${rowOf(key)}').innerText`);
    for (const part of [String(lease!.table), "IPv4", "wan", router.wan4, "root"])
      assert.ok(text.includes(part), `${part} in ${text}`);
    const rules = () => street.lab.must("router", ["ip", "rule"]);
    assert.match(
      await rules(),
      new RegExp(`from ${router.wan4.replaceAll(".", "\\.")} lookup ${lease!.table}`),
    );
    await street.ubus.call("gatehouse.tables", "renew", {
      family: "inet",
      table: lease!.table,
      lifetime: 120,
    });
    await page.until("its end", `/2 min|1 min/.test(document.querySelector('${rowOf(key)}').innerText)`);
    await street.ubus.call("gatehouse.tables", "request", {
      ...{ family: "inet6", interface: "wan", tag: "<b>backup</b>", lifetime: 7_200, rules: false },
    });
    await page.until("the other row", `document.querySelectorAll("tr[data-key]").length === 2`);
    await page.screenshot(shot("tables"));
    assert.is(await page.evaluate(`document.querySelector("tr[data-key] b")`), null);
    const before = (await leases())[0]!.expires_in;
    await page.press(rowOf(key), "Renew");
    await eventually("a later end", async () => (await leases())[0]!.expires_in > before - 5 || undefined);
    await page.press(rowOf(key), "Release");
    await page.until("no row", `!(${isShown(key)})`);
    assert.equal(
      (await leases()).map(({ family }) => family),
      ["inet6"],
    );
    assert.not.match(await rules(), new RegExp(`lookup ${lease!.table}`));
    assert.equal(page.faults, []);
    await page.close();
  },
);

tables("Tables: what cannot be leased is said, and nothing is leased", async () => {
  const page = await open("tables");
  await page.fill('input[name="interface"]', "wan");
  await page.fill('input[name="address"]', "no address");
  const before = await leases();
  await page.press(".cbi-section", "Lease");
  await page.until("the refusal", `document.querySelector(".alert-message.danger") !== null`);
  assert.is((await leases()).length, before.length);
  await page.close();
});

tables("Neighbours: who answers has a row; Ask says who it is, Forget makes the kernel forget", async () => {
  await street.lab.must("laptop", ["ping", "-c", "1", "-w", "30", router.lan4]);
  const page = await open("neighbours");
  const key = "br-lan 10.77.0.10";
  await page.until("its row", isShown(key));
  const text = await page.evaluate<string>(`document.querySelector('${rowOf(key)}').innerText`);
  const { mac, port } = street.lab.clients.find(({ name }) => name === "laptop")!;
  for (const part of ["10.77.0.10", "br-lan", mac]) assert.ok(text.includes(part), `${part} in ${text}`);
  await page.press(rowOf(key), "Ask");
  const said = `[...document.querySelectorAll("p")].some((each) => each.textContent === "10.77.0.10 on br-lan is at ${mac}.")`;
  await page.until("the answer", said);
  await page.until("its mark", `document.querySelector('${rowOf(key)}').innerText.includes("verified")`);
  await page.screenshot(shot("neighbours"));
  // Else the kernel might hear of it again before anybody has looked.
  await street.lab.must("router", ["ip", "link", "set", port, "down"]);
  await page.press(rowOf(key), "Forget");
  await page.until("no row", `!(${isShown(key)})`);
  assert.not.match(
    await street.lab.must("router", ["ip", "neigh", "show", "dev", "br-lan"]),
    /10\.77\.0\.10 lladdr/,
  );
  await street.lab.must("router", ["ip", "link", "set", port, "up"]);
  assert.equal(page.faults, []);
  await page.close();
});

tables("Neighbours: an address that nobody has is told to be silent", async () => {
  const page = await open("neighbours");
  await page.fill('input[name="address"]', "10.77.0.77");
  await page.fill('input[name="device"]', "br-lan");
  await page.press(".cbi-section", "Who has it?");
  await page.until(
    "the word",
    `document.body.innerText.includes("Nobody answers for 10.77.0.77 on br-lan.")`,
  );
  await page.until("its row", isShown("br-lan 10.77.0.77"));
  await page.screenshot(shot("neighbours-silent"));
  await page.close();
});

tables("Neighbours: addresses that several claim are shown with all of them", async () => {
  const claimed = "10.77.0.11";
  await street.lab.must("laptop", ["ip", "address", "add", `${claimed}/24`, "dev", "eth0"]);
  const question = { address: claimed, device: "br-lan", fresh: true, probe: "packet" };
  await eventually("a dispute", async () => {
    await street.ubus.call("gatehouse.neighbours", "resolve", question).catch(() => undefined);
    const answer = await street.ubus.call("gatehouse.neighbours", "conflicts");
    return (answer as unknown as { conflicts: unknown[] }).conflicts.length > 0 || undefined;
  });
  const page = await open("neighbours");
  await page.until(
    "the dispute",
    `[...document.querySelectorAll("tr[data-key='br-lan ${claimed}']")].some((each) => each.cells.length === 6)`,
  );
  const row = `[...document.querySelectorAll("tr[data-key='br-lan ${claimed}']")].find((each) => each.cells.length === 6).innerText`;
  const text = await page.evaluate<string>(row);
  for (const { mac } of street.lab.clients.filter(({ name }) => ["laptop", "camera"].includes(name)))
    assert.ok(text.includes(mac), `${mac} in ${text}`);
  await page.screenshot(shot("neighbours-dispute"));
  await street.lab.must("laptop", ["ip", "address", "delete", `${claimed}/24`, "dev", "eth0"]);
  await street.lab.must("router", ["ip", "neigh", "flush", "dev", "br-lan"]);
  assert.equal(page.faults, []);
  await page.close();
});

tables(
  "Status: the part of LuCI's status page counts, leads to the pages, and says when nobody answers",
  async () => {
    const page = await open("overview");
    await page.until("the part", `document.querySelector("#view table")?.offsetParent != null`);
    const text = await page.evaluate<string>(`document.querySelector("#view").innerText`);
    for (const part of ["gatehouse", "Devices", "Blocked pairs", "Leased tables", "Neighbours", "connected"])
      assert.ok(text.includes(part), `${part} in ${text}`);
    assert.is(
      await page.evaluate(
        `document.querySelector('#view a[href$="services/gatehouse/devices"]').textContent`,
      ),
      String((await street.devices()).length),
    );
    await page.screenshot(shot("overview"));
    assert.equal(page.faults, []);
    await street.lab.agent.stop();
    await page.until("the word", `document.querySelector("#view").innerText.includes("does not answer")`);
    assert.is(await page.evaluate(`document.querySelector("#view table")`), null);
    await street.lab.agent.start();
    await page.until("the part again", `document.querySelector("#view table")?.offsetParent != null`);
    await page.close();
  },
);

tables("Tables and Neighbours: who may only read can look and ask, and change nothing", async () => {
  await street.ubus.call("gatehouse.tables", "request", { family: "inet", interface: "wan", rules: false });
  await street.lab.must("laptop", ["ping", "-c", "1", "-w", "30", router.lan4]);
  const reader = await street.host({ session: sessions.reader });
  const alive = `[...new Set([...document.querySelectorAll("#view button")].filter((each) => !each.disabled).map((each) => each.textContent))].sort()`;
  for (const [view, wanted] of [
    ["tables", []],
    ["neighbours", ["Ask", "Who has it?"]],
  ] as const) {
    const page = await open(view, undefined, reader);
    await page.until("rows", `document.querySelectorAll("tr[data-key]").length > 0`);
    assert.equal(await page.evaluate(alive), wanted);
    await page.close();
  }
});

tables(
  "Tables, Neighbours and Status: on a phone nothing is wider than the screen, light or dark",
  async () => {
    for (const [view, dark] of [
      ["tables", false],
      ["neighbours", true],
      ["overview", true],
    ] as const) {
      const page = await open(view, { width: 390, height: 844, mobile: true, dark });
      await page.until("something", `document.querySelector("#view table") !== null`);
      assert.ok(await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), view);
      await page.screenshot(shot(`${view}-phone`));
      await page.close();
    }
  },
);
