/**
 * The front door to the kernel: rooms hand in what shall be, and read what is.
 *
 * `apply` takes an owner's whole plan and resolves when the kernel enforces it and the same plan lies in the state
 * directory as text that the boot script loads without us. Keeps per owner the plan in force. Plans of one owner
 * are applied one after the other, and of those that wait only the newest. What somebody else changes in our rules
 * is repaired; rules of others are never touched. Two back ends do the work: nft, or ipset with iptables.
 */

import { sameBytes } from "../lib/bytes.ts";
import { Fault, messageOf } from "../lib/fault.ts";
import type { Cancel, System } from "../system/system.ts";
import type { Connection } from "./connection.ts";
import { deleteConnections } from "./cut.ts";
import { isDeviceName } from "./device.ts";
import { type Backend, bootNames, type Enforcer, type Order, type Place } from "./enforcer.ts";
import { entriesToCut, isOffloaded } from "./entries.ts";
import { type Explanation, explainer, type Packet, type Reason } from "./explain.ts";
import { type Answer, answerer, type Beginning } from "./isolate.ts";
import { Lane } from "./lane.ts";
import { type AnyPlan, cutsOf, isIsolation, orderOf, withoutHold } from "./order.ts";
import { emptyPlan, type Owner } from "./plan.ts";
import { Guards, renderGuards } from "./ports.ts";
import { openEnforcer } from "./probe.ts";
import { Rounds } from "./rounds.ts";
import type { IsolationPlan } from "./standins.ts";

export { type Connection, connectionStatus } from "./connection.ts";
export { type ConntrackOptions, ConntrackWatch, type Delta, watchConntrack } from "./conntrack.ts";
export { type Deletion, deleteConnections } from "./cut.ts";
export { type Backend, type Place, reportBytes, reportThreshold } from "./enforcer.ts";
export { entriesToCut } from "./entries.ts";
export { blockedBy, type Explanation, explainer, explainPlan, type Packet, type Reason } from "./explain.ts";
export type { SteerRoute, SteerRule } from "./fib.ts";
export { type Answer, answerer, type Beginning, isolatedOf } from "./isolate.ts";
export { accepts } from "./isolationnft.ts";
export { type NeighbourSteering, openNeighbourSteering } from "./neighbour.ts";
export { type LoggedPacket, Nflog, type NflogCounters, type NflogOptions, openNflog } from "./nflog.ts";
export { type HeldPacket, Nfqueue, type NfqueueOptions, openNfqueue } from "./nfqueue.ts";
export { type Opening, Openings } from "./opening.ts";
export type { AnyPlan } from "./order.ts";
export { type RouteHandlers, type RouteOptions, RouteWatch, watchRoute } from "./route.ts";
export type { DefaultRoute, InterfaceAddress, Link, Neighbour } from "./rtnetlink.ts";
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
/** The boot text of bridge ports and bridges, whatever the back end. */
const guardsName = "isolation.guards";
/** Without it at its end, the boot script takes a boot text for cut off and loads the copy. */
const lastLine = "# complete";
const copySuffix = ".copy";

/** A plan ready for the back end. */
interface Job {
  readonly plan: AnyPlan;
  readonly order: Order;
}

type Selection = (connection: Connection) => boolean;

interface Owned {
  readonly lane: Lane<Job>;
  /** Connections to be cut after what is in force. */
  readonly cuts: Lane<Selection>;
  /** What is in force. */
  job: Job | undefined;
  /** The boot text says so, too. */
  saved: boolean;
  /** Somebody waits for the boot text of a plan in the lane. */
  awaited: boolean;
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
  /** False: the boot text may lag by some minutes, to spare the flash. Default true. */
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
  return new Kernel(system, {
    enforcer,
    directory: options.stateDirectory,
    lanDevices: options.lanDevices,
    left,
  });
}

interface KernelParts {
  readonly enforcer: Enforcer;
  readonly directory: string;
  readonly lanDevices: readonly string[];
  /** Files that lay in the state directory at start. */
  readonly left: Set<string>;
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
  readonly #rounds: Rounds;
  readonly #guards: Guards;
  /** Ports come and go more often than anybody is at our rules. */
  readonly #guardRounds: Rounds;
  readonly #unwatch: Cancel;
  /** Path → the boot text that lies there, as far as it was read or written here. */
  readonly #stored = new Map<string, string>();
  /** A connection was seen that a flowtable forwards. */
  #offloads = false;
  #closed = false;

