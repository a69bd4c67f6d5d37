/**
 * What the outside may ask of the IPREF gateway: the object `gatehouse.ipref`.
 *
 * Reading shows mappings, peers and drops; writing adds and removes what the user writes down, and asks for an encoded
 * address by name. What other parts know (drops, counters, DNS) comes in as functions.
 */

import { type Address, parseAddress } from "../lib/address.ts";
import { Fault } from "../lib/fault.ts";
import type { Json, JsonObject } from "../lib/json.ts";
import { formatReference, parseReference } from "../lib/reference.ts";
import { answerBytes, type Methods, maxAnswerBytes } from "../ubus/methods.ts";
import type { Entry, Filter, Mappings } from "./mappings.ts";
import { maxOwnerLength, type StaticRecord } from "./sources.ts";

type Args = Readonly<Record<string, Json>>;

export interface MethodParts {
  readonly mappings: Mappings;
  readonly clock: { now(): number };
  /** What else belongs into the status: addresses, ports, whether it forwards. */
  status?(): JsonObject;
  /** Packets that were dropped, by reason. */
  drops?(): Readonly<Record<string, number>>;
  /** Packets, bytes and the like of a peer. */
  peerCounters?(context: Address): JsonObject | undefined;
  /** Encoded addresses of a name. @throws Fault "not-found" */
  resolve?(name: string): Promise<readonly Address[]>;
}

const maxListed = 2_000;
const maxNameLength = 253;
const maxTextLength = 128;
const shownRefusals = 50;
const states: readonly Entry["state"][] = ["static", "live", "new", "rest"];
const pairArguments = { kind: "String", address: "String", context: "String", reference: "String" } as const;

export function iprefMethods(parts: MethodParts): Methods {
  const { mappings, clock } = parts;
  return {
    status: {
      args: {},
      access: "read",
      doc: "What the gateway is, how many mappings there are, and which of those written down are not used.",
      call: () => ({
        ...parts.status?.(),
        encode_net: mappings.net.prefix,
        gateway_address: mappings.net.gatewayAddress,
        ...mappings.counters,
        peers: mappings.peers().length,
        sources: mappings.sources().map(({ owner, records, refusals }) => ({
          source: owner,
          records,
          unused: refusals.length,
          refusals: refusals
            .slice(0, shownRefusals)
            .map(({ record, why }) => ({ ...renderPair(record), why })),
        })),
      }),
    },
    mappings: {
      args: {
        ...{ after: "Integer", limit: "Integer", kind: "String", state: "String" },
        ...{ peer: "String", address: "String", source: "String" },
      },
      access: "read",
      doc: "Mappings by number, at most 2,000; more: there are some after the last, to be asked for with after.",
      call(args): Json {
        const rows: Json[] = [];
        const limit = numberOf(args, "limit", { least: 1, most: maxListed, fallback: maxListed });
        const after = numberOf(args, "after", { least: 0, most: 2 ** 31 - 1, fallback: 0 });
        let bytes = 64;
        for (const entry of mappings.entries(after, filterOf(args))) {
          const row = renderEntry(entry, clock.now());
          bytes += answerBytes(row);
          if (rows.length >= limit || bytes > maxAnswerBytes) return { mappings: rows, more: true };
          rows.push(row);
        }
        return { mappings: rows };
      },
    },
    peers: {
      args: { after: "String", limit: "Integer" },
      access: "read",
      doc: "Gateways by context address, with their mappings and counters; more: there are some after the last.",
      call(args): Json {
        const limit = numberOf(args, "limit", { least: 1, most: maxListed, fallback: maxListed });
        const after = args.after === undefined ? "" : addressOf(args, "after");
        const now = clock.now();
        const all = mappings.peers().sort((one, other) => (one.context < other.context ? -1 : 1));
        const rows: Json[] = [];
        let bytes = 64;
        for (const { context, byPacket, byName, written, resting, usedAt } of all) {
          if (context <= after) continue;
          const row: JsonObject = {
            ...{ context, by_packet: byPacket, by_name: byName, static: written, resting },
            ...(usedAt > 0 && { used: secondsSince(usedAt, now) }),
            ...parts.peerCounters?.(context),
          };
          bytes += answerBytes(row);
          if (rows.length >= limit || bytes > maxAnswerBytes) return { peers: rows, more: true };
          rows.push(row);
        }
        return { peers: rows };
      },
    },
    drops: {
      args: {},
      access: "read",
      doc: "Packets that did not pass, by reason.",
      call: () => ({ drops: parts.drops?.() ?? {} }),
    },
    add: {
      args: pairArguments,
      access: "write",
      doc: "Writes a mapping down: ours, a local host's address and reference; theirs, an encoded address, context and reference.",
      async call(args) {
        const record = recordOf(args);
        await mappings.addStatic(record);
        return renderPair(record);
      },
    },
    remove: {
      args: { kind: "String", address: "String", reference: "String" },
      access: "write",
      doc: "Ends a mapping that was written down with add.",
      async call(args) {
        const record = {
          kind: kindOf(args),
          address: addressOf(args, "address"),
          reference: referenceOf(args),
        };
        await mappings.removeStatic(record);
        return { ...record, reference: formatReference(record.reference) };
      },
    },
    resolve: {
      args: { name: "String" },
      access: "write",
      doc: "Encoded addresses of the hosts that a name stands for; mappings that are missing are made.",
      async call(args) {
        const name = textOf(args, "name", maxNameLength);
        if (!parts.resolve) throw new Fault("unsupported", `Cannot resolve ${name}: there is no resolver`);
        const addresses = await parts.resolve(name);
        return { name, addresses: addresses.map((address) => renderResolved(address, mappings)) };
      },
    },
  };
}

