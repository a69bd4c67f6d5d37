/** Addresses: canonical text against Node's own idea of it. */

import { isIP } from "node:net";
import * as fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import {
  type Address,
  broadcastOf,
  compareAddresses,
  contains,
  decodeAddress,
  decodeMac,
  encodeAddress,
  familyOf,
  isDeviceMac,
  type Mac,
  type Prefix,
  parseAddress,
  parseMac,
  parsePrefix,
  prefixOf,
  readAddress,
  type Scope,
  scopeOf,
} from "../../src/lib/address.ts";

/** How a browser writes an IPv6 host: RFC 5952. */
const canonical6 = (text: string) => new URL(`http://[${text}]/`).hostname.slice(1, -1);

const group = fc.oneof(fc.constant(0), fc.nat(0xffff));
const groups = fc.array(group, { minLength: 8, maxLength: 8 });
const hex = (each: number) => each.toString(16);
/** The same address with one run of zeros shortened, wherever and however long it is, in any case. */
const spelled = fc.tuple(groups, fc.nat(7), fc.nat(8), fc.boolean()).map(([all, from, length, upper]) => {
  const end = Math.min(8, from + length);
  const zeros = all.slice(from, end).every((each) => each === 0) && end - from > 0;
  const text = zeros
    ? `${all.slice(0, from).map(hex).join(":")}::${all.slice(end).map(hex).join(":")}`
    : all.map((each) => hex(each).padStart(4, "0")).join(":");
  return upper ? text.toUpperCase() : text;
});

test("parseAddress() writes IPv6 as URLs do, from every spelling", () => {
  fc.assert(
    fc.property(spelled, (text) => {
      assert.is(isIP(text), 6, text);
      assert.is(parseAddress(text), canonical6(text));
    }),
    { numRuns: 2000 },
  );
});

test("parseAddress() accepts what net.isIP accepts, zones aside", () => {
  const piece = fc.constantFrom(
    "0",
    "1",
    "a",
    "ff",
    "00",
    "012",
    "ffff",
    "10000",
    "256",
    "255",
    ":",
    "::",
    ".",
    "/",
    " ",
    "%",
    "g",
  );
  const text = fc.oneof(
    fc.array(piece, { maxLength: 18 }).map((pieces) => pieces.join("")),
    fc.array(fc.nat(300), { minLength: 3, maxLength: 5 }).map((octets) => octets.join(".")),
    fc.tuple(spelled, fc.ipV4()).map(([six, four]) => `${six.slice(0, six.lastIndexOf(":"))}:${four}`),
    fc.ipV4(),
    fc.ipV6(),
  );
  fc.assert(
    fc.property(text, (each) => {
      const family = each.includes("%") ? 0 : isIP(each);
      const parsed = parseAddress(each);
      assert.is(parsed === undefined ? 0 : familyOf(parsed), family, each);
      if (family === 6) assert.is(parsed, canonical6(each));
      if (family === 4) assert.is(parsed, each);
    }),
    { numRuns: 5000 },
  );
});

for (const text of [
  "",
  "1",
  "1.2.3",
  "01.2.3.4",
  "1.2.3.4 ",
  "0x1.2.3.4",
  "1.2.3.256",
  "[::1]",
  "fe80::1%eth0",
  "::1/128",
  "1::2::3",
  ":::",
  "1:2:3:4:5:6:7",
  "1:2:3:4:5:6:7:8:9",
  "1:2:3:4:5:6:7::8:9",
  "::1.2.3",
  "1.2.3.4::",
  "12345::",
  "::g",
  "1:2:3:4:5:6:7:1.2.3.4",
  "０.0.0.0",
  "1.2.3.4\n",
  "::\n",
  "__proto__",
  ":".repeat(100),
  "1".repeat(1e6),
]) {
  test(`parseAddress() refuses ${JSON.stringify(text.slice(0, 24))}`, () => {
    assert.is(parseAddress(text), undefined);
  });
}

test("parseAddress() reads IPv6 with an IPv4 tail and writes it without", () => {
  assert.is(parseAddress("::ffff:192.0.2.1"), "::ffff:c000:201");
  assert.is(parseAddress("64:ff9b::192.0.2.33"), "64:ff9b::c000:221");
  assert.is(parseAddress("1:2:3:4:5:6:1.2.3.4"), "1:2:3:4:5:6:102:304");
});

