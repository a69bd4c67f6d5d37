/**
 * Hostile names through every door by which a name comes in, and what becomes of them everywhere that names go out:
 * a name stays the text that it was, of the one node that it was given to, or is refused with a reason.
 */

import { existsSync } from "node:fs";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { spinDoor } from "../../src/agent/door.ts";
import { externalSink } from "../../src/agent/external.ts";
import { parseFields } from "../../src/cli/json.ts";
import { parseUci } from "../../src/config/config.ts";
import { renderUci } from "../../src/config/uci.ts";
import { Flows } from "../../src/flows/flows.ts";
import { Fault } from "../../src/lib/fault.ts";
import type { JsonObject } from "../../src/lib/json.ts";
import { nodeMethods, parseHosts, parseLeases } from "../../src/nodes/nodes.ts";
import { renderNode } from "../../src/publish/messages.ts";
import { Rpc, readSpin } from "../../src/spin/spin.ts";
import { decodeFields, encodeFields, fieldsOf, jsonOf } from "../../src/ubus/blob.ts";
import { Machine } from "../fake/machine.ts";
import { address, laptop, phone, Stage } from "../nodes/stage.ts";
import { udp } from "../nodes/wire.ts";

const canary = "/tmp/gatehouse-canary";

/** A name that a device, a name server, an administrator or a caller may give. */
const names: readonly string[] = [
  `$(touch ${canary})`,
  `\`touch ${canary}\``,
  `;touch ${canary};`,
  `|touch ${canary}`,
  `&&touch\${IFS}${canary}`,
  `x\ntouch ${canary}`,
  "x\n10.77.0.13 other",
  "x\rname: 10.77.0.13 other",
  "x'; touch /tmp/x; '",
  "'",
  '"',
  '"}],"id":99,"x":[{"',
  "\\",
  "\\\\u0022",
  "-rf",
  "--help",
  "-e",
  "..",
  "../../etc/passwd",
  "/etc/shadow",
  ".",
  "*",
  "+",
  "#",
  "a/b/#",
  "$SYS/broker",
  "<script>alert(1)</script>",
  "<img src=x onerror=alert(1)>",
  '"><svg onload=alert(1)>',
  "javascript:alert(1)",
  "{{7*7}}",
  "%s%n%x",
  "%00",
  "\u0000",
  "a\u0000b",
  "\u001b[2J\u001b]0;owned\u0007",
  "\u009b31m",
  "\u202egnp.exe",
  "\u2028",
  "\u2029x",
  "\ufeffx",
  "\ud800",
  "\udc00\ud800",
  "\uffff",
  "é".repeat(100),
  "👩‍👩‍👧‍👦",
  "__proto__",
  "constructor",
  "prototype",
  "toString",
  "hasOwnProperty",
  "valueOf",
  "null",
  "true",
  "0",
  "1e999",
  "9007199254740993",
  "x".repeat(63),
  "x".repeat(128),
  "x".repeat(129),
  "x".repeat(255),
  "x".repeat(65_536),
  "config host\n\toption name 'y'",
  "N4V4 { elements = { 10.0.0.1 } }",
  "add @s 10.0.0.1; flush ruleset",
  "COMMIT\n*filter",
  "a b c d e f",
  " ",
  "\t",
];

const ours = "10.77.0.11";
const theirs = "10.77.0.13";

interface World {
  readonly stage: Stage;
  /** The node that is given the name, and the one that must not change. */
  readonly id: number;
  readonly other: number;
  readonly rpc: Rpc;
  readonly flows: Flows;
}

function world(): World {
  const stage = new Stage().router();
  const id = stage.neighbour(ours, laptop)!;
  const other = stage.neighbour(theirs, phone)!;
  stage.nodes.rename(other, "other one");
  const flows = new Flows({ resolve: (each) => stage.nodes.resolve(each), commit: async () => {} });
  const door = spinDoor({
    ...{ nodes: stage.nodes, flows },
    moment: () => stage.at,
    saveNodes: async () => {},
  });
  return { stage, id, other, flows, rpc: new Rpc(door, (line) => assert.unreachable(line)) };
}

/** DNS labels hold any bytes; what is longer than one label is cut. */
function questionFor(name: string): Uint8Array {
  const label = [...new TextEncoder().encode(name)].slice(0, 63);
  const labels = label.length === 0 ? [] : [label.length, ...label];
  const message = Uint8Array.from([0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, ...labels, 0, 0, 1, 0, 1]);
  return udp(message, { from: address(ours), to: address("10.77.0.1"), ports: [40_000, 53] });
}

type Door = (world: World, name: string) => void | Promise<void>;

