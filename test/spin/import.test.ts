/** SPIN's files: what is read of them, what is left out and why, and that a run cut short anywhere is run again. */

import { readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import * as fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { Fault } from "../../src/lib/fault.ts";
import { importSpin, Rpc, readSpin, type SpinState } from "../../src/spin/spin.ts";
import { openLinux } from "../../src/system/linux.ts";
import { Machine } from "../fake/machine.ts";
import { nativePath } from "../system/until.ts";
import { Model, net } from "./model.ts";

const fixtures = join(process.cwd(), "test/spin/fixtures");
const directory = join(fixtures, "etc-spin");

async function recorded(): Promise<SpinState> {
  const state = await readSpin(openLinux({ nativePath }), directory);
  assert.ok(state);
  return state;
}

/** A directory in memory. */
async function read(files: Readonly<Record<string, string>>): Promise<SpinState | undefined> {
  const machine = new Machine();
  for (const [name, content] of Object.entries(files)) machine.put(`/etc/spin/${name}`, content);
  return readSpin(machine, "/etc/spin");
}

const camera =
  '{"id":4,"name":"camera","mac":"02:77:00:00:00:12","ips":["10.77.0.12","fd77::12"],"domains":[]}\n';

test("readSpin: everything of a recorded directory", async () => {
  const state = await recorded();
  assert.equal(state.skipped, []);
  assert.equal(state.unread, []);
  assert.equal(state.pairs, [
    [4, 11],
    [9, 10],
  ]);
  assert.equal(state.lists, {
    block: [net("10.77.0.12"), net("10.77.0.99"), net("fd77::12")],
    ignore: [net("192.0.2.1")],
    allow: [net("203.0.113.5")],
  });
  assert.equal(state.names, [
    { key: { address: "198.51.100.10" }, name: "The Web" },
    { key: { address: "2001:db8:100::10" }, name: "The Web" },
    { key: { mac: "02:77:00:00:00:11" }, name: "my laptop" },
  ]);
  const flags = { isBlocked: false, isExcepted: false };
  assert.equal(state.nodes, [
    {
      oldId: 4,
      mac: "02:77:00:00:00:12",
      name: "camera",
      ips: ["10.77.0.12", "10.77.0.99", "fd77::12"],
      domains: [],
      isBlocked: true,
      isExcepted: false,
    },
    { oldId: 9, mac: "02:77:00:00:00:11", name: "my laptop", ips: ["10.77.0.11"], domains: [], ...flags },
    {
      oldId: 10,
      name: "The Web",
      ips: ["198.51.100.10", "2001:db8:100::10"],
      domains: ["web.example.net."],
      ...flags,
    },
    { oldId: 11, ips: ["198.51.100.20"], domains: ["cdn-a.example.com.", "cdn-b.example.com."], ...flags },
  ]);
});

test("readSpin: no files, no SPIN", async () => {
  assert.is(await read({}), undefined);
  assert.is(await readSpin(openLinux({ nativePath }), "/run/nowhere"), undefined);
  assert.ok(await read({ "block.list": "" }));
});

test("readSpin: nothing on the disk changes", async () => {
  const snapshot = () =>
    readdirSync(directory, { recursive: true, withFileTypes: true }).map((entry) => {
      const path = join(entry.parentPath, entry.name);
      return [path, statSync(path).mtimeMs, entry.isFile() ? readFileSync(path, "utf8") : ""];
    });
  const before = snapshot();
  await importSpin(await recorded(), new Model());
  assert.equal(snapshot(), before);
});

const damages: readonly (readonly [file: string, content: string, skipped: RegExp])[] = [
  ["block.list", "10.77.0.12\nfoo\n", /^block.list:2: "foo" is no address$/],
  ["block.list", "0.0.0.0/0\n", /^block.list:1: .* is no address$/],
  ["allow.list", `\u0000\u0001${"x".repeat(5_000)}`, /^allow.list:1: .{0,80} is no address$/],
  ["nodepair.list", "4 4\n", /is no pair/],
  ["nodepair.list", "4\n", /is no pair/],
  ["nodepair.list", "4 5; rm -rf /\n", /is no pair/],
  ["nodepair.list", "4 77\n", /^nodepair.list:1: there is no node 77 in nodestore$/],
  ["nodestore/7", "", /^nodestore\/7: it is no node$/],
  ["nodestore/7", '{"id":7,"ips":["10.77.', /it is no node/],
  ["nodestore/7", '{"id":"7"}', /it is no node/],
  ["nodestore/7", '{"id":-1}', /it is no node/],
  ["nodestore/7", "[]", /it is no node/],
  ["nodestore/7", '{"id":7,"ips":[],"domains":[]}', /nothing tells which node it is/],
  ["nodestore/7", '{"id":4,"ips":["10.0.0.1"]}', /there is another node 4/],
  ["nodestore/7", '{"id":7,"mac":"ff:ff:ff:ff:ff:ff","ips":["10.0.0.1"]}', /is no MAC of a device/],
  ["nodestore/7", '{"id":7,"ips":["10.0.0.1","x",5,null]}', /"x" in ips/],
  ["nodestore/7", '{"id":7,"ips":["10.0.0.1"],"domains":["a b.","x"]}', /"a b." in domains/],
  ["nodestore/7", `{"id":7,"ips":["10.0.0.1"],"x":"${"x".repeat(11_000)}"}`, /too large/],
  ["nodestore/7", '{"id":7,"ips":["10.0.0.1"],"name":"x\\nname: 10.77.0.13 injected"}', /is no name/],
  ["nodestore/..evil", "{}", /its name is no number/],
  ["names.conf", "name: 10.77.0.12\n", /names nothing/],
  ["names.conf", "name: nobody x\n", /names nothing/],
  ["names.conf", "x", /names nothing/],
  // As SPIN wrote a name with a line break.
  [
    "names.conf",
    "name: 02:77:00:00:00:11 x\nname: 10.77.0.13 injected\n",
    /^names.conf:2: .*stands after a MAC/,
  ],
];

for (const [file, content, skipped] of damages) {
  test(`readSpin: ${file} ${JSON.stringify(content.slice(0, 60))} is skipped with a reason, the rest is taken`, async () => {
    const state = await read({ "nodestore/4": camera, "ignore.list": "192.0.2.1\n", [file]: content });
    assert.match(state!.skipped.join("\n"), skipped);
    assert.is(state!.nodes[0]!.oldId, 4);
    assert.equal(state!.lists.ignore, [net("192.0.2.1")]);
    assert.equal(state!.unread, []);
    assert.ok(state!.skipped.every((line) => line.length < 300 && !line.includes("\n")));
  });
}

test("readSpin: a name that was injected names nobody", async () => {
  const state = await read({ "names.conf": "name: 02:77:00:00:00:11 x\nname: 10.77.0.13 injected\n" });
  assert.equal(state!.names, [{ key: { mac: "02:77:00:00:00:11" }, name: "x" }]);
});

test("readSpin: a disk that does not give a file is told, and what it gives is taken", async () => {
  const machine = new Machine();
  machine.put("/etc/spin/block.list", "10.77.0.12\n");
  machine.put("/etc/spin/nodestore/4", camera);
  const disk = {
    list: (path: string) => machine.list(path),
    read: async (path: string, maxBytes?: number) => {
      if (path.endsWith("/nodestore/4")) throw new Fault("storage", "Cannot read it: an error of the disk");
      return machine.read(path, maxBytes);
    },
  };
  const state = await readSpin(disk, "/etc/spin");
  assert.equal(state!.unread, ["nodestore/4"]);
  assert.equal(state!.lists.block, [net("10.77.0.12")]);
});

test("readSpin: of more than is sane, some is taken", async () => {
  const lines = Array.from(
    { length: 30_000 },
    (_, index) => `10.${index >> 16}.${(index >> 8) & 255}.${index & 255}`,
  );
  const state = await read({ "block.list": lines.join("\n"), "allow.list": "x\n".repeat(1_000) });
  assert.is(state!.lists.block.length, 20_000);
  assert.is(state!.skipped.length, 201);
  assert.is(state!.skipped.at(-1), "and 801 more");
});

test("readSpin: whatever bytes the files have, it takes or skips them", async () => {
  const originals = ["block.list", "nodepair.list", "names.conf", "nodestore/4"].map(
    (name) => [name, readFileSync(join(directory, name), "utf8")] as const,
  );
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom(...originals),
      fc.nat(200),
      fc.string({ unit: "binary" }),
      async (file, at, text) => {
        const [name, content] = file;
        const state = await read({ [name]: content.slice(0, at) + text + content.slice(at + 1) });
        assert.ok(state);
        await importSpin(state, new Model());
      },
    ),
    { numRuns: 500 },
  );
});

