/** The page Isolation in a real browser, on a lab whose router keeps services apart. */

import { test } from "uvu";
import * as assert from "uvu/assert";
import { eventually } from "../lab/children.ts";
import type { Page, Size } from "./browser.ts";
import { type Host, sessions } from "./host.ts";
import { Street, shot } from "./street.ts";

const configuration = `
config isolation 'isolation'
	option enabled '1'
	list privileged 'boss'

config segment 'apps'
	list device 'br-apps'

config segment 'things'
	list device 'br-things'

config service 'web'
	option segment 'apps'
	list address '10.31.0.3'
	list peer 'db'

config service 'db'
	option segment 'apps'
	list address '10.31.0.4'

config service 'lamp'
	option segment 'things'
	option mac '02:32:00:00:00:01'

config service 'boss'
	option segment 'apps'
	list address '10.31.0.9'
`;

interface Pair {
  readonly name: string;
  readonly peer: string;
  readonly state: string;
  readonly direction: string;
  readonly ports?: readonly string[];
}

let street: Street;
let host: Host;

/** A segment without hosts: the router's table of neighbours says that they are there. */
async function populate(): Promise<void> {
  const lines = [
    "link add br-apps type veth peer name apps",
    "link set br-apps up",
    "link set apps up",
    "address add 10.31.0.1/24 dev br-apps",
    "address add fd31::1/64 dev br-apps",
    ...[3, 4, 9].map(
      (each) => `neigh replace 10.31.0.${each} lladdr 02:31:00:00:00:0${each} dev br-apps nud permanent`,
    ),
  ];
  await street.lab.must("router", ["ip", "-batch", "-"], { input: `${lines.join("\n")}\n` });
  await eventually("the services", async () => {
    const status = (await street.ubus.call("gatehouse.isolation", "status")) as { services?: number };
    return (status.services ?? 0) >= 3 || undefined;
  });
}

test.before(async () => {
  street = await Street.up({ configuration });
  host = await street.host();
  await populate();
});

test.after(async () => {
  await street?.down();
});

const pairs = async () =>
  ((await street.ubus.call("gatehouse.isolation", "list")) as unknown as { pairs: Pair[] }).pairs;

async function open(from: Host = host, size?: Size): Promise<Page> {
  const page = await street.browser.open(from.urlOf("isolation"), size);
  await page.until("the page", `document.querySelector("#view h3")?.offsetParent != null`);
  return page;
}

const rowOf = (key: string) => `tr[data-key="${key}"]`;
const textOf = (page: Page, selector: string) =>
  page.evaluate<string>(`document.querySelector('${selector}').innerText`);
const isShown = (key: string) => `document.querySelector('${rowOf(key)}') !== null`;

async function explain(page: Page, from: string, to: string): Promise<string> {
  await page.evaluate(`document.querySelector("[aria-live]").textContent = ""`);
  await page.fill('input[name="from"]', from);
  await page.fill('input[name="to"]', to);
  await page.press(".cbi-section", "Explain");
  return page.until<string>("an explanation", `document.querySelector("[aria-live]").innerText`);
}

test("Isolation: services have a row with segment, addresses and stand-ins, pairs with who may begin", async () => {
  const page = await open();
  await page.until("the services", `${isShown("web")} && ${isShown("lamp")}`);
  const web = await textOf(page, rowOf("web"));
  for (const part of ["apps", "here", "10.31.0.3", "198.1", "fd00:6a7e:", "declared"])
    assert.ok(web.includes(part), `${part} in ${web}`);
  assert.match(await textOf(page, rowOf("lamp")), /not seen yet/);
  assert.match(await textOf(page, rowOf("boss")), /privileged/);
  assert.match(await textOf(page, rowOf("apps")), /br-apps \(10\.31\.0\.0\/24, fd31::\/64\)/);
  assert.match(await textOf(page, rowOf("things")), /br-things \(missing\)/);
  assert.match(await textOf(page, rowOf("db web")), /in force[\s\S]*configured/);
  assert.match(await textOf(page, "#view"), /3 services are here; 1 pairs, of which 0 wait for somebody\./);
  await page.screenshot(shot("isolation"));
  assert.equal(page.faults, []);
  await page.close();
});

