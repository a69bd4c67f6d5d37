/** Conversations recorded with SPIN, held again with a door in the recorded state. Every difference is declared. */

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { Rpc, rpcMethods } from "../../src/spin/spin.ts";
import { Model, net } from "./model.ts";

const read = (name: string) => readFileSync(join(process.cwd(), "test/spin/fixtures", name), "utf8");

interface Exchange {
  /** Headings since the exchange before; those with no exchange of their own are events. */
  readonly headings: readonly string[];
  readonly heading: string;
  readonly request: string;
  /** SPIN's answer; empty: none. */
  readonly answer: string;
}

function exchangesOf(name: string): Exchange[] {
  let heading = "";
  let headings: string[] = [];
  const lines = read(`${name}.txt`).split("\n");
  return lines.flatMap((line, index) => {
    if (line.startsWith("# ")) {
      heading = line.slice(2);
      headings.push(heading);
    }
    if (!line.startsWith("> ")) return [];
    assert.match(lines[index + 1]!, /^</);
    const exchange = { headings, heading, request: line.slice(2), answer: lines[index + 1]!.slice(2) };
    headings = [];
    return exchange;
  });
}

/** The nodes as they were recorded. */
function network(): Model {
  const door = new Model();
  door.add({ id: 1, ips: ["127.0.0.1"] });
  door.add({ id: 2, mac: "02:77:00:00:00:13", ips: ["10.77.0.13"], lastseen: 1795228694 });
  door.add({ id: 3, ips: ["203.0.113.5"] });
  const camera = { name: "camera", mac: "02:77:00:00:00:12", ips: ["10.77.0.12", "fd77::12"] };
  door.add({ id: 4, ...camera, lastseen: 1795228693 });
  door.add({ id: 7, mac: "02:77:00:00:01:fe", ips: ["192.0.2.254"], lastseen: 1795228692 });
  door.add({ id: 8, ips: ["10.77.0.1"] });
  const laptop = { name: "laptop", mac: "02:77:00:00:00:11", ips: ["10.77.0.11"] };
  door.add({ id: 9, ...laptop, lastseen: 1795228694 });
  const web = { ips: ["198.51.100.10", "2001:db8:100::10"], domains: ["web.example.net."] };
  door.add({ id: 10, ...web });
  return door;
}

const flow = (to: number, dstPort: number, packets: number, bytes: number, lastSeen: number) => ({
  to,
  dstPort,
  icmpType: 0,
  packets,
  bytes,
  lastSeen,
});

interface Difference {
  readonly conversation: string;
  /** Part of the heading or the request; of several exchanges, the first that no difference before it is for. */
  readonly at: string;
  readonly ours: string;
  readonly why: string;
}

const done = '{"jsonrpc":"2.0","id":1}';
const error = (message: string, id = "1") =>
  `{"jsonrpc":"2.0","id":${id},"error":{"code":-1,"message":"${message}"}}`;
const unknownList = "Unknown ip list name, should be 'ignore', 'block', or 'allow'";

