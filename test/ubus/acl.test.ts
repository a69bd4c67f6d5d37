/** Who may do what: rules in files, and names of accounts. */

import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { Accounts } from "../../src/ubus/accounts.ts";
import { Acl, parseAcl, type Subject } from "../../src/ubus/acl.ts";
import { decodeFields, jsonOf } from "../../src/ubus/blob.ts";
import { nameOf } from "../../src/ubus/frame.ts";
import { PrefixMap } from "../../src/ubus/prefix.ts";
import { Stage, type StageFile } from "./stage.ts";

const ann: Subject = { uid: 1000, gid: 1000, moreGids: [29] };
const nobody: Subject = { uid: 65534, gid: 65534, moreGids: [] };
const root: Subject = { uid: 0, gid: 0, moreGids: [] };

async function load(files: Record<string, StageFile | string>) {
  const stage = new Stage();
  for (const [name, file] of Object.entries(files)) {
    stage.files.set(`/acl/${name}`, typeof file === "string" ? { text: file } : file);
  }
  const accounts = await Accounts.open(stage.system);
  const { system } = stage;
  const log = (level: string, line: string) => void stage.log.push(`${level}: ${line}`);
  const acl = new Acl({ disk: system, accounts, directory: "/acl", log });
  await acl.load();
  return { acl, stage, accounts };
}

const grantAll = (extra: object) =>
  JSON.stringify({ publish: ["*"], access: { "*": { methods: ["*"] } }, ...extra });

test("Acl allows root everything and others nothing without a rule", async () => {
  const { acl } = await load({});
  for (const right of ["publish", "subscribe", "listen", "send"] as const) {
    assert.is(acl.allows(root, right, "x"), true);
    assert.is(acl.allows(ann, right, "x"), false);
  }
  assert.is(acl.callsOf(root, "x")("y"), true);
  assert.is(acl.callsOf(ann, "x")("y"), false);
});

test("Acl grants each right for the names that a rule covers, and no other", async () => {
  const { acl } = await load({
    "a.json": JSON.stringify({
      user: "ann",
      access: { system: { methods: ["board", "info"] }, "net.*": { methods: ["*"] }, none: {} },
      publish: ["my.*"],
      subscribe: ["exact"],
      listen: ["ubus.object.*"],
      send: ["*"],
    }),
  });
  const rows: [boolean, string, string][] = [
    [true, "publish", "my.thing"],
    [true, "publish", "my."],
    [false, "publish", "my"],
    [false, "publish", "mythical"],
    [true, "subscribe", "exact"],
    [false, "subscribe", "exactly"],
    [false, "subscribe", "exac"],
    [true, "listen", "ubus.object."],
    [true, "listen", "ubus.object.add"],
    [false, "listen", "ubus.objec"],
    [false, "listen", ""],
    [true, "send", ""],
    [true, "send", "whatever"],
  ];
  for (const [allowed, right, name] of rows) {
    assert.is(acl.allows(ann, right as "send", name), allowed, `${right} ${name}`);
    assert.is(acl.allows(nobody, right as "send", name), false);
  }
  assert.is(acl.callsOf(ann, "system")("board"), true);
  assert.is(acl.callsOf(ann, "system")("reboot"), false);
  assert.is(acl.callsOf(ann, "net.dev")("anything"), true);
  assert.is(acl.callsOf(ann, "net")("anything"), false);
  assert.is(acl.callsOf(ann, "none")("x"), false);
});

test("Acl lets a group in by the first group and by supplementary ones", async () => {
  const { acl } = await load({
    "a.json": grantAll({ group: "audio" }),
    "b.json": grantAll({ group: "ann" }),
  });
  assert.is(acl.allows(ann, "publish", "x"), true);
  assert.is(acl.allows({ ...ann, gid: 29, moreGids: [] }, "publish", "x"), true);
  assert.is(acl.allows({ uid: 1000, gid: 5, moreGids: [29] }, "publish", "x"), true);
  assert.is(acl.allows({ uid: 1000, gid: 5, moreGids: [30] }, "publish", "x"), false);
});

test("Acl leaves out files that others than root can have written, and says so", async () => {
  const good = grantAll({ user: "ann" });
  const rows: [string, Partial<StageFile>, boolean][] = [
    ["good.json", {}, true],
    ["tight.json", { mode: 0o600 }, true],
    ["owner.json", { uid: 1000 }, false],
    ["group.json", { gid: 1000 }, false],
    ["groupwrite.json", { mode: 0o664 }, false],
    ["otherwrite.json", { mode: 0o646 }, false],
    ["otherrun.json", { mode: 0o755 }, false],
    ["good.txt", {}, false],
    [".hidden.json", {}, false],
  ];
  for (const [name, file, counts] of rows) {
    const { acl, stage } = await load({ [name]: { text: good, ...file } });
    assert.is(acl.allows(ann, "publish", "x"), counts, name);
    const silent = counts || !/^[^.].*\.json$/.test(name);
    assert.is(stage.log.length, silent ? 0 : 1, `${name}: ${stage.log}`);
  }
});

