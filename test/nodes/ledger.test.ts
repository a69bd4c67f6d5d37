/** What clients leave is bounded, and no client pushes out another. */

import * as fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { Ledger } from "../../src/nodes/ledger.ts";

test("Ledger keeps by client and key, and take() takes", () => {
  const ledger = new Ledger<string>({ perClient: 10, total: 100 });
  ledger.set(1, "__proto__", "a");
  ledger.set(2, "__proto__", "b");
  assert.is(ledger.get(1, "__proto__"), "a");
  assert.is(ledger.take(1, "__proto__"), "a");
  assert.is(ledger.take(1, "__proto__"), undefined);
  assert.is(ledger.get(2, "__proto__"), "b");
  assert.is(ledger.get(2, "constructor"), undefined);
  assert.is(ledger.size, 1);
});

test("Ledger: a client past its limit loses its oldest; an entry set again is young", () => {
  const ledger = new Ledger<number>({ perClient: 3, total: 100 });
  for (const key of ["a", "b", "c", "a", "d"]) ledger.set(1, key, 0);
  assert.equal(
    ["a", "b", "c", "d"].map((key) => ledger.get(1, key)),
    [0, undefined, 0, 0],
  );
  assert.is(ledger.dropped, 1);
});

test("Ledger: when all are too many, the client that holds most gives", () => {
  const ledger = new Ledger<number>({ perClient: 100, total: 50 });
  for (let key = 0; key < 5; key++) ledger.set(1, `${key}`, key);
  for (let key = 0; key < 100_000; key++) ledger.set(2, `${key}`, key);
  for (let key = 0; key < 5; key++) assert.is(ledger.get(1, `${key}`), key);
  assert.ok(ledger.size <= 50);
  assert.is(ledger.get(2, "99999"), 99_999);
});

test("Ledger: 20,000 clients stay within the total", () => {
  const ledger = new Ledger<number>({ perClient: 100, total: 100 });
  for (let client = 0; client < 20_000; client++) ledger.set(client, "k", client);
  assert.ok(ledger.size <= 100);
});

test("Ledger agrees with a plain model under random use", () => {
  const step = fc.record({
    verb: fc.constantFrom("set", "take", "drop", "move", "prune"),
    client: fc.nat(3),
    other: fc.nat(3),
    key: fc.constantFrom("a", "b", "c"),
    value: fc.nat(9),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const ledger = new Ledger<number>({ perClient: 1000, total: 1000 });
      const model = new Map<string, number>();
      const of = (client: number) => [...model].filter(([key]) => key.startsWith(`${client} `));
      for (const { verb, client, other, key, value } of steps) {
        if (verb === "set") {
          ledger.set(client, key, value);
          model.set(`${client} ${key}`, value);
        } else if (verb === "take") {
          assert.is(ledger.take(client, key), model.get(`${client} ${key}`));
          model.delete(`${client} ${key}`);
        } else if (verb === "drop") {
          ledger.drop(client);
          for (const [each] of of(client)) model.delete(each);
        } else if (verb === "move" && client !== other) {
          ledger.move(client, other);
          for (const [each, held] of of(client)) {
            model.delete(each);
            model.set(`${other} ${each.slice(2)}`, held);
          }
        } else if (verb === "prune") {
          ledger.prune((each) => each < value);
          for (const [each, held] of model) if (held < value) model.delete(each);
        }
        assert.is(ledger.size, model.size);
        for (const [each, held] of model) assert.is(ledger.get(Number(each[0]), each.slice(2)), held);
      }
    }),
  );
});

test.run();
