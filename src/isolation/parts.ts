/** What isolation is made of: what it is given, and what those who read it see. Plain types. */

import type { Address, Prefix } from "../lib/address.ts";
import type { Draw } from "../lib/pool.ts";
import type { Commands } from "./commands.ts";
import type { NamesParts } from "./names.ts";
import type { Naming } from "./naming.ts";
import type { Lookup } from "./outside.ts";
import type { PlanOptions } from "./plan.ts";
import type { PrivilegedOptions } from "./privileged.ts";
import type { SegmentDeclaration } from "./segments.ts";
import type { ServiceDeclaration } from "./services.ts";

export interface IsolationOptions extends PlanOptions {
  readonly segments: readonly SegmentDeclaration[];
  readonly services: readonly (ServiceDeclaration & { readonly peers?: readonly string[] })[];
  readonly pool4: Prefix;
  readonly pool6: Prefix;
  readonly draw: Draw;
  readonly privileged?: PrivilegedOptions;
  /** Domains whose names are ours. Default: lan. */
  readonly domains?: readonly string[];
  /** Names of the router itself, for privileged parties. Default: databox-network. */
  readonly ownNames?: readonly string[];
  /** Default 65,536. */
  readonly maxPairs?: number;
  /** How long a stand-in rests after it was given back. Default 10 minutes. */
  readonly restMs?: number;
  /** How long an address outside stays reachable after its name has another. Default an hour. */
  readonly keepMs?: number;
  /**
   * Makes the present plan true and the present state durable.
   *
   * @param isMore the plan has all that the last one had: nothing is open that should not be where it lags.
   * @throws Fault "storage" if only the disk refused.
   */
  commit(commit: { readonly isMore: boolean }): Promise<void>;
  /** The plan, and perhaps the state, are others without a command: to be applied soon. */
  onChange?(): void;
  /** Asks the world for a name outside. What it throws means that nobody answered. */
  lookup?(name: string): Promise<Lookup>;
  /** Whether connections to an address outside are open. */
  isInUse?(address: Address): boolean;
  /** What people should know, a sentence each. */
  report?(line: string): void;
}

/** What status, relay and explanations read. */
export interface IsolationParts extends NamesParts {
  readonly naming: Naming;
  readonly commands: Commands;
}
