/**
 * Table Allocator's messages: JSON objects in datagrams, version 1. Text in and out, no state.
 *
 *     → {"address":"192.168.5.113","ifname":"eth1","addr_family":2,"cmd":0,"version":1}      request, refresh
 *     → {…, "cmd":1, …}                                                                      release
 *     ← {"version":1,"cmd":2,"table":10000,"lease_expires":1833}                             CLOCK_MONOTONIC_RAW
 *
 * As its server reads them: unknown members and members of the wrong type count as missing, missing ones are 0 or
 * empty, texts that are too long are empty, the version is not looked at.
 */

import { isObject } from "../lib/json.ts";
import { isPlain, longest, type TableFamily } from "./key.ts";

/** The server's buffer: what is longer is cut there, and is no JSON any more. */
export const maxMessageBytes = 512;

export interface OldRequest {
  readonly verb: "request" | "release";
  readonly family: TableFamily;
  /** As sent, not looked at. */
  readonly address: string;
  readonly interface: string;
  readonly tag: string;
}

const verbs: ReadonlyMap<number, OldRequest["verb"]> = new Map([
  [0, "request"],
  [1, "release"],
]);
/** AF_UNSPEC, AF_INET, AF_INET6. */
const families: ReadonlyMap<number, TableFamily> = new Map([
  [0, "unspec"],
  [2, "inet"],
  [10, "inet6"],
]);
const strict = new TextDecoder("utf-8", { fatal: true });

/** @throws SyntaxError for what is no JSON object, and for an unknown command or family. */
export function decodeOldRequest(bytes: Uint8Array): OldRequest {
  if (bytes.length > maxMessageBytes) throw new SyntaxError(`Cannot read request: ${bytes.length} bytes`);
  let message: unknown;
  try {
    // What follows a NUL is not read, as in C.
    const end = bytes.indexOf(0);
    message = JSON.parse(strict.decode(end < 0 ? bytes : bytes.subarray(0, end)));
  } catch {
    throw new SyntaxError("Cannot read request: no JSON");
  }
  if (!isObject(message)) throw new SyntaxError("Cannot read request: no object");
  const verb = verbs.get(numberOf(message.cmd)) ?? fail(`command ${String(message.cmd)}`);
  const family = families.get(numberOf(message.addr_family)) ?? fail(`family ${String(message.addr_family)}`);
  return {
    ...{ verb, family },
    address: textOf(message.address, longest.address),
    interface: textOf(message.ifname, longest.interface),
    tag: textOf(message.tag, longest.tag),
  };
}

export function encodeOldReply(reply: { readonly table: number; readonly leaseExpires: number }): Uint8Array {
  const { table, leaseExpires } = reply;
  const text = `{"version":1,"cmd":2,"table":${table},"lease_expires":${leaseExpires}}`;
  return new TextEncoder().encode(text);
}

function numberOf(value: unknown): number {
  return typeof value === "number" && Number.isInteger(value) ? value : 0;
}

function textOf(value: unknown, most: number): string {
  return typeof value === "string" && isPlain(value, most) ? value : "";
}

function fail(what: string): never {
  throw new SyntaxError(`Cannot read request: ${what} is unknown`);
}
