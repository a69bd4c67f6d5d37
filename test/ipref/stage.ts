/** Mappings on a machine in memory, that can be killed and started again. */

import { type Mappings, type MappingsOptions, openMappings } from "../../src/ipref/mappings.ts";
import type { Address, Prefix } from "../../src/lib/address.ts";
import { Machine } from "../fake/machine.ts";

export const address = (text: string) => text as Address;
export const prefix = (text: string) => text as Prefix;
export const directory = "/etc/gatehouse/ipref";

export const ownContext = address("198.51.100.97");

export class Stage {
  readonly machine: Machine;
  readonly faults: string[] = [];
  damages: readonly string[] = [];
  boot = "b1";
  mappings!: Mappings;
  readonly #options: Partial<MappingsOptions>;

  constructor(options: Partial<MappingsOptions> & { readonly seed?: number } = {}) {
    const { seed, ...rest } = options;
    this.machine = new Machine({ seed: seed ?? 1 });
    this.#options = rest;
  }

  /** Starts, or starts again: nothing but the disk is left of what was before. */
  async open(more: Partial<MappingsOptions> = {}): Promise<Mappings> {
    const opened = await openMappings(this.machine, {
      directory,
      boot: this.boot,
      encodeNet: prefix("10.240.0.0/12"),
      tunnel: 4,
      context: ownContext,
      gatewayReference: 1n,
      maxMappings: 4_096,
      onFault: (fault) => this.faults.push(fault ? fault.message : "fine"),
      ...this.#options,
      ...more,
    });
    this.mappings = opened.mappings;
    this.damages = opened.damages;
    return opened.mappings;
  }

  /** Time passes; readers have left no marks but those that are there. */
  async pass(ms: number): Promise<void> {
    await this.machine.advance(ms);
    this.mappings.sweep(this.machine.now());
    await this.machine.settle();
  }

  /** Names of the small files, oldest first. */
  async pieces(): Promise<string[]> {
    const numbers = (name: string) => name.split(/[-.]/).map(Number);
    const names = await this.machine.list(`${directory}/mappings.d`);
    return names.sort((one, other) => {
      const [a, b] = [numbers(one), numbers(other)];
      return a[0]! - b[0]! || a[1]! - b[1]!;
    });
  }
}

/** What a forwarder finds of an encoded address, as text. */
export function seenByAddress(mappings: Mappings, encoded: Address): string | undefined {
  const { lookup } = mappings;
  const record = lookup.theirByAddress(Uint8Array.from(encoded.split("."), Number), 0);
  return record < 0 ? undefined : textAt(mappings, record);
}

export function textAt({ lookup }: Mappings, record: number): string {
  const bytes = (at: number, length: number) => [...lookup.bytes.subarray(record + at, record + at + length)];
  const hex = bytes(32, 16).map((byte) => byte.toString(16).padStart(2, "0"));
  return `${bytes(0, 4).join(".")} ${bytes(16, 4).join(".")} ${BigInt(`0x${hex.join("")}`)}`;
}

/** What a forwarder finds of a context and a reference. */
export function seenByReference(mappings: Mappings, context: Address, reference: bigint): string | undefined {
  const bytes = Uint8Array.from({ length: 16 }, (_, at) =>
    Number((reference >> BigInt(120 - at * 8)) & 255n),
  );
  const record = mappings.lookup.theirByReference(Uint8Array.from(context.split("."), Number), 0, bytes);
  return record < 0 ? undefined : textAt(mappings, record);
}

/** A forwarder uses the mapping of an encoded address. */
export function use(mappings: Mappings, encoded: Address): void {
  const record = mappings.lookup.theirByAddress(Uint8Array.from(encoded.split("."), Number), 0);
  if (record < 0) throw new Error(`${encoded} is not in force`);
  mappings.lookup.touch(record);
}

/** The code of the fault that something ends in; undefined: it does not. */
export async function codeOf(call: Promise<unknown> | (() => unknown)): Promise<string | undefined> {
  try {
    await (typeof call === "function" ? call() : call);
    return undefined;
  } catch (thrown) {
    return (thrown as { code?: string }).code ?? String(thrown);
  }
}
