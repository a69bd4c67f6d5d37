/**
 * Packets that the kernel hands up: DNS as it passes, answers that wait for the rules to follow them, and the heads
 * of what was dropped.
 *
 * Kept: counts by reason, and how many nodes dropped packets may still bring into being. An answer that a client
 * waits for is let go when the kernel follows what it says, at once if it changes nothing.
 */

import type { Flows } from "../flows/flows.ts";
import {
  type Nflog,
  type NflogOptions,
  type Nfqueue,
  openNflog,
  openNfqueue,
  reportBytes,
  reportThreshold,
} from "../kernel/kernel.ts";
import type { Address } from "../lib/address.ts";
import { type Fault, messageOf } from "../lib/fault.ts";
import { packetHead } from "../lib/packet.ts";
import type { Moment, Nodes } from "../nodes/nodes.ts";
import type { System } from "../system/system.ts";
import { momentOf } from "./moment.ts";

export interface TapsOptions {
  /** NFLOG groups of DNS and of dropped packets, and the NFQUEUE of answers that wait. */
  readonly dnsGroup: number;
  readonly blockedGroup: number;
  readonly answerQueue: number;
  /** A client asked for a name. */
  asked(question: { readonly from: number; readonly queried: number; readonly name: string }): void;
  /** After evidence was taken in that may have changed nodes. */
  noticed(): void;
  /** Resolves when the kernel enforces what is known now; undefined if it does so already. */
  followed(): Promise<void> | undefined;
}

/** Dropped packets may name nodes that nobody has seen: so many in a row, and one more each so often. */
const strangersAtOnce = 20;
const strangerMs = 200;

export class Taps {
  readonly #system: System;
  readonly #nodes: Nodes;
  readonly #flows: Flows;
  readonly #options: TapsOptions;
  readonly #drops = new Map<string, number>();
  #dns: Nflog | undefined;
  #blocked: Nflog | undefined;
  #answers: Nfqueue | undefined;
  #unreadable = 0;
  #allowance = strangersAtOnce;
  #allowanceAt = Number.NEGATIVE_INFINITY;
  #closed = false;

  constructor(system: System, rooms: { nodes: Nodes; flows: Flows }, options: TapsOptions) {
    this.#system = system;
    this.#nodes = rooms.nodes;
    this.#flows = rooms.flows;
    this.#options = options;
  }

  /** Listens to both groups. What fails is logged. */
  async open(): Promise<void> {
    const { dnsGroup, blockedGroup } = this.#options;
    const listen = async (options: NflogOptions) => {
      try {
        const onFault = (fault: Fault) => this.#system.log("warning", fault.message);
        const nflog = await openNflog(this.#system, { ...options, onFault });
        if (this.#closed) nflog.close();
        return nflog;
      } catch (thrown) {
        this.#system.log("error", messageOf(thrown));
        return undefined;
      }
    };
    [this.#dns, this.#blocked] = await Promise.all([
      listen({ group: dnsGroup, onPacket: ({ payload }) => this.#tapped(payload) }),
      listen({
        ...{ group: blockedGroup, copyBytes: reportBytes, threshold: reportThreshold },
        onPacket: ({ payload }) => this.#dropped(payload),
      }),
    ]);
  }

  /** Whether answers wait from now on; before the rules send them to the queue, and after they no longer do. */
  async hold(wanted: boolean): Promise<boolean> {
    if (!wanted || this.#closed) {
      const answers = this.#answers;
      this.#answers = undefined;
      await answers?.close();
      return false;
    }
    try {
      this.#answers ??= await openNfqueue(this.#system, {
        queue: this.#options.answerQueue,
        onPacket: ({ payload }, verdict) => {
          this.#tapped(payload);
          const followed = this.#options.followed();
          if (followed) void followed.then(verdict, verdict);
          else verdict();
        },
        onFault: (fault) => this.#system.log("warning", fault.message),
      });
      return true;
    } catch (thrown) {
      this.#system.log(
        "warning",
        `DNS answers will not wait for blocks to follow them: ${messageOf(thrown)}`,
      );
      return false;
    }
  }

  /** Counters for the status: DNS that came, dropped packets, and what could not be read of them. */
  get status() {
    return {
      dns: { ...this.#dns?.counters, dropped: Object.fromEntries(this.#drops) },
      held: { ...this.#answers?.counters },
      blocked: { ...this.#blocked?.counters, unreadable: this.#unreadable },
    };
  }

  /** Lost messages of the DNS group, for whoever judges what is unseen. */
  get dnsCounters() {
    return this.#dns?.counters;
  }

  /** Lets go of what waits, and listens no more. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#dns?.close();
    this.#blocked?.close();
    await this.hold(false);
  }

  get #moment(): Moment {
    return momentOf(this.#system);
  }

  #tapped(packet: Uint8Array): void {
    let isNews = false;
    for (const outcome of this.#nodes.tapped(packet, this.#moment)) {
      // The reasons are a closed list: the map cannot grow by what strangers send.
      if (outcome.kind === "dropped") {
        this.#drops.set(outcome.reason, (this.#drops.get(outcome.reason) ?? 0) + 1);
        continue;
      }
      isNews = true;
      if (outcome.kind !== "query" || !outcome.nodes) continue;
      const { from, queried } = outcome.nodes;
      const { name, client } = outcome.query;
      if (!this.#flows.isHidden([from, queried], [client])) this.#options.asked({ from, queried, name });
    }
    if (isNews) this.#options.noticed();
  }

  #dropped(head: Uint8Array): void {
    const packet = packetHead(head);
    if (!packet) {
      this.#unreadable++;
      return;
    }
    const at = this.#moment;
    const { source, destination, protocol, sourcePort, destinationPort, payloadBytes } = packet;
    this.#flows.report({
      ...{ source, destination, protocol, fromPort: sourcePort, toPort: destinationPort },
      from: this.#nodeOf(source, destination, at),
      to: this.#nodeOf(destination, source, at),
      bytes: payloadBytes,
      at: at.now,
    });
  }

  /** Whoever is blocked must not fill the room with nodes by calling all the world. */
  #nodeOf(address: Address, asker: Address, at: Moment): number | undefined {
    if (this.#nodes.find(address) === undefined && !this.#mayMeetStranger(at.now)) return undefined;
    return this.#nodes.nodeFor(address, { asker, at });
  }

  #mayMeetStranger(now: number): boolean {
    const earned = (now - this.#allowanceAt) / strangerMs;
    this.#allowance = Math.min(strangersAtOnce, this.#allowance + earned);
    this.#allowanceAt = now;
    if (this.#allowance < 1) return false;
    this.#allowance--;
    return true;
  }
}