test("Acl takes one bad file for itself: the others count", async () => {
  const { acl, stage } = await load({
    "1.json": "{",
    "2.json": "[1]",
    "3.json": "{}",
    "4.json": grantAll({ user: "stranger" }),
    "5.json": grantAll({ group: "strangers" }),
    "6.json": '{"user":"ann","access":{"a":5,"b":{"methods":"x"}},"publish":[1,null,""],"send":{}}',
    "7.json": grantAll({ user: "ann" }),
  });
  assert.is(stage.log.length, 5, stage.log.join("\n"));
  assert.is(acl.allows(ann, "publish", "x"), true);
  assert.is(acl.allows({ uid: 5, gid: 0, moreGids: [0] }, "publish", "x"), false);
});

test("Acl.load replaces all rules", async () => {
  const { acl, stage } = await load({ "a.json": grantAll({ user: "ann" }) });
  assert.is(acl.count, 2);
  stage.files.delete("/acl/a.json");
  await acl.load();
  assert.is(acl.count, 0);
  assert.is(acl.allows(ann, "publish", "x"), false);
});

test("Acl.grantsFor finds the acl tables of an object with the name that each is for", async () => {
  const { acl } = await load({
    "a.json": '{"user":"ann","access":{"my.*":{"acl":{"level":3,"tags":["x"]}},"other":{"acl":{}}}}',
    "b.json": '{"group":"audio","access":{"my.thing":{"methods":[],"acl":{"level":4}}}}',
  });
  const grants = acl
    .grantsFor("my.thing")
    .map((grant) => ({ ...grant, table: jsonOf(decodeFields(grant.table)) }));
  assert.is(
    JSON.stringify(grants),
    '[{"user":"ann","table":{"level":3,"tags":["x"]}},{"group":"audio","table":{"level":4}}]',
  );
});

test("parseAcl ends in rules or a SyntaxError, whatever the file", () => {
  const accounts = { uidOf: () => 7, gidOf: () => undefined };
  fc.assert(
    fc.property(fc.oneof(fc.json(), fc.string(), fc.constant('{"user":"a"}')), (text) => {
      try {
        parseAcl(text, accounts);
      } catch (thrown) {
        assert.instance(thrown, SyntaxError);
      }
    }),
  );
  const odd = fc.record({ user: fc.constant("a"), access: fc.jsonValue(), publish: fc.jsonValue() });
  fc.assert(
    fc.property(odd, (file) => {
      for (const [, rule] of parseAcl(JSON.stringify(file), accounts)) assert.is(rule.uid, 7);
    }),
  );
});

test("PrefixMap finds what a walk over all values finds", () => {
  const key = fc.string({ unit: fc.constantFrom("a", "b", "."), maxLength: 4 });
  const entry = fc.record({ key, partial: fc.boolean() });
  fc.assert(
    fc.property(
      fc.array(entry, { maxLength: 12 }),
      fc.array(fc.nat(11), { maxLength: 4 }),
      key,
      (all, gone, name) => {
        const map = new PrefixMap<{ key: string; partial: boolean }>();
        for (const each of all) map.add(each.key, each);
        const left = new Set(all);
        for (const index of gone) {
          const each = all[index];
          if (each && left.delete(each)) map.remove(each.key, each);
        }
        const expected = [...left]
          .filter((each) => each.key === name || (each.partial && name.startsWith(each.key)))
          .sort((one, other) => one.key.length - other.key.length);
        assert.equal(map.matching(name), expected);
      },
    ),
  );
});

test("Accounts names users and groups, reads again for a stranger, and knows supplementary groups", async () => {
  const { accounts, stage } = await load({});
  const status = (uid: number) =>
    `Name:\tx\nUid:\t${uid}\t${uid}\t${uid}\t${uid}\nGid:\t1000\t1000\t1000\t1000\nGroups:\t29 1000 \nNStgid:\t1\n`;
  stage.files.set("/proc/77/status", { text: status(1000) });
  const peer = { pid: 77, uid: 1000, gid: 1000 };
  assert.equal(await accounts.identify(peer), { user: "ann", group: "ann", moreGids: [29, 1000] });
  stage.files.set("/proc/77/status", { text: status(1001) });
  assert.equal(await accounts.identify(peer), { user: "ann", group: "ann", moreGids: [] });
  stage.files.delete("/proc/77/status");
  assert.equal(await accounts.identify(peer), { user: "ann", group: "ann", moreGids: [] });
  assert.is(await accounts.identify({ pid: 77, uid: 2000, gid: 1000 }), undefined);
  assert.is(await accounts.identify({ pid: 77, uid: 1000, gid: 2000 }), undefined);
  stage.files.set("/etc/passwd", { text: `bad line\n#c:x:9:9\nnöw:x:2000:1::/:\nlater:x:2000:1::/:\n` });
  assert.equal(await accounts.identify({ pid: 1, uid: 2000, gid: 1000 }), {
    user: nameOf("nöw"),
    group: "ann",
    moreGids: [],
  });
  assert.is(accounts.uidOf(nameOf("nöw")), 2000);
  assert.is(accounts.uidOf("bad line"), undefined);
});

test.run();
