/**
 * What the kernel shall enforce, as plain data.
 *
 * A room hands its whole plan to `kernel.apply(owner, plan)` each time something changed; a back end works out
 * the difference to what is there. A plan names nodes by id, never rules or sets: those are the back end's.
 */

import type { Address, Mac, Prefix } from "../lib/address.ts";

/** Who a plan belongs to: names its nft table `inet gatehouse_<owner>` and its chains `gatehouse-<owner>…`. */
export type Owner = "nodes" | "flows" | "isolation" | "ipref";

/** A node as packets show it. */
export interface End {
  /** Positive, unique in the plan. */
  readonly id: number;
  readonly addresses: readonly Address[];
  /** MACs that packets of this node come from on a LAN device: they match whatever address it takes next. */
  readonly macs: readonly Mac[];
}

export interface Plan {
  /** Every node that the rest of the plan names, once. */
  readonly ends: readonly End[];
  /** No packet passes between the two, in either direction; the lower id first, no pair twice. */
  readonly pairs: readonly (readonly [number, number])[];
  /** No packet passes from or to these: SPIN's block list. */
  readonly barred: readonly number[];
  /** Packets from or to these pass whatever else this plan says: SPIN's allow list. */
  readonly exempt: readonly number[];
  /** No packet passes from or to an address in these: SPIN's block list by address. May overlap. */
  readonly barredNets?: readonly Prefix[];
  /** Packets from or to an address in these pass whatever else this plan says. May overlap. */
  readonly exemptNets?: readonly Prefix[];
  /** Copies the head of packets that are dropped to this NFLOG group. */
  readonly report?: { readonly group: number };
  /** Copies DNS, over UDP and TCP, to this NFLOG group, and keeps conntrack working for both families. */
  readonly tap?: {
    readonly group: number;
    /** Answers over UDP wait in this NFQUEUE for our verdict; without a listener they pass. */
    readonly hold?: { readonly queue: number };
  };
}

export const emptyPlan: Plan = { ends: [], pairs: [], barred: [], exempt: [] };
