/**
 * Which mappings make sense: what can be a remote host, a local host, and what may be written down.
 *
 * Nothing is kept but what the gateway is. Each rule answers why not, in words that follow a colon; undefined: it may.
 */

import { type Address, encodeAddress, type Family, familyOf } from "../lib/address.ts";
import { isStaticReference, maxReference, staticBytes } from "../lib/reference.ts";
import { type EncodeNet, isUnicast } from "./encoding.ts";
import type { StaticRecord } from "./sources.ts";

export interface GatewayFacts {
  readonly net: EncodeNet;
  /** Family of context addresses. */
  readonly tunnel: Family;
  /** Our own context address; undefined: not known. */
  readonly context: Address | undefined;
  /** The gateway's own. */
  readonly gatewayReference: bigint;
}

export class Rules {
  readonly #facts: GatewayFacts;

  constructor(facts: GatewayFacts) {
    this.#facts = facts;
  }

  /** Why something is no remote host. */
  wrongRemote(context: Address, reference: bigint): string | undefined {
    if (reference <= 0n || reference > maxReference) return "it is no reference";
    return this.wrongGateway(context);
  }

  /** Why an address is no other gateway's. */
  wrongGateway(context: Address): string | undefined {
    const { net, tunnel, context: own } = this.#facts;
    if (familyOf(context) !== tunnel) return `the tunnel is IPv${tunnel}`;
    if (!isUnicast(context)) return "no gateway can have the address";
    if (net.has(context)) return "the address is in the encode net";
    return context === own ? "the address is our own" : undefined;
  }

  /** Why an address is no local host's. */
  wrongLocal(address: Address): string | undefined {
    const { net } = this.#facts;
    if (familyOf(address) !== net.family) return `the LAN is IPv${net.family}`;
    if (!isUnicast(address)) return "no host can have the address";
    return net.has(address) ? "the address is in the encode net" : undefined;
  }

  /** Why a mapping cannot be written down. */
  wrongWritten(record: StaticRecord): string | undefined {
    return record.kind === "ours" ? this.#wrongOurs(record) : this.#wrongTheirs(record);
  }

  #wrongOurs({ address, context, reference }: StaticRecord): string | undefined {
    const { gatewayReference, context: own } = this.#facts;
    const isForeign = context !== undefined && own !== undefined && context !== own;
    if (isForeign) return "the context address is not ours";
    if (reference <= 0n || reference > maxReference) return "it is no reference";
    if (reference === gatewayReference) return "the reference is the gateway's";
    if (!isStaticReference(reference)) {
      return `the second-lowest byte of the reference is not below ${staticBytes}`;
    }
    return this.wrongLocal(address);
  }

  #wrongTheirs({ address, context, reference }: StaticRecord): string | undefined {
    const { net } = this.#facts;
    const wrong = context === undefined ? "it has no context" : this.wrongRemote(context, reference);
    if (wrong !== undefined) return wrong;
    if (familyOf(address) !== net.family || !net.isUsable(encodeAddress(address)))
      return "the address is none of the encode net";
    if (net.isStatic(address)) return undefined;
    return `the second-to-last byte of the address is not below ${staticBytes}`;
  }
}
