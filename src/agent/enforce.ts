/**
 * From decisions to the kernel: which plan is to be in force, when, and who waits for it.
 *
 * Kept: the pins of nodes that decisions name, the plan that is on its way, whether answers of DNS wait for it. Told
 * by flows (a decision: enforced and durable before it is answered) and by nodes (their addresses changed: at once,
 * however many in one batch of evidence). What the kernel refuses is logged and tried again.
 */

import type { Flows } from "../flows/flows.ts";
import type { ApplyOptions, Kernel } from "../kernel/kernel.ts";
import { emptyPlan, type Plan } from "../kernel/plan.ts";
import { Fault, messageOf } from "../lib/fault.ts";
import type { Nodes } from "../nodes/nodes.ts";
import type { Cancel, System } from "../system/system.ts";
import { allOf } from "./effects.ts";
import type { State } from "./state.ts";

export interface EnforceOptions {
  readonly dnsGroup: number;
  readonly blockedGroup: number;
  readonly answerQueue: number;
  /** Answers of DNS may wait for blocks to follow them. */
  readonly holdAnswers: boolean;
  /** Opens or closes the queue of answers. @returns whether it is open. */
  hold(wanted: boolean): Promise<boolean>;
}

export interface EnforceParts {
  readonly nodes: Nodes;
  readonly flows: Flows;
  readonly state: State;
  readonly kernel: Promise<Kernel>;
}

/** Pin of nodes that blocks and lists name. */
const decided = "flows";
const retryMs = 5_000;

export class Enforce {
  readonly #system: System;
  readonly #parts: EnforceParts;
  readonly #options: EnforceOptions;
  #pinned: ReadonlySet<number> = new Set();
  /** A new plan is about to be made; true: its boot text must not lag. */
  #replanning: boolean | undefined;
  #following: Promise<void> | undefined;
  #saving: Promise<void> = Promise.resolve();
  #tapped = false;
  /** Answers are to wait; they do, unless the queue could not be opened. */
  #wanted = false;
  #holds = false;
  #switching: Promise<void> = Promise.resolve();
  #cancelRetry: Cancel | undefined;
  #closed = false;

  constructor(system: System, parts: EnforceParts, options: EnforceOptions) {
    this.#system = system;
    this.#parts = parts;
    this.#options = options;
    this.syncPins();
  }

  /** Resolves when the kernel follows what the nodes know now; undefined if it does so already. */
  get following(): Promise<void> | undefined {
    return this.#following;
  }

  /** What flows asks for each decision: enforced and durable. @throws Fault */
  async commit(): Promise<void> {
    this.syncPins();
    await allOf([this.#apply(), ...this.#parts.state.decided()]);
  }

  /** What was decided in an earlier life. A disk that takes no boot text is said, and no reason not to run. */
  async applyFirst(): Promise<void> {
    try {
      await this.#apply();
    } catch (thrown) {
      if (!(thrown instanceof Fault && thrown.code === "storage")) throw thrown;
      this.#system.log("error", thrown.message);
    }
  }

  /** Has DNS copied to us. Without it names are missing; blocks don't need it. */
  async openTap(): Promise<void> {
    this.#tapped = true;
    await this.#tap();
    await this.#followNames(this.#plan());
  }

  /** Addresses of nodes in the plan changed, or what holds of them. `durable`: the boot text must not lag. */
  replan(durable: boolean): void {
    if (this.#closed) return;
    const planned = this.#replanning !== undefined;
    this.#replanning = durable || this.#replanning === true;
    if (planned) return;
    // At the end of this batch of evidence, however many nodes it moved.
    const following = Promise.resolve().then(async () => {
      const options = { durable: this.#replanning === true };
      this.#replanning = undefined;
      try {
        await this.#apply(options);
      } catch (thrown) {
        this.#system.log("error", messageOf(thrown));
        this.#cancelRetry?.();
        this.#cancelRetry = this.#system.after(retryMs, () => this.replan(true));
      }
      if (this.#following === following) this.#following = undefined;
    });
    this.#following = following;
  }

  /** Decisions moved with their nodes: pins, rules and disk follow. The disk's fault was reported, and is retried. */
  moved(): void {
    this.syncPins();
    this.replan(true);
    this.#saving = this.#parts.state.saveFlows().catch(() => {});
  }

  /** Resolves when rules and disk have followed what moved. */
  async settled(): Promise<void> {
    await Promise.all([this.#following, this.#saving]);
  }

  /** Pins the nodes that decisions name, so that they stay and are stored. */
  syncPins(): void {
    const { nodes, flows } = this.#parts;
    const wanted = flows.pinned();
    for (const id of this.#pinned) if (!wanted.has(id)) nodes.unpin(id, decided);
    for (const id of wanted) {
      if (!this.#pinned.has(id) && nodes.resolve(id) !== undefined) nodes.pin(id, decided);
    }
    this.#pinned = wanted;
  }

  /** What is in force stays so. */
  close(): void {
    this.#closed = true;
    this.#cancelRetry?.();
  }

  #plan(): Plan {
    const { nodes, flows } = this.#parts;
    return flows.plan((id) => nodes.end(id));
  }

  async #apply(options?: ApplyOptions): Promise<void> {
    const kernel = await this.#parts.kernel;
    const plan = this.#plan();
    await kernel.apply("flows", { ...plan, report: { group: this.#options.blockedGroup } }, options);
    if (this.#tapped) await this.#followNames(plan);
  }

  /** Only while a name is blocked does anybody wait for us. */
  #followNames(plan: Plan): Promise<void> {
    const { nodes } = this.#parts;
    const blocks = plan.pairs.length + plan.barred.length > 0;
    const wanted = this.#options.holdAnswers && blocks && plan.ends.some(({ id }) => nodes.isName(id));
    // One after the other: queue and rules must not get ahead of each other.
    this.#switching = this.#switching.then(() => this.#switch(wanted));
    return this.#switching;
  }

  async #switch(wanted: boolean): Promise<void> {
    if (wanted === this.#wanted || this.#closed) return;
    this.#wanted = wanted;
    if (wanted) {
      this.#holds = await this.#options.hold(true);
      await this.#tap();
    } else {
      // First no rule sends answers there any more.
      this.#holds = false;
      await this.#tap();
      await this.#options.hold(false);
    }
  }

  async #tap(): Promise<void> {
    const { dnsGroup, answerQueue } = this.#options;
    const hold = this.#holds ? { hold: { queue: answerQueue } } : {};
    try {
      const kernel = await this.#parts.kernel;
      await kernel.apply("nodes", { ...emptyPlan, tap: { group: dnsGroup, ...hold } });
    } catch (thrown) {
      this.#system.log("error", messageOf(thrown));
    }
  }
}
