/**
 * What the kernel was told of leases with rules, so that a change costs what changes and not what is there.
 *
 * Kept: by lease the plan that the kernel has been told, and what it refused of it. Drawn anew are the leases that the
 * book names, and all of them when addresses or gateways may have changed; what comes out the same is not told again.
 * At first, and after a fault, the kernel is told everything.
 */

import type { SteerChange, SteerPlan, SteerRoute, SteerRule } from "../kernel/kernel.ts";
import type { Book } from "./book.ts";
import type { Places } from "./places.ts";
import type { TableLease } from "./record.ts";
import { changeOf, type GatewayOf, planOf, refusedLeases, type Steers } from "./steering.ts";

export interface SteeredParts {
  readonly steers: Steers;
  readonly book: Book;
  readonly places: Places;
  readonly gatewayOf: GatewayOf;
}

/** Whose rules or routes were refused, and why. */
export type Refusals = ReturnType<typeof refusedLeases>;

const nothing: SteerPlan = { rules: [], routes: [] };

export class Steered {
  readonly #parts: SteeredParts;
  readonly #told = new Map<TableLease, SteerPlan>();
  #refused: Refusals = new Map();
  /** The kernel has what it was told, but for what it refused. */
  #isKnown = false;
  #isAllDue = true;

  constructor(parts: SteeredParts) {
    this.#parts = parts;
  }

  /** Leases of which something is not in the kernel. */
  get size(): number {
    return this.#refused.size;
  }

  /** Why a rule or route of a lease is not in the kernel. */
  missing(lease: TableLease): string | undefined {
    return this.#refused.get(lease)?.fault.message;
  }

  /** Addresses or gateways may have changed. */
  redraw(): void {
    this.#isAllDue = true;
  }

  /**
   * Has the kernel do what the leases ask for now.
   *
   * @param insists somebody waits for leases: what was refused before is tried again.
   * @returns what is refused at present. @throws Fault if nothing could be done: the next call makes up for it.
   */
  async settle(insists: boolean): Promise<Refusals> {
    const { steers, book } = this.#parts;
    const due = book.takeUnsteered();
    const isDue = this.#isAllDue || !this.#isKnown || due.size > 0;
    if (!isDue && !(insists && this.#refused.size > 0)) return this.#refused;
    const isWhole = !this.#isKnown;
    const leases = this.#isAllDue || isWhole ? new Set([...this.#told.keys(), ...book.steered()]) : due;
    this.#isKnown = false;
    this.#isAllDue = false;
    const change = this.#draw(leases);
    const isEmpty = Object.values(change).every(({ rules, routes }) => rules.length + routes.length === 0);
    if (isWhole || !isEmpty || this.#refused.size > 0) {
      const answers = await (isWhole ? steers.apply(this.#whole()) : steers.amend(change));
      this.#refused = refusedLeases(answers, book);
    }
    this.#isKnown = true;
    return this.#refused;
  }

  /** Notes what leases ask for now. @returns how that differs from what was noted before. */
  #draw(leases: Iterable<TableLease>): SteerChange {
    const { book, places, gatewayOf } = this.#parts;
    const [drop, add] = [planToFill(), planToFill()];
    for (const lease of leases) {
      const after = book.isSteered(lease) ? planOf(lease, places, gatewayOf) : nothing;
      const change = changeOf(this.#told.get(lease) ?? nothing, after);
      for (const [to, from] of [
        [drop, change.drop],
        [add, change.add],
      ] as const) {
        to.rules.push(...from.rules);
        to.routes.push(...from.routes);
      }
      if (after === nothing) this.#told.delete(lease);
      else this.#told.set(lease, after);
    }
    return { drop, add };
  }

  #whole(): SteerPlan {
    const plan = planToFill();
    for (const { rules, routes } of this.#told.values()) {
      plan.rules.push(...rules);
      plan.routes.push(...routes);
    }
    return plan;
  }
}

function planToFill(): { readonly rules: SteerRule[]; readonly routes: SteerRoute[] } {
  return { rules: [], routes: [] };
}
