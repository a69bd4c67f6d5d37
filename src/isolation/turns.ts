/**
 * Commands in turns: each answered when it is enforced and durable, hundreds at once for the price of one.
 *
 * A turn applies all that wait, in order, and commits once. A command that asks for something impossible is refused
 * alone. If the commit fails and nothing holds, all of the turn is taken back, last first, and that is committed too;
 * if only the disk refused, it stays.
 */

import { Fault } from "../lib/fault.ts";
import { Turns as WorkTurns } from "../lib/turns.ts";

/** A change that was made, and how to unmake it. */
export interface Applied<Result> {
  readonly result: Result;
  readonly undo?: (() => void) | undefined;
}

/** A command in its turn. */
interface Command {
  apply(): Applied<unknown>;
  applied: Applied<unknown> | undefined;
  /** Why it was refused. */
  fault: unknown;
}

/** Commands of one turn: more would let the first wait too long. */
const maxJobs = 1_024;
const maxWaiting = 16_384;

export class Turns {
  readonly #commit: () => Promise<void>;
  readonly #turns = new WorkTurns<Command>((commands) => this.#take(commands), maxJobs);
  /** The end of the command that came last. */
  #last: Promise<unknown> = Promise.resolve();

  /** @param commit throws Fault "storage" if all is enforced and only not durable; any other: not enforced. */
  constructor(commit: () => Promise<void>) {
    this.#commit = commit;
  }

  /** @throws what `apply` throws; Fault "limit" if too many wait; what `commit` threw. */
  async do<Result>(apply: () => Applied<Result>): Promise<Result> {
    if (this.#turns.length >= maxWaiting)
      throw new Fault("limit", "Cannot change isolation: too many wait already");
    const command: Command = { apply, applied: undefined, fault: undefined };
    const done = this.#turns.do(command);
    this.#last = done.catch(() => {});
    await done;
    return command.applied!.result as Result;
  }

  /** Resolves when no command waits or is being committed. */
  async idle(): Promise<void> {
    while (this.#turns.busy) await this.#last;
  }

  async #take(commands: readonly Command[]): Promise<readonly unknown[]> {
    for (const each of commands) {
      try {
        each.applied = each.apply();
      } catch (thrown) {
        each.fault = thrown;
      }
    }
    const done = commands.filter(({ applied }) => applied !== undefined);
    try {
      // What was so already is committed too: it may be on its way, or an earlier save may have failed.
      if (done.length > 0) await this.#commit();
    } catch (thrown) {
      for (const each of done) each.fault = thrown;
      if (thrown instanceof Fault && thrown.code === "storage") return faultsOf(commands);
      for (const { applied } of done.reverse()) applied?.undo?.();
      // The fault that matters is already on its way to the callers.
      await this.#commit().catch(() => {});
    }
    return faultsOf(commands);
  }
}

function faultsOf(commands: readonly Command[]): readonly unknown[] {
  return commands.map(({ fault }) => fault);
}