test("importSpin: every block, list and name of the recorded directory, under new numbers", async () => {
  const door = new Model();
  door.nextId = 100;
  // The laptop is there already, under a number of ours.
  const laptop = door.add({ mac: "02:77:00:00:00:11", name: "android-123" });
  const result = await importSpin(await recorded(), door);
  assert.equal(
    [...result.ids],
    [
      [4, 101],
      [9, laptop],
      [10, 102],
      [11, 103],
    ],
  );
  assert.equal(result.skipped, []);
  assert.equal([result.pairs, result.names, result.listed], [2, 3, 6]);
  assert.equal(door.pairs().map(String).sort(), ["100,102", "101,103"]);
  assert.equal(
    [101, 100, 102, 103].map((id) => door.node(id)?.name),
    ["camera", "my laptop", "The Web", undefined],
  );
  assert.equal(door.listing("block").nodes, [101]);
  // SPIN's clients see the lists that SPIN showed.
  const rpc = new Rpc(door, (line) => assert.unreachable(line));
  const lines = readFileSync(join(fixtures, "restart.txt"), "utf8").split("\n");
  for (const [index, line] of lines.entries()) {
    if (!line.includes('"list_iplist"')) continue;
    assert.is(await rpc.open(line.slice(2)).run(), lines[index + 1]!.slice(2));
  }
});

