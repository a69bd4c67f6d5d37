/** The clocks as evidence needs them: one reading for every part of the agent, local time included. */

import type { Moment } from "../nodes/nodes.ts";
import type { System } from "../system/system.ts";

export function momentOf(system: Pick<System, "now" | "date" | "zoneOffsetMs">): Moment {
  const date = system.date();
  return { now: system.now(), date, offsetMs: system.zoneOffsetMs(date) };
}
