/** Lease files and `config host` sections, hostile ones too. */

import { readFileSync } from "node:fs";
import { join } from "node:path";
import * as fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { parseHosts, parseLeases } from "../../src/nodes/nodes.ts";

const fixture = (name: string) => readFileSync(join(process.cwd(), "test/nodes/fixtures", name), "utf8");

test("parseLeases() reads dnsmasq's own file", () => {
  assert.equal(parseLeases(fixture("dhcp.leases.txt")), {
    leases: [
      {
        address: "192.168.1.104",
        expiresAt: 1795275171000,
        name: "laptop",
        clientId: "01:02:00:00:00:01:64",
        mac: "02:00:00:00:01:64",
      },
      { address: "192.168.1.105", expiresAt: 1795232071000, mac: "02:00:00:00:01:65" },
      { address: "192.168.1.20", expiresAt: 0, name: "printer", mac: "02:00:00:00:01:20" },
      {
        address: "2001:db8:100::64",
        expiresAt: 1795275119000,
        name: "laptop",
        clientId: "00:03:00:01:02:00:00:00:01:64",
      },
    ],
    skipped: 0,
  });
});

const good: readonly (readonly [string, object])[] = [
  ["1 02:00:00:00:01:64 10.0.0.1 * *", { address: "10.0.0.1", expiresAt: 1000, mac: "02:00:00:00:01:64" }],
  [
    "1 06-02:00:00:00:01:64 10.0.0.1 * FF:0a",
    { address: "10.0.0.1", expiresAt: 1000, clientId: "ff:0a", mac: "02:00:00:00:01:64" },
  ],
  [
    "1 02:00:00:00:01:64 10.0.0.1 __proto__ *",
    { address: "10.0.0.1", expiresAt: 1000, name: "__proto__", mac: "02:00:00:00:01:64" },
  ],
  [
    "1 02:00:00:00:01:64 10.0.0.1 $(x)<b>;' *\r",
    { address: "10.0.0.1", expiresAt: 1000, name: "$(x)<b>;'", mac: "02:00:00:00:01:64" },
  ],
  ["1 5 * 2001:db8::1 00:01", { address: "2001:db8::1", expiresAt: 1000, clientId: "00:01" }],
  ["1 T123 2001:DB8::1 * 00:01", { address: "2001:db8::1", expiresAt: 1000, clientId: "00:01" }],
];
for (const [line, lease] of good) {
  test(`parseLeases() reads ${JSON.stringify(line)}`, () => {
    assert.equal(parseLeases(`${line}\n`), { leases: [lease], skipped: 0 });
  });
}

const bad = [
  "x 02:00:00:00:01:64 10.0.0.1 * *",
  "-1 02:00:00:00:01:64 10.0.0.1 * *",
  "1 02:00:00:00:01 10.0.0.1 * *",
  "1 ff:ff:ff:ff:ff:ff 10.0.0.1 * *",
  "1 00:00:00:00:00:00 10.0.0.1 * *",
  "1 02:00:00:00:01:64 10.0.0 * *",
  "1 02:00:00:00:01:64 10.0.0.1 two words here",
  "1 02:00:00:00:01:64 10.0.0.1 two words here now and more",
  "1 02:00:00:00:01:64 10.0.0.1 x zz",
  "1 02:00:00:00:01:64 10.0.0.1 x",
  "1 iaid 2001:db8::1 * 00:01",
  "# comment",
  `1 02:00:00:00:01:64 10.0.0.1 ${"x".repeat(5000)} *`,
];
for (const line of bad) {
  test(`parseLeases() counts and skips ${JSON.stringify(line.slice(0, 60))}`, () => {
    const text = `${line}\n1 02:00:00:00:01:65 10.0.0.2 next *\n`;
    const { leases, skipped } = parseLeases(text);
    assert.is(skipped, 1);
    assert.equal(
      leases.map((lease) => lease.name),
      ["next"],
    );
  });
}

test("parseLeases() takes the last line of an address, in any order, and reads a line cut short as none", () => {
  const text =
    "duid 00:01\n1 5 2001:db8::1 a 00:01\n\n1 02:00:00:00:01:65 10.0.0.2 a *\n1 02:00:00:00:01:66 10.0.0.2 b *\n1 02:00";
  const { leases, skipped } = parseLeases(text);
  assert.equal(
    leases.map(({ address, name }) => `${address} ${name}`),
    ["2001:db8::1 a", "10.0.0.2 b"],
  );
  assert.is(skipped, 1);
});

test("parseLeases() of any text returns, and reads no more than its bound of lines", () => {
  fc.assert(
    fc.property(fc.string({ unit: "binary", maxLength: 300 }), (text) => {
      const { leases, skipped } = parseLeases(text);
      assert.ok(leases.length + skipped <= text.split("\n").length);
    }),
  );
  const line = "1 02:00:00:00:01:65 10.0.0.2 a *\n";
  assert.is(parseLeases("x\n".repeat(100_000)).skipped, 16_384);
  assert.is(parseLeases(line.repeat(100_000)).leases.length, 1);
});

const section = (options: Record<string, string | string[]>, type = "host") => ({
  type,
  options: new Map(Object.entries(options)),
});

test("parseHosts() reads the router's own sections", () => {
  const values: Record<string, Record<string, unknown>> = JSON.parse(fixture("uci.get.dhcp.json")).values;
  const sections = Object.values(values).map((each) => ({
    type: String(each[".type"]),
    options: new Map(Object.entries(each).filter(([key]) => !key.startsWith("."))) as Map<string, string>,
  }));
  assert.equal(parseHosts(sections), {
    hosts: [{ name: "printer", macs: ["02:00:00:00:01:20"], address: "192.168.1.20" }],
    skipped: 0,
  });
});

test("parseHosts() reads several MACs, as a list or with blanks between, in any case", () => {
  const macs = ["02:00:00:00:01:20", "02:00:00:00:01:21"];
  for (const mac of [macs, macs.join(" "), [macs.join("\t").toUpperCase()]]) {
    assert.equal(parseHosts([section({ name: "tv", mac })]).hosts, [{ name: "tv", macs }]);
  }
});

test("parseHosts() counts sections that name nobody", () => {
  const sections = [
    section({ mac: "02:00:00:00:01:20" }),
    section({ name: "x" }),
    section({ name: "x", mac: "*:00:00:*", ip: "ignore" }),
    section({ name: "__proto__", ip: "10.0.0.9" }),
    section({ name: "y", mac: "02:00:00:00:01:20" }, "domain"),
  ];
  assert.equal(parseHosts(sections), {
    hosts: [{ name: "__proto__", macs: [], address: "10.0.0.9" }],
    skipped: 3,
  });
});

test.run();
