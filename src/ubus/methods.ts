/**
 * What a room offers to the outside: one table of methods feeds ubus, the CLI, the ACL file and the docs.
 */

import type { Json } from "../lib/json.ts";

/** Argument types by the names that `ubus -v list` prints for them. */
export type ArgumentType = "Boolean" | "Integer" | "String" | "Array" | "Table";

export interface Caller {
  /** User and group names that the bus vouches for; undefined when it does not say. */
  readonly user: string | undefined;
  readonly group: string | undefined;
}

export interface Method {
  /** Argument name → type, in the order that the signature shows. */
  readonly args: Readonly<Record<string, ArgumentType>>;
  /** Every argument reaches the call, whatever its name and type; the signature does not show it. */
  readonly anyArguments?: true;
  /** "write" changes something: it goes into the write half of the ACL. */
  readonly access: "read" | "write";
  /** One sentence for the manual. */
  readonly doc: string;
  /**
   * Arguments of a wrong type and unknown ones have been left out before the call, as C servers do, unless the
   * method takes any.
   * A Fault becomes the ubus status of its code.
   */
  call(args: Readonly<Record<string, Json>>, caller: Caller): Json | undefined | Promise<Json | undefined>;
}

/** Method name → method, in the order that the signature shows. */
export type Methods = Readonly<Record<string, Method>>;

/** What an answer may take, see `answerBytes`: a message is at most 1 MiB, and this leaves a reserve. */
export const maxAnswerBytes = 1_000_000;

/** At least as many bytes as a value takes in a message: header, padding, content. Names are taken for ASCII. */
export function answerBytes(value: Json): number {
  if (typeof value === "string") return 12 + value.length * 3;
  if (typeof value !== "object" || value === null) return 16;
  if (Array.isArray(value)) return value.reduce<number>((sum, each) => sum + answerBytes(each), 8);
  return Object.entries(value).reduce((sum, [name, each]) => sum + name.length + 3 + answerBytes(each), 8);
}
