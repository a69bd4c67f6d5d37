/** The play that has the engine's code compiled: it goes every way that packets go, and nothing of it gets out. */

import { test } from "uvu";
import * as assert from "uvu/assert";
import { Rehearsal } from "../../src/ipref/rehearsal.ts";
import type { ForwardSettings } from "../../src/ipref/settings.ts";
import type { PacketMachine } from "../../src/system/packets.ts";
import { native } from "../system/until.ts";

function refuse(): never {
  throw new Error("the real machine was used");
}

/** Computes as the real machine does, and moves nothing. */
function machineOf(now: () => number): PacketMachine {
  const { checksum, split, join } = native();
  return { ...{ now, checksum, split, join }, receive: refuse, send: refuse, errors: refuse, wait: refuse };
}

function settingsOf(lan: 4 | 6, tunnel: 4 | 6): ForwardSettings {
  const net =
    lan === 4 ? Uint8Array.of(10, 240, 0, 0) : Uint8Array.from([0xfd, 0, 2, 0x40, ...Array(12).fill(0)]);
  const own = net.slice();
  own[own.length - 1] = 1;
  const reference = new Uint8Array(16);
  reference[15] = 1;
  return {
    lanFamily: lan,
    tunnelFamily: tunnel,
    encodeNet: { bytes: net, length: lan === 4 ? 12 : 32 },
    ownEncoded: own,
    ownContext: tunnel === 4 ? Uint8Array.of(198, 51, 100, 97) : Uint8Array.from({ length: 16 }, () => 0x20),
    ownReference: reference,
    decrementTtl: true,
    tunnelMtuBytes: 1500,
    lanMtuBytes: 1500,
    clampMss: true,
    admitRouter: false,
    forbidden: [],
    firstId: 1,
  };
}

test("Rehearsal moves packets of each kind both ways, drops none, and touches no queue", () => {
  for (const lan of [4, 6] as const) {
    for (const tunnel of [4, 6] as const) {
      const rehearsal = new Rehearsal({
        machine: machineOf(() => 1),
        settings: settingsOf(lan, tunnel),
        joinsUdp: true,
      });
      for (let turn = 0; turn < 100; turn++) assert.ok(rehearsal.turn());
      const { counts, dropsOut, dropsIn } = rehearsal.counts.all();
      assert.equal([dropsOut, dropsIn], [{}, {}]);
      assert.ok(counts.outPackets > 200 && counts.inPackets > 200, JSON.stringify(counts));
      assert.ok(counts.joined > 20, JSON.stringify(counts));
      // Six super-packets in twelve turns.
      assert.ok(counts.split > 40 && counts.split < 60, JSON.stringify(counts));
      assert.equal([counts.asked, counts.failed, counts.odd, counts.tunFailed], [0, 0, 0, 0]);
    }
  }
});

test("Rehearsal ends after a number of turns, and on a slow machine after a time", () => {
  const count = (now: () => number) => {
    const rehearsal = new Rehearsal({ machine: machineOf(now), settings: settingsOf(4, 4), joinsUdp: false });
    let turns = 1;
    while (rehearsal.turn()) turns++;
    return turns;
  };
  const whole = count(() => 1);
  assert.ok(whole > 1_000 && whole < 10_000);
  let now = 0;
  assert.ok(count(() => now++ * 1_000) < 100);
});

test.run();