test("importSpin: who was listed as a node stays so with another address, as far as SPIN's files tell", async () => {
  const node = (flags: string, mac = ',"mac":"02:77:00:00:00:12"') =>
    `{"id":4${mac}${flags},"ips":["10.77.0.12","10.77.0.13"],"domains":[]}`;
  const both = "10.77.0.12\n10.77.0.13\n";
  const rows: readonly (readonly [why: string, files: Record<string, string>, nodes: readonly string[]])[] = [
    ["all addresses of a device", { "block.list": both, "nodestore/4": node("") }, ["block"]],
    ["all addresses of a device", { "ignore.list": both, "nodestore/4": node("") }, ["ignore"]],
    ["not for the allow list", { "allow.list": both, "nodestore/4": node("") }, []],
    ["not without a MAC", { "block.list": both, "nodestore/4": node("", "") }, []],
    ["some addresses are addresses", { "block.list": "10.77.0.12\n", "nodestore/4": node("") }, []],
    ["said by SPIN", { "block.list": "10.77.0.12\n", "nodestore/4": node(',"is_blocked":true') }, ["block"]],
    [
      "said by SPIN",
      { "allow.list": "10.77.0.13\n", "nodestore/4": node(',"is_excepted":true', "") },
      ["allow"],
    ],
    ["said, but taken off since", { "block.list": "", "nodestore/4": node(',"is_blocked":true') }, []],
  ];
  for (const [why, files, lists] of rows) {
    const door = new Model();
    await importSpin((await read(files))!, door);
    const listed = (["block", "ignore", "allow"] as const).filter(
      (list) => door.listing(list).nodes.length > 0,
    );
    assert.equal(listed, lists, why);
  }
});

