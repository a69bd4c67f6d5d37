/**
 * The access rules in files/ are what the tables of methods say. After a change of a table:
 *
 *     ACL=write make test ONLY=package/acl
 */

import { readFileSync, writeFileSync } from "node:fs";
import { test } from "uvu";
import * as assert from "uvu/assert";
import type { Methods } from "../../src/ubus/methods.ts";
import { aclName, busAcl, busAclFile, type RpcdAcl, render, rpcdAcl, rpcdAclFile, tables } from "./acl.ts";

/** Words that a method which only reads has no business beginning with. */
const changing =
  /^(?:add|remove|block|unblock|set|reset|rename|pin|unpin|merge|split|forget|start|stop|import|request|renew|release|connect|disconnect|delete|clear|list_|rpc|reload|resolve_)/;

function shipped(path: string, made: object): void {
  if (process.env.ACL === "write") writeFileSync(path, render(made));
  const advice = `${path} is not what the tables of methods say: ACL=write make test ONLY=package/acl`;
  assert.is(readFileSync(path, "utf8"), render(made), advice);
}

test("rpcdAcl: the file shipped is what the tables say", () => shipped(rpcdAclFile, rpcdAcl(tables)));

test("busAcl: the file shipped names every object that the agent publishes", () =>
  shipped(busAclFile, busAcl(tables)));

const grants = (rights: "read" | "write") => {
  const acl = JSON.parse(readFileSync(rpcdAclFile, "utf8")) as RpcdAcl;
  return Object.entries(acl[aclName]![rights].ubus).flatMap(([object, methods]) =>
    methods.map((method) => ({ object, method })),
  );
};

test("rpcdAcl: a method that changes something is never under read", () => {
  assert.ok(grants("read").length > 5);
  for (const { object, method } of grants("read")) {
    assert.is(tables[object]![method]!.access, "read", `${object} ${method}`);
    assert.not.match(method, changing, `${object} ${method} calls itself a reader`);
  }
});

test("rpcdAcl: every method but SPIN's is granted once, and by its name", () => {
  const wanted = Object.entries(tables)
    .filter(([object]) => object !== "spin")
    .flatMap(([object, methods]) => Object.keys(methods).map((method) => `${object} ${method}`));
  const granted = [...grants("read"), ...grants("write")].map(({ object, method }) => `${object} ${method}`);
  assert.equal(granted.sort(), wanted.sort());
  for (const each of granted) assert.not.match(each, /\*/);
});

test("rpcdAcl: what a table calls write moves under write, and what nobody is to call stays out", () => {
  const method = (access: "read" | "write") => ({ args: {}, access, doc: "", call: () => undefined });
  const objects: Record<string, Methods> = {
    "gatehouse.x": { get: method("read"), put: method("write") },
    spin: { blockflow: method("write") },
  };
  const { read, write } = rpcdAcl(objects)[aclName]!;
  assert.equal(read.ubus, { "gatehouse.x": ["get"] });
  assert.equal(write.ubus, { "gatehouse.x": ["put"] });
});

test.run();
