/** One request, at most one answer: the envelope, the methods' own rules, and what hostile text does. */

import * as fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { Fault } from "../../src/lib/fault.ts";
import { Rpc } from "../../src/spin/spin.ts";
import { Model, net } from "./model.ts";

function make() {
  const door = new Model();
  door.add({ id: 4, name: "camera", mac: "02:77:00:00:00:12", ips: ["10.77.0.12", "fd77::12"] });
  door.add({ id: 9, mac: "02:77:00:00:00:11", ips: ["10.77.0.11"] });
  door.add({ id: 10, ips: ["198.51.100.10"] });
  const defects: string[] = [];
  const rpc = new Rpc(door, (line) => defects.push(line));
  const ask = async (text: string) => (await rpc.open(text).run()) ?? "";
  const call = async (method: string, params: object = {}) =>
    JSON.parse(await ask(JSON.stringify({ jsonrpc: "2.0", id: 1, method, params })));
  return { door, rpc, defects, ask, call };
}

const done = { jsonrpc: "2.0", id: 1 };
const refusal = (message: string, code = -1) => ({ ...done, error: { code, message } });

test("an id goes back as it came, digit for digit", async () => {
  const { ask } = make();
  const rows = [
    "0",
    "-7",
    "1.5",
    '""',
    '"\\u0000\\"id\\":5,"',
    "null",
    "true",
    "9007199254740993",
    "-18446744073709551615",
  ];
  for (const id of [...rows, '{"a":[1]}', "[]"]) {
    const expected = `{"jsonrpc":"2.0","id":${id},"result":[]}`;
    assert.is(await ask(`{"jsonrpc":"2.0","id":${id},"method":"get_flow_block"}`), expected);
    assert.is(await ask(`{"method":"get_flow_block", "id" : ${id} ,"jsonrpc":"2.0"}`), expected);
  }
});

test("text that is no request is answered without an id, a notification not at all", async () => {
  const { ask, door } = make();
  const wrong = '{"jsonrpc":"2.0","error":{"code":1,"message":"Wrong JSON-RPC version, expected 2.0"}}';
  for (const text of ["", "{", "5", '"x"', "null", "true", "[]", "[1]", "{}", '{"method":"list_devices"}']) {
    assert.is(await ask(text), wrong, text);
  }
  assert.is(
    await ask('{"jsonrpc":"2.0","method":"set_flow_block","params":{"node1":4,"node2":9,"block":1}}'),
    "",
  );
  assert.equal(door.pairs(), [[4, 9]]);
  assert.is(await ask('{"jsonrpc":"2.0","method":"list_devices"}'), "");
  assert.is(
    await ask('{"jsonrpc":"2.0","method":7}'),
    `{"jsonrpc":"2.0","error":{"code":2,"message":"'method' object must be a string"}}`,
  );
  assert.match(await ask('{"jsonrpc":"2.0","id":1,"method":"get_flow_block","params":null}'), '"code":3');
});

test("names of JavaScript's own are names like any other", async () => {
  const { ask, call } = make();
  for (const name of ["__proto__", "constructor", "toString", "hasOwnProperty"]) {
    assert.equal(await call(name), refusal("No such function registered"));
    assert.match(
      await ask(`{"jsonrpc":"2.0","id":1,"method":"get_device_data","params":{"${name}":4}}`),
      "No such argument",
    );
    assert.match(await ask(`{"${name}":{"jsonrpc":"2.0","method":"list_devices"},"id":1}`), '"code":1');
    assert.match(
      await ask(`{"jsonrpc":"2.0","id":1,"method":"list_iplist","params":{"list":"${name}"}}`),
      "Unknown ip list",
    );
  }
  assert.is(({} as Record<string, unknown>).polluted, undefined);
});

test("what is too long, too deep or too much is refused", async () => {
  const { ask, call } = make();
  assert.match(await ask(`{"jsonrpc":"2.0","id":1,"x":"${"x".repeat(70_000)}"}`), "Request is too large");
  assert.match(await ask("[".repeat(60_000)), "nested too deeply");
  assert.match(
    await ask(`{"jsonrpc":"2.0","id":${"[".repeat(40)}${"]".repeat(40)},"method":"x"}`),
    "nested too deeply",
  );
  const params = Object.fromEntries(Array.from({ length: 150 }, (_, index) => [`p${index}`, index]));
  assert.equal(await call("get_flow_block", params), refusal("Wrong number of arguments"));
});

test("a number loses its fraction, and one that is no node's is nobody's", async () => {
  const { call, ask } = make();
  assert.is((await call("get_device_data", { node: 9.7 })).result.id, 9);
  for (const node of ["-0.5", "-9", "1e300", "1e999", "9007199254740993"]) {
    const answer = await ask(`{"jsonrpc":"2.0","id":1,"method":"get_device_data","params":{"node":${node}}}`);
    assert.match(answer, "Unknown node id");
  }
  assert.equal(await call("get_device_data", { node: true }), refusal("Wrong type of argument"));
});

