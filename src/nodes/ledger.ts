/**
 * What many clients left here, bounded so that no client can push out what others left.
 *
 * Kept by client (a number) and key (text), in the order it came. A client past its own limit loses its oldest
 * entry; when all are too many, the client that holds most loses the older half. Nothing is told to anybody:
 * callers must live with an entry that is gone.
 */

export class Ledger<Value> {
  readonly #clients = new Map<number, Map<string, Value>>();
  readonly #perClient: number;
  readonly #total: number;
  #size = 0;
  #dropped = 0;

  constructor(limits: { perClient: number; total: number }) {
    this.#perClient = limits.perClient;
    this.#total = limits.total;
  }

  /** Entries held. */
  get size(): number {
    return this.#size;
  }

  /** Entries lost to a limit, ever. */
  get dropped(): number {
    return this.#dropped;
  }

  /** An entry set again becomes its client's youngest. */
  set(client: number, key: string, value: Value): void {
    const entries = this.#clients.get(client) ?? new Map<string, Value>();
    this.#clients.set(client, entries);
    if (entries.delete(key)) this.#size--;
    entries.set(key, value);
    this.#size++;
    if (entries.size > this.#perClient) this.#shrink(client, entries.size - 1);
    if (this.#size > this.#total) this.#relieve();
  }

  get(client: number, key: string): Value | undefined {
    return this.#clients.get(client)?.get(key);
  }

  /** Removes an entry and returns it. */
  take(client: number, key: string): Value | undefined {
    const entries = this.#clients.get(client);
    const value = entries?.get(key);
    if (entries?.delete(key)) {
      this.#size--;
      if (entries.size === 0) this.#clients.delete(client);
    }
    return value;
  }

  /** Forgets a client. */
  drop(client: number): void {
    this.#size -= this.#clients.get(client)?.size ?? 0;
    this.#clients.delete(client);
  }

  /** Gives what one client left to another, as its youngest. */
  move(from: number, to: number): void {
    const entries = this.#clients.get(from);
    if (!entries || from === to) return;
    this.drop(from);
    for (const [key, value] of entries) this.set(to, key, value);
  }

  /** Gives what one client left to another, too. */
  copy(from: number, to: number): void {
    for (const [key, value] of [...(this.#clients.get(from) ?? [])]) this.set(to, key, value);
  }

  /** All entries: client, key, value. */
  *entries(): Generator<[number, string, Value]> {
    for (const [client, entries] of this.#clients)
      for (const [key, value] of entries) yield [client, key, value];
  }

  /** Removes the entries that a test finds outlived. */
  prune(outlived: (value: Value) => boolean): void {
    for (const [client, entries] of this.#clients) {
      for (const [key, value] of entries) {
        if (outlived(value) && entries.delete(key)) this.#size--;
      }
      if (entries.size === 0) this.#clients.delete(client);
    }
  }

  #relieve(): void {
    let largest = -1;
    let most = 0;
    for (const [client, entries] of this.#clients) {
      if (entries.size > most) [largest, most] = [client, entries.size];
    }
    this.#shrink(largest, most >> 1);
  }

  #shrink(client: number, keep: number): void {
    const entries = this.#clients.get(client)!;
    for (const key of entries.keys()) {
      if (entries.size <= keep) break;
      entries.delete(key);
      this.#size--;
      this.#dropped++;
    }
    if (entries.size === 0) this.#clients.delete(client);
  }
}
