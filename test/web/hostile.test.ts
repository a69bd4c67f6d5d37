/**
 * Names that devices and users give are shown as they are: as text, never as markup, whatever page shows them.
 *
 * 60 names reach the agent by each way that there is: by rename; as names of the DNS that a client asks a server for;
 * as host names of devices that ask dnsmasq for a lease. Of these dnsmasq lets few through, so all of them stand in the
 * lease file, too, as another DHCP server may write it. What is drawn is compared with the same among harmless names:
 * as many elements of each kind.
 */

import { appendFileSync, readFileSync } from "node:fs";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { eventually } from "../lab/children.ts";
import { paths } from "../lab/topology.ts";
import type { Page } from "./browser.ts";
import { askFor, domainOf, leaseAs, runStranger } from "./strangers.ts";
import { type NodeRow, Street, shot } from "./street.ts";

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

type Args = Parameters<Street["ubus"]["call"]>[2];
/** The same asked about each, at once. */
const callAll = (object: string, method: string, each: readonly Args[]) =>
  Promise.all(each.map((args) => street.ubus.call(`gatehouse.${object}`, method, args)));
const rename = (names: readonly string[]) =>
  callAll(
    "nodes",
    "rename",
    names.map((name, at) => ({ node: ids[at]!, name })),
  );
/** A page that looks again as seldom as on a router: here nothing is to change. */
const open = async (view: string) =>
  street.browser.open((await street.host({ secondMs: 1_000 })).urlOf(view));
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
  const page = await open(view);
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
  const pairs = ids.flatMap((node2, at) => (at % 2 === 1 ? [{ node1: ids[at - 1]!, node2 }] : []));
  await callAll("flows", "block", pairs);
  const drawn = `document.querySelectorAll("tr[data-key]").length >= ${probes.length / 2}
    && document.querySelectorAll(".gatehouse-bubble").length >= ${probes.length}`;
  await isTextOnly("flows", drawn);
  await callAll("flows", "unblock", pairs);
});

test("Lists shows hostile names as text", async () => {
  const entries = ids.map((node) => ({ list: "block", node }));
  await callAll("flows", "list_add", entries);
  await isTextOnly("lists", isDrawn);
  await callAll("flows", "list_remove", entries);
});

test("the dialogue of a device shows its hostile name as text, in title, field and choice", async () => {
  const { page } = await draw("devices", probes, isDrawn);
  // A dialogue after the other, each once it has its title; some at a time.
  const states: ({ title: string; inside: number; value: string } & Census)[] = [];
  for (let at = 0; at < probes.length; at += 10) {
    const some = probes.slice(at, at + 10).map((probe, index) => [ids[at + index], probe]);
    states.push(
      ...(await page.evaluate<typeof states>(`(async () => {
        const states = [];
        for (const [id, name] of ${JSON.stringify(some)}) {
          document.querySelector('tr[data-key="' + id + '"] .cbi-button-action').click();
          const title = () => document.querySelector(".modal h4");
          for (let tries = 0; title()?.textContent !== name && tries < 1000; tries++)
            await new Promise((resolve) => setTimeout(resolve, 20));
          states.push({
            ...${census},
            title: title().textContent,
            inside: title().childElementCount,
            value: document.querySelector(".modal input").value,
          });
        }
        return states;
      })()`)),
    );
  }
  assert.is(states.length, probes.length);
  for (const [at, { title, inside, value, hit, handlers }] of states.entries())
    assert.equal([title, inside, value, hit, handlers], [probes[at], 0, probes[at], null, []]);
  assert.equal(page.faults, []);
  await page.close();
});