test("decodeAddress(encodeAddress(a)) is a, and bytes are in network order", () => {
  fc.assert(
    fc.property(fc.oneof(fc.ipV4(), spelled), (text) => {
      const address = parseAddress(text)!;
      const bytes = encodeAddress(address);
      assert.is(bytes.length, familyOf(address) === 4 ? 4 : 16);
      assert.is(decodeAddress(Uint8Array.from([9, ...bytes]), 1, familyOf(address)), address);
    }),
  );
  assert.equal([...encodeAddress("1.2.3.4" as Address)], [1, 2, 3, 4]);
  assert.equal([...encodeAddress("1:2::ff" as Address)], [0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255]);
});

test("decodeAddress() and decodeMac() refuse bytes that are not all there", () => {
  const range = (thrown: unknown) => thrown instanceof RangeError;
  assert.throws(() => decodeAddress(new Uint8Array(15), 0, 6), range);
  assert.throws(() => decodeAddress(new Uint8Array(16), 1, 6), range);
  assert.throws(() => decodeAddress(new Uint8Array(4), 1, 4), range);
  assert.throws(() => decodeAddress(new Uint8Array(4), -1, 4), range);
  assert.throws(() => decodeMac(new Uint8Array(5)), range);
  assert.throws(() => decodeMac(new Uint8Array(6), -1), range);
});

const macs: readonly (readonly [string, string | undefined])[] = [
  ["02:77:00:00:00:0A", "02:77:00:00:00:0a"],
  ["AA-bb-CC-dd-EE-ff", "aa:bb:cc:dd:ee:ff"],
  ["aa-bb:cc-dd:ee-ff", undefined],
  ["aabbccddeeff", undefined],
  ["a:b:c:d:e:f", undefined],
  ["aa:bb:cc:dd:ee", undefined],
  ["aa:bb:cc:dd:ee:ff:00", undefined],
  ["aa:bb:cc:dd:ee:fg", undefined],
  ["aa:bb:cc:dd:ee:ff\n", undefined],
  ["", undefined],
];
for (const [text, mac] of macs) {
  test(`parseMac(${JSON.stringify(text)})`, () => assert.is(parseMac(text), mac));
}

test("decodeMac() writes six bytes", () => {
  assert.is(decodeMac(Uint8Array.of(0, 2, 0x77, 0, 0, 0, 0x0a), 1), "02:77:00:00:00:0a");
});

test("isDeviceMac() knows group and zero addresses", () => {
  assert.ok(isDeviceMac("02:77:00:00:00:0a" as Mac));
  assert.not.ok(isDeviceMac("00:00:00:00:00:00" as Mac));
  assert.not.ok(isDeviceMac("ff:ff:ff:ff:ff:ff" as Mac));
  assert.not.ok(isDeviceMac("01:00:5e:00:00:01" as Mac));
  assert.not.ok(isDeviceMac("33:33:00:00:00:01" as Mac));
});

