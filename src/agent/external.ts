/**
 * What external sources tell (SPIN's `spin-pcap-reader`, `gatehouse replay -e`), as evidence for nodes and flows.
 *
 * Whoever may write to the socket is believed, so names count without a question. Keeps nothing.
 */

import type { Flows } from "../flows/flows.ts";
import type { Moment, Nodes } from "../nodes/nodes.ts";
import type { ExternalSink } from "../spin/spin.ts";

export interface ExternalParts {
  readonly nodes: Nodes;
  readonly flows: Flows;
  moment(): Moment;
  /** A client asked for a name. */
  asked(question: { readonly from: number; readonly queried: number; readonly name: string }): void;
  /** After evidence was taken in. */
  noticed(): void;
}

export function externalSink({ nodes, flows, moment, asked, noticed }: ExternalParts): ExternalSink {
  return {
    packet({ source, destination, protocol, sourcePort, destinationPort, icmpType, bytes, packets }) {
      const at = moment();
      const from = nodes.nodeFor(source, { asker: destination, at });
      const to = nodes.nodeFor(destination, { asker: source, at });
      if (from === undefined || to === undefined || from === to) return;
      const none = { bytesIn: 0n, packetsIn: 0n, bytesOut: 0n, packetsOut: 0n };
      nodes.count(from, { ...none, bytesOut: bytes, packetsOut: packets });
      nodes.count(to, { ...none, bytesIn: bytes, packetsIn: packets });
      flows.account({
        ...{ from, to, protocol, icmpType, fromPort: sourcePort, toPort: destinationPort },
        ...{ bytes, packets, at: at.now, source, destination },
      });
      noticed();
    },
    query({ client, name }) {
      const at = moment();
      const from = nodes.nodeFor(client, { at });
      const queried = nodes.nameObserved(name, [], at);
      if (from !== undefined && queried !== undefined) asked({ from, queried, name });
      noticed();
    },
    answer({ name, address, ttlSeconds }) {
      nodes.nameObserved(name, [{ address, ttlSeconds }], moment());
      noticed();
    },
    neighbour({ address, mac }) {
      nodes.neighbour({ address, mac, side: "lan", state: "reachable" }, moment());
      noticed();
    },
  };
}
