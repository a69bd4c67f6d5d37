/** Prefixes found by the addresses in them, and put in order. */

import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import {
  type Address,
  contains,
  decodeAddress,
  type Prefix,
  parseAddress,
  parsePrefix,
  prefixOf,
} from "../../src/lib/address.ts";
import { formatNet, isPrefix, Nets, singlePrefix, soleAddress } from "../../src/lib/nets.ts";

const net = (text: string) => parsePrefix(text)!;
const address = (text: string) => parseAddress(text)!;

test("covering gives every prefix that an address lies in, of its own family", () => {
  const nets = new Nets<string>();
  for (const text of ["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", "0.0.0.0/0", "fd00::/8", "fd00::1"]) {
    nets.set(net(text), text);
  }
  const covering = (text: string) => nets.covering(address(text)).map(([, value]) => value);
  assert.equal(covering("10.1.2.3").sort(), ["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.3"]);
  assert.equal(covering("11.0.0.1"), ["0.0.0.0/0"]);
  assert.equal(covering("fd00::1").sort(), ["fd00::/8", "fd00::1"]);
  assert.equal(covering("fe80::1"), []);
  assert.not.ok(nets.covers(address("::")), "the IPv4 default is not IPv6's");
});

test("entries are in SPIN's order: IPv4 first, each by value, the wider before the longer", () => {
  const order = [
    ...["0.0.0.0/0", "9.255.0.0/16", "10.0.0.0/8", "10.0.0.0/24", "10.0.0.0/32", "10.0.0.2/32"],
    ...["10.0.0.10/32", "::/0", "2001:db8::/32", "2001:db8::/128", "2001:db8::2/128", "fd00::/8"],
  ];
  const nets = new Nets<true>();
  for (const text of [...order].reverse()) nets.set(net(text), true);
  assert.equal(
    nets.entries().map(([prefix]) => prefix),
    order,
  );
});

const texts: readonly [prefix: string, shown: string, sole: string | undefined][] = [
  ["10.0.0.1/32", "10.0.0.1", "10.0.0.1"],
  ["10.0.0.0/24", "10.0.0.0/24", undefined],
  ["10.0.0.0/31", "10.0.0.0/31", undefined],
  ["fd00::1/128", "fd00::1", "fd00::1"],
  ["fd00::/32", "fd00::/32", undefined],
];

for (const [prefix, shown, sole] of texts) {
  test(`formatNet shows ${prefix} as ${shown}`, () => {
    assert.is(formatNet(net(prefix)), shown);
    assert.is(soleAddress(net(prefix)), sole);
    if (sole !== undefined) assert.is(singlePrefix(address(sole)), prefix);
  });
}

for (const text of [
  "10.0.0.1/24",
  "10.0.0.1",
  "10.0.0.0/33",
  "FD00::/8",
  "10.0.0.0/024",
  "",
  7,
  null,
  undefined,
]) {
  test(`isPrefix refuses ${JSON.stringify(text)}`, () => {
    assert.not.ok(isPrefix(text));
  });
}

const anyAddress = fc
  .oneof(
    fc.uint8Array({ minLength: 4, maxLength: 4 }),
    fc.uint8Array({ minLength: 16, maxLength: 16 }),
    // Close to each other, so that they meet.
    fc.nat(7).map((last) => Uint8Array.of(10, 0, 0, last)),
    fc.nat(7).map((last) => Uint8Array.of(0xfd, ...new Array<number>(14).fill(0), last)),
  )
  .map((bytes) => decodeAddress(bytes, 0, bytes.length === 4 ? 4 : 6));
const anyPrefix = fc
  .tuple(anyAddress, fc.integer({ min: 0, max: 128 }))
  .map(([each, length]) => prefixOf(each, Math.min(length, each.includes(":") ? 128 : 32)));

test("look-ups agree with asking every prefix, while prefixes come and go", () => {
  const step = fc.tuple(fc.constantFrom("set", "set", "delete", "ask", "ask"), anyPrefix, anyAddress);
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const nets = new Nets<number>();
      const all = new Map<Prefix, number>();
      const bases = new Set<Address>();
      for (const [index, [kind, prefix, asked]] of steps.entries()) {
        if (kind === "set") {
          nets.set(prefix, index);
          all.set(prefix, index);
        } else if (kind === "delete") {
          const victim = [...all.keys()][index % (all.size || 1)] ?? prefix;
          nets.delete(victim);
          all.delete(victim);
        }
        bases.add(prefix.slice(0, prefix.indexOf("/")) as Address);
        for (const each of [asked, ...bases]) {
          const expected = [...all].filter(([net]) => contains(net, each));
          assert.equal(new Map(nets.covering(each)), new Map(expected));
          assert.is(nets.covers(each), expected.length > 0);
        }
        assert.is(nets.size, all.size);
        assert.equal(new Map(nets.entries()), all);
        for (const [each, value] of all) assert.is(nets.get(each), value);
      }
    }),
  );
});

test("answers that are remembered are few, and right after thousands", () => {
  const nets = new Nets<true>();
  nets.set(net("10.0.0.0/9"), true);
  for (let index = 0; index < 10_000; index++) {
    const asked = address(`10.${index % 256}.${index >> 8}.1`);
    assert.is(nets.covers(asked), index % 256 < 128);
  }
});

test.run();
