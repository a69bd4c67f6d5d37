/**
 * What the room of tables is made with: limits, and the ways out to kernel, disk, netifd and whoever listens.
 */

import type { Fault } from "../lib/fault.ts";
import type { Json } from "../lib/json.ts";
import type { NewsKind } from "./book.ts";
import type { TableFamily } from "./key.ts";
import type { Netifd } from "./netifd.ts";
import type { TableLease } from "./record.ts";
import type { GatewayOf, Steers } from "./steering.ts";

export interface TablesOptions {
  /** The first table and how many there are. */
  readonly first: number;
  readonly count: number;
  readonly families: readonly TableFamily[];
  /** Of a lease whose caller does not say. */
  readonly lifetimeMs: number;
  /** How long a table rests after a lease. Default 60 s. */
  readonly restMs?: number;
  /** Leases that one owner may have; root may have all. Default 64. */
  readonly maxPerOwner?: number;
  /** Tells boots apart; the same text that the journal was opened with. */
  readonly boot: string;
  readonly steers: Steers;
  /** @throws Fault "storage" if the records are not durable; it is called again with them. */
  keep(records: readonly Json[], whole: () => readonly Json[]): Promise<void>;
  /** Whether a number is somebody else's by the machine's configuration. Default: none is. */
  isReserved?(table: number): boolean;
  /** The gateway of an interface, for routes. */
  gatewayOf?: GatewayOf;
  readonly netifd?: Netifd;
  notify?(kind: NewsKind, lease: TableLease, by?: string): void;
  /** Something went wrong that no caller waits for; once for each row of the same. */
  onFault?(fault: Fault): void;
}
