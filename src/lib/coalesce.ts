/** Work that is asked for in bursts, each of which says no more than that something is other than it was. */

/**
 * Never runs work beside itself: whoever asks while it runs makes it run once more afterwards, however many ask.
 *
 * @param work never rejects.
 * @returns asks for it; resolves when nothing is left to do, or at once if it runs already.
 */
export function coalesced(work: () => Promise<void>): () => Promise<void> {
  let isRunning = false;
  let again = false;
  return async () => {
    again = true;
    if (isRunning) return;
    isRunning = true;
    while (again) {
      again = false;
      await work();
    }
    isRunning = false;
  };
}
