/**
 * The program of the forwarding thread: an engine over the queues that the thread was given, until its owner wants an
 * end. Whatever goes wrong ends the thread, and the owner starts another.
 */

import type { WorkerMachine } from "../system/packets.ts";
import type { ThreadData, ToThread } from "./asking.ts";
import { Counts } from "./counts.ts";
import { Engine } from "./engine.ts";
import { TableReader } from "./table.ts";

export function forwardPackets(machine: WorkerMachine): void {
  const { settings, table, counts, port, contexts, joinsUdp } = machine.data as ThreadData;
  const engine = new Engine({
    ...{ machine, settings, port, contexts, joinsUdp },
    lookup: new TableReader(table),
    counts: new Counts(counts),
    post: (message) => machine.post(message),
  });
  machine.post({ kind: "ready" });
  while (!machine.ending) {
    engine.turn();
    for (let message = machine.take(); message !== undefined; message = machine.take()) {
      engine.take(message as ToThread);
    }
  }
}
