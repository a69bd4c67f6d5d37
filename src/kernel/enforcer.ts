/**
 * What a back end does for the kernel's front door: make one owner's plan true, and keep it so.
 *
 * A back end remembers, per owner, what it has put into the kernel, and reads the kernel only where it cannot
 * know: at first, after a refusal, and when somebody else may have been at it.
 */

import type { Fault } from "../lib/fault.ts";
import type { Cancel } from "../system/system.ts";
import type { Dispatch } from "./dispatch.ts";
import type { Isolated } from "./isolate.ts";
import type { Met } from "./places.ts";
import type { Owner } from "./plan.ts";

export type Backend = "nft" | "ipset";

/** A plan made ready for rendering. */
export type Order = BlockOrder | IsolationOrder;

export interface IsolationOrder {
  readonly kind: "isolation";
  readonly isolated: Isolated;
}

export interface BlockOrder {
  readonly kind: "blocks";
  readonly dispatch: Dispatch;
  /** NFLOG group for DNS, and the queue that answers wait in. */
  readonly tap?: { readonly group: number; readonly queue?: number };
  /** NFLOG group for packets that are dropped. */
  readonly reportGroup?: number;
}

/** Where the kernel holds something: a rule, and the sets that it looks into. */
export interface Place {
  /** `inet gatehouse_flows`, or `iptables filter`. */
  readonly table: string;
  readonly chain: string;
  /** As it was written, without its comment. */
  readonly rule: string;
}

/** So much of a packet says who sent what to whom. */
export const reportBytes = 128;
/** Packets that the kernel gathers for one message. */
export const reportThreshold = 64;

export interface Enforcer {
  readonly name: Backend;
  /** What this machine cannot do, in sentences; empty if everything. Grows with what is asked of it. */
  readonly limits: readonly string[];
  /** Whether rules see the MAC that a routed packet leaves to. */
  readonly seesDestinationMac: boolean;
  /**
   * Brings the kernel from what it holds to the order, by the difference alone. Never opens in between.
   *
   * @returns whether anything was sent.
   * @throws Fault "kernel" with the kernel as it was.
   */
  enforce(owner: Owner, order: Order): Promise<boolean>;
  /**
   * Looks whether the order is in force, and makes it so again.
   *
   * @returns what was not as it should be.
   * @throws Fault "kernel" with as much of it in force as the kernel took: never less than was found.
   */
  verify(owner: Owner, order: Order): Promise<readonly string[]>;
  /** Removes all that is an owner's, whoever left it there. */
  remove(owner: Owner): Promise<void>;
  /** File name → text from which the boot script makes the order true without us. */
  bootTexts(owner: Owner, order: Order): ReadonlyMap<string, string>;
  /** How many packets an owner's rules have dropped so far, all of them: never falls, whatever happens to rules. */
  dropped(owner: Owner): Promise<bigint>;
  /** The rules of an order that speak of what a packet meets. */
  places(owner: Owner, order: Order, met: Met): readonly Place[];
  /** Calls when an owner's rules are to be verified: somebody else may have changed them. */
  watch(handlers: WatchHandlers): Cancel;
  /** How often to look even if nobody told of a change. */
  readonly periodMs: number;
}

export interface WatchHandlers {
  /** @param owner whose rules; all owners' if it is not told. */
  onChange(owner?: Owner): void;
  onFault(fault: Fault): void;
}

/** Names of boot texts of either back end. */
export const bootNames: Readonly<Record<Backend, (owner: Owner) => readonly string[]>> = {
  nft: (owner) => [`${owner}.nft`, `${owner}.bridge.nft`, `${owner}.netdev.nft`],
  ipset: (owner) => [`${owner}.ipset`, `${owner}.iptables`, `${owner}.ip6tables`],
};

/** The first lines of what a program said, for the message of a Fault. */
export function complaint(stderr: string, status: number): string {
  const text = stderr.trim().split("\n").slice(0, 3).join("; ").slice(0, 400);
  return text === "" ? `status ${status}` : text;
}