test("Isolation: Connect connects with ports and a direction, also who is not there yet; Disconnect ends it", async () => {
  const page = await open();
  await page.fill('input[name="name"]', "web");
  await page.fill('input[name="peers"]', "lamp, *.example.com");
  await page.fill('input[name="ports"]', "tcp/443, udp/5000-5010");
  await page.evaluate(`document.querySelector('select[name="direction"]').value = "out"`);
  await page.press(".cbi-section", "Connect");
  await page.until("its row", isShown("lamp web"));
  const made = (await pairs()).find(({ name }) => name === "lamp")!;
  assert.equal(
    [made.peer, made.state, made.direction, made.ports],
    ["web", "pending", "in", ["tcp/443", "udp/5000-5010"]],
  );
  const text = await textOf(page, rowOf("lamp web"));
  for (const part of ["←", "tcp/443, udp/5000-5010", "waits for lamp", "asked for"])
    assert.ok(text.includes(part), `${part} in ${text}`);
  await page.until("the name outside", isShown("*.example.com web"));
  assert.match(await textOf(page, rowOf("*.example.com web")), /^web\s+→\s+\*\.example\.com\s[\s\S]*outside/);
  await page.screenshot(shot("isolation-pairs"));
  await page.press(rowOf("lamp web"), "Disconnect");
  await page.until("no row", `!(${isShown("lamp web")})`);
  assert.not.ok((await pairs()).some(({ name }) => name === "lamp"));
  // What the configuration says can be ended too.
  await page.press(rowOf("db web"), "Disconnect");
  await page.until("no row", `!(${isShown("db web")})`);
  await street.ubus.call("gatehouse.isolation", "connect", { name: "web", peers: ["db"] });
  await page.until("the row again", isShown("db web"));
  assert.equal(page.faults, []);
  await page.close();
});

test("Isolation: Explain says whether somebody may begin, and why", async () => {
  const page = await open();
  assert.match(await explain(page, "web", "db"), /web may begin to talk to db\.\n+they are connected/);
  assert.match(
    await explain(page, "db", "boss"),
    /db may not begin to talk to boss\.\n+they are not connected/,
  );
  assert.match(
    await explain(page, "10.31.0.9", "web"),
    /boss may begin to talk to web\.\n+boss is privileged/,
  );
  await page.close();
});

test("Isolation: names with markup are refused and told as text", async () => {
  const page = await open();
  const before = (await pairs()).length;
  const name = "<img src=x onerror=window.hit=1>";
  for (const [field, label] of [
    ["name", "Connect"],
    ["peers", "Connect"],
    ["from", "Explain"],
  ] as const) {
    await page.evaluate(
      `document.querySelectorAll(".alert-message.danger").forEach((each) => each.remove())`,
    );
    await page.fill('input[name="name"]', "web");
    await page.fill('input[name="peers"]', "db");
    await page.fill('input[name="to"]', "db");
    await page.fill(`input[name="${field}"]`, name);
    await page.press(".cbi-section", label);
    await page.until("the refusal", `document.querySelector(".alert-message.danger") !== null`);
  }
  assert.is((await pairs()).length, before);
  assert.is(await page.evaluate(`document.querySelector("#maincontent img")`), null);
  assert.is(await page.evaluate("window.hit ?? null"), null);
  await page.close();
});

test("Isolation: the search finds services and pairs by name and address", async () => {
  const page = await open();
  await page.until("the services", isShown("lamp"));
  await page.fill('input[type="search"]', "10.31.0.4");
  await page.until("db alone", `${isShown("db")} && !(${isShown("lamp")})`);
  await page.fill('input[type="search"]', "db");
  await page.until("its pair", isShown("db web"));
  await page.close();
});

test("Isolation: who may only read can look, search and ask, and change nothing", async () => {
  const page = await open(await street.host({ session: sessions.reader }));
  await page.until("rows", isShown("db web"));
  const alive = `[...new Set([...document.querySelectorAll("#view button, #view input, #view select")].filter((each) => !each.disabled).map((each) => each.name || each.textContent || each.type))].sort()`;
  assert.equal(await page.evaluate(alive), ["Explain", "from", "search", "to"]);
  assert.match(await explain(page, "web", "db"), /may begin/);
  await page.close();
});

test("Isolation: on a phone nothing is wider than the screen, light or dark", async () => {
  for (const dark of [false, true]) {
    const page = await open(host, { width: 390, height: 844, mobile: true, dark });
    assert.ok(await page.evaluate("document.documentElement.scrollWidth <= innerWidth"));
    await page.screenshot(shot(`isolation-phone-${dark ? "dark" : "light"}`));
    await page.close();
  }
});

test("Isolation: while it is off the page says how to switch it on", async () => {
  street.lab.configure(configuration.replace("enabled '1'", "enabled '0'"));
  process.kill(street.lab.agent.pid!, "SIGHUP");
  const page = await street.browser.open(host.urlOf("isolation"));
  await page.until(
    "the word",
    `document.querySelector(".alert-message.notice")?.offsetParent != null && document.querySelector("#view h3").offsetParent === null`,
  );
  assert.match(await textOf(page, "#view"), /option enabled of the section isolation/);
  await page.screenshot(shot("isolation-off"));
  street.lab.configure(configuration);
  process.kill(street.lab.agent.pid!, "SIGHUP");
  await page.until("all of it", isShown("db web"));
  await page.close();
});

test.run();
