/** Ports as callers write them, and what two permissions are together. */

import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { formatPorts, parsePorts, samePermission, united } from "../../src/isolation/permission.ts";
import { holdsPort } from "../../src/kernel/isolate.ts";
import { Fault } from "../../src/lib/fault.ts";

const rows: [readonly unknown[], readonly string[]][] = [
  [["tcp/443"], ["tcp/443"]],
  [["53"], ["tcp/53", "udp/53"]],
  [[53], ["tcp/53", "udp/53"]],
  [["udp/5-9", "udp/10", "udp/1-4"], ["udp/1-10"]],
  [
    ["tcp/80", "icmp", "tcp/70-90", "icmp"],
    ["icmp", "tcp/70-90"],
  ],
  [["tcp/1-65535"], ["tcp/1-65535"]],
];

test("parsePorts reads and formatPorts writes the same, sorted and without overlaps", () => {
  for (const [texts, wanted] of rows) {
    assert.equal(formatPorts(parsePorts(texts)), wanted);
    assert.equal(formatPorts(parsePorts(wanted)), wanted);
  }
  assert.is(parsePorts(undefined), "all");
  assert.is(parsePorts([]), "all");
});

test("parsePorts refuses what are no ports", () => {
  for (const bad of [
    "",
    "tcp",
    "tcp/",
    "/80",
    "tcp/0",
    "0",
    "65536",
    "tcp/9-1",
    "tcp/1-2-3",
    "TCP/80",
    "sctp/1",
    "tcp/80 ",
    "-1",
    "1e3",
    1.5,
    -1,
    null,
    {},
    [],
    true,
  ]) {
    assert.throws(
      () => parsePorts([bad]),
      (thrown: unknown) => thrown instanceof Fault && thrown.code === "invalid",
      String(bad),
    );
  }
  const many = Array.from({ length: 65 }, (_, at) => `tcp/${2 * at + 1}`);
  assert.throws(
    () => parsePorts(many),
    (thrown: unknown) => thrown instanceof Fault && thrown.code === "limit",
  );
});

const ports = fc.array(
  fc
    .tuple(fc.constantFrom("tcp", "udp"), fc.integer({ min: 1, max: 40 }), fc.nat(10))
    .map(([protocol, first, more]) => `${protocol}/${first}-${first + more}`),
  { minLength: 1, maxLength: 8 },
);

test("united allows exactly what either does, whichever comes first", () => {
  fc.assert(
    fc.property(ports, ports, (one, other) => {
      const [left, right] = [parsePorts(one), parsePorts(other)];
      const both = united(left, right);
      assert.ok(samePermission(both, united(right, left)));
      const allows = (permission: typeof both, protocol: number, port: number) =>
        holdsPort(permission === "all" ? undefined : permission, protocol, port);
      for (const protocol of [6, 17]) {
        for (let port = 1; port <= 55; port++) {
          const wanted = allows(left, protocol, port) || allows(right, protocol, port);
          assert.is(allows(both, protocol, port), wanted, `${protocol} ${port}`);
        }
      }
    }),
  );
  assert.is(united(parsePorts(["tcp/1"]), "all"), "all");
  assert.is(united("all", parsePorts(["tcp/1"])), "all");
  assert.not(samePermission("all", parsePorts(["tcp/1"])));
  assert.not(samePermission(undefined, "all"));
});

test.run();
