/**
 * The table of contents: makes every part in order and joins them by plain functions.
 *
 *     evidence ──► nodes ──► who is where ──┐
 *     traffic  ──► flows ──► what is blocked ┴─► plan ──► kernel
 *                    │
 *                    └──► stores (disk), bus and SPIN's doors (answers), publish (MQTT)
 *
 * A decision is answered when the kernel enforces it and the disk knows it. A new device is told to nobody
 * before its id is on disk, so that no crash gives it another one. Nodes that blocks and lists name are pinned;
 * when one of them gets an address, the plan goes to the kernel at once.
 */

import { Captures, captureMethods } from "../capture/capture.ts";
import type { Config } from "../config/config.ts";
import { Flows, flowMethods, spinMethods } from "../flows/flows.ts";
import { type Kernel, openKernel } from "../kernel/kernel.ts";
import type { Address } from "../lib/address.ts";
import { Fault, messageOf } from "../lib/fault.ts";
import { isObject, type JsonObject } from "../lib/json.ts";
import { listNames } from "../lib/spin.ts";
import { type Moment, Nodes, nodeMethods } from "../nodes/nodes.ts";
import { ExternalSource, openRpcSocket, Rpc, type RpcSocket, rpcMethods } from "../spin/spin.ts";
import type { Cancel, System } from "../system/system.ts";
import type { Methods } from "../ubus/methods.ts";
import { connectUbus, type Ubus } from "../ubus/ubus.ts";
import { type DoorParts, spinDoor } from "./door.ts";
import { attempt } from "./effects.ts";
import { Enforce } from "./enforce.ts";
import { explain } from "./explain.ts";
import { externalSink } from "./external.ts";
import { LinkedRooms } from "./linked.ts";
import { ownMethods } from "./methods.ts";
import { momentOf } from "./moment.ts";
import { Senses } from "./senses.ts";
import type { Sessions } from "./session.ts";
import { type Loaded, loadState, type State } from "./state.ts";
import { takeOver, takeOverOnce } from "./takeover.ts";
import { Taps } from "./taps.ts";
import { Telling, takeNews } from "./telling.ts";

export interface AgentOptions {
  readonly config: Config;
  /** The bus's socket. */
  readonly socket: string;
  readonly version: string;
  /** MQTT sessions, which may be older than this agent and outlive it. */
  readonly sessions: Sessions;
}

export { Sessions } from "./session.ts";

export interface Agent {
  /** Stops watching and answering, says goodbye, saves. What the kernel enforces stays in force. */
  close(): Promise<void>;
}

