/** The bus against recordings of ubusd: every byte that the clients wrote, every byte that they got. */

import { test } from "uvu";
import * as assert from "uvu/assert";
import { type Bus, openBus } from "../../src/ubus/bus.ts";
import { bytewise, type Cut, whole } from "./scene.ts";
import { countingIds, type Line, Stage, settled } from "./stage.ts";
import { hexOf, readTranscript, type Transcript, transcriptNames } from "./transcript.ts";

const recordings = transcriptNames.map(readTranscript);

/** What each connection got, and whether the bus closed it, when the clients' side is played. */
async function play(recording: Transcript, cut: Cut) {
  const { name: of, acl, connections } = recording;
  const stage = new Stage();
  if (acl) stage.files.set("/acl/a.json", { text: JSON.stringify(acl) });
  const open = () => openBus(stage.system, { path: "/bus", aclDirectory: "/acl", newId: countingIds() });
  let bus: Bus = await open();
  const lines = new Map<string, Line>();
  for (const { conn, dir, bytes } of recording.lines) {
    if (dir === "OPEN") {
      const uid = connections[conn]?.uid ?? 0;
      lines.set(conn, stage.connect({ uid, gid: uid }));
    } else if (dir.startsWith("C2S")) {
      for (const piece of cut([bytes])) lines.get(conn)!.feed(piece);
    } else if (dir === "CLOSE_BY_CLIENT") {
      lines.get(conn)!.hangUp();
    } else if (dir === "CLOSE_BY_UBUSD" && of.includes("restart")) {
      await bus.close();
      bus = await open();
    }
    await settled();
  }
  const closedByBus = recording.lines.filter(({ dir }) => dir === "CLOSE_BY_UBUSD");
  for (const { conn } of closedByBus) assert.ok(lines.get(conn)!.closed, `${conn} is closed`);
  await bus.close();
  return lines;
}

async function check(recording: Transcript, cut: Cut) {
  const lines = await play(recording, cut);
  for (const [name, line] of lines) {
    const mine = recording.lines.filter(({ conn }) => conn === name);
    const expected = mine
      .filter(({ dir }) => dir === "S2C")
      .map(({ bytes }) => hexOf(bytes))
      .join("");
    // Who hangs up right after a request was not there any more for the answer.
    const left = mine.at(-1)!.dir === "CLOSE_BY_CLIENT" && mine.at(-2)!.dir === "C2S";
    assert.is(left ? line.hex.slice(0, expected.length) : line.hex, expected, `${recording.name}: ${name}`);
  }
}

for (const recording of recordings) {
  test(`openBus answers as ubusd did in ${recording.name}`, () => check(recording, whole));
}

test("openBus does not care how the bytes of a client are cut", async () => {
  for (const recording of recordings) {
    if (recording.name.startsWith("27")) continue;
    await check(recording, bytewise);
  }
});

test.run();
