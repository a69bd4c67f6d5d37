/**
 * Books what passed on connections: on the nodes at both ends, and as flows between them.
 *
 * Kept during one batch: the sums of each node. Counters of nodes are bigints, which cost so much that thousands
 * of connections a second are added up as numbers first, and each node is told once.
 */

import type { Flows } from "../flows/flows.ts";
import type { Delta } from "../kernel/kernel.ts";
import type { Moment, Nodes } from "../nodes/nodes.ts";

interface Sums {
  bytesIn: number;
  packetsIn: number;
  bytesOut: number;
  packetsOut: number;
}

export class Accounts {
  readonly #nodes: Nodes;
  readonly #flows: Flows;
  readonly #sums = new Map<number, Sums>();

  constructor(rooms: { nodes: Nodes; flows: Flows }) {
    this.#nodes = rooms.nodes;
    this.#flows = rooms.flows;
  }

  /** What passed until this moment. */
  book(deltas: readonly Delta[], at: Moment): void {
    for (const delta of deltas) this.#book(delta, at);
    for (const [id, sums] of this.#sums) this.#settle(id, sums);
    this.#sums.clear();
  }

  #book(delta: Delta, at: Moment): void {
    const { source, bytesOut, packetsOut, bytesIn, packetsIn } = delta;
    // Whom it really reaches: behind a port forwarding that is who answers.
    const destination = delta.reply.source;
    const packets = packetsOut + packetsIn;
    if (packets === 0) return;
    // What the router itself does elsewhere is nobody's traffic.
    if (!this.#nodes.isLocal(source) && !this.#nodes.isLocal(destination)) return;
    const from = this.#nodes.nodeFor(source, { asker: destination, at });
    const to = this.#nodes.nodeFor(destination, { asker: source, at });
    if (from === undefined || to === undefined || from === to) return;
    this.#add(from, { bytesIn, packetsIn, bytesOut, packetsOut });
    this.#add(to, { bytesIn: bytesOut, packetsIn: packetsOut, bytesOut: bytesIn, packetsOut: packetsIn });
    this.#flows.account({
      from,
      to,
      protocol: delta.protocol,
      fromPort: delta.sourcePort,
      toPort: delta.reply.sourcePort,
      icmpType: delta.icmpType ?? 0,
      bytes: bytesOut + bytesIn,
      packets,
      at: at.now,
      source,
      destination,
    });
  }

  #add(id: number, more: Sums): void {
    let sums = this.#sums.get(id);
    if (sums === undefined) {
      this.#sums.set(id, more);
      return;
    }
    if (!isExact(sums, more)) {
      this.#settle(id, sums);
      sums = { bytesIn: 0, packetsIn: 0, bytesOut: 0, packetsOut: 0 };
      this.#sums.set(id, sums);
    }
    sums.bytesIn += more.bytesIn;
    sums.packetsIn += more.packetsIn;
    sums.bytesOut += more.bytesOut;
    sums.packetsOut += more.packetsOut;
  }

  #settle(id: number, { bytesIn, packetsIn, bytesOut, packetsOut }: Sums): void {
    this.#nodes.count(id, {
      bytesIn: BigInt(bytesIn),
      packetsIn: BigInt(packetsIn),
      bytesOut: BigInt(bytesOut),
      packetsOut: BigInt(packetsOut),
    });
  }
}

/** Whether the sums of two are still whole numbers; packets are fewer than bytes. */
function isExact(left: Sums, right: Sums): boolean {
  return (
    Number.isSafeInteger(left.bytesIn + right.bytesIn) && Number.isSafeInteger(left.bytesOut + right.bytesOut)
  );
}
