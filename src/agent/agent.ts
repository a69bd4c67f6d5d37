/**
 * The table of contents: makes every part in order and joins them by plain functions.
 *
 *     evidence ──► nodes ──► who is where ──┐
 *     traffic  ──► flows ──► what is blocked ┴─► plan ──► kernel
 *                    │
 *                    └──► stores (disk), bus (answers), publish (MQTT)
 *
 * A decision is answered when the kernel enforces it and the disk knows it. A new device is told to nobody
 * before its id is on disk, so that no crash gives it another one. Nodes that blocks and lists name are pinned;
 * when one of them gets an address, the plan goes to the kernel at once.
 */

import type { Config } from "../config/config.ts";
import { Flows, flowMethods, listNames, spinMethods } from "../flows/flows.ts";
import { type ApplyOptions, type Kernel, openKernel } from "../kernel/kernel.ts";
import { emptyPlan } from "../kernel/plan.ts";
import { compareAddresses } from "../lib/address.ts";
import { Fault, messageOf } from "../lib/fault.ts";
import { type Moment, Nodes, nodeMethods } from "../nodes/nodes.ts";
import { Publish } from "../publish/publish.ts";
import type { Cancel, System } from "../system/system.ts";
import type { Methods } from "../ubus/methods.ts";
import { connectUbus, type Ubus } from "../ubus/ubus.ts";
import { brokerOf } from "./broker.ts";
import { Senses } from "./senses.ts";
import { type Loaded, loadState, type State } from "./state.ts";

export interface AgentOptions {
  readonly config: Config;
  /** The bus's socket. */
  readonly socket: string;
  readonly version: string;
}

export interface Agent {
  /** Stops watching and answering, says goodbye, saves. What the kernel enforces stays in force. */
  close(): Promise<void>;
}

/** Pin of nodes that blocks and lists name. */
const decided = "flows";
const tickMs = 250;
const retryApplyMs = 5_000;

/** Starts everything. @throws Fault if the kernel cannot be told anything; nothing else stops it. */
export async function startAgent(system: System, options: AgentOptions): Promise<Agent> {
  const agent = new Running(system, options);
  await agent.start();
  return agent;
}

class Running implements Agent {
  readonly #system: System;
  readonly #options: AgentOptions;
  readonly #startedAt: number;
  readonly #cancels: Cancel[] = [];
  #nodes!: Nodes;
  #flows!: Flows;
  #state!: State;
  #senses!: Senses;
  #kernel: Promise<Kernel> | undefined;
  #opened: Kernel | undefined;
  #ubus: Ubus | undefined;
  #publish: Publish | undefined;
  #pinned: ReadonlySet<number> = new Set();
  /** A new plan is about to be made; true: its boot text must not lag. */
  #replanning: boolean | undefined;
  #cancelRetry: Cancel | undefined;
  /** Everything that was to be opened is open. */
  #ready = false;
  #closed = false;

  constructor(system: System, options: AgentOptions) {
    this.#system = system;
    this.#options = options;
    this.#startedAt = system.now();
  }

