/** Lists of nodes of one kind. */

import { test } from "uvu";
import * as assert from "uvu/assert";
import type { Json } from "../../src/lib/json.ts";
import { nodeMethods } from "../../src/nodes/nodes.ts";
import { address, mac, Stage } from "./stage.ts";

interface Row {
  readonly id: number;
  readonly kind: string;
}

const caller = { user: undefined, group: undefined };

test("nodeMethods: list gives the nodes of one kind, or all of this network, page by page too", () => {
  const stage = new Stage().router();
  for (let at = 1; at <= 5; at++)
    assert.ok(stage.neighbour(`10.77.0.${20 + at}`, mac(`02:77:00:00:01:0${at}`)));
  for (let at = 1; at <= 5; at++) {
    const answers = [{ address: address(`198.51.100.${at}`), ttlSeconds: 60 }];
    stage.nodes.nameObserved(`host-${at}.example.net.`, answers, stage.at);
  }
  const methods = nodeMethods(stage.nodes);
  const list = (args: Record<string, Json>) =>
    (methods.list!.call(args, caller) as unknown as { nodes: Row[] }).nodes;
  const all = list({});
  const kinds = new Set(all.map(({ kind }) => kind));
  assert.ok(kinds.has("device") && kinds.has("router") && kinds.has("name"), [...kinds].join());
  for (const kind of kinds)
    assert.equal(
      list({ kind }),
      all.filter((each) => each.kind === kind),
      kind,
    );
  const ours = all.filter(({ kind }) => kind === "device" || kind === "local");
  assert.equal(list({ kind: "ours" }), ours);
  assert.equal(list({ kind: "ours", limit: 2 }), ours.slice(0, 2));
  assert.equal(list({ kind: "ours", after: ours[1]!.id }), ours.slice(2));
  assert.equal(list({ kind: "gateway" }).length, all.filter(({ kind }) => kind === "gateway").length);
});

test("nodeMethods: a kind that there is not is refused, and is not taken for all", () => {
  const methods = nodeMethods(new Stage().router().nodes);
  for (const kind of ["", "devices", "__proto__", "constructor"]) {
    try {
      methods.list!.call({ kind }, caller);
      assert.unreachable(kind);
    } catch (thrown) {
      assert.is((thrown as { code?: string }).code, "invalid", kind);
    }
  }
});

test.run();
