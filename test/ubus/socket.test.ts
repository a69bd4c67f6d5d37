/** The client over real unix sockets, on our bus. */

import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { Fault } from "../../src/lib/fault.ts";
import { openLinux } from "../../src/system/linux.ts";
import { type Bus, openBus } from "../../src/ubus/bus.ts";
import { connectUbus, type Ubus } from "../../src/ubus/client.ts";
import type { Method } from "../../src/ubus/methods.ts";

const lines: string[] = [];
const system = openLinux({
  nativePath: join(process.cwd(), "dist/netio.node"),
  log: (_level, line) => lines.push(line),
});
const path = join(mkdtempSync(join(tmpdir(), "ubus-")), "ubus.sock");
const method = (args: Method["args"], call: Method["call"]): Method => ({
  args,
  call,
  access: "read",
  doc: "Test.",
});

let bus: Bus;
const clients: Ubus[] = [];

function client(timeoutMs = 60_000): Ubus {
  const ubus = connectUbus(system, { path, timeoutMs });
  clients.push(ubus);
  return ubus;
}

/** Waits for something to become true. */
async function until(holds: () => boolean, what: string): Promise<void> {
  for (const end = Date.now() + 60_000; !holds(); ) {
    assert.ok(Date.now() < end, `${what}: not in a minute`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

test.before(async () => {
  bus = await openBus(system, { path });
});

test.after(async () => {
  for (const each of clients) each.close();
  await bus.close();
});

const methods = {
  echo: method({ value: "Table" }, ({ value }) => value),
  who: method({}, (_args, { user, group }) => ({ user: user ?? null, group: group ?? null })),
  later: method(
    { n: "Integer" },
    ({ n }) => new Promise((resolve) => setTimeout(() => resolve({ n: n! }), 1)),
  ),
  fail: method({}, () => {
    throw new Fault("denied", "Cannot do it: no");
  }),
};

test("calls pass through the bus, whatever they carry", async () => {
  const server = client();
  await server.publish("test.server", methods).done;
  const caller = client();
  assert.equal({ ...(await caller.call("test.server", "who")) }, { user: "root", group: "root" });
  const value = {
    s: "ö€😀",
    b: true,
    n: null,
    d: 1.5,
    i: -1,
    big: 2 ** 40,
    l: [1, "x"],
    long: "y".repeat(300_000),
  };
  const back = await caller.call("test.server", "echo", { value });
  assert.is(JSON.stringify(back), JSON.stringify(value));
  const codeOf = (call: Promise<unknown>) => call.then(assert.unreachable as () => never, ({ code }) => code);
  assert.is(await codeOf(caller.call("test.server", "fail")), "denied");
  assert.is(await codeOf(caller.call("no.such", "x")), "not-found");
  const [object] = await caller.lookup("test.*");
  assert.equal(
    [object!.path, object!.signature.map(({ name }) => name)],
    ["test.server", Object.keys(methods)],
  );
});

test("two thousand calls of eight clients at once all get their own answer", async () => {
  const callers = Array.from({ length: 8 }, () => client());
  const answers = callers.flatMap((caller) =>
    Array.from(
      { length: 250 },
      async (_, n) => (await caller.call("test.server", n & 1 ? "later" : "echo", { n, value: { n } })).n,
    ),
  );
  const got = await Promise.all(answers);
  assert.ok(got.every((n, index) => n === index % 250));
});

test("events and notifications arrive, in order and only where they are wanted", async () => {
  const [server, hearer] = clients as [Ubus, Ubus];
  const heard: string[] = [];
  await hearer.listen("demo.*", (event, { n }) => heard.push(`${event} ${n}`)).done;
  const subscription = hearer.subscribe("test.server", (type, { n }) => {
    heard.push(`${type} ${n}`);
    if (n === 5) throw new Fault("unsupported", "Cannot take 5: no");
  });
  await subscription.done;
  await until(() => server.hasSubscribers("test.server"), "the server learns of its subscriber");
  for (let n = 0; n < 3; n++) await server.send("demo.e", { n });
  await server.send("other", { n: 9 });
  await server.notify("test.server", "n", { n: 4 });
  const replies = await server.notify("test.server", "n", { n: 5 }, { reply: true });
  assert.equal([...replies.values()], [8]);
  assert.equal(heard, ["demo.e 0", "demo.e 1", "demo.e 2", "n 4", "n 5"]);
  subscription.cancel();
  await until(() => !server.hasSubscribers("test.server"), "the server learns that it has left");
});

test("everything is there again when the bus comes back", async () => {
  const [server, hearer] = clients as [Ubus, Ubus];
  const heard: string[] = [];
  const subscription = hearer.subscribe("test.server", (type) => heard.push(type));
  await subscription.done;
  const flying = hearer.call("test.server", "later", { n: 1 }).then(
    () => "answered",
    (thrown) => thrown.code,
  );
  await bus.close();
  assert.ok(["closed", "answered"].includes(await flying));
  await until(() => !server.connected && !hearer.connected, "the clients notice");
  const waiting = hearer.call("test.server", "who");
  bus = await openBus(system, { path });
  const settled = await waiting.then(
    () => "found",
    (thrown) => thrown.code,
  );
  // The caller may have been back before the server.
  assert.ok(["found", "not-found"].includes(settled), settled);
  await until(() => server.hasSubscribers("test.server"), "publication and subscription are renewed");
  assert.equal(
    { ...(await hearer.call("test.server", "echo", { value: { again: true } })) },
    { again: true },
  );
  await server.notify("test.server", "back", {});
  await server.send("demo.back", {});
  await until(() => heard.length === 1, "the notification arrives");
  assert.equal(heard, ["back"]);
});

test("a subscription finds its object when it is published later, and again after it went", async () => {
  const hearer = client();
  const heard: string[] = [];
  const subscription = hearer.subscribe("test.late", (type) => heard.push(type));
  await hearer.ready();
  for (const round of ["first", "second"]) {
    const server = client();
    await server.publish("test.late", methods).done;
    await until(() => server.hasSubscribers("test.late"), `${round} subscription`);
    await server.notify("test.late", round, {});
    await until(() => heard.includes(round), `${round} notification`);
    server.close();
  }
  subscription.cancel();
  assert.equal(heard, ["first", "second"]);
});

test("nothing was logged", () => assert.equal(lines, ["Cannot take 5: no"]));

test.run();