test("a fault of the machine is told, a defect is logged and not told", async () => {
  const { door, call, defects } = make();
  const rows: readonly (readonly [Error, number, string])[] = [
    [new Fault("kernel", "Cannot apply plan: refused"), -32603, "Cannot apply plan: refused"],
    [new Fault("storage", "Cannot save: disk full"), -32603, "Cannot save: disk full"],
    [new Fault("limit", "Cannot list: full"), -1, "Cannot list: full"],
    [new TypeError("secret"), -32603, "Internal error"],
  ];
  for (const [thrown, code, message] of rows) {
    door.step = () => {
      throw thrown;
    };
    const params = { node1: 4, node2: 9, block: 1 };
    assert.equal(await call("set_flow_block", params), refusal(message, code));
  }
  assert.equal(defects, ["Cannot answer JSON-RPC: secret"]);
  door.devices = () => {
    throw new TypeError("at once");
  };
  assert.equal(await call("list_devices"), refusal("Internal error", -32603));
});

test("an outcome that is no success is an error", async () => {
  const { door, call } = make();
  door.maxBlocks = 0;
  const block = (node1: number, node2: number, block = 1) => call("set_flow_block", { node1, node2, block });
  assert.equal(await block(4, 9), refusal("No more than 0 are possible"));
  assert.equal(await block(4, 4), refusal("Both are the same node"));
  assert.equal(await block(4, 77), refusal("Unknown node id"));
  assert.equal(await block(4, 9, 0), done);
  const device = { device: "02-77-00-00-00-11", node: 4 };
  door.maxBlocks = 5;
  assert.equal(await call("set_device_flow_block", { ...device, block: -1 }), done);
  assert.equal(await call("get_flow_block"), { ...done, result: [{ node1: 4, node2: 9 }] });
  assert.equal(
    await call("set_device_flow_block", { ...device, device: "x", block: 1 }),
    refusal("Device not found"),
  );
});

test("taking off the addresses that a list shows, one by one, empties it, and frees nothing else", async () => {
  const { door, call } = make();
  await call("add_iplist_node", { list: "block", node: 4 });
  assert.equal((await call("list_iplist", { list: "block" })).result, ["10.77.0.12", "fd77::12"]);
  assert.equal(await call("remove_iplist_ip", { list: "block", ip: "10.77.0.12" }), done);
  assert.equal(door.listing("block"), { nodes: [], nets: [net("fd77::12")] });
  // In one decision: at no moment is the other address off the list.
  const [, ...steps] = door.journal;
  assert.equal(steps, ["setListNet block 10.77.0.12/32 false"]);
  assert.equal(await call("remove_iplist_ip", { list: "block", ip: "FD77:0::12" }), done);
  assert.equal((await call("list_iplist", { list: "block" })).result, []);
});

test("taking a node off takes its addresses off, however they got there, and no others", async () => {
  const { door, call } = make();
  for (const ip of ["10.77.0.12", "10.77.0.11", "10.77.0.0/24"])
    await call("add_iplist_ip", { list: "block", ip });
  await call("add_iplist_node", { list: "block", node: 4 });
  assert.equal(await call("remove_iplist_node", { list: "block", node: 4 }), done);
  assert.equal((await call("list_iplist", { list: "block" })).result, ["10.77.0.0/24", "10.77.0.11"]);
  assert.equal(door.listing("block").nodes, []);
  assert.equal(await call("remove_iplist_node", { list: "block", node: 5 }), refusal("Unknown node id", -2));
});

test("a list shows each address once, IPv4 first, by value", async () => {
  const { call } = make();
  for (const ip of [
    "fd77::12",
    "9.0.0.1",
    "10.77.0.12",
    "2001:db8::/32",
    "10.0.0.0/8",
    "10.0.0.0/9",
    "100.0.0.1/32",
  ]) {
    assert.equal(await call("add_iplist_ip", { list: "allow", ip }), done);
  }
  await call("add_iplist_node", { list: "allow", node: 4 });
  const shown = [
    "9.0.0.1",
    "10.0.0.0/8",
    "10.0.0.0/9",
    "10.77.0.12",
    "100.0.0.1",
    "2001:db8::/32",
    "fd77::12",
  ];
  assert.equal((await call("list_iplist", { list: "allow" })).result, shown);
  for (const ip of ["10.0.0.0/0", "::/0", "10.0.0.0/33", "10.0.0", "", "x", "10.0.0.1 ", "fe80::1%lan"]) {
    assert.equal(await call("add_iplist_ip", { list: "allow", ip }), refusal("Invalid IP address"));
  }
});

