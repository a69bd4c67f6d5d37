/**
 * What outlives the agent: nodes and decisions on disk, and when they are written.
 *
 * Kept: one store for the nodes, one for the flows. A decision is durable before it is answered; a new device is
 * told to nobody before its id is on disk, so that no crash gives it another one; everything else waits for
 * company, to spare the flash. Faults of the disk are logged by the stores, which try again by themselves.
 */

import { type Flows, flowsFormat } from "../flows/flows.ts";
import type { Fault } from "../lib/fault.ts";
import { type Moment, type Nodes, nodesFormat } from "../nodes/nodes.ts";
import { openStore, type Store } from "../system/store.ts";
import type { System } from "../system/system.ts";
import { momentOf } from "./moment.ts";

/** Changes that a crash may lose wait this long for company. */
const lazySaveMs = 30_000;
/** New devices are saved at once, so many in a row, and then once in this time. */
const savesAtOnce = 50;
const strangersMs = 10_000;

/** What was on disk. */
export interface Loaded {
  readonly state: State;
  readonly nodes: ReturnType<typeof nodesFormat.parse> | undefined;
  readonly flows: ReturnType<typeof flowsFormat.parse> | undefined;
  /** The nodes were read from a copy or an older generation. */
  readonly isRestored: boolean;
}

/** Reads both stores. Never fails: damage is logged, and shown by `damages`. */
export async function loadState(system: System, directory: string): Promise<Loaded> {
  const onFault = (fault: Fault | undefined) => {
    if (fault) system.log("error", fault.message);
    else system.log("info", "the state is on disk again");
  };
  let state: State | undefined;
  const onSaved = () => state!.onNodesSaved();
  const [nodes, flows] = await Promise.all([
    openStore(system, `${directory}/nodes.json`, { ...nodesFormat, copied: true, onSaved, onFault }),
    openStore(system, `${directory}/flows.json`, { ...flowsFormat, copied: true, onFault }),
  ]);
  const damages = [nodes, flows].flatMap(({ damage }) => damage?.message ?? []);
  for (const damage of damages) system.log("error", damage);
  state = new State(system, { nodes: nodes.store, flows: flows.store, damages });
  return { state, nodes: nodes.state, flows: flows.state, isRestored: nodes.damage !== undefined };
}

export class State {
  /** What was wrong with the files at start, in sentences. */
  readonly damages: readonly string[];
  readonly #system: System;
  readonly #nodesStore: Store;
  readonly #flowsStore: Store;
  #nodes!: Nodes;
  #flows!: Flows;
  #devices = 0;
  /** Saves for new devices that may happen at once. */
  #allowance = savesAtOnce;
  #allowanceAt = 0;
  /** The last save of nodes that somebody waits for; rejects never. */
  #nodesSaved: Promise<void> = Promise.resolve();

  /** Use `loadState`. */
  constructor(system: System, parts: { nodes: Store; flows: Store; damages: readonly string[] }) {
    this.#system = system;
    this.#nodesStore = parts.nodes;
    this.#flowsStore = parts.flows;
    this.damages = parts.damages;
  }

  /** The rooms that were made of what was loaded: nothing is saved before. */
  attach(nodes: Nodes, flows: Flows): void {
    this.#nodes = nodes;
    this.#flows = flows;
    this.#devices = nodes.devices;
  }

  /** Resolves when every id given so far is on disk, or the disk has refused. */
  get settled(): Promise<void> {
    return this.#nodesSaved;
  }

  /** What the disk refuses now, in sentences. */
  get faults(): string[] {
    return [this.#nodesStore, this.#flowsStore].flatMap((store) => store.lastFault?.message ?? []);
  }

  /** @throws Fault "storage" */
  saveNodes(): Promise<void> {
    const saved = this.#nodesStore.save(() => this.#nodes.save(this.#moment));
    this.#nodesSaved = saved.catch(() => {});
    return saved;
  }

  /** @throws Fault "storage" */
  saveFlows(): Promise<void> {
    return this.#flowsStore.save(() => this.#flows.save());
  }

  /**
   * Sets numbers for new nodes aside on disk.
   *
   * @param isRestored write twice, so that the generation before is sound too.
   */
  async reserve(isRestored: boolean): Promise<void> {
    try {
      await this.saveNodes();
      if (isRestored) await this.saveNodes();
    } catch {
      // Reported by the store.
    }
  }

  /** What a decision waits for: most name nodes that are on disk as they are, which need not be written again. */
  decided(): Promise<void>[] {
    const isNews = this.#nodes.dirty || this.#nodesStore.dirty;
    return [...(isNews ? [this.saveNodes()] : []), this.saveFlows()];
  }

  /** A device that decisions name has another address: the next life must not begin with the old one. */
  moved(): void {
    if (this.#maySaveNow()) this.saveNodes().catch(() => {});
    else this.#nodesStore.saveSoon(() => this.#nodes.save(this.#moment), strangersMs);
  }

  /** After evidence: new devices go to disk at once, the rest in its time. */
  noticed(): void {
    if (!this.#nodes.dirty) return;
    const { devices } = this.#nodes;
    const isNew = devices > this.#devices;
    this.#devices = devices;
    if (isNew && this.#maySaveNow()) this.saveNodes().catch(() => {});
    else this.#nodesStore.saveSoon(() => this.#nodes.save(this.#moment), isNew ? strangersMs : lazySaveMs);
  }

  /** Of the store: what was rendered last is durable. */
  onNodesSaved(): void {
    this.#nodes.saved();
  }

  async close(): Promise<void> {
    const last = () => this.#nodes.save(this.#moment, { last: true });
    // Faults were reported by the stores.
    await Promise.allSettled([this.#nodesStore.save(last), this.#flowsStore.close()]);
    await this.#nodesStore.close().catch(() => {});
  }

  get #moment(): Moment {
    return momentOf(this.#system);
  }

  /** Whoever invents devices by the thousand must not wear the flash: some at once, then one save in a while. */
  #maySaveNow(): boolean {
    const now = this.#system.now();
    const earned = (now - this.#allowanceAt) / strangersMs;
    this.#allowance = Math.min(savesAtOnce, this.#allowance + earned);
    this.#allowanceAt = now;
    if (this.#allowance < 1) return false;
    this.#allowance--;
    return true;
  }
}
