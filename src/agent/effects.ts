/**
 * What rooms do to the machine may fail: which failure counts, and which is only said.
 */

import { Fault, messageOf } from "../lib/fault.ts";
import type { System } from "../system/system.ts";

/** Does what the rest can go on without. Never rejects: what fails is said. */
export async function attempt(system: Pick<System, "log">, work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (thrown) {
    system.log("error", messageOf(thrown));
  }
}

/** Waits for the end of all. @throws what is worst: that something is not enforced outweighs that it is not durable. */
export async function allOf(effects: readonly Promise<unknown>[]): Promise<void> {
  const results = await Promise.allSettled(effects);
  const faults = results.flatMap((each) => (each.status === "rejected" ? [each.reason as unknown] : []));
  const worst = faults.find((each) => !(each instanceof Fault && each.code === "storage")) ?? faults[0];
  if (worst !== undefined) throw worst;
}
