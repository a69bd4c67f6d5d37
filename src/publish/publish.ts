/**
 * What MQTT clients see: nodes as retained messages, traffic once a second, in SPIN's topics and shapes.
 *
 *     <prefix>/status              "online", last will "offline"                                  retained
 *     <prefix>/traffic/node/<id>   {"command":"nodeInfo",…}; of a merged id only where it went;   retained
 *                                  empty: gone
 *     <prefix>/traffic             serverRestart, lists, flowblock, traffic, dnsquery, blocked
 *     <prefix>/traffic/admin       nodeMerged, nodeDeleted
 *     <prefix>/neighbours          neighbourMoved, neighbourConflict
 *     <prefix>/list/<name>         the lists and flowblock again, for who comes later             retained
 *     <prefix>/stat/<module>/<name>  counters that changed, every 30 s                            retained
 *     <prefix>/jsonrpc/q, /a       requests (taken only if somebody answers them), answers
 *
 * Kept are only ids of what is to be sent, so a broker that is away costs nothing and a slow one little: `tick`
 * sends what the session takes and leaves the rest for the next. A node that changes all the time goes out about
 * once a second, as it is then. A new session gets everything again, and is asked for the topics that it
 * remembers, of which those that are not ours any more are cleared. Other rooms tell what changed; nobody is told.
 *
 * Source: SIDN SPIN at a5185b7, observed on the wire.
 */

import type { JsonObject } from "../lib/json.ts";
import type { NodeInfo, TrafficFlow } from "../lib/spin.ts";
import type { Mqtt, MqttOptions, System } from "../system/system.ts";
import {
  type QueryTold,
  renderAlias,
  renderBlocked,
  renderDeleted,
  renderList,
  renderMerged,
  renderNeighbour,
  renderNode,
  renderPairs,
  renderQuery,
  renderTraffic,
  type Stat,
  serverRestart,
} from "./messages.ts";
import { Reports } from "./reports.ts";
import { Stats } from "./stats.ts";

export { type QueryTold, renderNode, renderTraffic, type Stat } from "./messages.ts";

export interface PublishOptions {
  /** First level of every topic. */
  readonly prefix: string;
  /** The broker; the will is set here. */
  readonly broker: Omit<MqttOptions, "will">;
  /** The ids of all living nodes. */
  nodeIds(): Iterable<number>;
  /** A living node; of a merged id that still answers the node that it is part of now, which has another id. */
  node(id: number): NodeInfo | undefined;
  /** Merged ids that still answer, each with the id that it goes by now. */
  aliases?(): Iterable<readonly [old: number, into: number]>;
  /** What passed since it was last asked; it is asked once a second, and while there is no session too. */
  takeTraffic(): readonly TrafficFlow[];
  /** What was dropped since it was last asked, in the same way. */
  takeBlocked?(): readonly TrafficFlow[];
  /** The names of SPIN's lists, in the order in which they are sent. */
  readonly lists: readonly string[];
  /** What is on a list, addresses and prefixes, as SPIN shows it. */
  listed(list: string): readonly string[];
  /** Every pair of nodes between which nothing passes. */
  pairs?(): Iterable<readonly [number, number]>;
  /** Counters; asked every 30 s. */
  stats?(): Iterable<Stat>;
  /**
   * Takes what somebody asks over MQTT, to be answered by `answer`. Without it nobody can. `retained` requests are
   * of another time. The payload is valid until the call returns.
   */
  request?(payload: Uint8Array, retained: boolean): void;
}

/** How often a node, a list, and the traffic, is published at most. */
const periodMs = 1_000;
/** Messages of one tick: a broker that has just come back is not the agent's only work. */
const maxPerTick = 500;
/** What the queue may hold after a tick, of what it could: the rest is for traffic and answers. */
const queueShare = 0.5;
/** After this long without a remembered topic the broker has told them all. */
const sweepQuietMs = 5_000;
/** Ids and topics that may wait to be cleared; those past it are found at the next session. */
const maxGone = 20_000;
const maxStale = 2_000;
/** Questions and reports of dropped packets that are told in one period. */
const maxQueries = 50;
/** Moves and conflicts that wait for the broker. */
const maxDisputes = 256;
const maxReports = 20;
/** Flows of one traffic message: some 30 kB. */
const maxFlows = 250;
const pairsList = "flowblock";

/** Why a node topic is to be cleared. */
type Gone =
  | { readonly kind: "deleted"; readonly reason: string | undefined }
  | { readonly kind: "merged"; readonly into: number }
  | { readonly kind: "stale" };

