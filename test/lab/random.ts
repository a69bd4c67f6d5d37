/** The seed of a run, and the numbers that follow from it: the same on every machine. */

/** Of this run; SEED chooses it. */
export const seed = Number(process.env.SEED ?? Date.now() % 1_000_000);

/** Numbers from 0 (inclusive) to 1 (exclusive) that follow from a seed, by mulberry32. */
export function randomOf(state: number): () => number {
  let at = state >>> 0;
  return () => {
    at = (at + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(at ^ (at >>> 15), at | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
