/** The method `rpc` of the object `spin`, as a caller of the bus meets it. */

import { test } from "uvu";
import * as assert from "uvu/assert";
import { Flows, spinMethods } from "../../src/flows/flows.ts";
import type { JsonObject } from "../../src/lib/json.ts";
import { Rpc, rpcMethods } from "../../src/spin/spin.ts";
import { decodeFields, encodeFields, type Field, fieldsOf, jsonOf } from "../../src/ubus/blob.ts";
import { Publication } from "../../src/ubus/publication.ts";
import { Model } from "./model.ts";

function make() {
  const door = new Model();
  door.add({ id: 4, mac: "02:77:00:00:00:12", ips: ["10.77.0.12"] });
  door.add({ id: 5, ips: ["10.77.0.13"] });
  const methods = rpcMethods(new Rpc(door, (line) => assert.unreachable(line)));
  const flows = new Flows({ resolve: (id) => id, commit: async () => {} });
  const publication = new Publication("spin", { ...spinMethods(flows), ...methods }, (line) =>
    assert.unreachable(line),
  );
  const call = async (args: JsonObject) => {
    const outcome = await publication.run({ method: "rpc", data: encodeFields(fieldsOf(args)) });
    assert.is(outcome.status, 0);
    return {
      bytes: outcome.data!.length,
      answer: JSON.parse(JSON.stringify(jsonOf(decodeFields(outcome.data!)))),
    };
  };
  return { door, methods, publication, call };
}

test("the signature is empty, and SPIN's other three are as they were", () => {
  const { publication } = make();
  const types = { 3: "String", 5: "Integer" } as Record<number, string>;
  const signature = decodeFields(publication.signature).map(({ name, value }) => {
    const args = (value as readonly Field[]).map((each) => [each.name, types[each.value as number]]);
    return `"${name}":${JSON.stringify(Object.fromEntries(args))}`;
  });
  assert.equal(signature, [
    '"spindlist":{"list":"Integer","addrem":"Integer","node":"Integer"}',
    '"blockflow":{"node1":"Integer","node2":"Integer","block":"Integer"}',
    '"get_blockflow":{}',
    '"rpc":{}',
  ]);
});

test("any arguments reach it, and the answer is a result or an error alone", async () => {
  const { call } = make();
  const list = { method: "list_iplist", params: { list: "block" } };
  assert.equal((await call(list)).answer, { result: [] });
  const session = { ubus_rpc_session: "0123456789abcdef0123456789abcdef", id: 5, jsonrpc: "2.0" };
  assert.equal((await call({ ...session, ...list })).answer, { result: [] });
  assert.equal((await call({ method: "list_iplist", params: { list: 5 } })).answer, {
    error: { code: -1, message: "Wrong type of argument" },
  });
  assert.equal((await call({ ...list, jsonrpc: "1.0" })).answer, {
    error: { code: 1, message: "Wrong JSON-RPC version, expected 2.0" },
  });
  assert.equal((await call({ method: "list_iplist", params: [] })).answer, {
    error: { code: 3, message: "'params' object must be a dict" },
  });
  assert.equal((await call({})).answer, { error: { code: 2, message: "'method' object must be a string" } });
  const block = { method: "set_flow_block", params: { node1: 4, node2: 5n, block: 1 } };
  assert.equal((await call(block)).answer, {});
  assert.equal((await call({ method: "get_flow_block" })).answer, { result: [{ node1: 4, node2: 5 }] });
  assert.is((await call({ method: "list_rpc_methods", params: {} })).answer.result.length, 16);
  const node = { method: "get_device_data", params: Object.assign(Object.create(null), { node: 4.5 }) };
  assert.is((await call(node)).answer.result.id, 4);
});

test("an answer that fits into a message is whole, one that does not is an error", async () => {
  const { door, call } = make();
  const ask = { method: "list_device_flows", params: { device: "02:77:00:00:00:12" } };
  const tooLarge = { error: { code: -1, message: "Result is too large for a message of the bus" } };
  let largest = 0;
  for (const count of [1_000, 3_000, 6_000, 9_000, 20_000]) {
    const flow = { dstPort: 65_535, icmpType: 255, packets: 2 ** 40, bytes: 2 ** 52, lastSeen: 2 ** 31 };
    door.flows.set(
      4,
      Array.from({ length: count }, (_, to) => ({ ...flow, to })),
    );
    const { bytes, answer } = await call(ask);
    assert.ok(bytes < 1_048_576 - 64, `${bytes}`);
    if (answer.error === undefined) {
      assert.is(answer.result.length, count);
      largest = count;
    } else assert.equal(answer, tooLarge);
  }
  assert.ok(largest >= 3_000 && largest < 20_000, `${largest}`);
  door.flows.clear();
  door.add({
    id: 6,
    mac: "02:77:00:00:00:13",
    domains: Array.from({ length: 9 }, () => "é".repeat(200_000)),
  });
  assert.equal((await call({ method: "list_devices" })).answer, tooLarge);
});

test.run();
