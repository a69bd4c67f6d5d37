/**
 * The one error class of gatehouse: something outside the program failed.
 *
 * A wrong call by our own code throws TypeError or RangeError, bytes or text that cannot be parsed throw
 * SyntaxError; everything that a machine, a peer or a caller did is a Fault with a code from a closed list, so
 * that every door (ubus status, exit code, JSON-RPC error) maps it in one table.
 */

export type FaultCode =
  /** The caller's arguments make no sense. */
  | "invalid"
  /** The named node, object, file or interface is not there. */
  | "not-found"
  /** It exists already, or somebody else holds it. */
  | "conflict"
  /** The caller may not do this. */
  | "denied"
  /** A limit on size, count or rate was hit. */
  | "limit"
  /** No answer in time. */
  | "timeout"
  /** The peer or the connection to it is gone. */
  | "closed"
  /** The kernel, or a tool that speaks to it, refused. */
  | "kernel"
  /** The disk refused. */
  | "storage"
  /** This machine lacks the feature. */
  | "unsupported";

export class Fault extends Error {
  readonly code: FaultCode;

  /** @param message "Cannot *verb what*: *state*", no final period. */
  constructor(code: FaultCode, message: string, options: { cause?: unknown } = {}) {
    super(message);
    this.name = "Fault";
    this.code = code;
    if (options.cause !== undefined) this.cause = options.cause;
  }

  /** Kept as own property: ES2022's Error has it, but an engine without `cause` still shows it. */
  declare cause?: unknown;
}

/** The text of whatever was thrown, for a log line or an answer. */
export function messageOf(thrown: unknown): string {
  return thrown instanceof Error ? thrown.message : String(thrown);
}