  /** Use `openKernel`. */
  constructor(system: System, parts: KernelParts) {
    this.#system = system;
    this.#parts = parts;
    this.#enforcer = parts.enforcer;
    this.backend = parts.enforcer.name;
    this.#rounds = new Rounds(system, async () => void (await this.verify()), {
      periodMs: parts.enforcer.periodMs,
      ...(parts.enforcer.restFactor !== undefined && { restFactor: parts.enforcer.restFactor }),
      onFault: (thrown) => system.log("error", messageOf(thrown)),
    });
    this.#unwatch = parts.enforcer.watch({
      onChange: () => this.#rounds.soon(),
      onFault: (fault) => system.log("warning", fault.message),
    });
    this.#guardRounds = new Rounds(system, () => this.#guardAgain(), {
      onFault: (thrown) => system.log("warning", `Cannot guard bridge ports: ${messageOf(thrown)}`),
    });
    this.#guards = new Guards(system, () => this.#guardRounds.soon());
    void this.#rounds.start();
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
    owned.awaited ||= durable;
    await owned.lane.push(job);
  }

  /**
   * Compares the kernel with the plans in force and repairs it, and writes boot texts that the disk refused before.
   *
   * @returns what was repaired, a few words each; empty if all was well.
   * @throws Fault "kernel" or "storage" if something could not be put right; the next round tries again.
   */
  async verify(): Promise<string[]> {
    const repaired: string[] = [];
    const faults: unknown[] = [];
    for (const [owner, owned] of this.#owned) {
      try {
        repaired.push(...(await owned.lane.between(() => this.#verifyOwner(owner, owned))));
      } catch (thrown) {
        // The other owners' rules are looked after all the same.
        faults.push(thrown);
      }
    }
    if (faults.length > 0) throw faults[0];
    return repaired;
  }

  /** Removes an owner's rules and boot texts, those of an earlier life and of the other back end too. */
  async clear(owner: Owner): Promise<void> {
    const owned = this.#own(owner);
    await owned.lane.between(async () => {
      if (owned.job && isIsolation(owned.job.plan)) await this.#guards.apply(unguarded);
      owned.job = undefined;
      await this.#enforcer.remove(owner);
      await this.#clearOther(owner);
      const names = bootNames[this.backend](owner);
      for (const name of owner === "isolation" ? [...names, guardsName] : names)
        await this.#removeBootText(name);
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

  /** What the isolation in force says of who would begin to talk to whom; undefined if it manages no such device. */
  explainIsolation(beginning: Beginning): Answer | undefined {
    const order = this.#owned.get("isolation")?.job?.order;
    return order?.kind === "isolation" ? answerer(order.isolated)(beginning) : undefined;
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
    this.#rounds.close();
  }

  #own(owner: Owner): Owned {
    const present = this.#owned.get(owner);
    if (present) return present;
    const owned: Owned = {
      job: undefined,
      saved: true,
      awaited: false,
      lane: new Lane((job: Job) => this.#enforce(owner, job)),
      cuts: new Lane((selection: Selection) => this.#cut(selection)),
    };
    this.#owned.set(owner, owned);
    return owned;
  }

  async #verifyOwner(owner: Owner, { job, saved, cuts }: Owned): Promise<string[]> {
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
    if (!saved) await this.#save(owner, job.order);
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
    owned.job = job;
    if (isIsolation(job.plan)) await this.#guard(job.plan);
    const selection = changed ? cutsOf(job.plan, job.order) : undefined;
    if (selection) {
      const cut = owned.cuts.push(selection);
      if (this.#offloads) await cut;
    }
    owned.saved &&= !changed;
    const { awaited } = owned;
    owned.awaited = false;
    try {
      if (awaited) await this.#save(owner, job.order);
    } finally {
      await this.#clearOther(owner);
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

  /** What cannot be guarded is a limit, and tried again with the next round: the rules are in force either way. */
  async #guard({ guards, segments }: IsolationPlan): Promise<void> {
    try {
      await this.#guards.apply({ ...guards, managed: segments.flatMap(({ devices }) => devices) });
    } catch (thrown) {
      this.#system.log("warning", `Cannot guard bridge ports: ${messageOf(thrown)}`);
      this.#guardRounds.soon();
    }
  }

  async #guardAgain(): Promise<void> {
    const changed = await this.#guards.verify();
    if (changed.length > 0) this.#system.log("info", `Guarded anew: ${changed.join(", ")}`);
  }

  /** Writes the boot texts that differ from what lies there. What lay there at start is looked at once. */
  async #save(owner: Owner, order: Order): Promise<void> {
    try {
      await this.#system.makeDirectory(this.#parts.directory, 0o700);
      // A kernel may refuse the whole text for what waits.
      const texts = new Map(this.#enforcer.bootTexts(owner, withoutHold(order)));
      const plan = this.#own(owner).job?.plan;
      if (plan && isIsolation(plan)) texts.set(guardsName, renderGuards(plan.guards));
      for (const [name, rules] of texts) {
        const text = `${rules}${lastLine}\n`;
        for (const path of [this.#path(name), this.#path(`${name}${copySuffix}`)]) {
          if (this.#stored.get(path) === text) continue;
          const bytes = new TextEncoder().encode(text);
          const known = this.#stored.delete(path);
          const present = known ? undefined : await this.#system.read(path).catch(() => undefined);
          if (!present || !sameBytes(present, bytes))
            await this.#system.replace(path, bytes, { mode: 0o600 });
          this.#stored.set(path, text);
        }
      }
      this.#own(owner).saved = true;
    } catch (thrown) {
      this.counters.unsaved++;
      throw new Fault("storage", `Cannot store rules of ${owner}: ${messageOf(thrown)}`, { cause: thrown });
    }
  }

  /** What the other back end left, if the configuration has changed since: rules and boot texts. */
  async #clearOther(owner: Owner): Promise<void> {
    const other = this.backend === "nft" ? "ipset" : "nft";
    const names = bootNames[other](owner).filter((name) => this.#parts.left.has(name));
    if (names.length === 0) return;
    try {
      const enforcer = await openEnforcer(this.#system, other, this.#parts.lanDevices);
      await enforcer.remove(owner);
    } catch (thrown) {
      this.#system.log("warning", `Cannot remove what ${other} left: ${messageOf(thrown)}`);
    }
    for (const name of names) {
      this.#parts.left.delete(name);
      await this.#removeBootText(name);
    }
  }

  async #removeBootText(name: string): Promise<void> {
    for (const path of [this.#path(name), this.#path(`${name}${copySuffix}`)]) {
      this.#stored.delete(path);
      await this.#system.remove(path);
    }
  }

  #path(name: string): string {
    return `${this.#parts.directory}/${name}`;
  }
}
