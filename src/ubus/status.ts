/**
 * The status codes of ubus, their texts, and what they mean as faults, in one table.
 *
 * A peer answers every request with a status, any 32-bit number; the codes below are the ones with a meaning.
 * Towards the bus a Fault becomes the status of its code, from the bus a status becomes a Fault.
 *
 * Source: ubus 3cc98db (ubusmsg.h, libubus.c).
 */

import { Fault, type FaultCode } from "../lib/fault.ts";

/** The codes by name. */
export const Status = {
  Ok: 0,
  InvalidCommand: 1,
  InvalidArgument: 2,
  MethodNotFound: 3,
  NotFound: 4,
  NoData: 5,
  PermissionDenied: 6,
  Timeout: 7,
  NotSupported: 8,
  UnknownError: 9,
  ConnectionFailed: 10,
  NoMemory: 11,
  ParseError: 12,
  SystemError: 13,
} as const;

/** Index is the code; the text is what the real `ubus` prints. */
const meanings: readonly { readonly text: string; readonly fault: FaultCode }[] = [
  { text: "Success", fault: "invalid" },
  { text: "Invalid command", fault: "unsupported" },
  { text: "Invalid argument", fault: "invalid" },
  { text: "Method not found", fault: "not-found" },
  { text: "Not found", fault: "not-found" },
  { text: "No response", fault: "not-found" },
  { text: "Permission denied", fault: "denied" },
  { text: "Request timed out", fault: "timeout" },
  { text: "Operation not supported", fault: "unsupported" },
  { text: "Unknown error", fault: "kernel" },
  { text: "Connection failed", fault: "closed" },
  { text: "Out of memory", fault: "limit" },
  { text: "Parsing message data failed", fault: "invalid" },
  { text: "System error", fault: "kernel" },
];

/** ubus has no code for a conflict; ubusd itself says "Invalid argument" when a path is taken. */
const statusByFault: Readonly<Record<FaultCode, number>> = {
  invalid: Status.InvalidArgument,
  "not-found": Status.NotFound,
  conflict: Status.InvalidArgument,
  denied: Status.PermissionDenied,
  limit: Status.NoMemory,
  timeout: Status.Timeout,
  closed: Status.ConnectionFailed,
  kernel: Status.SystemError,
  storage: Status.SystemError,
  unsupported: Status.NotSupported,
};

/** What the real `ubus` says of a status. */
export function textOf(status: number): string {
  return meanings[status]?.text ?? `Unknown error: ${status}`;
}

/** The status that tells a caller of something thrown: by a Fault's code, else "Unknown error". */
export function statusOf(thrown: unknown): number {
  return thrown instanceof Fault ? statusByFault[thrown.code] : Status.UnknownError;
}

/**
 * The fault that a status other than Ok is.
 *
 * @param what "Cannot *verb what*", the message up to its colon.
 */
export function faultOf(status: number, what: string): Fault {
  return new Fault(meanings[status]?.fault ?? "kernel", `${what}: ${textOf(status)}`);
}
