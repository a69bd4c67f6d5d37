/**
 * Decisions in turns: each answered when it is enforced and durable, a hundred at once for the price of two.
 *
 * A change waits for its turn; a turn applies all that wait and commits once. What comes meanwhile waits for the
 * next. If the commit fails and nothing holds, the changes of the turn are taken back, last first, and that is
 * committed too, whatever the kernel had made of it; if only the disk refused, they stay. Either way the callers
 * get the fault, except those who asked for something impossible.
 */

import { Fault } from "../lib/fault.ts";
import type { ListName } from "../lib/spin.ts";
import { Turns as WorkTurns } from "../lib/turns.ts";
import type { Undo } from "./decision.ts";

/** What came of a decision. */
export type Outcome =
  /** It is in force and durable; `changed` is false if it was so before. */
  | { readonly kind: "done"; readonly changed: boolean }
  /** There is no such node. */
  | { readonly kind: "unknown"; readonly id: number }
  /** Both ids are the same node. */
  | { readonly kind: "same"; readonly id: number }
  /** As many pairs are blocked, or as many prefixes on the list, as are allowed. */
  | { readonly kind: "full"; readonly limit: number };

/** A change that was made and is not committed yet. */
export interface Applied {
  readonly outcome: Outcome;
  readonly undo?: Undo | undefined;
  /** Nodes and lists that look different now, if it changed anything. */
  readonly nodes?: readonly number[];
  readonly lists?: readonly ListName[];
}

export interface TurnsOptions {
  /** @throws Fault "storage" if what was applied is enforced and only not durable; any other: not enforced. */
  commit(): Promise<void>;
  /** Told what a turn applied, after it holds or was taken back. */
  settled(applied: readonly Applied[]): void;
  /** A turn begins: nothing that happened before it can be taken back any more. */
  begun(): void;
  /** A turn was taken back, and is about to be committed so. */
  takenBack(): void;
}

/** A decision in its turn. */
interface Decision {
  apply(): Applied;
  outcome: Outcome | undefined;
}

export class Turns {
  readonly #options: TurnsOptions;
  readonly #turns = new WorkTurns<Decision>((decisions) => this.#take(decisions));

  constructor(options: TurnsOptions) {
    this.#options = options;
  }

  /** Calls wait or are being committed. */
  get busy(): boolean {
    return this.#turns.busy;
  }

  /** @param apply makes the change, at its turn. What it throws, and what `commit` throws, is thrown. */
  async decide(apply: () => Applied): Promise<Outcome> {
    const decision: Decision = { apply, outcome: undefined };
    await this.#turns.do(decision);
    return decision.outcome!;
  }

  /** @returns for each what its caller is thrown, if anything. */
  async #take(decisions: readonly Decision[]): Promise<readonly unknown[]> {
    this.#options.begun();
    const applied: Applied[] = [];
    try {
      for (const each of decisions) applied.push(each.apply());
      // What was so already is committed too: it may be on its way, or an earlier save may have failed.
      if (applied.some((each) => each.outcome.kind === "done")) await this.#options.commit();
    } catch (thrown) {
      const holds = thrown instanceof Fault && thrown.code === "storage";
      if (!holds) await this.#takeBack(applied);
      this.#options.settled(applied);
      return decisions.map((each, index) => {
        const outcome = applied[index]?.outcome;
        // A call that asked for nothing possible learns that, not what became of the others.
        if (!outcome || outcome.kind === "done") return thrown;
        each.outcome = outcome;
        return undefined;
      });
    }
    this.#options.settled(applied);
    for (const [index, each] of decisions.entries()) each.outcome = applied[index]!.outcome;
    return [];
  }

  async #takeBack(applied: readonly Applied[]): Promise<void> {
    for (const each of [...applied].reverse()) each.undo?.();
    this.#options.takenBack();
    // The fault that matters is already on its way to the caller.
    await this.#options.commit().catch(() => {});
  }
}
