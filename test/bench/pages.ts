/**
 * What the pages cost a browser, with 250 devices, 250 mappings of ipref and 250 services kept apart: requests and
 * bytes until a page is drawn, how soon that is, and what it goes on to cost while it is left open.
 *
 * The baseline is the page Explain, which asks for nothing until somebody does. Stand-ins for LuCI's own scripts are
 * part of the requests; LuCI's are larger, and cached.
 */

import { router } from "../lab/topology.ts";
import type { Page } from "../web/browser.ts";
import type { Host } from "../web/host.ts";
import { Street } from "../web/street.ts";
import { heading, median, table } from "./figure.ts";

const deviceCount = 250;
const rounds = 5;
const openSeconds = 20;
/** What rows in sight ask for after they are drawn has come by then. */
const settleSeconds = 4;

/** Page → what is there once it is drawn. */
const pages: Readonly<Record<string, string>> = {
  explain: `document.querySelector("#view input") !== null`,
  overview: `document.querySelector("#view table")?.offsetParent != null`,
  devices: `document.querySelectorAll("tr[data-key]").length >= ${deviceCount}`,
  flows: `document.querySelectorAll(".gatehouse-bubble").length > 0`,
  lists: `document.querySelectorAll("[data-list]").length === 3`,
  tables: `document.querySelectorAll("tr[data-key]").length > 0`,
  neighbours: `document.querySelectorAll("tr[data-key]").length >= ${deviceCount}`,
  // A hundred of them at a time.
  ipref: `document.querySelectorAll("tr[data-key]").length >= 100`,
  isolation: `document.querySelectorAll("tr[data-key]").length >= ${deviceCount}`,
  settings: `document.querySelectorAll(".cbi-value").length > 10`,
};

/** Of the parts that are off unless somebody switches them on. */
const configuration = `
config ipref 'ipref'
	option enabled '1'
	option gateway_bind '${router.wan4}'
	option encode_net '10.240.0.0/12'

config isolation 'isolation'
	option enabled '1'

config segment 'apps'
	list device 'br-apps'
${Array.from(
  { length: deviceCount },
  (_, at) => `
config service 'service${at}'
	option segment 'apps'
	list address '10.31.${1 + (at >> 8)}.${at & 255}'
	list peer 'service${(at + 1) % deviceCount}'
`,
).join("")}`;

interface Drawn {
  /** Milliseconds from the start of navigation. */
  readonly paintMs: number;
  readonly drawnMs: number;
  readonly requests: number;
  readonly bytes: number;
}

/** Opens a page; what it costs until it is drawn is noted by itself, frame by frame. */
async function draw(page: Page, url: string, isDrawn: string): Promise<Drawn> {
  const source = `window.drawnAt = 0;
    (function look() {
      if (document.body && (${isDrawn})) window.drawnAt = performance.now();
      else requestAnimationFrame(look);
    })();`;
  const { identifier } = await page.send("Page.addScriptToEvaluateOnNewDocument", { source });
  const [requests, bytes] = [page.requests, page.receivedBytes];
  await page.go(url);
  const drawnMs = await page.until<number>("it drawn", "window.drawnAt");
  const cost = { requests: page.requests - requests, bytes: page.receivedBytes - bytes };
  const paintMs = await page.until<number>(
    "its first paint",
    `performance.getEntriesByName("first-contentful-paint")[0]?.startTime`,
  );
  await page.send("Page.removeScriptToEvaluateOnNewDocument", { identifier });
  return { paintMs, drawnMs, ...cost };
}

/** What an open page costs in a while: processor in %, requests and kB a minute. */
async function leaveOpen(page: Page): Promise<readonly number[]> {
  await new Promise((resolve) => setTimeout(resolve, settleSeconds * 1_000));
  const before = [await page.workedSeconds(), page.requests, page.receivedBytes] as const;
  await new Promise((resolve) => setTimeout(resolve, openSeconds * 1_000));
  const perMinute = 60 / openSeconds;
  return [
    (((await page.workedSeconds()) - before[0]) / openSeconds) * 100,
    (page.requests - before[1]) * perMinute,
    ((page.receivedBytes - before[2]) * perMinute) / 1_000,
  ];
}

async function measure(street: Street, host: Host, name: string): Promise<string[]> {
  const page = await street.browser.open("about:blank");
  const drawn: Drawn[] = [];
  for (let round = 0; round < rounds; round++) drawn.push(await draw(page, host.urlOf(name), pages[name]!));
  const [cpu, requests, kilobytes] = (await leaveOpen(page)) as [number, number, number];
  await page.close();
  const middle = (of: (each: Drawn) => number) => median(drawn.map(of)).toFixed(0);
  return [
    name,
    middle((each) => each.requests),
    (median(drawn.map((each) => each.bytes)) / 1_000).toFixed(1),
    middle((each) => each.paintMs),
    middle((each) => each.drawnMs),
    cpu.toFixed(1),
    requests.toFixed(0),
    kilobytes.toFixed(0),
  ];
}

export async function measurePages(): Promise<void> {
  heading(
    `Pages in Chromium, ${deviceCount} devices, median of ${rounds} openings, then left open for ${openSeconds} s`,
  );
  const street = await Street.up({ configuration });
  try {
    await street.addDevices(deviceCount);
    await street.ubus.call("gatehouse.tables", "request", { family: "inet", interface: "wan", rules: false });
    for (let at = 0; at < deviceCount; at++)
      await street.ubus.call("gatehouse.ipref", "add", {
        ...{ kind: "ours", address: `10.77.1.${at + 1}`, reference: String(3_000 + at) },
      });
    await street.lab.must("laptop", ["ping", "-c", "3", "203.0.113.1"]);
    const host = await street.host({ secondMs: 1_000 });
    const rows = [["", "requests", "kB", "paint ms", "drawn ms", "CPU open %", "requests/min", "kB/min"]];
    for (const name of Object.keys(pages)) {
      process.stderr.write(`  ${name}\n`);
      rows.push(await measure(street, host, name));
    }
    table(rows);
  } finally {
    await street.down();
  }
}