export class Publish {
  readonly #system: Pick<System, "now" | "date" | "log">;
  readonly #options: PublishOptions;
  readonly #mqtt: Mqtt;
  readonly #topics;
  /** Nodes to be published, and lists. Ids only: the content is looked up when it is sent. */
  readonly #nodes = new Set<number>();
  readonly #lists = new Set<string>();
  readonly #gone = new Map<number, Gone>();
  /** Node or list → when it was last published, as long as that is less than a period ago. */
  readonly #recent = new Map<number | string, number>();
  readonly #reports = new Reports();
  readonly #stats: Stats;
  /** Stat topics to be published, with what: counters, and the empty message that clears. */
  readonly #counters = new Map<string, string>();
  /** What was asked in this period → whether it has been told. */
  readonly #queries = new Map<string, boolean>();
  /** Answers that the queue had no room for. */
  readonly #answers: string[] = [];
  /** Of neighbours, each to be told once. */
  readonly #disputes: string[] = [];
  #answerBytes = 0;
  #restarted = true;
  #periodAt = Number.NEGATIVE_INFINITY;
  /** When the broker last told of a remembered topic; undefined: it is not asked. */
  #sweptAt: number | undefined;
  /** Why there is no session, as told. */
  #absence: string | undefined;
  #published = 0;
  #dropped = 0;