test("Explain shows hostile names as text", async () => {
  await rename(probes);
  const page = await open("explain");
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
    await Promise.all(purposes.map((each) => lease("request", each)));
    const page = await open("tables");
    const count = `document.querySelectorAll("tr[data-key]").length === ${purposes.length}`;
    await page.until("all leases", count);
    const made = await page.evaluate<Census>(census);
    const shown = new Set(await page.evaluate<string[]>(texts));
    for (const each of purposes)
      assert.ok(shown.has(each), `Tables does not show ${JSON.stringify(each)} as it is`);
    await Promise.all(purposes.map((each) => lease("release", each)));
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

/** The node that each of these tests is true for, once there is one for each. */
function nodesFor(what: string, tests: readonly ((node: NodeRow) => boolean)[]): Promise<NodeRow[]> {
  return eventually(what, async () => {
    const all = await street.nodes();
    const found = tests.flatMap((each) => all.find(each) ?? []);
    return found.length === tests.length ? found : undefined;
  });
}

test("Flows shows hostile names of the DNS as text, in table, graph and choice", async () => {
  const laptop = await street.idOf("10.77.0.10");
  const drawn = async (names: readonly string[], first: number) => {
    await askFor(street.lab, names, first);
    const far = await nodesFor(
      "nodes of the names",
      names.map((name, at) => {
        const address = `192.0.2.${first + at}`;
        return ({ domains, ips }) => ips.includes(address) && domains.includes(name);
      }),
    );
    const pairs = far.map(({ id }) => ({ node1: laptop, node2: id }));
    await callAll("flows", "block", pairs);
    const page = await open("flows");
    const parts = far.flatMap(({ id }) => {
      const pair = `${Math.min(id, laptop)} ${Math.max(id, laptop)}`;
      return [
        `tr[data-key="${pair}"]`,
        `.gatehouse-line[data-pair="${pair}"]`,
        `.gatehouse-bubble[data-node="${id}"]`,
      ];
    });
    const found = `${JSON.stringify(parts)}.map((each) => document.querySelector(each))`;
    await page.until("their rows, lines and bubbles", `${found}.every((each) => each !== null)`);
    const made = await page.evaluate<Census>(census);
    assert.is(made.hit, null);
    assert.equal(made.handlers, []);
    const shown = new Set(await page.evaluate<string[]>(texts));
    for (const name of names) assert.ok(shown.has(name.slice(0, -1)), `Flows does not show ${name} as it is`);
    const inside = await page.evaluate<string[]>(
      `${found}.map((each) => [...each.querySelectorAll("*")].map(({ tagName }) => tagName).join())`,
    );
    assert.equal(page.faults, []);
    await page.screenshot(shot("hostile-dns"));
    await page.close();
    await callAll("flows", "unblock", pairs);
    return { kinds: Object.keys(made.tags).sort(), inside };
  };
  // Other pairs come and go meanwhile: what counts is what each of these is made of.
  const before = await drawn(harmless.map(domainOf), 1);
  assert.equal(await drawn(probes.map(domainOf), 101), before);
});

test("Devices shows the host names that dnsmasq lets through as text, and the address for the others", async () => {
  const macs = await leaseAs(street.lab, probes);
  const devices = await nodesFor(
    "a device for each",
    macs.map((mac) => (node) => node.mac === mac && node.ips.length > 0),
  );
  const leased = readFileSync(paths.leases, "utf8").split("\n");
  const names = macs.map((mac) => leased.find((line) => line.includes(` ${mac} `))!.split(" ")[3]!);
  await areText(devices, ({ mac, ips }) => {
    const name = names[macs.indexOf(mac!)]!;
    return name === "*" ? ips[0]! : name;
  });
  // Those that are words of the language are host names, too.
  for (const word of ["constructor", "toString", "null"]) assert.ok(names.includes(word), word);
});

test("Devices shows hostile host names of a lease file as text", async () => {
  const end = Math.floor(Date.now() / 1000) + 3_600;
  // A blank ends a field there.
  const names = probes.map((probe) => probe.replaceAll(" ", "/"));
  const macs = names.map((_, at) => `02:99:00:01:00:${at.toString(16).padStart(2, "0")}`);
  const lines = names.map((name, at) => `${end} ${macs[at]} 10.77.1.${at + 1} ${name} *\n`);
  appendFileSync(paths.leases, lines.join(""));
  const devices = await nodesFor(
    "devices of the leases",
    macs.map((mac) => (node) => node.mac === mac && node.ips.length > 0),
  );
  await areText(devices, ({ name, ips }) => name ?? ips[0]!);
  const through = devices.filter(({ name }, at) => name === names[at]).length;
  assert.ok(through > 40, `${through} names came through as they are`);
});

/** On the page Devices each of these has a row with its name, which is nothing but text. */
async function areText(devices: readonly NodeRow[], nameOf: (device: NodeRow) => string): Promise<void> {
  const page = await open("devices");
  const rows = JSON.stringify(devices.map(({ id }) => `tr[data-key="${id}"] strong`));
  await page.until("their rows", `${rows}.every((each) => document.querySelector(each))`);
  const shown = await page.evaluate<[string, number][]>(
    `${rows}.map((each) => document.querySelector(each)).map((each) => [each.textContent, each.childElementCount])`,
  );
  assert.equal(
    shown,
    devices.map((each) => [nameOf(each), 0]),
  );
  const made = await page.evaluate<Census>(census);
  assert.is(made.hit, null);
  assert.equal(made.handlers, []);
  assert.equal(page.faults, []);
  await page.close();
}

if (!runStranger()) test.run();