/** Each gives the first node the name, or refuses it by a Fault, an error or a line that is skipped. */
const doors: Readonly<Record<string, Door>> = {
  async "ubus gatehouse.nodes rename"({ stage, id }, name) {
    // As it comes over the bus, where a text ends at its first NUL.
    const args = jsonOf(decodeFields(encodeFields(fieldsOf({ node: id, name })))) as JsonObject;
    const nobody = { user: undefined, group: undefined };
    await nodeMethods(stage.nodes).rename!.call(args, nobody);
  },
  async "JSON-RPC set_device_name, by socket and MQTT"({ rpc, id }, name) {
    const request = { jsonrpc: "2.0", id: 1, method: "set_device_name", params: { node: id, name } };
    const text = await rpc.read(new TextEncoder().encode(JSON.stringify(request))).run();
    const answer = JSON.parse(text!) as { jsonrpc: string; id?: number; error?: object };
    assert.is(answer.jsonrpc, "2.0");
    // Of a request that is too long, nothing is read.
    assert.ok(answer.id === 1 || (answer.id === undefined && answer.error));
    assert.not.match(text!, "\n");
  },
  "the DHCP lease file"({ stage }, name) {
    const lines = [`1999999999 ${laptop} ${ours} ${name} *`, `1999999999 ${phone} ${theirs} * *`];
    stage.nodes.leases(parseLeases(`${lines.join("\n")}\n`).leases, stage.at);
  },
  "config host of the router"({ stage }, name) {
    const options = new Map([
      ["name", name],
      ["mac", laptop],
    ]);
    let text: string;
    try {
      text = renderUci([{ type: "host", name: undefined, options }] as never);
    } catch {
      return;
    }
    stage.nodes.hosts(parseHosts(parseUci(text).sections).hosts, stage.at);
  },
  "config host, with the name as it is in quotes"({ stage }, name) {
    const text = `config host\n\toption name '${name}'\n\toption mac '${laptop}'\n`;
    stage.nodes.hosts(parseHosts(parseUci(text).sections).hosts, stage.at);
  },
  "a DNS question"({ stage }, name) {
    stage.nodes.tapped(questionFor(name), stage.at);
  },
  "an external source"({ stage, flows }, name) {
    const sink = externalSink({
      nodes: stage.nodes,
      flows,
      moment: () => stage.at,
      asked() {},
      noticed() {},
    });
    sink.query({ client: address(ours), name } as never);
    sink.answer({ name, address: address("198.51.100.9"), ttlSeconds: 60 } as never);
  },
  async "SPIN's names.conf"({ stage, id }, name) {
    const machine = new Machine();
    machine.put("/etc/spin/names.conf", `name: ${laptop} ${name}\n`);
    machine.put("/etc/spin/block.list", "");
    for (const each of (await readSpin(machine, "/etc/spin"))!.names) {
      if ("mac" in each.key && each.key.mac === laptop) stage.nodes.rename(id, each.name);
    }
  },
};

/** What goes out about all nodes, by every way out, with what each must keep to. */
function outlets({ stage }: World): string[] {
  const { nodes } = stage;
  const texts: string[] = [];
  for (const id of nodes.ids()) {
    const info = nodes.info(id)!;
    const message = renderNode(info);
    assert.not.match(message, /[\u0000-\u001f]/, "one line over MQTT");
    const shown = JSON.parse(message).result;
    assert.is(shown.name, info.name);
    assert.equal(shown.domains, info.domains);
    assert.is(shown.id, id);
    texts.push(message);
    // Over the bus, and as the command line reads it back.
    const detail = JSON.parse(JSON.stringify(nodes.detail(id), plain)) as JsonObject;
    const wire = JSON.parse(JSON.stringify(jsonOf(decodeFields(encodeFields(fieldsOf(detail))))));
    assert.is(wire.id, id);
    assert.is(wire.name, detail.name === undefined ? undefined : wellFormed(detail.name as string));
    parseFields(JSON.stringify(detail));
  }
  return texts;
}

const plain = (_: string, value: unknown) => (typeof value === "bigint" ? Number(value) : value);
/** What a text is on the bus: halves of pairs have no place in UTF-8, and it ends at its first NUL. */
const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
const wellFormed = (text: string) => decoder.decode(new TextEncoder().encode(text)).split("\0")[0]!;

for (const [door, through] of Object.entries(doors)) {
  test(`names through ${door}: text or refused, of one node, in every way out`, async () => {
    let kept = 0;
    for (const name of names) {
      const at = `${door}: ${JSON.stringify(name.slice(0, 40))}`;
      const it = world();
      const { stage, id, other } = it;
      const before = JSON.stringify(stage.nodes.detail(other), plain);
      try {
        await through(it, name);
      } catch (thrown) {
        assert.instance(thrown, Fault, at);
        assert.match((thrown as Fault).message, /^Cannot /, at);
      }
      outlets(it);
      const shown = stage.nodes.info(id)!.name;
      if (shown !== undefined) {
        kept++;
        assert.ok(
          name.includes(shown.replace(/\ufffd/g, "")) || shown === wellFormed(name),
          `${at} became ${shown}`,
        );
      }
      assert.is(stage.nodes.info(other)!.name, "other one", at);
      if (!/lease/.test(door)) assert.is(JSON.stringify(stage.nodes.detail(other), plain), before, at);
      // At most the node of the name, and of the address that it was answered, came to be.
      assert.ok(stage.nodes.ids().length <= 6, at);
      // What is saved is read back the same.
      const next = stage.restart();
      assert.is(next.nodes.info(other)!.name, "other one", at);
      outlets({ ...it, stage: next });
    }
    if (!/DNS|external/.test(door)) assert.ok(kept > names.length / 4, `${kept} names were kept`);
    assert.is(({} as Record<string, unknown>).polluted, undefined);
    assert.is(Object.keys(Object.prototype).length, 0);
    assert.not.ok(existsSync(canary), "a name was run");
  });
}

test("a name of the user comes back from disk to the letter, or was refused", () => {
  let kept = 0;
  for (const name of names) {
    const { stage, id } = world();
    if (stage.code(() => stage.nodes.rename(id, name)) === "invalid") continue;
    kept++;
    assert.is(stage.nodes.info(id)!.name, name);
    assert.is(stage.restart().nodes.info(id)!.name, name);
  }
  assert.ok(kept > 40);
});

test.run();
