/** JSON-RPC over MQTT: order, bounds, rate, and what is not answered. */

import * as fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { Rpc, RpcTopic, type RpcTopicOptions } from "../../src/spin/spin.ts";
import { Machine } from "../fake/machine.ts";
import { Model } from "./model.ts";

const bytesOf = (text: string) => new TextEncoder().encode(text);

function make(options: Partial<RpcTopicOptions> = {}) {
  const machine = new Machine();
  const door = new Model();
  for (const id of [4, 5, 6]) door.add({ id });
  const replies: string[] = [];
  const rpc = new Rpc(door, (line) => assert.unreachable(line));
  const topic = new RpcTopic(machine, { rpc, reply: (text) => replies.push(text), ...options });
  const ask = (id: number, method = "get_flow_block", isRetained = false) =>
    topic.take(bytesOf(`{"jsonrpc":"2.0","id":${id},"method":"${method}"}`), isRetained);
  const ids = () => replies.map((each) => JSON.parse(each).id);
  /** Lets decisions, which take a turn each, be made. */
  const settle = async () => {
    for (let turn = 0; turn < 400; turn++) await machine.settle();
  };
  return { machine, door, topic, replies, ask, ids, settle };
}

test("each request is answered, in order, and each sees what was decided before it", async () => {
  const { topic, replies, ask, settle } = make();
  const block = '{"jsonrpc":"2.0","id":1,"method":"set_flow_block","params":{"node1":4,"node2":5,"block":1}}';
  topic.take(bytesOf(block), false);
  ask(2);
  ask(3, "nosuch");
  assert.equal(replies, []);
  await settle();
  assert.equal(replies, [
    '{"jsonrpc":"2.0","id":1}',
    '{"jsonrpc":"2.0","id":2,"result":[{"node1":4,"node2":5}]}',
    '{"jsonrpc":"2.0","id":3,"error":{"code":-1,"message":"No such function registered"}}',
  ]);
});

test("a retained request is of another time, an empty one is none, a notification wants no answer", async () => {
  const { topic, replies, ask, settle, door } = make();
  ask(1, "get_flow_block", true);
  topic.take(new Uint8Array(0), false);
  topic.take(
    bytesOf('{"jsonrpc":"2.0","method":"set_flow_block","params":{"node1":4,"node2":5,"block":1}}'),
    false,
  );
  await settle();
  assert.equal(replies, []);
  assert.equal(door.pairs(), [[4, 5]]);
  assert.equal(topic.counters, { requests: 1, retained: 1, dropped: 0, waiting: 0 });
});

test("the payload is copied, for it is its owner's again at once", async () => {
  const { topic, ids, settle } = make();
  const payload = bytesOf('{"jsonrpc":"2.0","id":1,"method":"get_flow_block"}');
  topic.take(payload, false);
  payload.fill(0);
  await settle();
  assert.equal(ids(), [1]);
});

test("whoever asks faster than the rate waits, and nothing is lost or moved", async () => {
  const { machine, ask, ids, settle, topic } = make({ burst: 10, perSecond: 5 });
  for (let id = 0; id < 30; id++) ask(id);
  await settle();
  assert.is(ids().length, 10);
  await machine.advance(1_000);
  assert.is(ids().length, 15);
  ask(30);
  assert.is(topic.counters.waiting, 16);
  await machine.advance(10_000);
  assert.equal(
    ids(),
    Array.from({ length: 31 }, (_, id) => id),
  );
});

test("what is past what may wait is dropped and counted, in number and in bytes", async () => {
  const { ask, ids, settle, topic } = make({ maxWaiting: 3 });
  for (let id = 0; id < 5; id++) ask(id);
  await settle();
  assert.equal(ids(), [0, 1, 2]);
  assert.is(topic.counters.dropped, 2);
  const small = make({ maxWaitingBytes: 100 });
  small.ask(1);
  small.ask(2);
  small.ask(3);
  await small.settle();
  assert.equal(small.ids(), [1, 2]);
  // One that alone is more than may wait is still answered: as what it is.
  small.topic.take(new Uint8Array(70_000).fill(0x7b), false);
  await small.settle();
  assert.match(small.replies[2]!, "Request is too large");
});

test("after close nothing is answered", async () => {
  const { machine, topic, ask, replies, settle } = make({ burst: 1 });
  ask(1);
  ask(2);
  topic.close();
  ask(3);
  await settle();
  await machine.advance(10_000);
  assert.equal(replies, []);
});

test("whatever bytes come, the next request is answered", async () => {
  const { topic, replies, ask, settle } = make({ burst: 1_000_000 });
  let id = 0;
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ minLength: 1 }), async (bytes) => {
      replies.length = 0;
      topic.take(bytes, false);
      ask(++id);
      await settleShortly(() => replies.length === 2);
      assert.match(replies[0]!, '"code":1');
      assert.is(JSON.parse(replies[1]!).id, id);
    }),
    { numRuns: 300 },
  );
  await settle();
});

async function settleShortly(isDone: () => boolean): Promise<void> {
  for (let turn = 0; turn < 100 && !isDone(); turn++) await new Promise((resolve) => setImmediate(resolve));
}

test.run();
