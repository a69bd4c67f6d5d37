/**
 * Changes to the tables of nf_tables, which the kernel announces to everybody: those of others, told from our own.
 *
 * A message bears the port of the socket that changed something, which is the process id of the program. Kept: the
 * process ids of programs that we ran lately, and the ports heard while one runs whose id we do not know yet: what
 * is neither ours by then was somebody else's.
 */

import type { Fault } from "../lib/fault.ts";
import type { RunResult, System } from "../system/system.ts";
import { Attributes } from "./attribute.ts";
import { type Message, netfilterProtocol, newCounters } from "./netlink.ts";
import { Subscription } from "./subscription.ts";

/** NFNLGRP_NFTABLES, and NFNL_SUBSYS_NFTABLES in the upper byte of a message's type. */
const changesGroup = 7;
const subsystem = 10;
/** NFTA_TABLE_NAME, NFTA_CHAIN_TABLE, NFTA_RULE_TABLE, NFTA_SET_TABLE, …: the table's name is 1 in all of them. */
const tableAttribute = 1;
/** NFT_MSG_… → what it tells, and for chains and rules NFTA_CHAIN_NAME and NFTA_RULE_CHAIN. */
const kinds: ReadonlyMap<number, { readonly what: Announced["what"]; readonly chainAttribute?: number }> =
  new Map([
    [2, { what: "table gone" }],
    [3, { what: "chain", chainAttribute: 3 }],
    [5, { what: "chain gone", chainAttribute: 3 }],
    [6, { what: "rule", chainAttribute: 2 }],
    [8, { what: "rule", chainAttribute: 2 }],
  ]);
const highestAttribute = 3;
const nfgenmsgBytes = 4;
const rememberedChildren = 32;

/** Where something was changed. */
export interface Announced {
  /** NFPROTO_…: 1 inet, 2 IPv4, 7 bridge, 10 IPv6, … */
  readonly family: number;
  readonly table: string;
  readonly what: "table gone" | "chain" | "chain gone" | "rule" | "other";
  /** Of a chain or a rule; else "". */
  readonly chain: string;
}

export interface AnnouncedHandlers {
  /** Whether a change there matters to us. */
  concerns(change: Announced): boolean;
  /** Somebody else made one, or messages are missing. */
  onChange(): void;
  onFault(fault: Fault): void;
}

export class Announcements {
  readonly #attributes = new Attributes(highestAttribute);
  readonly #children: number[] = [];
  #running = 0;
  readonly #unknownPorts = new Set<number>();
  #handlers: AnnouncedHandlers | undefined;

  /** @throws Fault "kernel" or "denied" if the kernel cannot be listened to. */
  watch(system: System, handlers: AnnouncedHandlers): Subscription {
    const subscription = new Subscription(
      system,
      { protocol: netfilterProtocol, groups: [changesGroup], counters: newCounters() },
      {
        onEvent: (message) => this.#heard(message),
        onGap: () => handlers.onChange(),
        onFault: (fault) => handlers.onFault(fault),
      },
    );
    this.#handlers = handlers;
    return subscription;
  }

  /** Runs a program that may change something. */
  async ours(run: () => Promise<RunResult>): Promise<RunResult> {
    this.#running++;
    try {
      const result = await run();
      this.#children.push(result.pid);
      if (this.#children.length > rememberedChildren) this.#children.shift();
      return result;
    } finally {
      this.#running--;
      if (this.#running === 0) this.#settlePorts();
    }
  }

  #heard({ type, port, bytes, start, end }: Message): void {
    if (type >> 8 !== subsystem || this.#children.includes(port)) return;
    if (this.#running > 0 && this.#unknownPorts.has(port)) return;
    this.#attributes.read(bytes, start + nfgenmsgBytes, end);
    const table = this.#attributes.text(tableAttribute);
    if (table === undefined) return;
    const { what, chainAttribute } = kinds.get(type & 255) ?? { what: "other" };
    const chain = (chainAttribute !== undefined && this.#attributes.text(chainAttribute)) || "";
    if (!this.#handlers?.concerns({ family: bytes[start]!, table, what, chain })) return;
    if (this.#running > 0) this.#unknownPorts.add(port);
    else this.#handlers.onChange();
  }

  #settlePorts(): void {
    const foreign = [...this.#unknownPorts].some((port) => !this.#children.includes(port));
    this.#unknownPorts.clear();
    if (foreign) this.#handlers?.onChange();
  }
}
