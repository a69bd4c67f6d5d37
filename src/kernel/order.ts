/**
 * What differs between the kinds of plans: how each is made ready for a back end, and which connections must go when
 * it is in force. Pure.
 */

import type { Connection } from "./connection.ts";
import { dispatchOf } from "./dispatch.ts";
import type { BlockOrder, Order } from "./enforcer.ts";
import { entriesToCut } from "./entries.ts";
import { isolatedOf, strays } from "./isolate.ts";
import type { Plan } from "./plan.ts";
import type { IsolationPlan } from "./standins.ts";

export type AnyPlan = Plan | IsolationPlan;

export function isIsolation(plan: AnyPlan): plan is IsolationPlan {
  return "segments" in plan;
}

/** @throws RangeError or TypeError for a plan that contradicts itself. */
export function orderOf(plan: AnyPlan): Order {
  return isIsolation(plan) ? { kind: "isolation", isolated: isolatedOf(plan) } : blocksOf(plan);
}

/** Selects the connections that a plan's rules alone do not stop; undefined if there can be none. */
export function cutsOf(plan: AnyPlan, order: Order): ((connection: Connection) => boolean) | undefined {
  if (order.kind === "isolation")
    return order.isolated.segments.length > 0 ? strays(order.isolated) : undefined;
  return order.dispatch.blocks && !isIsolation(plan) ? entriesToCut(plan) : undefined;
}

/** What is stored: without us nobody gives an answer that waits its verdict. */
export function withoutHold(order: Order): Order {
  return order.kind === "blocks" && order.tap ? { ...order, tap: { group: order.tap.group } } : order;
}

function blocksOf(plan: Plan): BlockOrder {
  const { tap, report } = plan;
  if (tap) checkNumber(tap.group, "tap", "NFLOG group");
  if (tap?.hold) checkNumber(tap.hold.queue, "hold answers", "NFQUEUE");
  if (report) checkNumber(report.group, "report", "NFLOG group");
  return {
    kind: "blocks",
    dispatch: dispatchOf(plan),
    ...(tap ? { tap: { group: tap.group, ...(tap.hold ? { queue: tap.hold.queue } : {}) } } : {}),
    ...(report ? { reportGroup: report.group } : {}),
  };
}

function checkNumber(value: number, verb: string, kind: string): void {
  if (!Number.isInteger(value) || value < 0 || value > 0xffff)
    throw new RangeError(`Cannot ${verb}: ${value} is no ${kind}`);
}
