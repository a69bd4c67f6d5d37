/**
 * The agent's own object on the bus, `gatehouse`: what concerns no room alone.
 *
 * Keeps nothing.
 */

import { Fault } from "../lib/fault.ts";
import type { Json, JsonObject } from "../lib/json.ts";
import type { Methods } from "../ubus/methods.ts";

export interface OwnMethodsOptions {
  status(): Promise<JsonObject>;
  /** @throws Fault "not-found" */
  explain(from: string, to: string): JsonObject;
  /** All rules as the text that a boot loads. */
  print(): string;
  /** Takes over SPIN's files. @throws Fault */
  takeOver(directory: string): Promise<JsonObject>;
}

/** A message is at most 1 MiB; a character may take four bytes. */
const pageLength = 200_000;

export function ownMethods(options: OwnMethodsOptions): Methods {
  return {
    status: {
      args: {},
      access: "read",
      doc: "Version, back end, what is watched, counted, lost and limited, and what cannot be seen.",
      call: () => options.status(),
    },
    explain: {
      args: { from: "String", to: "String" },
      access: "read",
      doc: "Whether packets from one end to the other pass, by whose word and in which rule. An end is an id, an address, a MAC or a name.",
      call: (args) => options.explain(textOf(args, "from", "explain"), textOf(args, "to", "explain")),
    },
    print: {
      args: { offset: "Integer" },
      access: "read",
      doc: "The rules in force as the text that a boot loads, from an offset on; `next` is where it goes on.",
      call(args) {
        const text = options.print();
        const offset = typeof args.offset === "number" ? Math.max(0, args.offset) : 0;
        const end = offset + pageLength;
        return { text: text.slice(offset, end), ...(end < text.length && { next: end }) };
      },
    },
    import: {
      args: { directory: "String" },
      access: "write",
      doc: "Takes over SPIN's blocks, lists and names from its directory; answers old and new ids. Harmless to repeat.",
      call: (args) => options.takeOver(textOf(args, "directory", "import")),
    },
  };
}

function textOf(args: Readonly<Record<string, Json>>, name: string, verb: string): string {
  const value = args[name];
  if (typeof value !== "string" || value === "") {
    throw new Fault("invalid", `Cannot ${verb}: ${name} is missing`);
  }
  return value;
}
