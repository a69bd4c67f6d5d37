/** A reload keeps the MQTT session, unless its settings changed. */

import { test } from "uvu";
import * as assert from "uvu/assert";
import { Sessions } from "../../src/agent/session.ts";
import type { Mqtt, MqttHandlers, MqttOptions } from "../../src/system/system.ts";

const options: MqttOptions = {
  host: "broker",
  port: 1883,
  clientId: "c",
  keepaliveSeconds: 60,
  will: { topic: "status", payload: "offline" },
  maxQueuedBytes: 1_000,
};
const goodbye = { topic: "status", payload: "offline" };

/** Sessions over a machine whose broker is always there, and everything that the broker saw. */
function make() {
  const seen: string[] = [];
  const waiting: (() => void)[] = [];
  const broker: MqttHandlers[] = [];
  const machine = {
    after(_: number, call: () => void) {
      waiting.push(call);
      return () => {};
    },
    mqtt(_: MqttOptions, handlers: MqttHandlers): Mqtt {
      const number = broker.push(handlers);
      seen.push(`${number} opens`);
      let connected = true;
      waiting.push(() => connected && handlers.onConnect());
      return {
        get connected() {
          return connected;
        },
        queuedBytes: 7,
        maxMessageBytes: 99,
        publish: (topic, payload) => {
          seen.push(`${number} ${topic}=${payload}`);
          return true;
        },
        subscribe: (topic) => void seen.push(`${number} +${topic}`),
        unsubscribe: (topic) => void seen.push(`${number} -${topic}`),
        async close(farewell) {
          connected = false;
          seen.push(`${number} closes${farewell ? ` ${farewell.payload}` : ""}`);
        },
      };
    },
  };
  const sessions = new Sessions(machine);
  const open = (settings: string) => {
    const heard: string[] = [];
    const session = sessions.open(settings, options, {
      onConnect: () => heard.push("connect"),
      onDisconnect: (reason) => heard.push(reason),
      onMessage: (topic) => heard.push(topic),
      onRefusal: (topic) => heard.push(`no ${topic}`),
    });
    return { session, heard };
  };
  const settle = () => {
    for (const call of waiting.splice(0)) call();
  };
  return { sessions, seen, broker, open, settle };
}

test("Sessions: the next life with the same settings gets the session as it stands, and is told so", async () => {
  const { sessions, seen, broker, open, settle } = make();
  const first = open("a");
  settle();
  sessions.hold();
  await first.session.close(goodbye);
  broker[0]!.onMessage("meanwhile", new Uint8Array(), false);
  const second = open("a");
  assert.equal(second.heard, []);
  settle();
  await sessions.settle();
  broker[0]!.onMessage("news", new Uint8Array(), false);
  broker[0]!.onRefusal!("secret", "");
  assert.equal(first.heard, ["connect"]);
  assert.equal(second.heard, ["connect", "news", "no secret"]);
  assert.ok(second.session.publish("topic", "text"));
  second.session.subscribe("q");
  second.session.unsubscribe("q");
  assert.equal(seen, ["1 opens", "1 topic=text", "1 +q", "1 -q"]);
  await second.session.close(goodbye);
  assert.equal(seen.at(-1), "1 closes offline");
});

test("Sessions: with other settings, or none, the old session ends with its farewell", async () => {
  for (const next of ["b", undefined]) {
    const { sessions, seen, open, settle } = make();
    const first = open("a");
    settle();
    sessions.hold();
    await first.session.close(goodbye);
    if (next !== undefined) open(next);
    await sessions.settle();
    assert.equal(seen, ["1 opens", ...(next === undefined ? [] : ["2 opens"]), "1 closes offline"]);
  }
});

test("Sessions: a session that was closed moves nothing any more, whoever has it", async () => {
  const { sessions, seen, open, settle } = make();
  const { session } = open("a");
  settle();
  sessions.hold();
  await session.close(goodbye);
  open("a");
  assert.not(session.connected);
  assert.not(session.publish("late", "text"));
  session.subscribe("late");
  await session.close(goodbye);
  assert.equal(seen, ["1 opens"]);
});

test("Sessions: one that was lost between two lives is won again by the second", async () => {
  const { sessions, broker, open, settle } = make();
  const first = open("a");
  settle();
  sessions.hold();
  await first.session.close(goodbye);
  broker[0]!.onDisconnect("gone");
  const second = open("a");
  broker[0]!.onConnect();
  assert.equal(second.heard, ["connect"]);
  assert.equal(first.heard, ["connect"]);
});

test("Sessions: without a reload a close is a close", async () => {
  const { seen, open } = make();
  await open("a").session.close(goodbye);
  assert.equal(seen, ["1 opens", "1 closes offline"]);
});

test.run();