const scopes: Readonly<Record<Scope, readonly string[]>> = {
  unspecified: ["0.0.0.0", "0.1.2.3", "::", "::ffff:10.0.0.1"],
  loopback: ["127.0.0.1", "127.255.0.1", "::1"],
  multicast: ["224.0.0.1", "239.255.255.250", "ff02::1", "ff0e::1"],
  broadcast: ["255.255.255.255"],
  link: ["169.254.1.1", "fe80::1", "febf::1"],
  private: ["10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "fc00::1", "fd77::11"],
  global: [
    "1.1.1.1",
    "172.15.0.1",
    "172.32.0.1",
    "192.169.0.1",
    "223.255.255.255",
    "2001:db8::1",
    "fec0::1",
    "f::1",
    "ff::1",
    "fe8::1",
    "fd::1",
    "::2",
    "169.253.0.1",
    "100.64.0.1",
    "255.255.255.254",
  ],
};
for (const [scope, texts] of Object.entries(scopes)) {
  test(`scopeOf() finds ${scope}`, () => {
    for (const text of texts) assert.is(scopeOf(parseAddress(text)!), scope, text);
  });
}

const prefixes: readonly (readonly [string, string | undefined])[] = [
  ["203.0.113.7/24", "203.0.113.0/24"],
  ["203.0.113.7", "203.0.113.7/32"],
  ["10.1.2.3/0", "0.0.0.0/0"],
  ["10.255.255.255/9", "10.128.0.0/9"],
  ["2001:DB8::1/64", "2001:db8::/64"],
  ["ffff::/1", "8000::/1"],
  ["::1", "::1/128"],
  ["fd77::11/127", "fd77::10/127"],
  ["10.0.0.0/33", undefined],
  ["::/129", undefined],
  ["10.0.0.0/08", undefined],
  ["10.0.0.0/", undefined],
  ["10.0.0.0/-1", undefined],
  ["10.0.0.0/8/8", undefined],
  ["/8", undefined],
];
for (const [text, prefix] of prefixes) {
  test(`parsePrefix("${text}")`, () => assert.is(parsePrefix(text), prefix));
}

test("contains() is true for what shares the leading bits", () => {
  const bits = (address: Address) =>
    [...encodeAddress(address)].map((byte) => byte.toString(2).padStart(8, "0")).join("");
  const some = fc.oneof(fc.ipV4(), spelled).map((text) => parseAddress(text)!);
  fc.assert(
    fc.property(some, some, fc.nat(128), fc.nat(15), (left, near, size, flip) => {
      const length = Math.min(size, familyOf(left) === 4 ? 32 : 128);
      const prefix = prefixOf(left, length);
      assert.is(parsePrefix(prefix), prefix, "a prefix is canonical");
      assert.ok(contains(prefix, left));
      const bytes = encodeAddress(left);
      bytes[flip % bytes.length]! ^= 1;
      for (const other of [near, decodeAddress(bytes, 0, familyOf(left))]) {
        const same =
          familyOf(other) === familyOf(left) && bits(other).slice(0, length) === bits(left).slice(0, length);
        assert.is(contains(prefix, other), same, `${prefix} ${other}`);
      }
    }),
  );
  assert.not.ok(contains("::/0" as Prefix, "1.2.3.4" as Address));
});

test("compareAddresses() orders IPv4 before IPv6, each by value", () => {
  const ordered = [
    "2.0.0.10",
    "10.0.0.2",
    "10.0.0.10",
    "192.0.2.1",
    "::1",
    "2::",
    "10::",
    "fe80::1",
    "fe80::1:0",
  ] as Address[];
  assert.equal([...ordered].reverse().sort(compareAddresses), ordered);
  assert.is(compareAddresses("::1" as Address, "::1" as Address), 0);
});

test("readAddress: out of the midst of bytes the same as parseAddress", () => {
  const check = (text: string) => {
    const into = new Uint8Array(16).fill(9);
    const bytes = new TextEncoder().encode(`1${text}1`);
    const family = readAddress(bytes, { from: 1, to: bytes.length - 1 }, into);
    const address = parseAddress(text);
    assert.is(family, address && familyOf(address), text);
    if (address === undefined) return;
    const expected = new Uint8Array(16);
    expected.set(encodeAddress(address));
    assert.equal(into, expected);
  };
  for (const text of [
    "",
    "1.2.3",
    "1.2.3.4.5",
    "01.2.3.4",
    "0.0.0.0",
    "256.1.1.1",
    "1..2.3",
    "1.2.3.",
    "::",
    "::1%a",
  ]) {
    check(text);
  }
  fc.assert(fc.property(fc.ipV4(), check));
  fc.assert(fc.property(fc.ipV6(), check));
  fc.assert(fc.property(fc.string({ unit: fc.constantFrom(..."0125.:af"), maxLength: 20 }), check), {
    numRuns: 2_000,
  });
});

test("broadcastOf: the last address of a prefix, where it has one", () => {
  for (const [text, length, expected] of [
    ["10.1.2.3", 24, "10.1.2.255"],
    ["10.1.2.3", 8, "10.255.255.255"],
    ["192.168.5.130", 25, "192.168.5.255"],
    ["192.168.5.1", 30, "192.168.5.3"],
    ["223.255.255.1", 20, "223.255.255.255"],
    ["10.1.2.3", 31, undefined],
    ["10.1.2.3", 32, undefined],
    ["fd00::1", 64, undefined],
  ] as const)
    assert.is(broadcastOf(parseAddress(text)!, length), expected, `${text}/${length}`);
});

test.run();
