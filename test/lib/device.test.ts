/** Names of devices: those that the kernel, rules and /proc/sys take for one and no other. */

import { test } from "uvu";
import * as assert from "uvu/assert";
import { device } from "../../src/config/option.ts";
import { isDeviceName } from "../../src/lib/device.ts";

const rows: [string, boolean][] = [
  ["br-lan", true],
  ["eth0.7", true],
  ["wlan0-1", true],
  ["veth0@if3", true],
  ["x".repeat(15), true],
  ["...", true],
  [".a", true],
  ["x".repeat(16), false],
  ["", false],
  [".", false],
  ["..", false],
  ["a/b", false],
  ["br*", false],
  ["br+", false],
  ["a b", false],
  ['a"', false],
  ["a\n", false],
  ["$(x)", false],
  ["ü", false],
];

test("isDeviceName: and what the configuration takes for one is the same", () => {
  const option = device("", "A device.");
  for (const [name, expected] of rows) {
    assert.is(isDeviceName(name), expected, JSON.stringify(name));
    assert.is(option.parse(name), expected ? name : undefined, JSON.stringify(name));
  }
});

test.run();