const tickMs = 250;

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
  #enforce!: Enforce;
  #taps!: Taps;
  #senses: Senses | undefined;
  #kernel: Kernel | undefined;
  #ubus: Ubus | undefined;
  #telling: Telling | undefined;
  #rpcSocket: RpcSocket | undefined;
  #external: ExternalSource | undefined;
  #captures: Captures | undefined;
  #linked: LinkedRooms | undefined;
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
    const kernel = openKernel(system, {
      backend: main.backend,
      stateDirectory: main.stateDir,
      lanDevices: main.lanDevice,
    });
    this.#join(kernel);
    this.#openBus();
    try {
      this.#kernel = await kernel;
    } catch (thrown) {
      this.#ubus?.close();
      throw thrown;
    }
    // What was blocked is enforced before anything is looked at.
    await this.#enforce.applyFirst();
    void this.#state.reserve(isRestored);
    await takeOverOnce(system, { directory: main.spinDir, stateDirectory: main.stateDir }, this.#doorParts);
    const rpc = this.#offerDecisions();
    await this.#taps.open();
    await this.#enforce.openTap();
    const linked = await this.#openLinked(this.#kernel);
    this.#senses = new Senses(
      system,
      { nodes: this.#nodes, flows: this.#flows },
      {
        lanDevices: main.lanDevice,
        wanDevices: main.wanDevice,
        leaseFile: main.leaseFile,
        dhcpConfig: main.dhcpConfig,
        tapCounters: () => this.#taps.dnsCounters,
        noticed: () => this.#noticed(),
        rooms: linked,
      },
    );
    await this.#senses.open();
    if (this.#senses.followsLinks) await linked.begin();
    await this.#openSockets(rpc);
    if (mqtt.enabled) {
      this.#telling = new Telling(system, mqtt, {
        nodes: this.#nodes,
        flows: this.#flows,
        rpc,
        stats: () => this.#stats(),
        settled: () => this.#state.settled,
        sessions: this.#options.sessions,
      });
    }
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
    this.#enforce.close();
    this.#senses?.close();
    this.#external?.close();
    await this.#linked?.close();
    await Promise.all([this.#taps.close(), this.#rpcSocket?.close(), this.#captures?.close()]);
    this.#ubus?.close();
    await this.#telling?.close();
    await this.#state.close();
    // Texts for the next boot may lag while we run.
    await attempt(this.#system, async () => this.#kernel?.saveTexts());
    this.#kernel?.close();
  }

  get #moment(): Moment {
    return momentOf(this.#system);
  }

  async #loadState(): Promise<Loaded> {
    const { main } = this.#options.config;
    const loaded = await loadState(this.#system, main.stateDir);
    this.#state = loaded.state;
    this.#flows = new Flows(
      {
        resolve: (id) => this.#nodes.resolve(id),
        addressesOf: (id) => this.#nodes.end(id)?.addresses ?? [],
        commit: () => this.#enforce.commit(),
        changed: (ids, lists) => {
          for (const id of ids) this.#telling?.publish.changed(id);
          for (const list of lists) this.#telling?.publish.listChanged(list);
          this.#telling?.publish.pairsChanged();
        },
        maxRecords: main.maxFlows,
        maxBlocks: main.maxBlocks,
        idleMs: main.flowExpiry * 1_000,
        seed: new DataView(this.#system.random(4).buffer).getUint32(0),
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
      onSplit: (old, from) => {
        if (this.#flows.split(old, from)) this.#enforce.moved();
      },
      // What a far name is answered changes all the time: the boot text may lag behind. Devices' addresses don't.
      onEnds: (ids) => {
        const isNear = ids.some((id) => (this.#nodes.end(id)?.macs.length ?? 0) > 0);
        this.#enforce.replan(isNear);
        if (isNear) this.#state.moved();
        for (const list of listNames) {
          if (ids.some((id) => this.#flows.isListed(list, id))) this.#telling?.publish.listChanged(list);
        }
      },
    });
    if (loaded.nodes) this.#nodes.load(loaded.nodes, this.#moment, { older: loaded.isRestored });
    this.#state.attach(this.#nodes, this.#flows);
    return loaded;
  }

  /** Decisions, kernel and disk. */
  #join(kernel: Promise<Kernel>): void {
    const { main } = this.#options.config;
    const [nodes, flows, system] = [this.#nodes, this.#flows, this.#system];
    const asked = (question: { from: number; queried: number; name: string }) => this.#asked(question);
    this.#taps = new Taps(
      system,
      { nodes, flows },
      {
        dnsGroup: main.dnsGroup,
        blockedGroup: main.blockedGroup,
        answerQueue: main.answerQueue,
        asked,
        noticed: () => this.#noticed(),
        followed: () => this.#enforce.following,
      },
    );
    this.#enforce = new Enforce(
      system,
      { nodes, flows, state: this.#state, kernel },
      {
        dnsGroup: main.dnsGroup,
        blockedGroup: main.blockedGroup,
        answerQueue: main.answerQueue,
        holdAnswers: main.holdAnswers,
        hold: (wanted) => this.#taps.hold(wanted),
      },
    );
    // A crash may have fallen between the saves of nodes and flows.
    if (!flows.reconcile()) return;
    this.#enforce.syncPins();
    this.#state.saveFlows().catch(() => {});
  }

  #merged(old: number, into: number): void {
    const { changed, dropped } = this.#flows.merge(old, into);
    for (const [one, other] of dropped) {
      this.#system.log("warning", `the block of ${one} and ${other} ended: they are one node now`);
    }
    if (changed) this.#enforce.moved();
  }

  #noticed(): void {
    if (!this.#closed) this.#state.noticed();
  }

  #asked({ from, queried, name }: { from: number; queried: number; name: string }): void {
    this.#telling?.publish.dnsQuery({ from, queriednode: queried, query: name });
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
      gatehouse: ownMethods({
        status: () => this.#status(),
        explain: (from, to) => this.#explain(from, to),
        print: () => this.#kernel?.printAll() ?? "",
        takeOver: async (directory) => {
          const taken = await takeOver(this.#system, directory, this.#doorParts);
          return { ...taken.takeover, complete: taken.isWhole } as JsonObject;
        },
      }),
      "gatehouse.nodes": this.#durably(
        nodeMethods(this.#nodes, {
          changed: async () => {
            await Promise.all([this.#state.saveNodes(), this.#enforce.settled()]);
          },
        }),
      ),
    });
  }

  /** Decisions are shown and taken only once those of the last life are in force. */
  #offerDecisions(): Rpc {
    const { main } = this.#options.config;
    const rpc = new Rpc(spinDoor(this.#doorParts), (line) => this.#system.log("error", line));
    this.#captures = new Captures(this.#system, {
      directory: `${main.runDir}/captures`,
      interfaces: main.lanDevice,
      end: (id) => this.#nodes.end(id),
    });
    this.#offer({
      spin: { ...spinMethods(this.#flows), ...rpcMethods(rpc) },
      "gatehouse.flows": flowMethods(this.#flows, {
        dateOf: (at) => this.#dateOf(at),
        sharedWith: (id) => this.#nodes.sharedWith(id),
      }),
      "gatehouse.capture": captureMethods(this.#captures),
    });
    return rpc;
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

  get #doorParts(): DoorParts {
    return {
      nodes: this.#nodes,
      flows: this.#flows,
      moment: () => this.#moment,
      saveNodes: () => this.#state.saveNodes(),
    };
  }

  #explain(from: string, to: string): JsonObject {
    const kernel = this.#kernel;
    if (!kernel) throw new Fault("closed", "Cannot explain: the rules are not in force yet");
    const dateOf = (at: number) => this.#dateOf(at);
    const answer = explain([from, to], { nodes: this.#nodes, flows: this.#flows, kernel, dateOf });
    return { ...answer, ...this.#linked?.explain(addressesOf(answer)) };
  }

  #dateOf(at: number): number {
    return at + this.#system.date() - this.#system.now();
  }

  async #status(): Promise<JsonObject> {
    const kernel = this.#kernel;
    const unseen = (await this.#senses?.blindSpots()) ?? [];
    const dropped = await kernel?.dropped("flows").catch(() => undefined);
    return {
      version: this.#options.version,
      ready: this.#ready,
      uptime: Math.floor((this.#system.now() - this.#startedAt) / 1_000),
      resident_bytes: this.#system.self.residentBytes(),
      backend: kernel?.backend ?? "opening",
      kernel: { ...kernel?.counters, ...(dropped !== undefined && { dropped_packets: dropped }) },
      limits: [...(kernel?.limits ?? [])],
      unseen: unseen.map((spot) => ({ ...spot })),
      lan_devices: [...this.#options.config.main.lanDevice],
      nodes: { ...this.#nodes.status } as JsonObject,
      flows: { ...this.#flows.counters } as JsonObject,
      senses: { ...this.#senses?.status, ...this.#taps.status } as JsonObject,
      ...this.#linked?.status,
      rpc: { ...this.#rpcSocket?.counters } as JsonObject,
      external: { ...this.#external?.counters } as JsonObject,
      mqtt: { ...this.#telling?.status } as JsonObject,
      damaged: [...this.#state.damages],
      storage: this.#state.faults,
    };
  }

  async #openLinked(kernel: Kernel): Promise<LinkedRooms> {
    const linked = await LinkedRooms.open(this.#system, this.#options.config, {
      kernel,
      ubus: this.#ubus!,
      resolving: {
        nodes: this.#nodes,
        tell: (kind, payload) => this.#telling?.publish.neighbour(kind, payload),
      },
    });
    this.#linked = linked;
    this.#offer(linked.objects);
    return linked;
  }

  /** SPIN's sockets, where they are wanted. One that cannot be opened is said; the agent runs without. */
  async #openSockets(rpc: Rpc): Promise<void> {
    const { rpcSocket, rpcUid, extsrcSocket } = this.#options.config.main;
    try {
      if (rpcSocket !== "") {
        this.#rpcSocket = await openRpcSocket(this.#system, rpc, { path: rpcSocket, uids: rpcUid });
      }
      if (extsrcSocket !== "") {
        this.#external = new ExternalSource(this.#system, {
          path: extsrcSocket,
          sink: externalSink({
            nodes: this.#nodes,
            flows: this.#flows,
            moment: () => this.#moment,
            asked: (question) => this.#asked(question),
            noticed: () => this.#noticed(),
          }),
          onFault: (fault) => this.#system.log("warning", fault.message),
        });
      }
    } catch (thrown) {
      this.#system.log("error", messageOf(thrown));
    }
  }

  /** Counters that SPIN's clients may want to draw. */
  *#stats() {
    const modules = {
      node_cache: this.#nodes.status,
      flows: this.#flows.counters,
      kernel: this.#kernel?.counters ?? {},
      conntrack: this.#senses?.status.conntrack ?? {},
      dns: this.#taps.status.dns,
    };
    for (const [module, counters] of Object.entries(modules)) {
      for (const [name, value] of Object.entries(counters)) {
        if (typeof value === "number") yield { module, name, type: 0 as const, value, count: value };
      }
    }
  }

  #tick(): void {
    const at = this.#moment;
    const [nodes, flows] = [this.#nodes, this.#flows];
    nodes.tick(at);
    flows.tick(at.now);
    this.#linked?.tick();
    this.#noticed();
    const news = takeNews(nodes);
    for (const { address, claimant, holder } of nodes.takeConflicts()) {
      this.#system.log("warning", `${claimant} answers for ${address}, which is node ${holder}'s`);
    }
    const ended = news.removed.filter(({ id, reason }) => reason === "alias" && flows.forget(id));
    if (ended.length > 0) this.#state.saveFlows().catch(() => {});
    if (this.#telling) this.#telling.tick(at.now, news);
    else {
      flows.takeTraffic();
      flows.takeBlocked(at.now);
    }
  }
}

/** Of both ends, as an explanation shows them. */
function addressesOf({ from, to }: JsonObject): Address[] {
  return [from, to].flatMap((end) => (isObject(end) ? (end.addresses as Address[]) : []));
}
