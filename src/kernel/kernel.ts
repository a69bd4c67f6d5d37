/**
 * The front door to the kernel: rooms hand in what shall be, and read what is.
 *
 * `apply` takes an owner's whole plan and resolves when the kernel enforces it and the same plan lies in the state
 * directory as text that the boot script loads without us. Keeps per owner the plan in force. Plans of one owner
 * are applied one after the other, and of those that wait only the newest. What somebody else changes in our rules
 * is repaired, each owner's for itself, whatever becomes of the disk; rules of others are never touched. Two back ends
 * do the work: nft, or ipset with iptables.
 */

import { isDeviceName } from "../lib/device.ts";
import { Fault, messageOf } from "../lib/fault.ts";
import type { Cancel, System } from "../system/system.ts";
import { BootTexts } from "./boottexts.ts";
import type { Connection } from "./connection.ts";
import { deleteConnections } from "./cut.ts";
import { type Backend, bootNames, type Enforcer, type Order, type Place } from "./enforcer.ts";
import { entriesToCut, isOffloaded } from "./entries.ts";
import { type Explanation, explainer, type Packet, type Reason } from "./explain.ts";
import { Lane } from "./lane.ts";
import { type AnyPlan, cutsOf, isIsolation, orderOf, withoutHold } from "./order.ts";
import { emptyPlan, type Owner } from "./plan.ts";
import { type Guarded, Guards, parseGuards, renderGuards } from "./ports.ts";
import { openEnforcer } from "./probe.ts";
import { Rounds, saidOnce } from "./rounds.ts";
import type { IsolationPlan } from "./standins.ts";

export { type Connection, connectionStatus } from "./connection.ts";
export { type ConntrackOptions, ConntrackWatch, type Delta, watchConntrack } from "./conntrack.ts";
export { type Deletion, deleteConnections } from "./cut.ts";
export { type Backend, type Place, reportBytes, reportThreshold } from "./enforcer.ts";
export { entriesToCut } from "./entries.ts";
export { blockedBy, type Explanation, explainer, explainPlan, type Packet, type Reason } from "./explain.ts";
export type { SteerRoute, SteerRule } from "./fib.ts";
export { type Answer, answerer, type Beginning, isolatedOf } from "./isolate.ts";
export { type NeighbourSteering, openNeighbourSteering } from "./neighbour.ts";
export { type LoggedPacket, Nflog, type NflogCounters, type NflogOptions, openNflog } from "./nflog.ts";
export { type HeldPacket, Nfqueue, type NfqueueOptions, openNfqueue } from "./nfqueue.ts";
export { type Opening, Openings } from "./opening.ts";
export type { AnyPlan } from "./order.ts";
export { type RouteHandlers, type RouteOptions, RouteWatch, watchRoute } from "./route.ts";
export type { DefaultRoute, InterfaceAddress, Link, Neighbour } from "./rtnetlink.ts";
export { hasAnswered } from "./rtnetlink.ts";
export {
  type Door,
  type Exit,
  emptyIsolation,
  type IsolationPlan,
  type Ports,
  type Route,
  type Segment,
} from "./standins.ts";
export {
  type FamilyTable,
  openSteering,
  type Refusal,
  type SteerChange,
  Steering,
  type SteeringOptions,
  type SteerPlan,
} from "./steer.ts";
export { raiseTunnel, type TunnelPlan } from "./tunnel.ts";

export interface KernelOptions {
  readonly backend: Backend | "auto";
  /** Absolute. */
  readonly stateDirectory: string;
  /** Devices on which a source MAC is the sender's own. None: all are taken for such. */
  readonly lanDevices: readonly string[];
}

export interface KernelCounters {
  /** Plans that changed something in the kernel. */
  applied: number;
  /** Plans that were in force already. */
  unchanged: number;
  /** Plans that the kernel did not take. */
  refused: number;
  /** Boot texts that the disk did not take. */
  unsaved: number;
  /** Times that rules of ours had been changed by somebody else, and were repaired. */
  repaired: number;
  /** Connections cut because a flowtable forwarded them past a new block, or because their route is gone. */
  cut: number;
}

