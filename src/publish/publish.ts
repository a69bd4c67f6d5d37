/**
 * What MQTT clients see: nodes as retained messages, traffic once a second, in SPIN's topics and shapes.
 *
 *     <prefix>/status              "online", last will "offline"           retained
 *     <prefix>/traffic/node/<id>   {"command":"nodeInfo",…}, empty: gone   retained
 *     <prefix>/traffic             serverRestart, lists, traffic
 *     <prefix>/traffic/admin       nodeMerged, nodeDeleted
 *
 * Kept are only ids of what is to be sent, so a broker that is away costs nothing and a slow one little: `tick`
 * sends what the session takes and leaves the rest for the next. A node that changes all the time goes out about
 * once a second, as it is then. A new session gets everything again, and is asked for the node topics that it
 * remembers, of which those that are no node of ours are cleared. Other rooms tell what changed; nobody is told.
 *
 * Source: SIDN SPIN at a5185b7, observed on the wire.
 */

import type { JsonObject } from "../lib/json.ts";
import type { NodeInfo, TrafficFlow } from "../lib/spin.ts";
import type { Clock, Mqtt, MqttOptions, System } from "../system/system.ts";

export interface PublishOptions {
  /** First level of every topic. */
  readonly prefix: string;
  /** The broker; the will is set here. */
  readonly broker: Omit<MqttOptions, "will">;
  /** The ids of all living nodes. */
  nodeIds(): Iterable<number>;
  /** A living node under its own id, or undefined; for a merged id either. */
  node(id: number): NodeInfo | undefined;
  /** What passed since it was last asked; it is asked once a second, and while there is no session too. */
  takeTraffic(): readonly TrafficFlow[];
  /** The names of SPIN's lists, in the order in which they are sent. */
  readonly lists: readonly string[];
  /** The addresses on a list, as SPIN shows them. */
  listed(list: string): readonly string[];
}

/** How often a node, and the traffic, is published at most. */
const periodMs = 1_000;
/** Messages of one tick: a broker that has just come back is not the agent's only work. */
const maxPerTick = 500;
/** What the queue may hold after a tick, of what it could: the rest is for traffic and answers. */
const queueShare = 0.5;
/** After this long without a remembered topic the broker has told them all. */
const sweepQuietMs = 5_000;
/** Ids that may wait to be cleared; those past it are found at the next session. */
const maxGone = 20_000;

/** Why a node topic is to be cleared. */
type Gone = "deleted" | "stale" | { readonly mergedTo: number };

export class Publish {
  readonly #system: Clock & Pick<System, "log">;
  readonly #options: PublishOptions;
  readonly #mqtt: Mqtt;
  readonly #topics: { readonly status: string; readonly traffic: string; readonly node: string };
  /** Nodes to be published, and lists. Ids only: the content is looked up when it is sent. */
  readonly #nodes = new Set<number>();
  readonly #lists = new Set<string>();
  readonly #gone = new Map<number, Gone>();
  /** Node → when it was last published, as long as that is less than a period ago. */
  readonly #recent = new Map<number, number>();
  #restarted = true;
  #trafficAt = Number.NEGATIVE_INFINITY;
  /** When the broker last told of a remembered topic; undefined: it is not asked. */
  #sweptAt: number | undefined;
  /** Why there is no session, as told. */
  #absence: string | undefined;
  #published = 0;
  #dropped = 0;