/** A mapping as the bus shows it; ages and remaining times in seconds. */
export function renderEntry(entry: Entry, now: number): JsonObject {
  const { id, state, owner, endsAt, usedAt, byName } = entry;
  return {
    id,
    ...renderPair(entry),
    state,
    ...(owner !== undefined && { source: owner }),
    ...(endsAt !== Number.POSITIVE_INFINITY && {
      [state === "rest" ? "kept_for" : "expires_in"]: Math.max(0, Math.floor((endsAt - now) / 1_000)),
    }),
    ...(usedAt > 0 && { used: secondsSince(usedAt, now) }),
    ...(byName && entry.kind === "theirs" && { by_name: true }),
  };
}

function renderPair({ kind, address, context, reference }: StaticRecord): JsonObject {
  return { kind, address, ...(context !== undefined && { context }), reference: formatReference(reference) };
}

function renderResolved(address: Address, mappings: Mappings): JsonObject {
  const remote = mappings.remoteOf(address);
  const remainingMs = mappings.remainingMs(address);
  return {
    address,
    ...(remote && { context: remote.context, reference: formatReference(remote.reference) }),
    ...(Number.isFinite(remainingMs) && { expires_in: Math.floor(remainingMs / 1_000) }),
  };
}

function secondsSince(at: number, now: number): number {
  return Math.max(0, Math.floor((now - at) / 1_000));
}

function filterOf(args: Args): Filter {
  const state = states.find((each) => each === args.state);
  if (args.state !== undefined && !state) throw invalid("state", args.state);
  return {
    ...(args.kind !== undefined && { kind: kindOf(args) }),
    ...(state && { state }),
    ...(args.peer !== undefined && { context: addressOf(args, "peer") }),
    ...(args.address !== undefined && { address: addressOf(args, "address") }),
    ...(args.source !== undefined && { owner: textOf(args, "source", maxOwnerLength) }),
  };
}

function recordOf(args: Args): StaticRecord {
  const context = args.context === undefined ? undefined : addressOf(args, "context");
  return {
    kind: kindOf(args),
    address: addressOf(args, "address"),
    context,
    reference: referenceOf(args),
  };
}

function kindOf(args: Args): StaticRecord["kind"] {
  if (args.kind === "ours" || args.kind === "theirs") return args.kind;
  throw invalid("kind", args.kind);
}

function addressOf(args: Args, name: string): Address {
  const address = typeof args[name] === "string" ? parseAddress(args[name]) : undefined;
  if (address === undefined) throw invalid(name, args[name]);
  return address;
}

function referenceOf(args: Args): bigint {
  try {
    return parseReference(textOf(args, "reference", maxTextLength));
  } catch {
    throw invalid("reference", args.reference);
  }
}

function textOf(args: Args, name: string, longest: number): string {
  const text = args[name];
  if (typeof text === "string" && text !== "" && text.length <= longest) return text;
  throw invalid(name, text);
}

function numberOf(
  args: Args,
  name: string,
  range: { readonly least: number; readonly most: number; readonly fallback: number },
): number {
  if (args[name] === undefined) return range.fallback;
  const value = Number(args[name]);
  if (Number.isInteger(value) && value >= range.least && value <= range.most) return value;
  throw invalid(name, args[name]);
}

function invalid(name: string, value: Json | undefined): Fault {
  const shown = value === undefined ? "nothing" : String(value).slice(0, 80);
  return new Fault("invalid", `Cannot read ${name}: ${JSON.stringify(shown)} is none`);
}