const unguarded = { isolatedPorts: [], proxyArp: [], managed: [] };
/** How soon rules that are missing are found and brought back is worth more than the time that looking takes. */
const repairing = { restFactor: 1, maxRestMs: 1_000, firstRetryMs: 100, maxRetryMs: 1_000 };
/** How far boot texts may lag. Flash wears. */
const savePeriodMs = 300_000;
/** The boot text of bridge ports and bridges, whatever the back end. */
const guardsName = "isolation.guards";
/** A plan ready for the back end. */
interface Job {
  readonly plan: AnyPlan;
  readonly order: Order;
}

type Selection = (connection: Connection) => boolean;

interface Owned {
  readonly lane: Lane<Job>;
  readonly rounds: Rounds;
  /** Connections to be cut after what is in force. */
  readonly cuts: Lane<Selection>;
  /** Boot texts of what is in force: beside the lane, for a disk that takes its time must not hold up a repair. */
  readonly saves: Lane<void>;
  /** What is in force. */
  job: Job | undefined;
  /** The boot text says so, too. */
  saved: boolean;
  /** The boot text must not lag, whatever the caller says. */
  isUrgent: boolean;
}

/** What happens to a packet, and where: plain data. */
export interface PacketExplanation {
  readonly owner: Owner;
  readonly backend: Backend;
  readonly verdict: Explanation["verdict"];
  /** Each with the rules that say so. */
  readonly reasons: readonly (Reason & { readonly places: readonly Place[] })[];
  /** Blocks neither set nor read marks. */
  readonly mark: "none";
}

export interface ApplyOptions {
  /**
   * False: the boot text may lag by some minutes, to spare the flash and the time to write it; for what may be missing
   * after a reboot, until the next `apply`. Default true.
   */
  readonly durable?: boolean;
}

/**
 * Finds out what this machine has, and begins to watch. Rules that are there, from the boot script or an agent that
 * was killed, stay in force until the first `apply` of their owner takes them over.
 *
 * @throws Fault "unsupported" if the machine has neither back end, or not the one asked for; "invalid" for the name
 *   of a device that cannot be one; "kernel" or "denied" if the kernel cannot be watched.
 */
export async function openKernel(system: System, options: KernelOptions): Promise<Kernel> {
  for (const name of options.lanDevices) {
    if (!isDeviceName(name))
      throw new Fault("invalid", `Cannot use ${JSON.stringify(name)}: no name of a network device`);
  }
  const enforcer = await openEnforcer(system, options.backend, options.lanDevices);
  for (const limit of enforcer.limits) system.log("warning", limit);
  const left = new Set(await system.list(options.stateDirectory));
  const texts = new BootTexts(system, options.stateDirectory);
  return new Kernel(system, {
    ...{ enforcer, texts, left },
    lanDevices: options.lanDevices,
    guarded: parseGuards(left.has(guardsName) ? await texts.read(guardsName) : ""),
  });
}

interface KernelParts {
  readonly enforcer: Enforcer;
  readonly texts: BootTexts;
  readonly lanDevices: readonly string[];
  /** Files that lay in the state directory at start. */
  readonly left: Set<string>;
  /** Ports and bridges that an earlier life changed. */
  readonly guarded: ReturnType<typeof parseGuards>;
}

export class Kernel {
  readonly backend: Backend;
  readonly counters: KernelCounters = {
    applied: 0,
    unchanged: 0,
    refused: 0,
    unsaved: 0,
    repaired: 0,
    cut: 0,
  };
  readonly #system: System;
  readonly #parts: KernelParts;
  readonly #enforcer: Enforcer;
  readonly #owned = new Map<Owner, Owned>();
  /** Boot texts that lag, or that the disk refused. */
  readonly #saveRounds: Rounds;
  readonly #guards: Guards;
  /** Ports come and go more often than anybody is at our rules. */
  readonly #guardRounds: Rounds;
  readonly #unwatch: Cancel;
  /** A connection was seen that a flowtable forwards. */
  #offloads = false;
  #closed = false;