  /** Opens the session, which stands some time later, or never. */
  constructor(system: Clock & Pick<System, "log" | "mqtt">, options: PublishOptions) {
    this.#system = system;
    this.#options = options;
    const traffic = `${options.prefix}/traffic`;
    this.#topics = { status: `${options.prefix}/status`, traffic, node: `${traffic}/node/` };
    const { host, port } = options.broker;
    this.#mqtt = system.mqtt(
      { ...options.broker, will: { topic: this.#topics.status, payload: "offline" } },
      {
        onConnect: () => {
          this.#absence = undefined;
          system.log("info", `MQTT broker ${host}:${port} is there`);
          this.#begin();
        },
        onDisconnect: (reason) => {
          // The same word for each try would fill the log of a router whose broker is elsewhere and off.
          if (reason !== this.#absence) {
            system.log("warning", `MQTT broker ${host}:${port} is not there: ${reason}`);
          }
          this.#absence = reason;
          this.#forget();
        },
        onMessage: (topic, payload) => this.#remembered(topic, payload.length),
      },
    );
  }

  /** Figures for the status page: messages sent, given up, and still to be sent. */
  get counters(): {
    readonly connected: boolean;
    readonly published: number;
    readonly dropped: number;
    readonly waiting: number;
  } {
    return {
      connected: this.#mqtt.connected,
      published: this.#published,
      dropped: this.#dropped,
      waiting: this.#nodes.size + this.#lists.size + this.#gone.size,
    };
  }

  /** A node came or looks different. */
  changed(id: number): void {
    if (!this.#mqtt.connected) return;
    this.#gone.delete(id);
    this.#nodes.add(id);
  }

  /** A list has other nodes, or nodes with other addresses. */
  listChanged(list: string): void {
    if (this.#mqtt.connected) this.#lists.add(list);
  }

  /** Node `old` has become part of node `id`. */
  merged(old: number, id: number): void {
    this.#clear(old, { mergedTo: id });
  }

  /** A node is forgotten. */
  removed(id: number): void {
    this.#clear(id, "deleted");
  }

  /** Sends what is due, as far as the session takes it. To be called a few times a second. */
  tick(now: number): void {
    if (this.#mqtt.connected) {
      for (const [id, at] of this.#recent) {
        if (now - at < periodMs) break;
        this.#recent.delete(id);
      }
      this.#sendWaiting(now);
      this.#endSweep(now);
    }
    if (now - this.#trafficAt < periodMs) return;
    this.#trafficAt = now;
    // Taken even if nobody listens: the next message must not tell of an hour as of a second.
    const flows = this.#options.takeTraffic();
    if (flows.length > 0 && this.#mqtt.connected) this.#sendTraffic(flows);
  }

  /** Says goodbye and closes. */
  close(): Promise<void> {
    return this.#mqtt.close({ topic: this.#topics.status, payload: "offline" });
  }

  /** A session stands: everything is to be sent. */
  #begin(): void {
    this.#forget();
    this.#send(this.#topics.status, "online", true);
    if (this.#restarted) {
      this.#restarted = !this.#send(
        this.#topics.traffic,
        JSON.stringify({ command: "serverRestart" }),
        false,
      );
    }
    for (const list of this.#options.lists) this.#lists.add(list);
    for (const id of this.#options.nodeIds()) this.#nodes.add(id);
    this.#mqtt.subscribe(`${this.#topics.node}+`);
    this.#sweptAt = this.#system.now();
  }

  #forget(): void {
    this.#nodes.clear();
    this.#lists.clear();
    this.#gone.clear();
    this.#recent.clear();
    this.#sweptAt = undefined;
  }

  /** The broker remembers a node topic: perhaps of an earlier life. */
  #remembered(topic: string, payloadBytes: number): void {
    if (this.#sweptAt === undefined || payloadBytes === 0 || !topic.startsWith(this.#topics.node)) return;
    const digits = topic.slice(this.#topics.node.length);
    if (!/^[1-9][0-9]{0,14}$/.test(digits)) return;
    const id = Number(digits);
    if (this.#isLiving(id)) return;
    // Only what is cleared keeps the question open: our own messages come back here too.
    this.#sweptAt = this.#system.now();
    if (!this.#gone.has(id)) this.#clear(id, "stale");
  }

  #endSweep(now: number): void {
    if (this.#sweptAt === undefined || now - this.#sweptAt < sweepQuietMs) return;
    this.#sweptAt = undefined;
    this.#mqtt.unsubscribe(`${this.#topics.node}+`);
  }

  /** Whether the id is a node's own: one merged away still answers elsewhere, but has no topic. */
  #isLiving(id: number): boolean {
    return this.#options.node(id)?.id === id;
  }

  #clear(id: number, why: Gone): void {
    this.#nodes.delete(id);
    if (!this.#mqtt.connected) return;
    if (this.#gone.size < maxGone || this.#gone.has(id)) this.#gone.set(id, why);
    else this.#dropped++;
  }

  #sendWaiting(now: number): void {
    let room = maxPerTick;
    const maxBytes = this.#options.broker.maxQueuedBytes * queueShare;
    const takes = () => room-- > 0 && this.#mqtt.queuedBytes < maxBytes;
    for (const list of this.#lists) {
      if (!takes() || !this.#sendList(list)) return;
      this.#lists.delete(list);
    }
    for (const id of this.#nodes) {
      if (this.#recent.has(id)) continue;
      if (!takes() || !this.#sendNode(id)) return;
      this.#nodes.delete(id);
      this.#recent.set(id, now);
    }
    for (const [id, why] of this.#gone) {
      if (!takes() || !this.#sendGone(id, why)) return;
      this.#gone.delete(id);
    }
  }

  #sendList(list: string): boolean {
    const payload = JSON.stringify({ command: list, result: this.#options.listed(list) });
    return this.#send(this.#topics.traffic, payload, false);
  }

  #sendNode(id: number): boolean {
    const node = this.#options.node(id);
    const living = node?.id === id;
    return this.#send(`${this.#topics.node}${id}`, living ? renderNode(node) : "", true);
  }

  #sendGone(id: number, why: Gone): boolean {
    // It may have come back under this id: then the topic is right as it is.
    if (this.#isLiving(id)) return true;
    if (why !== "stale") {
      const told =
        why === "deleted"
          ? { command: "nodeDeleted", result: { id } }
          : { command: "nodeMerged", result: { id, "merged-to": why.mergedTo } };
      if (!this.#send(`${this.#topics.traffic}/admin`, JSON.stringify(told), false)) return false;
    }
    return this.#send(`${this.#topics.node}${id}`, "", true);
  }

  #sendTraffic(flows: readonly TrafficFlow[]): void {
    const timestamp = Math.floor(this.#system.date() / 1_000);
    if (!this.#send(this.#topics.traffic, renderTraffic(flows, timestamp), false)) this.#dropped++;
  }

  #send(topic: string, payload: string, retain: boolean): boolean {
    const sent = this.#mqtt.publish(topic, payload, { retain });
    if (sent) this.#published++;
    return sent;
  }
}

/** The message of a node topic. Field order is part of the shape. */
export function renderNode(node: NodeInfo): string {
  const { id, name, mac, is_blocked, is_excepted, lastseen, ips, domains } = node;
  // What is undefined is left out.
  const result = { id, name, mac, is_blocked, is_excepted, lastseen, ips, domains };
  return JSON.stringify({ command: "nodeInfo", result });
}

/** The traffic message. `timestamp` is in Unix seconds. */
export function renderTraffic(flows: readonly TrafficFlow[], timestamp: number): string {
  const lines = flows.map((flow): JsonObject => {
    const { from, to, protocol, from_port, to_port, size, count } = flow;
    return { from, to, protocol, from_port, to_port, size, count };
  });
  const sum = (numbers: readonly number[]) =>
    Math.min(
      Number.MAX_SAFE_INTEGER,
      numbers.reduce((total, each) => total + each, 0),
    );
  const result = {
    flows: lines,
    timestamp,
    total_size: sum(flows.map((flow) => flow.size)),
    total_count: sum(flows.map((flow) => flow.count)),
  };
  return JSON.stringify({ command: "traffic", argument: "", result });
}