/** Where we answer otherwise than SPIN did, and why. */
const differences: readonly Difference[] = [
  {
    conversation: "lists",
    at: "list name prefix",
    ours: error(unknownList),
    why: "the beginning of a list's name is no list's name",
  },
  {
    conversation: "lists",
    at: "list name empty string",
    ours: error(unknownList),
    why: "nor is an empty one",
  },
  {
    conversation: "node-lists",
    at: '"method":"list_iplist","params":{"list":"block"}',
    ours: '{"jsonrpc":"2.0","id":1,"result":["10.77.0.12","10.77.0.99","fd77::12"]}',
    why: "a device on a list is there with the address that it took later",
  },
  {
    conversation: "flow-blocks",
    at: "list_device_flows after blocking",
    ours:
      '{"jsonrpc":"2.0","id":1,"result":[{"to":8,"dst_port":53,"icmp_type":0,"packets":11,"bytes":984,' +
      '"lastseen":0},{"to":10,"dst_port":0,"icmp_type":0,"blocked":1},{"to":10,"dst_port":80,"icmp_type":0,' +
      '"packets":30,"bytes":7962,"lastseen":0},{"to":10,"dst_port":443,"icmp_type":0,"packets":30,' +
      '"bytes":7974,"lastseen":0}]}',
    why: "the port of a blocked partner is 0, not what is on the stack",
  },
  {
    conversation: "flow-blocks",
    at: "same node twice",
    ours: error("Both are the same node"),
    why: "nothing was blocked, so it is no success",
  },
  {
    conversation: "flow-blocks",
    at: "unknown node",
    ours: error("Unknown node id"),
    why: "nothing was blocked, so it is no success",
  },
  {
    conversation: "errors",
    at: '{"jsonrpc":"2.0","method":"list_iplist"',
    ours: "",
    why: "a notification is not answered, least of all with a bare result",
  },
  {
    conversation: "errors",
    at: '{"jsonrpc":"2.0","method":"nosuch"}',
    ours: "",
    why: "a notification is not answered, with an error either",
  },
  {
    conversation: "errors",
    at: '"params":{"node":0,"ipaddr":"198.51.100.77"}',
    ours: '{"jsonrpc":"2.0","id":7,"result":{"id":11}}',
    why: "who makes a node learns its number; the second time it is taken, as in SPIN",
  },
  {
    conversation: "names-ignore",
    at: "device name with a line break",
    ours: error("Cannot rename node 7: it has control characters"),
    why: "a name is one line: it must not name other nodes in some file",
  },
  {
    conversation: "names-ignore",
    at: `"name":"nnnn`,
    ours: error("Cannot rename node 7: the name is too long"),
    why: "a name that is not kept is not accepted",
  },
  {
    conversation: "names-ignore",
    at: '"method":"get_device_data"',
    ours:
      '{"jsonrpc":"2.0","id":1,"result":{"id":7,"name":"laptop","mac":"02:77:00:00:00:11","lastseen":0,' +
      '"ips":["10.77.0.11"],"domains":[]}}',
    why: "so the name before it stays",
  },
  {
    conversation: "merged",
    at: "a device with two blocked partners",
    ours:
      '{"jsonrpc":"2.0","id":1,"result":[{"to":2,"dst_port":0,"icmp_type":0,"blocked":1},{"to":2,' +
      '"dst_port":80,"icmp_type":0,"packets":20,"bytes":5308,"lastseen":0},{"to":3,"dst_port":53,' +
      '"icmp_type":0,"packets":4,"bytes":332,"lastseen":0}]}',
    why: "what was booked and decided moves with a merge: there is one partner, and no garbage",
  },
  {
    conversation: "merged",
    at: '"method":"get_flow_block"',
    ours: '{"jsonrpc":"2.0","id":1,"result":[]}',
    why: "the id that was merged away still means the node, so the block has ended",
  },
  {
    conversation: "merged",
    at: "the merged node",
    ours:
      '{"jsonrpc":"2.0","id":1,"result":{"id":2,"lastseen":0,"ips":["198.51.100.30","198.51.100.31"],' +
      '"domains":["a.merge.test.","b.merge.test."]}}',
    why: "an id that was merged away still answers",
  },
];

/** What changes while nobody talks: the time, and the notes say so. */
const masked = (text: string) => text.replace(/"lastseen":\d+/g, '"lastseen":0');

const conversations: Record<string, () => { door: Model; between?(heading: string): void }> = {
  lists: () => ({ door: network() }),
  "node-lists"() {
    const door = network();
    return {
      door,
      between(heading) {
        if (heading.startsWith("blocked device takes a second address")) {
          door.nodes.get(4)!.ips = ["10.77.0.12", "10.77.0.99", "fd77::12"];
        }
      },
    };
  },
  "flow-blocks"() {
    const door = network();
    door.flows.set(9, [flow(10, 443, 30, 7974, 3), flow(8, 53, 11, 984, 1), flow(10, 80, 30, 7962, 2)]);
    return { door };
  },
  errors: () => ({ door: network() }),
  mqtt: () => ({ door: network() }),
  "names-ignore"() {
    const door = new Model();
    door.add({ id: 7, name: "laptop", mac: "02:77:00:00:00:11", ips: ["10.77.0.11"] });
    door.flows.set(7, [flow(5, 53, 8, 712, 1), flow(9, 80, 14, 4911, 1), flow(9, 443, 20, 5316, 2)]);
    return { door };
  },
  merged() {
    const door = new Model();
    door.add({ id: 1, name: "laptop", mac: "02:77:00:00:00:11", ips: ["10.77.0.11"] });
    door.add({
      id: 2,
      ips: ["198.51.100.30", "198.51.100.31"],
      domains: ["a.merge.test.", "b.merge.test."],
    });
    door.aliases.set(7, 2);
    door.blocked.set("1 2", [1, 2]);
    door.flows.set(1, [flow(2, 80, 10, 2654, 1), flow(3, 53, 4, 332, 1), flow(2, 80, 10, 2654, 2)]);
    return { door };
  },
};