  /** Use `openKernel`. */
  constructor(system: System, parts: KernelParts) {
    this.#system = system;
    this.#parts = parts;
    this.#enforcer = parts.enforcer;
    this.backend = parts.enforcer.name;
    this.#unwatch = parts.enforcer.watch({
      onChange: (changed) => {
        for (const [owner, { rounds }] of this.#owned)
          if (changed === undefined || changed === owner) rounds.soon();
      },
      onFault: (fault) => system.log("warning", fault.message),
    });
    const sayUnsaved = saidOnce((line) => system.log("error", line));
    this.#saveRounds = new Rounds(system, () => this.saveTexts().then(sayUnsaved.end), {
      periodMs: savePeriodMs,
      onFault: sayUnsaved.say,
    });
    this.#guardRounds = new Rounds(system, () => this.#guardAgain(), {
      onFault: (thrown) => system.log("warning", `Cannot guard bridge ports: ${messageOf(thrown)}`),
    });
    this.#guards = new Guards(system, () => this.#guardRounds.soon(), parts.guarded);
    void this.#saveRounds.start();
    void this.#cut(entriesToCut(emptyPlan));
  }

  /** What this machine cannot enforce, in sentences; empty if nothing. Grows with what is asked of it. */
  get limits(): readonly string[] {
    return [...this.#enforcer.limits, ...this.#guards.limits];
  }

  /**
   * Makes a plan true.
   *
   * @throws RangeError or TypeError for a plan that contradicts itself; Fault "kernel" if the kernel refuses, which
   *   leaves it as it was; Fault "storage" if the rules are in force, but would be missing after a reboot.
   */
  async apply(owner: Owner, plan: AnyPlan, { durable = true }: ApplyOptions = {}): Promise<void> {
    const job = { plan, order: orderOf(plan) };
    const owned = this.#own(owner);
    await owned.lane.push(job);
    if (!durable && !owned.isUrgent) return;
    try {
      await owned.saves.push();
    } catch (thrown) {
      this.#saveRounds.soon();
      throw thrown;
    }
  }

  /**
   * Compares the kernel with the plans in force and repairs it, and writes boot texts that the disk refused before.
   *
   * @returns what was repaired, a few words each; empty if all was well.
   * @throws Fault "kernel" or "storage" if something could not be put right; the next round tries again.
   */
  async verify(): Promise<string[]> {
    const outcomes = await Promise.allSettled(
      [...this.#owned].map(async ([owner, owned]) => {
        const repaired = await owned.lane.between(() => this.#repair(owner, owned));
        if (!this.#closed) await owned.saves.push();
        return repaired;
      }),
    );
    return outcomes.flatMap((outcome) => {
      // The other owners' rules are looked after all the same.
      if (outcome.status === "rejected") throw outcome.reason;
      return outcome.value;
    });
  }

  /** Writes boot texts that lag. @throws Fault "storage" */
  async saveTexts(): Promise<void> {
    const saves = [...this.#owned.values()].map(({ saves }) => saves.push());
    for (const outcome of await Promise.allSettled(saves))
      if (outcome.status === "rejected") throw outcome.reason;
  }

  /** Removes an owner's rules and boot texts, those of an earlier life and of the other back end too. */
  async clear(owner: Owner): Promise<void> {
    const owned = this.#own(owner);
    await owned.lane.between(async () => {
      // Ports that an earlier life isolated are freed, too; for those that cannot be, the text stays.
      const isFreed = owner === "isolation" && (await this.#guard(unguarded));
      owned.job = undefined;
      owned.saved = false;
      await this.#enforcer.remove(owner);
      const names = bootNames[this.backend](owner);
      await owned.saves.between(async () => {
        await this.#clearOther(owner);
        for (const name of isFreed ? [...names, guardsName] : names) await this.#parts.texts.remove(name);
      });
    });
  }

  /**
   * How many packets an owner's rules have dropped, all of them, copied or not. Never falls; where somebody else
   * removed our rules, what they had counted since the last look is missing.
   *
   * @throws Fault "kernel" if it cannot be read.
   */
  dropped(owner: Owner): Promise<bigint> {
    return this.#own(owner).lane.between(() => this.#enforcer.dropped(owner));
  }

  /** Whether a packet passes what is in force for an owner, by which words of its plan, and in which rules. */
  explain(owner: Owner, packet: Packet): PacketExplanation {
    const { backend } = this;
    const job = this.#owned.get(owner)?.job;
    if (!job || isIsolation(job.plan)) return { owner, backend, verdict: "pass", reasons: [], mark: "none" };
    const { plan, order } = job;
    const { destinationMac: _, ...seen } = packet;
    const given = this.#enforcer.seesDestinationMac ? packet : seen;
    const { verdict, reasons } = explainer(plan)(given);
    const located = reasons.map((reason) => ({
      ...reason,
      places: this.#enforcer.places(owner, order, { packet: given, reason }),
    }));
    return { owner, backend, verdict, reasons: located, mark: "none" };
  }

  /** What `apply` would make true, as the text of its boot files. Touches nothing. */
  print(owner: Owner, plan: AnyPlan): string {
    const texts = this.#enforcer.bootTexts(owner, orderOf(plan));
    return [...texts].map(([name, text]) => `# ${name}\n${text}`).join("\n");
  }

  /** What is in force, as the text of the boot files of all owners. */
  printAll(): string {
    const jobs = [...this.#owned].flatMap(([owner, { job }]) => (job ? [this.print(owner, job.plan)] : []));
    return jobs.join("\n");
  }

  /** Ends watching and repairing. Rules stay in force. */
  close(): void {
    this.#closed = true;
    this.#unwatch();
    this.#guards.close();
    this.#guardRounds.close();
    this.#saveRounds.close();
    for (const { rounds } of this.#owned.values()) rounds.close();
  }

  #own(owner: Owner): Owned {
    const present = this.#owned.get(owner);
    if (present) return present;
    const owned: Owned = {
      job: undefined,
      saved: false,
      isUrgent: false,
      lane: new Lane((job: Job) => this.#enforce(owner, job)),
      saves: new Lane(() => this.#save(owner, owned)),
      cuts: new Lane((selection: Selection) => this.#cut(selection)),
      rounds: this.#roundsOf(owner),
    };
    this.#owned.set(owner, owned);
    // Nothing is in force yet: it only begins the period.
    if (!this.#closed) void owned.rounds.start();
    return owned;
  }

  #roundsOf(owner: Owner): Rounds {
    const { say, end } = saidOnce((line) => this.#system.log("error", line));
    const job = async (begin: () => void) => {
      const owned = this.#own(owner);
      await owned.lane.between(() => {
        begin();
        return this.#repair(owner, owned);
      });
      end();
    };
    const { periodMs } = this.#enforcer;
    return new Rounds(this.#system, job, { periodMs, ...repairing, onFault: say });
  }

  async #repair(owner: Owner, { job, cuts }: Owned): Promise<string[]> {
    if (!job || this.#closed) return [];
    const found = [...(await this.#enforcer.verify(owner, job.order))];
    if (found.length > 0) {
      // What came to be while rules were missing.
      const selection = cutsOf(job.plan, job.order);
      if (selection) void cuts.push(selection);
    }
    if (isIsolation(job.plan)) found.push(...(await this.#guards.verify()));
    if (found.length > 0) {
      this.counters.repaired++;
      const words = found.slice(0, 5).join(", ") + (found.length > 5 ? ` and ${found.length - 5} more` : "");
      this.#system.log("warning", `Rules of ${owner} were changed by somebody else; repaired: ${words}`);
    }
    return found.map((each) => `${owner}: ${each}`);
  }

  async #enforce(owner: Owner, job: Job): Promise<void> {
    const owned = this.#own(owner);
    let changed: boolean;
    try {
      changed = await this.#enforcer.enforce(owner, job.order);
    } catch (thrown) {
      this.counters.refused++;
      throw thrown;
    }
    this.counters[changed ? "applied" : "unchanged"]++;
    const guards = owned.job ? guardsOf(owned.job.plan) : "";
    owned.job = job;
    owned.saved &&= !changed && guardsOf(job.plan) === guards;
    // What is ours to take back one day must not be forgotten.
    owned.isUrgent ||= guardsOf(job.plan) !== guards || this.#ofOther(owner).length > 0;
    if (isIsolation(job.plan)) await this.#guard(guardedOf(job.plan));
    const selection = changed ? cutsOf(job.plan, job.order) : undefined;
    if (selection) {
      const cut = owned.cuts.push(selection);
      if (this.#offloads) await cut;
    }
  }

  /**
   * Reading all connections takes as long as there are many. Where none was ever offloaded, nobody waits for it: the
   * rules alone stop everything. They are in force either way: what cannot be cut is said, and tried again with the
   * next change.
   */
  async #cut(selection: Selection): Promise<void> {
    try {
      const { deleted } = await deleteConnections(this.#system, (connection) => {
        this.#offloads ||= isOffloaded(connection);
        return selection(connection);
      });
      this.counters.cut += deleted;
    } catch (thrown) {
      this.#system.log("warning", `Cannot cut connections: ${messageOf(thrown)}`);
    }
  }

  /**
   * What cannot be guarded is a limit, and tried again with the next round: the rules are in force either way.
   *
   * @returns whether nothing was refused.
   */
  async #guard(wanted: Guarded): Promise<boolean> {
    try {
      await this.#guards.apply(wanted);
      return this.#guards.limits.length === 0;
    } catch (thrown) {
      this.#system.log("warning", `Cannot guard bridge ports: ${messageOf(thrown)}`);
      this.#guardRounds.soon();
      return false;
    }
  }

  async #guardAgain(): Promise<void> {
    const changed = await this.#guards.verify();
    if (changed.length > 0) this.#system.log("info", `Guarded anew: ${changed.join(", ")}`);
  }

  /** Writes the boot texts of what is in force, if that has not been done. @throws Fault "storage" */
  async #save(owner: Owner, owned: Owned): Promise<void> {
    const { job } = owned;
    if (!job) return;
    try {
      if (!owned.saved) {
        // A kernel may refuse the whole text for what waits.
        const texts = new Map(this.#enforcer.bootTexts(owner, withoutHold(job.order)));
        if (isIsolation(job.plan)) texts.set(guardsName, renderGuards(job.plan.guards));
        await this.#parts.texts.save(texts);
      }
      // Meanwhile another may have come into force.
      if (owned.job === job) {
        owned.saved = true;
        owned.isUrgent = false;
      }
    } catch (thrown) {
      this.counters.unsaved++;
      throw new Fault("storage", `Cannot store rules of ${owner}: ${messageOf(thrown)}`, { cause: thrown });
    } finally {
      await this.#clearOther(owner);
    }
  }

  /** What the other back end left, if the configuration has changed since: rules and boot texts. */
  async #clearOther(owner: Owner): Promise<void> {
    const names = this.#ofOther(owner);
    if (names.length === 0) return;
    const other = this.backend === "nft" ? "ipset" : "nft";
    try {
      const enforcer = await openEnforcer(this.#system, other, this.#parts.lanDevices);
      await enforcer.remove(owner);
    } catch (thrown) {
      this.#system.log("warning", `Cannot remove what ${other} left: ${messageOf(thrown)}`);
    }
    for (const name of names) {
      this.#parts.left.delete(name);
      await this.#parts.texts.remove(name);
    }
  }

  /** Boot texts that the other back end left. */
  #ofOther(owner: Owner): readonly string[] {
    const other = this.backend === "nft" ? "ipset" : "nft";
    return bootNames[other](owner).filter((name) => this.#parts.left.has(name));
  }
}

function guardedOf({ guards, segments }: IsolationPlan): Guarded {
  return { ...guards, managed: segments.flatMap(({ devices }) => devices) };
}

function guardsOf(plan: AnyPlan): string {
  return isIsolation(plan) ? renderGuards(plan.guards) : "";
}
