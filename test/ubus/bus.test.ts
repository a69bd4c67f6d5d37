/** The bus against recordings of ubusd: every byte that the clients wrote, every byte that they got. */

import { readFileSync } from "node:fs";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { type Bus, openBus } from "../../src/ubus/bus.ts";
import { countingIds, type Line, Stage, settled } from "./stage.ts";

interface Recording {
  readonly name: string;
  /** Of connections that are not root's. */
  readonly uids: Readonly<Record<string, number>>;
  readonly acl?: unknown;
  /** Connection, direction, bytes in hex; `(78)*70000` is a run of one byte. */
  readonly messages: readonly (readonly [string, string, string])[];
}

const recordings: readonly Recording[] = JSON.parse(
  readFileSync("test/ubus/fixtures/bus/recorded.json", "utf8"),
);

const hexOf = (text: string) =>
  text.replace(/\((..)\)\*(\d+) /g, (_, byte: string, count: string) => byte.repeat(Number(count)));

/** What each connection got, and whether the bus closed it, when the clients' side is played. */
async function play(recording: Recording, cut: (bytes: Uint8Array) => Iterable<Uint8Array>) {
  const stage = new Stage();
  if (recording.acl) stage.files.set("/acl/a.json", { text: JSON.stringify(recording.acl) });
  const open = () => openBus(stage.system, { path: "/bus", aclDirectory: "/acl", newId: countingIds() });
  let bus: Bus = await open();
  const lines = new Map<string, Line>();
  for (const [name, direction, hex] of recording.messages) {
    if (direction === "OPEN") {
      const uid = recording.uids[name] ?? 0;
      lines.set(name, stage.connect({ uid, gid: uid }));
    } else if (direction.startsWith("C2S")) {
      for (const piece of cut(Buffer.from(hexOf(hex), "hex"))) lines.get(name)!.feed(piece);
    } else if (direction === "CLOSE_BY_CLIENT") {
      lines.get(name)!.hangUp();
    } else if (direction === "CLOSE_BY_UBUSD" && recording.name.includes("restart")) {
      await bus.close();
      bus = await open();
    }
    await settled();
  }
  const closedByBus = recording.messages.filter(([, direction]) => direction === "CLOSE_BY_UBUSD");
  for (const [name] of closedByBus) assert.ok(lines.get(name)!.closed, `${name} is closed`);
  await bus.close();
  return lines;
}

async function check(recording: Recording, cut: (bytes: Uint8Array) => Iterable<Uint8Array>) {
  const lines = await play(recording, cut);
  for (const [name, line] of lines) {
    const mine = recording.messages.filter(([connection]) => connection === name);
    const expected = mine
      .filter(([, direction]) => direction === "S2C")
      .map(([, , hex]) => hexOf(hex))
      .join("");
    // Who hangs up right after a request was not there any more for the answer.
    const left = mine.at(-1)![1] === "CLOSE_BY_CLIENT" && mine.at(-2)![1] === "C2S";
    assert.is(left ? line.hex.slice(0, expected.length) : line.hex, expected, `${recording.name}: ${name}`);
  }
}

for (const recording of recordings) {
  test(`openBus answers as ubusd did in ${recording.name}`, () => check(recording, (bytes) => [bytes]));
}

test("openBus does not care how the bytes of a client are cut", async () => {
  for (const recording of recordings) {
    if (recording.name.startsWith("27")) continue;
    await check(recording, function* (bytes) {
      for (let at = 0; at < bytes.length; at++) yield bytes.slice(at, at + 1);
    });
  }
});

test.run();
