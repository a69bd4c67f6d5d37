/**
 * What the forwarding thread and its owner say to each other, and the questions that are open.
 *
 *     thread → owner   { ready }  it moves packets             owner → thread   { answer }  it is there now, or not
 *                      { ask }    a mapping is missing                          { list }    who may make mappings
 *                      { gone }   somebody removed the TUN                      { count }   what passed is wanted
 *                      { passed } from and to each gateway
 *
 * A question has a key, and is asked once while it is open: at most `limit` are, whatever comes in, so that an owner
 * who is busy is never flooded and the thread never waits. One that was refused is not asked again for a second, nor
 * kept longer. Bytes from packets stay bytes; the owner judges them.
 */

import type { GatewayCounts, GatewaysMemory } from "./gateways.ts";
import type { ForwardSettings } from "./settings.ts";
import type { ReaderHandle } from "./table.ts";

/** A mapping that is missing: the reference of a local host, or the encoded address of a remote one. */
export type Wanted =
  | { readonly kind: "ours"; readonly address: Uint8Array }
  | { readonly kind: "theirs"; readonly context: Uint8Array; readonly reference: Uint8Array };

export type ToOwner =
  | { readonly kind: "ready" }
  | { readonly kind: "gone" }
  | { readonly kind: "passed"; readonly gateways: readonly GatewayCounts[] }
  | { readonly kind: "ask"; readonly key: string; readonly wanted: Wanted };

export type ToThread =
  | { readonly kind: "count" }
  | { readonly kind: "answer"; readonly key: string; readonly found: boolean }
  | { readonly kind: "list"; readonly contexts: readonly Uint8Array[] | "all" };

/** What the thread is started with. */
export interface ThreadData {
  readonly settings: ForwardSettings;
  readonly table: ReaderHandle;
  readonly counts: SharedArrayBuffer;
  readonly gateways: GatewaysMemory;
  /** Port of peers that were not heard yet. */
  readonly port: number;
  readonly contexts: readonly Uint8Array[] | "all";
  /** Whether the TUN takes super-packets of UDP. */
  readonly joinsUdp: boolean;
}

export const askLimits = { open: 128, refused: 512, refusedMs: 1_000 } as const;

export class Asking {
  readonly #post: (message: ToOwner) => void;
  readonly #open = new Set<string>();
  /** Key → until when it is not asked again. */
  readonly #refused = new Map<string, number>();

  constructor(post: (message: ToOwner) => void) {
    this.#post = post;
  }

  get open(): number {
    return this.#open.size;
  }

  /** @returns whether an answer may come: "asked" now, "open" already, or not ("refused" lately, "busy"). */
  ask(key: string, wanted: Wanted, now: number): "asked" | "open" | "refused" | "busy" {
    if (this.#open.has(key)) return "open";
    const until = this.#refused.get(key);
    if (until !== undefined) {
      if (now < until) return "refused";
      this.#refused.delete(key);
    }
    if (this.#open.size >= askLimits.open) return "busy";
    this.#open.add(key);
    this.#post({ kind: "ask", key, wanted });
    return "asked";
  }

  /** The owner has answered. @returns false if nobody asked. */
  answered(key: string, found: boolean, now: number): boolean {
    if (!this.#open.delete(key)) return false;
    if (!found) {
      if (this.#refused.size >= askLimits.refused) {
        const [oldest] = this.#refused.keys();
        this.#refused.delete(oldest!);
      }
      this.#refused.set(key, now + askLimits.refusedMs);
    }
    return true;
  }
}

/** The key of a question. */
export function keyOf(wanted: Wanted): string {
  return wanted.kind === "ours"
    ? `o${hex(wanted.address)}`
    : `t${hex(wanted.context)}+${hex(wanted.reference)}`;
}

const digits = "0123456789abcdef";

function hex(bytes: Uint8Array): string {
  let text = "";
  for (const byte of bytes) text += digits[byte >> 4]! + digits[byte & 15]!;
  return text;
}