test("importSpin: a name is the user's by MAC, else by address, else what SPIN showed", async () => {
  const door = new Model();
  const known = door.add({ mac: "02:77:00:00:00:15", name: "from DHCP" });
  const node = (id: number, mac: string, ip: string) =>
    `{"id":${id},"name":"shown ${id}","mac":"02:77:00:00:00:${mac}","ips":["${ip}"],"domains":[]}`;
  const state = await read({
    "nodestore/1": node(1, "11", "10.0.0.1"),
    "nodestore/2": node(2, "12", "10.0.0.2"),
    "nodestore/3": node(3, "13", "10.0.0.3"),
    "nodestore/5": node(5, "15", "10.0.0.5"),
    "names.conf":
      "name: 10.0.0.1 by address\nname: 10.0.0.2 by address\nname: 192.0.2.7 a stranger\n" +
      "name: 02:77:00:00:00:11 by MAC\nname: 02:77:00:00:00:77 another stranger\n",
  });
  const { ids } = await importSpin(state!, door);
  const nameOf = (oldId: number) => door.node(ids.get(oldId)!)?.name;
  assert.equal([1, 2, 3].map(nameOf), ["by MAC", "by address", "shown 3"]);
  assert.is(door.node(known)?.name, "from DHCP");
  const strangers = [...door.nodes.values()].filter(({ name }) => name?.includes("stranger"));
  assert.equal(
    strangers.map(({ name, mac, ips }) => [name, mac, ips]),
    [
      ["a stranger", undefined, ["192.0.2.7"]],
      ["another stranger", "02:77:00:00:00:77", []],
    ],
  );
});

test("importSpin: what the door cannot do is told, the rest is done; a fault of the machine ends the run", async () => {
  const door = new Model();
  door.maxBlocks = 1;
  const { adopt } = Model.prototype;
  door.adopt = (node) =>
    node.oldId === 10 ? Promise.reject(new Fault("limit", "no more nodes")) : adopt.call(door, node);
  const result = await importSpin(await recorded(), door);
  assert.equal(result.skipped, ["node 10: no more nodes", "pair 9 10: one of them was not taken over"]);
  assert.is(result.pairs, 1);
  const broken = new Model();
  broken.setBlock = () => Promise.reject(new Fault("kernel", "refused"));
  try {
    await importSpin(await recorded(), broken);
    assert.unreachable();
  } catch (thrown) {
    assert.is((thrown as Fault).code, "kernel");
  }
});

test("importSpin: cut short before or after any step, once or twice, and run again, it ends the same", async () => {
  const state = await recorded();
  const whole = new Model();
  let steps = 0;
  whole.step = () => {
    steps++;
  };
  await importSpin(state, whole);
  assert.ok(steps >= 30, `${steps}`);
  whole.step = () => {};
  const once = String(whole);
  await importSpin(state, whole);
  assert.is(String(whole), once, "a second run changes nothing");
  const goal = String(whole);

  /** Runs until the nth step, from which on nothing happens any more. */
  const cut = async (door: Model, at: number) => {
    let step = 0;
    door.step = () => {
      if (++step >= at) throw new Fault("closed", "the machine is off");
    };
    try {
      await importSpin(state, door);
      assert.unreachable();
    } catch (thrown) {
      assert.is((thrown as Fault).code, "closed");
    }
    door.step = () => {};
  };
  for (let at = 1; at <= steps; at++) {
    const door = new Model();
    await cut(door, at);
    if (at % 3 === 0) await cut(door, Math.ceil(at / 2));
    await importSpin(state, door);
    assert.is(String(door), goal, `cut at step ${at}`);
  }
});

test("importSpin: one step that fails among others that do not, and run again, ends the same", async () => {
  const state = await recorded();
  const whole = new Model();
  let steps = 0;
  whole.step = () => {
    steps++;
  };
  await importSpin(state, whole);
  for (let at = 1; at <= steps; at++) {
    const door = new Model();
    let step = 0;
    door.step = () => {
      if (++step === at) throw new Fault("kernel", "refused once");
    };
    await importSpin(state, door).then(
      () => assert.unreachable(),
      () => {},
    );
    await importSpin(state, door);
    assert.is(String(door), String(whole), `failed at step ${at}`);
  }
});

test.run();
