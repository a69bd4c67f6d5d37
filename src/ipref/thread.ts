/**
 * The program of the forwarding thread: an engine over the queues that the thread was given, until its owner wants an
 * end. Whatever goes wrong ends the thread, and the owner starts another. At first it also rehearses (rehearsal.ts)
 * while nothing comes, in small portions: who sleeps most of the time is woken first.
 */

import type { WorkerMachine } from "../system/packets.ts";
import type { ThreadData, ToThread } from "./asking.ts";
import { Counts } from "./counts.ts";
import { Engine } from "./engine.ts";
import { Rehearsal } from "./rehearsal.ts";
import { TableReader } from "./table.ts";

const rehearseEveryMs = 1;

export function forwardPackets(machine: WorkerMachine): void {
  const { settings, table, counts, gateways, port, contexts, joinsUdp } = machine.data as ThreadData;
  const engine = new Engine({
    ...{ machine, settings, gateways, port, contexts, joinsUdp },
    lookup: new TableReader(table),
    counts: new Counts(counts),
    post: (message) => machine.post(message),
  });
  let rehearsal: Rehearsal | undefined = new Rehearsal({ machine, settings, joinsUdp });
  machine.post({ kind: "ready" });
  while (!machine.ending) {
    const moved = engine.turn(rehearsal === undefined ? undefined : rehearseEveryMs);
    if (!moved && rehearsal?.turn() === false) rehearsal = undefined;
    for (let message = machine.take(); message !== undefined; message = machine.take()) {
      engine.take(message as ToThread);
    }
  }
}
