/**
 * Telling MQTT: opens the session with what the rooms have to say, and passes on what is new.
 *
 * Keeps the session and the requests that came over it. A node is told of only when its id is on disk.
 */

import type { MqttConfig } from "../config/config.ts";
import type { Flows } from "../flows/flows.ts";
import { listNames } from "../lib/spin.ts";
import type { Nodes } from "../nodes/nodes.ts";
import { Publish, type Stat } from "../publish/publish.ts";
import { type Rpc, RpcTopic } from "../spin/spin.ts";
import type { Level, MqttHandlers, MqttOptions, System } from "../system/system.ts";
import { brokerOf } from "./broker.ts";
import type { Sessions } from "./session.ts";

export interface TellingParts {
  readonly nodes: Nodes;
  readonly flows: Flows;
  readonly rpc: Rpc;
  /** Counters, asked every half minute. */
  stats(): Iterable<Stat>;
  /** Resolves when every id given so far is on disk, or the disk has refused. */
  settled(): Promise<void>;
  /** Where the session comes from: perhaps from the life before. */
  readonly sessions: Sessions;
}

export class Telling {
  readonly publish: Publish;
  readonly #parts: TellingParts;
  readonly #requests: RpcTopic | undefined;

  constructor(system: System, config: MqttConfig, parts: TellingParts) {
    const { nodes, flows, rpc } = parts;
    this.#parts = parts;
    const requests = config.jsonrpc
      ? new RpcTopic(system, { rpc, reply: (text) => this.publish.answer(text) })
      : undefined;
    this.#requests = requests;
    const machine = {
      now: () => system.now(),
      date: () => system.date(),
      log: (level: Level, line: string) => system.log(level, line),
      mqtt: (options: MqttOptions, handlers: MqttHandlers) =>
        parts.sessions.open(JSON.stringify(config), options, handlers),
    };
    this.publish = new Publish(machine, {
      prefix: config.prefix,
      broker: brokerOf(system, config),
      nodeIds: () => nodes.ids(),
      node: (id) => nodes.info(id),
      aliases: () => nodes.aliases(),
      takeTraffic: () => flows.takeTraffic(),
      takeBlocked: () => flows.takeBlocked(system.now()),
      lists: listNames,
      listed: (list) => {
        const name = listNames.find((each) => each === list);
        return name === undefined ? [] : flows.spinList(name);
      },
      pairs: () => flows.pairs(),
      stats: () => parts.stats(),
      ...(requests && { request: (payload, retained) => requests.take(payload, retained) }),
    });
  }

  get status() {
    return { ...this.publish.counters, ...(this.#requests && { requests: this.#requests.counters }) };
  }

  /** Passes on what changed since the last call, and sends what is due. */
  tick(now: number, news: News): void {
    const { publish } = this;
    void this.#parts.settled().then(() => {
      for (const id of news.changed) publish.changed(id);
      for (const { id, into } of news.merged) publish.merged(id, into);
      for (const { id } of news.split) publish.split(id);
      for (const { id, reason } of news.removed) publish.removed(id, reason);
    });
    publish.tick(now);
  }

  async close(): Promise<void> {
    this.#requests?.close();
    await this.publish.close();
  }
}

export interface News {
  readonly changed: ReturnType<Nodes["takeChanged"]>;
  readonly merged: ReturnType<Nodes["takeMerged"]>;
  readonly split: ReturnType<Nodes["takeSplit"]>;
  readonly removed: ReturnType<Nodes["takeRemoved"]>;
}

export function takeNews(nodes: Nodes): News {
  return {
    changed: nodes.takeChanged(),
    merged: nodes.takeMerged(),
    split: nodes.takeSplit(),
    removed: nodes.takeRemoved(),
  };
}
