/** Tables of interfaces that netifd manages, with a netifd that answers as a real one was recorded. */

import { readFileSync } from "node:fs";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { parseInterfaces } from "../../src/agent/netifd.ts";
import { Fault } from "../../src/lib/fault.ts";
import type { JsonObject } from "../../src/lib/json.ts";
import { keyOf, netifdOverUbus } from "../../src/tables/tables.ts";
import { stage, wish } from "./stage.ts";

interface Interface {
  readonly interface: string;
  up: boolean;
  ip4table?: number;
  ip6table?: number;
}

/** rpcd's uci and netifd: interfaces that use what the configuration says after a reload, if they are up. */
class FakeRouter {
  readonly dump: { interface: Interface[] } = JSON.parse(
    readFileSync("test/tables/fixtures/network.interface.dump.json", "utf8"),
  );
  readonly config = new Map(this.dump.interface.map((each) => [each.interface, new Map<string, string>()]));
  readonly calls: string[] = [];
  pending: string[][] = [];
  broken = false;

  readonly call = async (path: string, method: string, args: JsonObject): Promise<unknown> => {
    await undefined;
    if (this.broken) throw new Fault("closed", "Cannot call: there is no bus");
    const section = args.section as string | undefined;
    const values = section === undefined ? undefined : this.config.get(section);
    if (method !== "get" && method !== "changes") {
      this.calls.push(
        [path, method, section, JSON.stringify(args.values ?? args.option)].filter(Boolean).join(" "),
      );
    }
    switch (method) {
      case "get":
        if (!values) throw new Fault("not-found", "Cannot call uci get: Not found");
        return { values: { ".type": "interface", ...Object.fromEntries(values) } };
      case "changes":
        return { changes: this.pending };
      case "set":
        for (const [name, value] of Object.entries(args.values as JsonObject))
          values!.set(name, String(value));
        return {};
      case "delete":
        values!.delete(args.option as string);
        return {};
      case "reload":
        for (const each of this.dump.interface) this.#reload(each);
        return {};
      default:
        return {};
    }
  };

  get interfaces() {
    return parseInterfaces(this.dump);
  }

  #reload(each: Interface): void {
    for (const option of ["ip4table", "ip6table"] as const) {
      const value = this.config.get(each.interface)!.get(option);
      if (value === undefined || !each.up) delete each[option];
      else each[option] = Number(value);
    }
  }
}

const key = (name: string, family = "inet") => keyOf({ family, interface: name });
const netifd = wish({ steer: "netifd" });

function router() {
  const fake = new FakeRouter();
  const s = stage({ netifd: netifdOverUbus(fake.call) });
  s.tables.interfaces(fake.interfaces);
  return { ...s, fake };
}

test("a lease of an interface sets its table in the configuration, and netifd reads it", async () => {
  const { tables, kernel, fake } = router();
  const lease = await tables.request(key("wan"), netifd);
  assert.is(lease.value, 10_000);
  assert.equal(fake.calls, ['uci set wan {"ip4table":"10000"}', "uci commit", "network reload"]);
  assert.is(fake.interfaces[2]!.tables[4], 10_000);
  assert.equal(kernel.lines, []);
  await tables.request(key("wan6", "inet6"), netifd);
  assert.ok(fake.calls.includes('uci set wan6 {"ip6table":"10000"}'));
});

test("a lease that ends takes the table away from netifd, then removes what it left behind", async () => {
  const { tables, kernel, fake } = router();
  await tables.request(key("wan"), netifd);
  const order: string[] = [];
  const flush = kernel.flush.bind(kernel);
  kernel.flush = async (all) => {
    order.push(...fake.calls.splice(0), `flush ${all.map((each) => each.table)}`);
    return flush(all);
  };
  fake.calls.length = 0;
  await tables.release(() => tables.get(key("wan")), "root");
  assert.equal(order, ['uci delete wan "ip4table"', "uci commit", "network reload", "flush 10000"]);
});

test("a table that somebody has given the interface since is not taken away with our lease", async () => {
  const { tables, fake } = router();
  await tables.request(key("wan"), netifd);
  fake.config.get("wan")!.set("ip4table", "777");
  fake.calls.length = 0;
  await tables.release(() => tables.get(key("wan")), "root");
  assert.equal(fake.calls, []);
  assert.is(fake.config.get("wan")!.get("ip4table"), "777");
});

test("while netifd cannot be told, nothing is granted, and a released table waits", async () => {
  const { tables, kernel, fake, wait } = router();
  await tables.request(key("wan"), netifd);
  fake.broken = true;
  await tables.request(key("wan6", "inet6"), netifd).then(
    () => assert.unreachable(),
    (thrown: Fault) => assert.is(thrown.code, "closed"),
  );
  assert.is(tables.get(key("wan6", "inet6")), undefined);
  await tables.release(() => tables.get(key("wan")), "root");
  assert.equal(
    kernel.flushed.filter(({ family }) => family === 4),
    [],
  );
  fake.broken = false;
  await wait(6);
  assert.is(fake.config.get("wan")!.get("ip4table"), undefined);
  await wait(2);
  assert.equal(
    kernel.flushed.filter(({ family }) => family === 4),
    [{ family: 4, table: 10_000 }],
  );
});

test("changes of the network that nobody has committed are not committed for them", async () => {
  const { tables, fake } = router();
  fake.pending = [["set", "wan", "mtu", "1400"]];
  await tables.request(key("wan"), netifd).then(
    () => assert.unreachable(),
    (thrown: Fault) => assert.is(thrown.code, "conflict"),
  );
  assert.equal(fake.calls, []);
});

test("an interface that is unknown, or that an administrator gave a table, gets none of ours", async () => {
  const { tables, fake } = router();
  const codeOf = (name: string) =>
    tables.request(key(name), netifd).then(
      () => "granted",
      (thrown: Fault) => thrown.code,
    );
  assert.is(await codeOf("nosuch"), "not-found");
  fake.dump.interface[2]!.ip4table = 300;
  tables.interfaces(fake.interfaces);
  assert.is(await codeOf("wan"), "conflict");
});

test("a table of ours that netifd has already is kept, when the leases were lost", async () => {
  const { tables, fake } = router();
  fake.config.get("wan")!.set("ip4table", "10005");
  await fake.call("network", "reload", {});
  tables.interfaces(fake.interfaces);
  assert.is((await tables.request(key("wan"), netifd)).value, 10_005);
});

test("it lasts while the interface is there, whether up or down, and is told again after a change by others", async () => {
  const { tables, fake, wait } = router();
  await tables.request(key("wan"), netifd);
  for (let round = 0; round < 5; round++) await wait(60);
  const wan = fake.dump.interface[2]!;
  // ifdown: no table is shown.
  wan.up = false;
  await fake.call("network", "reload", {});
  fake.calls.length = 0;
  tables.interfaces(fake.interfaces);
  for (let round = 0; round < 5; round++) await wait(60);
  assert.equal(fake.calls, []);
  assert.ok(tables.get(key("wan")));
  // ifup, after somebody has changed the configuration.
  wan.up = true;
  fake.config.get("wan")!.set("ip4table", "400");
  await fake.call("network", "reload", {});
  tables.interfaces(fake.interfaces);
  await tables.settled();
  assert.is(fake.interfaces[2]!.tables[4], 10_000);
  // The interface is removed from the configuration.
  fake.dump.interface.splice(2, 1);
  fake.config.delete("wan");
  tables.interfaces(fake.interfaces);
  await wait(101);
  assert.is(tables.get(key("wan")), undefined);
});

test.run();
