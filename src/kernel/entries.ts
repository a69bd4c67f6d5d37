/**
 * Which connections a block must cut by hand.
 *
 * Packets of a connection that a flowtable forwards pass no rule any more, so its entry has to go; deleting it
 * brings the next packet back to the rules. All other connections are stopped by the rules themselves. Their
 * entries stay: if the block is lifted, a connection behind address translation goes on, whereas without its
 * entry the router would answer the far end's packets with resets.
 */

import { type Connection, connectionStatus } from "./connection.ts";
import { blockedBy } from "./explain.ts";
import type { Plan } from "./plan.ts";

/** Whether a flowtable, or hardware behind one, forwards it. */
export function isOffloaded({ status }: Connection): boolean {
  return (status & (connectionStatus.offload | connectionStatus.hardwareOffload)) !== 0;
}

/**
 * Selects the connections of `plan`'s blocked nodes that a flowtable forwards, or with `all` every one of theirs;
 * for `deleteConnections`. An exempt node's are never selected.
 */
export function entriesToCut(
  plan: Plan,
  options: { all?: boolean } = {},
): (connection: Connection) => boolean {
  const blocked = blockedBy(plan);
  return (connection) =>
    (options.all === true || isOffloaded(connection)) &&
    // Whoever answers is the true far end, as the forward hook sees it: behind a port forward not `destination`.
    blocked(connection.source, connection.reply.source);
}
