/**
 * A capture file as the agent would have seen it: its rooms for nodes and flows, fed by the file and nothing else.
 *
 * Time is the capture's own: it goes on with its packets and never back. Nothing expires, so that at the end
 * all that was seen is there. No kernel, bus or disk is touched.
 */

import type { Conversation } from "../capture/capture.ts";
import { Flows, flowMethods } from "../flows/flows.ts";
import { type Address, contains, type Mac, type Prefix, scopeOf } from "../lib/address.ts";
import type { JsonObject } from "../lib/json.ts";
import { type Moment, Nodes, nodeMethods, type TapOutcome } from "../nodes/nodes.ts";
import type { Caller, Methods } from "../ubus/methods.ts";

const limits = {
  ...{ nodes: 65_536, answers: 65_536, questions: 65_536 },
  farMs: Number.POSITIVE_INFINITY,
} as const;
const maxRecords = 65_536;
/** A step that is longer is a clock that was set. */
const longestStepMs = 86_400_000;
const nobody: Caller = { user: undefined, group: undefined };

export class Review {
  readonly #nodes = new Nodes({ limits });
  readonly #flows: Flows;
  readonly #prefixes: readonly Prefix[];
  #at: Moment = { now: 0, date: 0 };
  #isDated = false;
  /** Conversations in which none of our own network took part. */
  strangers = 0;

  /** @param prefixes of the network that was captured; link-local addresses are always of it. */
  constructor(prefixes: readonly Prefix[]) {
    this.#prefixes = prefixes;
    this.#flows = new Flows({
      resolve: (id) => this.#nodes.resolve(id),
      commit: async () => {},
      maxRecords,
    });
    for (const prefix of prefixes) this.#nodes.prefix({ prefix, side: "lan", present: true }, this.#at);
  }

  /** The date of the next packet, in milliseconds since 1970. */
  setDate(date: number): void {
    if (!this.#isDated) this.#at = { now: 0, date };
    this.#isDated = true;
    const step = date - this.#at.date;
    if (step > 0 && step < longestStepMs) this.#at = { now: this.#at.now + step, date };
  }

  isLocal(address: Address): boolean {
    return scopeOf(address) === "link" || this.#prefixes.some((prefix) => contains(prefix, address));
  }

  neighbour({ address, mac }: { readonly address: Address; readonly mac: Mac }): void {
    this.#nodes.neighbour({ address, mac, side: "lan", state: "reachable" }, this.#at);
  }

  /** @returns what was in the packet, and what became of it. */
  dns(packet: Uint8Array): readonly TapOutcome[] {
    return this.#nodes.tapped(packet, this.#at);
  }

  conversation(each: Conversation): void {
    const { source, destination, protocol, icmpType } = each;
    if (!this.#nodes.isLocal(source) && !this.#nodes.isLocal(destination)) {
      this.strangers++;
      return;
    }
    const from = this.#nodes.nodeFor(source, { asker: destination, at: this.#at });
    const to = this.#nodes.nodeFor(destination, { asker: source, at: this.#at });
    if (from === undefined || to === undefined || from === to) return;
    const [bytesOut, packetsOut] = [BigInt(each.bytesOut), BigInt(each.packetsOut)];
    const [bytesIn, packetsIn] = [BigInt(each.bytesIn), BigInt(each.packetsIn)];
    this.#nodes.count(from, { bytesOut, packetsOut, bytesIn, packetsIn });
    this.#nodes.count(to, {
      bytesOut: bytesIn,
      packetsOut: packetsIn,
      bytesIn: bytesOut,
      packetsIn: packetsOut,
    });
    this.#flows.account({
      ...{ from, to, protocol, icmpType, fromPort: each.sourcePort, toPort: each.destinationPort },
      ...{ bytes: bytesOut + bytesIn, packets: packetsOut + packetsIn, at: this.#at.now },
    });
  }

  /** Nodes as `gatehouse.nodes list` shows them. */
  async nodes(): Promise<readonly JsonObject[]> {
    const all: JsonObject[] = [];
    for (;;) {
      const part = await listOf(nodeMethods(this.#nodes), "nodes", { after: Number(all.at(-1)?.id ?? 0) });
      if (part.length === 0) return all;
      all.push(...part);
    }
  }

  /** Flows as `gatehouse.flows list` shows them, the latest first, as many as one answer of the bus holds. */
  async flows(): Promise<readonly JsonObject[]> {
    const dateOf = (at: number) => at + this.#at.date - this.#at.now;
    return listOf(flowMethods(this.#flows, { dateOf }), "flows", { limit: maxRecords });
  }

  /** How many flows there are. */
  get flowCount(): number {
    return this.#flows.counters.records;
  }
}

async function listOf(methods: Methods, name: string, args: JsonObject): Promise<readonly JsonObject[]> {
  const answer = (await methods.list!.call(args, nobody)) as JsonObject;
  return answer[name] as readonly JsonObject[];
}