  async start(): Promise<void> {
    const { main, mqtt } = this.#options.config;
    const system = this.#system;
    const { isRestored } = await this.#loadState();
    // ── Nothing is touched above this line ──────────────────────────────────────────────────────────────────
    this.#kernel = openKernel(system, {
      backend: main.backend,
      stateDirectory: main.stateDir,
      lanDevices: main.lanDevice,
    });
    this.#openBus();
    try {
      this.#opened = await this.#kernel;
    } catch (thrown) {
      this.#ubus?.close();
      throw thrown;
    }
    // What was blocked is enforced before anything is looked at.
    await this.#applyFirst();
    void this.#state.reserve(isRestored);
    this.#offerDecisions();
    await this.#applyTap();
    this.#senses = new Senses(
      system,
      { nodes: this.#nodes, flows: this.#flows },
      {
        lanDevices: main.lanDevice,
        wanDevices: main.wanDevice,
        leaseFile: main.leaseFile,
        dhcpConfig: main.dhcpConfig,
        dnsGroup: main.dnsGroup,
        noticed: () => this.#noticed(),
      },
    );
    await this.#senses.open();
    if (mqtt.enabled) await this.#openPublish();
    this.#cancels.push(system.every(tickMs, () => this.#tick()));
    this.#ready = true;
    system.log(
      "info",
      `${this.#options.version} runs, ${this.#nodes.size} nodes, ${this.#flows.pairs().length} blocks`,
    );
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    for (const cancel of this.#cancels.splice(0)) cancel();
    this.#cancelRetry?.();
    this.#senses?.close();
    this.#ubus?.close();
    await this.#publish?.close();
    await this.#state.close();
    this.#opened?.close();
  }

  async #loadState(): Promise<Loaded> {
    const { main } = this.#options.config;
    const loaded = await loadState(this.#system, main.stateDir);
    this.#state = loaded.state;
    this.#flows = new Flows(
      {
        resolve: (id) => this.#nodes.resolve(id),
        commit: () => this.#commit(),
        changed: (ids, lists) => {
          for (const id of ids) this.#publish?.changed(id);
          for (const list of lists) this.#publish?.listChanged(list);
        },
        maxRecords: main.maxFlows,
        maxBlocks: main.maxBlocks,
        idleMs: main.flowExpiry * 1_000,
      },
      loaded.flows,
    );
    this.#nodes = new Nodes({
      limits: {
        nodes: main.maxNodes,
        addressesPerNode: main.maxNodeAddresses,
        namesPerNode: main.maxNodeNames,
        farMs: main.nodeExpiry * 1_000,
        deviceMs: main.deviceExpiry * 1_000,
      },
      flags: (id) => ({
        blocked: this.#flows.isListed("block", id),
        excepted: this.#flows.isListed("allow", id),
      }),
      onMerge: (old, into) => this.#merged(old, into),
      // What a far name is answered changes all the time: the boot text may lag behind. Devices' addresses don't.
      onEnds: (ids) => this.#replan(ids.some((id) => (this.#nodes.end(id)?.macs.length ?? 0) > 0)),
    });
    if (loaded.nodes) this.#nodes.load(loaded.nodes, this.#moment, { older: loaded.isRestored });
    this.#syncPins();
    this.#state.attach(this.#nodes, this.#flows);
    return loaded;
  }

  get #moment(): Moment {
    return { now: this.#system.now(), date: this.#system.date() };
  }

  // Enforcing and remembering.

  /** What flows asks for each decision: enforced and durable. */
  async #commit(): Promise<void> {
    this.#syncPins();
    const results = await Promise.allSettled([this.#apply(), ...this.#state.decided()]);
    const faults = results.flatMap((each) => (each.status === "rejected" ? [each.reason as unknown] : []));
    // Not enforced outweighs not durable.
    const worst = faults.find((each) => !(each instanceof Fault && each.code === "storage")) ?? faults[0];
    if (worst !== undefined) throw worst;
  }

  async #apply(options?: ApplyOptions): Promise<void> {
    const kernel = this.#opened ?? (await this.#kernel!);
    const plan = this.#flows.plan((id) => this.#nodes.end(id));
    await kernel.apply("flows", plan, options);
  }

  /** A disk that takes no boot text is said, and no reason not to run. */
  async #applyFirst(): Promise<void> {
    try {
      await this.#apply();
    } catch (thrown) {
      if (!(thrown instanceof Fault && thrown.code === "storage")) throw thrown;
      this.#system.log("error", thrown.message);
    }
  }

  async #applyTap(): Promise<void> {
    const { dnsGroup } = this.#options.config.main;
    try {
      await this.#opened!.apply("nodes", { ...emptyPlan, tap: { group: dnsGroup } });
    } catch (thrown) {
      // Without the tap names are missing; blocks don't need it.
      this.#system.log("error", messageOf(thrown));
    }
  }

  /** Addresses of nodes in the plan changed. */
  #replan(durable: boolean): void {
    if (this.#closed || !this.#opened) return;
    const planned = this.#replanning !== undefined;
    this.#replanning = durable || this.#replanning === true;
    if (planned) return;
    // At the end of this batch of evidence, however many nodes it moved.
    void Promise.resolve().then(async () => {
      const options = { durable: this.#replanning === true };
      this.#replanning = undefined;
      try {
        await this.#apply(options);
      } catch (thrown) {
        this.#system.log("error", messageOf(thrown));
        this.#cancelRetry?.();
        this.#cancelRetry = this.#system.after(retryApplyMs, () => this.#replan(true));
      }
    });
  }

  #merged(old: number, into: number): void {
    const { changed, dropped } = this.#flows.merge(old, into);
    for (const [one, other] of dropped) {
      this.#system.log("warning", `the block of ${one} and ${other} ended: they are one node now`);
    }
    if (!changed) return;
    this.#syncPins();
    this.#replan(true);
    // The fault was reported by the store, which tries again.
    this.#state.saveFlows().catch(() => {});
  }

  /** Pins the nodes that decisions name, so that they stay and are stored. */
  #syncPins(): void {
    const wanted = this.#flows.pinned();
    for (const id of this.#pinned) if (!wanted.has(id)) this.#nodes.unpin(id, decided);
    for (const id of wanted) {
      if (!this.#pinned.has(id) && this.#nodes.resolve(id) !== undefined) this.#nodes.pin(id, decided);
    }
    this.#pinned = wanted;
  }

  #noticed(): void {
    if (!this.#closed) this.#state.noticed();
  }

  // Telling.

  #openBus(): void {
    let before: boolean | undefined;
    const ubus = connectUbus(this.#system, {
      path: this.#options.socket,
      onState: (connected, fault) => {
        // Tried again every second: once is enough to say that the bus is not there.
        if (connected === before || this.#closed) return;
        before = connected;
        if (connected) this.#system.log("info", "connected to the bus");
        else if (fault) this.#system.log("warning", fault.message);
      },
    });
    this.#ubus = ubus;
    this.#offer({
      gatehouse: this.#ownMethods(),
      "gatehouse.nodes": this.#durably(nodeMethods(this.#nodes, { changed: () => this.#state.saveNodes() })),
    });
  }

  /** Decisions are shown and taken only once those of the last life are in force. */
  #offerDecisions(): void {
    this.#offer({
      spin: spinMethods(this.#flows),
      "gatehouse.flows": flowMethods(this.#flows, {
        dateOf: (at) => at + this.#system.date() - this.#system.now(),
        sharedWith: (id) => this.#nodes.sharedWith(id),
      }),
    });
  }

  #offer(objects: Readonly<Record<string, Methods>>): void {
    for (const [name, methods] of Object.entries(objects)) {
      this.#ubus?.publish(name, methods).done.catch((thrown) => this.#system.log("error", messageOf(thrown)));
    }
  }

  /** Answers only when every id in the answer is on disk, or the disk has refused. */
  #durably(methods: Methods): Methods {
    const entries = Object.entries(methods).map(([name, method]) => {
      const call: typeof method.call = async (args, caller) => {
        const answer = await method.call(args, caller);
        await this.#state.settled;
        return answer;
      };
      return [name, { ...method, call }];
    });
    return Object.fromEntries(entries);
  }

  #ownMethods(): Methods {
    return {
      status: {
        args: {},
        access: "read",
        doc: "Version, back end, what is watched, counted, lost and limited.",
        call: () => this.#status(),
      },
    };
  }

  #status() {
    const { version } = this.#options;
    return {
      version,
      ready: this.#ready,
      uptime: Math.floor((this.#system.now() - this.#startedAt) / 1_000),
      resident_bytes: this.#system.self.residentBytes(),
      backend: this.#opened?.backend ?? "opening",
      kernel: { ...this.#opened?.counters },
      limits: [...(this.#opened?.limits ?? [])],
      nodes: { ...this.#nodes.status },
      flows: { ...this.#flows.counters },
      senses: this.#senses?.status ?? {},
      mqtt: { ...this.#publish?.counters },
      damaged: [...this.#state.damages],
      storage: this.#state.faults,
    };
  }

  async #openPublish(): Promise<void> {
    const { mqtt } = this.#options.config;
    const broker = await brokerOf(this.#system, mqtt);
    if (this.#closed) return;
    this.#publish = new Publish(this.#system, {
      prefix: mqtt.prefix,
      broker,
      nodeIds: () => this.#nodes.ids(),
      node: (id) => this.#nodes.info(id),
      takeTraffic: () => this.#flows.takeTraffic(),
      lists: listNames,
      listed: (list) => this.#listed(list),
    });
  }

  /** The addresses of the nodes on a list. */
  #listed(list: string): string[] {
    const name = listNames.find((each) => each === list);
    const ids = name === undefined ? [] : this.#flows.listed(name);
    return ids.flatMap((id) => this.#nodes.end(id)?.addresses ?? []).sort(compareAddresses);
  }

  #tick(): void {
    const at = this.#moment;
    this.#nodes.tick(at);
    this.#flows.tick(at.now);
    this.#noticed();
    const publish = this.#publish;
    const [changed, merged, removed] = [
      this.#nodes.takeChanged(),
      this.#nodes.takeMerged(),
      this.#nodes.takeRemoved(),
    ];
    if (publish) {
      void this.#state.settled.then(() => {
        for (const id of changed) publish.changed(id);
        for (const { id, into } of merged) publish.merged(id, into);
        for (const { id } of removed) publish.removed(id);
      });
      publish.tick(at.now);
    } else this.#flows.takeTraffic();
  }
}
