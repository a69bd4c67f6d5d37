/**
 * A copy of one table of the kernel, kept right by notifications and by reading the whole table.
 *
 * Entries are kept by key, at most a given number. Whoever owns the mirror is told each difference once:
 * what comes new, what changes, what goes.
 *
 * Notifications and the answers of a dump come over different sockets, and each may be ahead of the other. The
 * notifications are in order among themselves: what one says is right, or a later one about the same key puts
 * it right. So a key that a notification has spoken of since the dump was asked for is left alone by that dump.
 * Only where notifications were lost must a further dump follow.
 */

export type Change = "add" | "change" | "remove";

export class Mirror<Entry extends object> {
  readonly entries: ReadonlyMap<string, Entry>;
  readonly #entries = new Map<string, Entry>();
  readonly #maxEntries: number;
  readonly #tell: (change: Change, entry: Entry) => void;
  /** While the table is read: the keys met, in the answers or in notifications. */
  #met: Set<string> | undefined;
  #spokenOf = new Set<string>();
  #dropped = 0;

  /** @param tell gets what is new, or for "remove" what was last known; the entries show it already. */
  constructor(maxEntries: number, tell: (change: Change, entry: Entry) => void) {
    this.entries = this.#entries;
    this.#maxEntries = maxEntries;
    this.#tell = tell;
  }

  /** How often an entry was not kept because there were too many. */
  get dropped(): number {
    return this.#dropped;
  }

  /** A notification: the entry as it is now, or undefined if it is gone. */
  hear(key: string, entry: Entry | undefined): void {
    if (this.#met) this.#speakOf(key);
    if (entry) this.#put(key, entry);
    else this.remove(key);
  }

  /** The whole table is about to be asked for. */
  beginRead(): void {
    this.#met = new Set();
    this.#spokenOf.clear();
  }

  /** An answer of the dump. One that comes again, after a restart, does no harm. */
  read(key: string, entry: Entry): void {
    if (this.#spokenOf.has(key)) return;
    this.#met?.add(key);
    this.#put(key, entry);
  }

  /** The dump is through: what neither it nor a notification has spoken of is gone. */
  endRead(): void {
    const met = this.#met;
    this.#met = undefined;
    for (const key of met ? [...this.#entries.keys()] : []) {
      if (!met!.has(key) && !this.#spokenOf.has(key)) this.remove(key);
    }
    this.#spokenOf.clear();
  }

  /** The dump failed: what it has told so far stays. */
  abandonRead(): void {
    this.#met = undefined;
    this.#spokenOf.clear();
  }

  /** Takes an entry out, if it is there. */
  remove(key: string): void {
    const entry = this.#entries.get(key);
    if (!entry) return;
    this.#entries.delete(key);
    this.#tell("remove", entry);
  }

  #speakOf(key: string): void {
    // Keys that come and go during one dump may be many more than the entries; the dump is late news about
    // those left out, which the next notification or dump corrects.
    if (this.#spokenOf.size < this.#maxEntries * 2) this.#spokenOf.add(key);
  }

  #put(key: string, entry: Entry): void {
    const known = this.#entries.get(key);
    if (known && isSame(known, entry)) return;
    if (!known && this.#entries.size >= this.#maxEntries) {
      this.#dropped++;
      return;
    }
    this.#entries.set(key, entry);
    this.#tell(known ? "change" : "add", entry);
  }
}

/** Whether two flat objects have the same fields with the same values. */
function isSame(left: object, right: object): boolean {
  const [a, b] = [Object.entries(left), right as Record<string, unknown>];
  return a.length === Object.keys(right).length && a.every(([name, value]) => b[name] === value);
}