/** The exchanges of a conversation, each with the answer that it has to get from us. */
function expected(name: string): (Exchange & { readonly ours: string; readonly why: string })[] {
  const declared = new Map<Exchange, Difference>();
  const exchanges = exchangesOf(name);
  assert.ok(exchanges.length > 0);
  for (const difference of differences.filter((each) => each.conversation === name)) {
    const { at, ours } = difference;
    const exchange = exchanges.find((each) => {
      return !declared.has(each) && (each.heading.includes(at) || each.request.includes(at));
    });
    assert.ok(exchange, `declared for nothing: ${at}`);
    assert.is.not(masked(exchange.answer), ours, `declared, but no difference: ${at}`);
    declared.set(exchange, difference);
  }
  return exchanges.map((each) => {
    const { ours = masked(each.answer), why = "not declared" } = declared.get(each) ?? {};
    return { ...each, ours, why };
  });
}

for (const [name, make] of Object.entries(conversations)) {
  test(`Rpc: ${name} goes as with SPIN, but for what is declared`, async () => {
    const { door, between } = make();
    const rpc = new Rpc(door, (line) => assert.unreachable(line));
    for (const { headings, request, ours, why } of expected(name)) {
      for (const heading of headings) between?.(heading);
      assert.is(masked((await rpc.open(request).run()) ?? ""), ours, `${request}: ${why}`);
    }
  });

  test(`rpcMethods: ${name} goes the same way through the bus, without version and id`, async () => {
    const { door, between } = make();
    const { rpc } = rpcMethods(new Rpc(door, (line) => assert.unreachable(line)));
    const nobody = { user: undefined, group: undefined };
    for (const { headings, request, ours, why } of expected(name)) {
      for (const heading of headings) between?.(heading);
      // What is no object cannot come by the bus, and what has no version or id is as good as the others there.
      if (!/^\{"jsonrpc":.*"id":/.test(request)) continue;
      const answer = await rpc!.call(JSON.parse(request), nobody);
      const { jsonrpc, id, ...rest } = JSON.parse(ours);
      assert.is(masked(JSON.stringify(answer)), JSON.stringify(rest), `${request}: ${why}`);
    }
  });
}

test("list_rpc_methods and list_devices answer to the letter", async () => {
  const rpc = new Rpc(network(), (line) => assert.unreachable(line));
  for (const method of ["list_rpc_methods", "list_devices"]) {
    const answer = await rpc.open(`{"jsonrpc":"2.0","id":1,"method":"${method}"}`).run();
    assert.is(answer, read(`${method}.json`).trimEnd());
  }
});

test("a prefix stays a prefix, which is where SPIN's recorded list differs", async () => {
  const door = network();
  const rpc = new Rpc(door, (line) => assert.unreachable(line));
  const call = async (method: string, params: object) =>
    rpc.open(JSON.stringify({ jsonrpc: "2.0", id: 1, method, params })).run();
  assert.is(await call("add_iplist_ip", { list: "block", ip: "203.0.113.77/24" }), done);
  assert.is(await call("add_iplist_ip", { list: "block", ip: "203.0.113.5" }), done);
  assert.equal(door.listing("block").nets, [net("203.0.113.0/24"), net("203.0.113.5/32")]);
  assert.is(
    await call("list_iplist", { list: "block" }),
    '{"jsonrpc":"2.0","id":1,"result":["203.0.113.0/24","203.0.113.5"]}',
  );
  assert.is(await call("remove_iplist_ip", { list: "block", ip: "203.0.113.0/24" }), done);
  assert.equal(door.listing("block").nets, [net("203.0.113.5/32")]);
  assert.is(await call("add_iplist_ip", { list: "block", ip: "0.0.0.0/0" }), error("Invalid IP address"));
});

test.run();
