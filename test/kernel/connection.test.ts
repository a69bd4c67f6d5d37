/** Connections decoded: recorded ones, made-up ones, and whatever bytes. */

import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { Attributes, concat, encodeAttributes, network } from "../../src/kernel/attribute.ts";
import { ConnectionReader } from "../../src/kernel/connection.ts";
import { connectionPayload, type MadeUpConnection, messageOf, recorded, recordedElsewhere } from "./yard.ts";

const connections = () => recorded().filter((row) => row.kind === "connection");

test("ConnectionReader: connections recorded from a kernel", () => {
  const reader = new ConnectionReader();
  for (const { hex, type, expected, counted, counters } of connections()) {
    assert.ok(reader.read(messageOf(type, Buffer.from(hex, "hex"))));
    assert.equal(JSON.parse(JSON.stringify(reader.decode())), expected);
    assert.is(reader.counted, counted);
    assert.equal([...reader.counters], counters);
  }
  assert.is(connections().length, recordedElsewhere ? 0 : 7);
});

test("ConnectionReader.read gives different keys to connections, the same to one that has moved on", () => {
  const reader = new ConnectionReader();
  const keyOf = (connection: MadeUpConnection) => {
    assert.ok(reader.read(messageOf(0x100, connectionPayload(connection))));
    return reader.key;
  };
  const key = keyOf({});
  assert.is(keyOf({ counters: [1n, 2n, 3n, 4n] }), key);
  assert.is.not(keyOf({ id: 8 }), key);
  assert.is.not(keyOf({ sourcePort: 1_001 }), key);
  assert.ok(Number.isSafeInteger(keyOf({ id: 0xffffffff })));
});

test("ConnectionReader: cut at every length, it is whole, without its tail, or nothing", () => {
  const reader = new ConnectionReader();
  const payloads = [
    ...connections().map(({ hex }) => Buffer.from(hex, "hex")),
    connectionPayload({ counters: [1n, 2n, 3n, 4n] }),
  ];
  for (const payload of payloads) {
    assert.ok(reader.read(messageOf(0x100, payload)));
    const { source, reply } = reader.decode()!;
    let read = 0;
    for (let end = 0; end < payload.length; end++) {
      if (!reader.read({ ...messageOf(0x100, payload), end })) continue;
      const connection = reader.decode();
      if (!connection) continue;
      read++;
      assert.equal([connection.source, connection.reply], [source, reply]);
    }
    assert.ok(read < 20, "only cuts between two attributes of the top level");
  }
});

test("ConnectionReader.encodeName: family, tuple, id and zone, so that a successor is not cut in its place", () => {
  const reader = new ConnectionReader();
  const zone = encodeAttributes([[18, network.bytes16(3)]]);
  assert.ok(reader.read(messageOf(0x100, concat([connectionPayload({ id: 0x01020304 }), zone]))));
  assert.is(reader.decode()!.zone, 3);
  const name = reader.encodeName();
  const attributes = new Attributes(20);
  assert.equal([...name.subarray(0, 4)], [2, 0, 0, 0]);
  assert.ok(attributes.read(name, 4, name.length));
  assert.equal([attributes.number32(12, network), attributes.number16(18, network)], [0x01020304, 3]);
  const back = new ConnectionReader();
  assert.ok(back.read(messageOf(0x102, name)));
  assert.is(back.key, reader.key);
});

test("ConnectionReader never throws, whatever bytes are flipped", () => {
  const reader = new ConnectionReader();
  const payloads = [
    ...connections().map(({ hex }) => Buffer.from(hex, "hex")),
    connectionPayload({ counters: [1n, 2n, 3n, 4n] }),
  ];
  const look = (payload: Uint8Array) => {
    if (!reader.read(messageOf(0x100, payload))) return;
    const connection = reader.decode();
    if (connection) assert.ok(connection.source.length > 1 && connection.reply.destination.length > 1);
    assert.ok(Number.isSafeInteger(reader.key));
    reader.encodeName();
  };
  for (const payload of payloads) {
    for (let at = 0; at < payload.length; at++) {
      for (const flip of [1, 2, 0x80, 0xff]) {
        const changed = Uint8Array.from(payload);
        changed[at]! ^= flip;
        look(changed);
      }
    }
  }
  fc.assert(fc.property(fc.uint8Array({ maxLength: 120 }), look));
});

test.run();