  /** Opens the session, which stands some time later, or never. */
  constructor(system: Pick<System, "now" | "date" | "log" | "mqtt">, options: PublishOptions) {
    this.#system = system;
    this.#options = options;
    const { prefix } = options;
    this.#topics = {
      status: `${prefix}/status`,
      traffic: `${prefix}/traffic`,
      admin: `${prefix}/traffic/admin`,
      node: `${prefix}/traffic/node/`,
      neighbours: `${prefix}/neighbours`,
      list: `${prefix}/list/`,
      stat: `${prefix}/stat/`,
      question: `${prefix}/jsonrpc/q`,
      answer: `${prefix}/jsonrpc/a`,
    };
    this.#stats = new Stats(this.#topics.stat);
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
        onRefusal: (topic, reason) =>
          system.log("warning", `MQTT broker ${host}:${port} lets us not hear of ${topic}: ${reason}`),
        onMessage: (topic, payload, retained) => this.#heard(topic, payload, retained),
      },
    );
  }

  /** Figures for the status page: messages sent, given up, and still to be sent; why there is no session. */
  get counters() {
    const { size: lines, unreported } = this.#reports;
    return {
      connected: this.#mqtt.connected,
      ...(this.#absence !== undefined && { absence: this.#absence }),
      published: this.#published,
      dropped: this.#dropped,
      waiting: this.#nodes.size + this.#lists.size + this.#gone.size + this.#counters.size + lines,
      /** Dropped packets that no message told of. */
      unreported,
    };
  }

  /** A node came or looks different. */
  changed(id: number): void {
    if (!this.#mqtt.connected) return;
    this.#gone.delete(id);
    this.#nodes.add(id);
  }

  /** A list has other entries, or nodes with other addresses. */
  listChanged(list: string): void {
    if (this.#mqtt.connected) this.#lists.add(list);
  }

  /** Other pairs of nodes are kept apart. */
  pairsChanged(): void {
    if (this.#options.pairs) this.listChanged(pairsList);
  }

  /** Node `old` has become part of node `id`. */
  merged(old: number, id: number): void {
    this.#clear(old, { kind: "merged", into: id });
    // What had become part of `old` before goes by `id` now.
    for (const [alias, into] of this.#options.aliases?.() ?? []) {
      if (!this.#gone.has(alias) && (into === id || into === old)) this.changed(alias);
    }
  }

  /** Node `old` is a node of its own again. */
  split(old: number): void {
    this.changed(old);
  }

  /** A node is forgotten, or the alias that a merged one had become ("alias"). */
  removed(id: number, reason?: string): void {
    this.#clear(id, { kind: "deleted", reason });
  }

  /** An address moved, or several claim it. Of a flood only some are told. */
  neighbour(kind: "moved" | "conflict", told: JsonObject): void {
    if (!this.#mqtt.connected) return;
    if (this.#disputes.length < maxDisputes) this.#disputes.push(renderNeighbour(kind, told));
    else this.#dropped++;
  }

  /** A device asks the DNS. Equal questions are told once a second; of a flood only some are. */
  dnsQuery(query: QueryTold): void {
    if (!this.#mqtt.connected) return;
    const payload = renderQuery(query);
    if (this.#queries.has(payload)) return;
    if (this.#queries.size < maxQueries) this.#queries.set(payload, false);
    else this.#dropped++;
  }

  /** Answers a request. One too long for the session becomes an error; one that it has no room for waits. */
  answer(text: string): void {
    if (!this.#mqtt.connected) return;
    const short = this.#fits(this.#topics.answer, text) ? text : tooLong(text);
    if (this.#answers.length === 0 && this.#send(this.#topics.answer, short, false)) return;
    if (this.#answerBytes + short.length > this.#options.broker.maxQueuedBytes) this.#dropped++;
    else {
      this.#answers.push(short);
      this.#answerBytes += short.length;
    }
  }

  /** Sends what is due, as far as the session takes it. To be called a few times a second. */
  tick(now: number): void {
    const { connected } = this.#mqtt;
    if (connected) {
      for (const [id, at] of this.#recent) {
        if (now - at < periodMs) break;
        this.#recent.delete(id);
      }
      this.#sendWaiting(now);
      this.#endSweep(now);
    }
    this.#sendQueries();
    if (now - this.#periodAt < periodMs) return;
    this.#periodAt = now;
    this.#queries.clear();
    // Taken even if nobody listens: the next message must not tell of an hour as of a second.
    const flows = this.#options.takeTraffic();
    const blocked = this.#options.takeBlocked?.() ?? [];
    if (!connected) return;
    this.#sendReports(blocked);
    this.#sendTraffic(flows);
  }

  /** Says goodbye and closes. */
  close(): Promise<void> {
    return this.#mqtt.close({ topic: this.#topics.status, payload: "offline" });
  }

  /** A session stands: everything is to be sent. */
  #begin(): void {
    this.#forget();
    const options = this.#options;
    this.#send(this.#topics.status, "online", true);
    if (this.#restarted) this.#restarted = !this.#send(this.#topics.traffic, serverRestart, false);
    for (const list of options.lists) this.#lists.add(list);
    if (options.pairs) this.#lists.add(pairsList);
    for (const id of options.nodeIds()) this.#nodes.add(id);
    for (const [old] of options.aliases?.() ?? []) this.#nodes.add(old);
    if (options.request) this.#mqtt.subscribe(this.#topics.question);
    for (const topic of this.#remembered) this.#mqtt.subscribe(topic);
    this.#stats.forget();
    this.#sweptAt = this.#system.now();
  }

  /** The topics that the broker is asked for, to find what an earlier life left there. */
  get #remembered(): readonly string[] {
    return [`${this.#topics.node}+`, ...(this.#options.stats ? [`${this.#topics.stat}+/+`] : [])];
  }

  #forget(): void {
    this.#nodes.clear();
    this.#lists.clear();
    this.#gone.clear();
    this.#recent.clear();
    this.#counters.clear();
    this.#queries.clear();
    this.#reports.clear();
    this.#answers.length = this.#answerBytes = this.#disputes.length = 0;
    this.#sweptAt = undefined;
  }

  #heard(topic: string, payload: Uint8Array, retained: boolean): void {
    if (topic === this.#topics.question) {
      this.#options.request?.(payload, retained);
      return;
    }
    // What is published just now comes from us, or will be swept in another life.
    if (this.#sweptAt === undefined || !retained || payload.length === 0) return;
    const isStale = topic.startsWith(this.#topics.node)
      ? this.#sweepNode(topic.slice(this.#topics.node.length))
      : this.#sweepStat(topic);
    // Only what is cleared keeps the question open.
    if (isStale) this.#sweptAt = this.#system.now();
  }

  #sweepNode(digits: string): boolean {
    if (!/^[1-9][0-9]{0,14}$/.test(digits)) return false;
    const id = Number(digits);
    if (this.#options.node(id)) return false;
    if (!this.#gone.has(id)) this.#clear(id, { kind: "stale" });
    return true;
  }

  #sweepStat(topic: string): boolean {
    if (!this.#options.stats || !this.#stats.isForeign(topic)) return false;
    if (this.#counters.size < maxStale) this.#counters.set(topic, "");
    return true;
  }

  #endSweep(now: number): void {
    if (this.#sweptAt === undefined || now - this.#sweptAt < sweepQuietMs) return;
    this.#sweptAt = undefined;
    for (const topic of this.#remembered) this.#mqtt.unsubscribe(topic);
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
    while (this.#answers.length > 0) {
      if (!takes() || !this.#send(this.#topics.answer, this.#answers[0]!, false)) return;
      this.#answerBytes -= this.#answers.shift()!.length;
    }
    while (this.#disputes.length > 0) {
      if (!takes() || !this.#send(this.#topics.neighbours, this.#disputes[0]!, false)) return;
      this.#disputes.shift();
    }
    for (const list of this.#lists) {
      if (this.#recent.has(list)) continue;
      if (!takes() || !this.#sendList(list)) return;
      this.#lists.delete(list);
      this.#recent.set(list, now);
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
    this.#countAgain(now);
    for (const [topic, payload] of this.#counters) {
      if (!takes() || !this.#send(topic, payload, true)) return;
      this.#counters.delete(topic);
    }
  }

  #countAgain(now: number): void {
    if (!this.#options.stats || !this.#stats.isDue(now)) return;
    for (const [topic, payload] of this.#stats.changed(this.#options.stats(), now)) {
      this.#counters.set(topic, payload);
    }
  }

  #sendList(list: string): boolean {
    const isPairs = list === pairsList && this.#options.pairs !== undefined;
    const payload = isPairs
      ? renderPairs(this.#options.pairs!())
      : renderList(list, this.#options.listed(list));
    const topic = this.#topics.list + list;
    if (this.#fits(topic, payload)) {
      // Told again if only the first of the two found room: both say the same.
      return this.#send(this.#topics.traffic, payload, false) && this.#send(topic, payload, true);
    }
    // Nothing is better than what was true once.
    return this.#giveUp(topic, payload) && this.#send(topic, "", true);
  }

  #sendNode(id: number): boolean {
    const topic = this.#topics.node + id;
    const node = this.#options.node(id);
    if (!node) return this.#send(topic, "", true);
    if (node.id !== id) return this.#send(topic, renderAlias(id, node.id), true);
    const payload = renderNode(node);
    if (this.#fits(topic, payload)) return this.#send(topic, payload, true);
    const short = renderNode({ ...node, domains: [] });
    if (this.#fits(topic, short)) return this.#send(topic, short, true);
    return this.#giveUp(topic, payload);
  }

  #sendGone(id: number, why: Gone): boolean {
    const node = this.#options.node(id);
    // It may have come back under this id: then the topic is right as it is.
    if (node?.id === id) return true;
    if (why.kind !== "stale") {
      const told = why.kind === "deleted" ? renderDeleted(id, why.reason) : renderMerged(id, why.into);
      if (!this.#send(this.#topics.admin, told, false)) return false;
    }
    return this.#sendNode(id);
  }

  #sendQueries(): void {
    for (const [payload, told] of this.#queries) {
      if (told) continue;
      if (!this.#send(this.#topics.traffic, payload, false)) this.#dropped++;
      this.#queries.set(payload, true);
    }
  }

  #sendReports(blocked: readonly TrafficFlow[]): void {
    for (const flow of this.#reports.take(blocked, maxReports)) {
      if (!this.#send(this.#topics.traffic, renderBlocked(flow), false)) this.#reports.putBack(flow);
    }
  }

  #sendTraffic(flows: readonly TrafficFlow[]): void {
    const timestamp = Math.floor(this.#system.date() / 1_000);
    for (let at = 0; at < flows.length; at += maxFlows) {
      const payload = renderTraffic(flows.slice(at, at + maxFlows), timestamp);
      if (!this.#send(this.#topics.traffic, payload, false)) this.#dropped++;
    }
  }

  /** Whether the session can ever take a message; one that it cannot must not keep the others waiting. */
  #fits(topic: string, payload: string): boolean {
    const { maxMessageBytes } = this.#mqtt;
    // In UTF-8 no character takes more than three bytes.
    const most = (topic.length + payload.length) * 3;
    if (most <= maxMessageBytes) return true;
    return new TextEncoder().encode(topic + payload).length <= maxMessageBytes;
  }

  /** Counts and says what will never be sent. */
  #giveUp(topic: string, payload: string): true {
    this.#dropped++;
    this.#system.log("warning", `Cannot publish ${topic}: ${payload.length} characters are too much`);
    return true;
  }

  #send(topic: string, payload: string, retain: boolean): boolean {
    const sent = this.#mqtt.publish(topic, payload, { retain });
    if (sent) this.#published++;
    return sent;
  }
}

/** What stands in for an answer that nobody can be sent. */
function tooLong(answer: string): string {
  let id: unknown;
  try {
    id = (JSON.parse(answer) as { id?: unknown } | null)?.id;
  } catch {
    // Then it has no id that we could name.
  }
  const isId = typeof id === "number" || (typeof id === "string" && id.length <= 256);
  const error = { code: -1, message: "The answer is too long for MQTT" };
  return JSON.stringify({ jsonrpc: "2.0", ...(isId && { id }), error });
}
