/** Time as all hosts of a lab have it: they are namespaces of one kernel, whose monotonic clock they share. */

/** Milliseconds since the machine's start, down to microseconds; in every process the same. */
export function clockMs(): number {
  return Number(process.hrtime.bigint() / 1_000n) / 1_000;
}

/** How often the programs at both ends of traffic (peer.ts) tell what came. */
export const reportMs = 100;

/** Waits. Nothing is known afterwards but that time has passed: to know something, wait for it (`eventually`). */
export function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
