/** Defaults, values, warnings; and the shipped file, which says what the tables say. */

import { readFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { loadConfig, renderDefaults, sectionKinds } from "../../src/config/config.ts";
import { parseUci } from "../../src/config/uci.ts";

const defaults = loadConfig("").config;

test("loadConfig without a file has every default", () => {
  assert.equal(loadConfig("").warnings, []);
  assert.equal(defaults.main.lanDevice, ["br-lan"]);
  assert.is(defaults.main.stateDir, "/etc/gatehouse");
  assert.is(defaults.main.backend, "auto");
  assert.is(defaults.mqtt.enabled, true);
  assert.is(defaults.mqtt.port, 1883);
  assert.is(defaults.mqtt.prefix, "SPIN");
  assert.is(defaults.tables.first, 10_000);
  assert.equal(defaults.tables.family, ["inet", "inet6"]);
  assert.is(defaults.ipref.encodeNet, "10.240.0.0/12");
  assert.equal(defaults.ipref.peer, []);
  assert.is(defaults.isolation.pool6, "fd00:6a7e::/64");
  assert.equal(defaults.services, []);
});

test("the shipped file is what the tables render, and reads as the defaults without a warning", () => {
  const file = readFileSync(join(process.cwd(), "files/etc/config/gatehouse"), "utf8");
  assert.is(file, renderDefaults());
  const { config, warnings } = loadConfig(file);
  assert.equal(warnings, []);
  assert.equal(config, defaults);
});

test("the shipped file has a comment before each option, with its unit and range", () => {
  const lines = renderDefaults().split("\n");
  for (const [, kind] of sectionKinds) {
    for (const name of Object.keys(kind.options)) {
      const at = lines.findIndex((line) => new RegExp(`^\\t#?(?:option|list) ${name} '`).test(line));
      assert.ok(at > 0, name);
      assert.match(lines[at - 1]!, /^\t# /);
    }
  }
  const text = renderDefaults();
  assert.match(text, /# .*seconds from 5 to 3600\.\n\toption keepalive '60'/);
  assert.match(text, /# .*bytes from 16384 to 16777216\.\n\toption max_queue '262144'/);
});

test("every default is a value that its option takes", () => {
  for (const [, kind] of sectionKinds) {
    for (const [name, option] of Object.entries(kind.options)) {
      const values = option.list ? (option.default as readonly unknown[]) : [option.default];
      for (const value of values) {
        // Options of things have no default that could stand; the section's check asks for them.
        if (kind.many || value === undefined) continue;
        const text = typeof value === "boolean" ? (value ? "1" : "0") : String(value);
        assert.equal(option.parse(text), value, name);
      }
    }
  }
});

const accepted: readonly [
  line: string,
  section: "main" | "mqtt" | "tables" | "ipref" | "isolation",
  name: string,
  value: unknown,
][] = [
  ["config gatehouse\noption backend ipset", "main", "backend", "ipset"],
  ["config gatehouse\nlist lan_device lan1\nlist lan_device br-x", "main", "lanDevice", ["lan1", "br-x"]],
  ["config gatehouse\noption lan_device eth0.2", "main", "lanDevice", ["eth0.2"]],
  ["config gatehouse\noption rpc_socket ''", "main", "rpcSocket", ""],
  ["config gatehouse\noption rpc_socket none", "main", "rpcSocket", ""],
  ["config gatehouse\noption lease_file none", "main", "leaseFile", ""],
  ["config gatehouse\noption rpc_socket /run/none", "main", "rpcSocket", "/run/none"],
  ["config gatehouse\noption state_dir ''", "main", "stateDir", "/etc/gatehouse"],
  ["config gatehouse\noption dns_group 65535", "main", "dnsGroup", 65_535],
  ["config mqtt\noption enabled off", "mqtt", "enabled", false],
  ["config mqtt\noption enabled true", "mqtt", "enabled", true],
  ["config mqtt\noption host broker.example.net", "mqtt", "host", "broker.example.net"],
  ["config mqtt\noption host '2001:db8::1'", "mqtt", "host", "2001:db8::1"],
  ["config mqtt\noption host ''", "mqtt", "host", "127.0.0.1"],
  ["config mqtt\noption prefix home/SPIN", "mqtt", "prefix", "home/SPIN"],
  ["config mqtt\noption keepalive 5", "mqtt", "keepalive", 5],
  ["config mqtt\noption password_file /etc/secret", "mqtt", "passwordFile", "/etc/secret"],
  ["config tables\noption socket none", "tables", "socket", ""],
  ["config tables\noption socket ''", "tables", "socket", ""],
  ["config tables\nlist family unspec", "tables", "family", ["unspec"]],
  ["config ipref\nlist peer ''\nlist peer 192.0.2.1", "ipref", "peer", ["192.0.2.1"]],
  ["config ipref\noption gateway_bind '2001:DB8::1'", "ipref", "gatewayBind", "2001:db8::1"],
  ["config ipref\noption encode_net 10.1.2.3/8", "ipref", "encodeNet", "10.0.0.0/8"],
  ["config ipref\noption encode_net fd00::1/64", "ipref", "encodeNet", "fd00::/64"],
  ["config isolation\noption pool6 fd01::/64", "isolation", "pool6", "fd01::/64"],
  ["config isolation\noption http none", "isolation", "http", ""],
  ["config isolation\noption http '[::1]:8080'", "isolation", "http", "[::1]:8080"],
];

for (const [text, section, name, value] of accepted) {
  test(`loadConfig takes ${JSON.stringify(text)}`, () => {
    const { config, warnings } = loadConfig(text);
    assert.equal(warnings, []);
    assert.equal((config[section] as unknown as Record<string, unknown>)[name], value);
  });
}

test("whatever can be empty can be said to be, by a word that libuci does not drop", () => {
  for (const [type, kind] of sectionKinds) {
    for (const [name, option] of Object.entries(kind.options)) {
      if (option.list || kind.many || option.parse("") !== "" || option.default === "") continue;
      assert.ok(option.none, `${type} ${name}`);
      assert.match(option.expects, /, or none$/);
      assert.is(option.parse("none"), "", `${type} ${name}`);
    }
  }
  // An empty value reads as the word does: in the shipped file it is the word.
  assert.match(renderDefaults(), /\n\toption extsrc_socket 'none'\n/);
});

const refused: readonly [text: string, warning: RegExp][] = [
  ["config gatehouse\noption backend pf", /line 1: section gatehouse, backend: "pf" is not auto, nft, ipset/],
  ["config gatehouse 'main'\nlist lan_device 'a b'", /section gatehouse 'main', lan_device: "a b" is not an/],
  ["config gatehouse\noption state_dir relative", /"relative" is not an absolute path/],
  ["config gatehouse\noption state_dir none", /"none" is not an absolute path$/],
  ["config gatehouse\noption rpc_socket spin.sock", /"spin.sock" is not an absolute path, or none/],
  ["config gatehouse\noption dns_group 0", /"0" is not a whole number from 1 to 65535/],
  ["config gatehouse\noption max_nodes 1e4", /"1e4" is not a whole number/],
  ["config gatehouse\noption max_nodes 99999999999999999999", /is not a whole number/],
  ["config mqtt\noption port 65536", /"65536" is not a whole number from 1 to 65535/],
  ["config mqtt\noption host 'a b'", /"a b" is not a host name/],
  ["config mqtt\noption prefix 'SPIN/#'", /"SPIN\/#" is not topic levels/],
  ["config mqtt\noption prefix '/SPIN'", /is not topic levels/],
  ["config mqtt\noption user 'a\nb'", /"a\\nb" is not text/],
  ["config mqtt\noption enabled maybe", /"maybe" is not 0 or 1/],
  ["config isolation\noption pool4 fd00::/8", /"fd00::\/8" is not an IPv4 prefix/],
  ["config isolation\noption pool6 10.0.0.0/8", /is not an IPv6 prefix/],
  ["config mqtt\noption __proto__ 1", /__proto__: no such option/],
  ["config mqtt\noption constructor 1", /constructor: no such option/],
  ["config __proto__\noption a 1", /section __proto__: no such section type/],
  ["config mqtt\noption port 1\nconfig mqtt two\noption port 2", /line 3: a second mqtt section, left out/],
  ["config mqtt\noption port '1", /line 2: a quote is opened and never closed/],
];

for (const [text, warning] of refused) {
  test(`loadConfig warns of ${JSON.stringify(text)} and uses the default`, () => {
    const { config, warnings } = loadConfig(text);
    assert.is(warnings.length, 1);
    assert.match(warnings[0]!, warning);
    assert.equal({ ...config, mqtt: undefined }, { ...defaults, mqtt: undefined });
    assert.ok(config.mqtt.port === defaults.mqtt.port || config.mqtt.port === 1);
  });
}

test("loadConfig reads segments and services, and leaves out the wrong ones as a whole", () => {
  const { config, warnings } = loadConfig(`
config service 'web'
	option segment 'apps'
	option address '10.1.0.2'
	list peer 'db'
config service 'db'
	option segment 'apps'
	option mac '02-00-00-00-00-01'
config service 'lost'
	option segment 'nowhere'
	option address '10.1.0.3'
config service 'bare'
	option segment 'apps'
config service 'odd'
	option segment 'apps'
	option address '10.1.0.300'
	option hostname 'odd'
config service
	option segment 'apps'
	option address '10.1.0.4'
config segment 'apps'
	option device 'br-apps'
config segment 'none'
config segment 'again'
	list device 'br-more'
	list device 'br-apps'
`);
  assert.equal(config.segments, [
    {
      ...{ name: "apps", device: ["br-apps"], network: [], isolate: false, encryptedDns: false },
      ...{ mdns: true, resolver: [] },
    },
  ]);
  assert.equal(
    config.services.map((each) => ({ ...each })),
    [
      {
        ...{ name: "web", segment: "apps", address: ["10.1.0.2"], mac: undefined, hostname: "" },
        ...{ alias: [], peer: ["db"] },
      },
      {
        ...{ name: "db", segment: "apps", address: [], mac: "02:00:00:00:00:01", hostname: "" },
        ...{ alias: [], peer: [] },
      },
    ],
  );
  assert.is(warnings.length, 6);
  for (const reason of [
    /'again' is left out: br-apps is in another segment/,
    /'none' is left out: it has no device/,
    /'lost' is left out: there is no segment "nowhere"/,
    /'bare' is left out: it has no address, mac or hostname/,
    /'odd' is left out: .*"10\.1\.0\.300" is not an address/,
    /service is left out: it has no name/,
  ]) {
    assert.ok(
      warnings.some((each) => reason.test(each)),
      String(reason),
    );
  }
});

test("loadConfig takes a segment of networks alone, by names that netifd may have", () => {
  const { config, warnings } = loadConfig(`
config segment 'guests'
	list network 'guest'
	list network 'guest.6'
config segment 'odd'
	list network 'a b'
`);
  assert.equal(
    config.segments.map(({ name, device, network }) => ({ name, device, network })),
    [{ name: "guests", device: [], network: ["guest", "guest.6"] }],
  );
  assert.is(warnings.length, 1);
  assert.match(warnings[0]!, /'odd' is left out: .*"a b" is not the name of a network/);
});

test("loadConfig reads pins, with or without a MAC, and leaves out those of nobody", () => {
  const { config, warnings } = loadConfig(`
config pin 'gateway'
	option device 'wan'
	option address '192.0.2.1'
	option mac '02:00:00:00:00:01'
config pin 'nas'
	option device 'br-lan'
	option address '2001:DB8::1'
config pin 'lost'
	option device 'br-lan'
`);
  assert.equal(config.pins, [
    { device: "wan", address: "192.0.2.1", mac: "02:00:00:00:00:01" },
    { device: "br-lan", address: "2001:db8::1" },
  ]);
  assert.is(warnings.length, 1);
  assert.match(warnings[0]!, "it has no device or no address");
});

test("loadConfig never throws and always fills every field", () => {
  const word = fc.oneof(
    fc.constantFrom(...sectionKinds.keys(), "port", "host", "family", "__proto__"),
    fc.string(),
  );
  const line = fc
    .tuple(fc.constantFrom("config", "option", "list"), word, word)
    .map((parts) => parts.join(" "));
  fc.assert(
    fc.property(fc.array(line), (lines) => {
      const { config } = loadConfig(lines.join("\n"));
      assert.equal(Object.keys(config.mqtt), Object.keys(defaults.mqtt));
      assert.is(typeof config.mqtt.port, "number");
    }),
  );
  const shipped = renderDefaults();
  for (let length = 0; length < shipped.length; length += 7) loadConfig(shipped.slice(0, length));
  assert.ok(parseUci(shipped).sections.length === 5);
});

test.run();