test("reset_iplist_ignore leaves the machine's own addresses", async () => {
  const { door, call } = make();
  door.own = [net("10.77.0.1")];
  await call("add_iplist_node", { list: "ignore", node: 4 });
  assert.equal(await call("reset_iplist_ignore"), done);
  assert.equal((await call("list_iplist", { list: "ignore" })).result, ["10.77.0.1"]);
});

test("node_add_ip takes one address, with or without its full length", async () => {
  const { door, call } = make();
  assert.equal(await call("node_add_ip", { node: 0, ipaddr: "192.0.2.1/32" }), {
    ...done,
    result: { id: 11 },
  });
  assert.equal(await call("node_add_ip", { node: 10, ipaddr: "2001:DB8::1" }), done);
  assert.ok(door.node(10)!.ips.includes("2001:db8::1"));
  for (const ipaddr of ["192.0.2.0/24", "", "x"]) {
    assert.equal(await call("node_add_ip", { node: 0, ipaddr }), refusal("Not a valid IP address"));
  }
  assert.equal(
    await call("node_add_ip", { node: 9, ipaddr: "192.0.2.1" }),
    refusal("IP address already assigned to a node"),
  );
});

test("flows that SPIN does not tell apart are one, and counters stay where JSON is exact", async () => {
  const { door, call } = make();
  const flow = { to: 10, dstPort: 443, icmpType: 0, packets: 1n, lastSeen: 5 };
  door.flows.set(9, [
    { ...flow, bytes: 2n ** 60n },
    { ...flow, bytes: 7, packets: 2, lastSeen: 9 },
    { ...flow, icmpType: 8, bytes: 3 },
  ]);
  const { result } = await call("list_device_flows", { device: "02:77:00:00:00:11" });
  assert.equal(result, [
    { to: 10, dst_port: 443, icmp_type: 0, packets: 3, bytes: Number.MAX_SAFE_INTEGER, lastseen: 9 },
    { to: 10, dst_port: 443, icmp_type: 8, packets: 1, bytes: 3, lastseen: 5 },
  ]);
});

/** An answer is one line of JSON with the version, and a result, an error or neither. */
function checkAnswer(answer: string | undefined): void {
  if (answer === undefined) return;
  assert.not.match(answer, "\n");
  const { jsonrpc, id, result, error, ...rest } = JSON.parse(answer);
  assert.is(jsonrpc, "2.0");
  assert.equal(rest, {});
  assert.ok(result === undefined || error === undefined);
  if (error !== undefined) assert.type(error.message, "string");
}

const methods = [
  "list_iplist",
  "set_flow_block",
  "node_add_ip",
  "remove_iplist_ip",
  "list_device_flows",
  "x",
];
const names = ["list", "ip", "node", "node1", "node2", "block", "ipaddr", "device", "name", "__proto__"];
const values = fc.oneof(
  fc.jsonValue({ maxDepth: 3 }),
  fc.constantFrom("block", "allow", 4, 9, 0, "10.77.0.12", "fd77::/64", "02:77:00:00:00:11"),
);

test("whatever object comes, the answer is well formed", async () => {
  const { rpc, defects } = make();
  const request = fc.record(
    {
      jsonrpc: fc.constantFrom("2.0", "2.0", "2.0", "1.0", 2),
      id: fc.jsonValue({ maxDepth: 1 }),
      method: fc.oneof(fc.constantFrom(...methods), fc.jsonValue({ maxDepth: 1 })),
      params: fc.oneof(fc.dictionary(fc.constantFrom(...names), values, { maxKeys: 3 }), values),
    },
    { requiredKeys: [] },
  );
  await fc.assert(
    fc.asyncProperty(request, async (each) => {
      checkAnswer(await rpc.open(JSON.stringify(each)).run());
      const bare = await rpc.answer(each as never);
      assert.ok(Object.keys(bare).every((key) => key === "result" || key === "error"));
    }),
    { numRuns: 2_000 },
  );
  assert.equal(defects, []);
});

test("whatever text comes, with bytes flipped and cut off, the answer is well formed", async () => {
  const { rpc, defects } = make();
  const text =
    '{"jsonrpc":"2.0","id":"\\u00e9","method":"set_device_name","params":{"node":4,"name":"é\\n{"}}';
  const bytes = new TextEncoder().encode(text);
  for (let length = 0; length <= bytes.length; length++)
    checkAnswer(await rpc.read(bytes.subarray(0, length)).run());
  await fc.assert(
    fc.asyncProperty(fc.nat(bytes.length - 1), fc.nat(255), fc.string(), async (at, byte, tail) => {
      const flipped = bytes.slice();
      flipped[at] = byte;
      checkAnswer(await rpc.read(flipped).run());
      checkAnswer(await rpc.open(text.slice(0, at) + tail).run());
    }),
    { numRuns: 1_000 },
  );
  assert.equal(defects, []);
});

test.run();
