/**
 * Values by name, where a name may stand for all that begin with it: ACL rules and event patterns.
 *
 * Kept by name without its star; a search tries the beginnings of a name that have a length which occurs here,
 * so it costs as much for one value as for ten thousand.
 */

export class PrefixMap<Value extends { readonly partial: boolean }> {
  readonly #values = new Map<string, Value[]>();
  /** How many keys have a length; ascending by length. */
  readonly #lengths = new Map<number, number>();
  #ascending: readonly number[] = [];

  add(key: string, value: Value): void {
    const values = this.#values.get(key);
    if (values) {
      values.push(value);
      return;
    }
    this.#values.set(key, [value]);
    const keys = this.#lengths.get(key.length) ?? 0;
    this.#lengths.set(key.length, keys + 1);
    if (keys === 0) this.#sort();
  }

  remove(key: string, value: Value): void {
    const values = this.#values.get(key);
    const at = values?.indexOf(value) ?? -1;
    if (!values || at < 0) return;
    values.splice(at, 1);
    if (values.length > 0) return;
    this.#values.delete(key);
    const keys = this.#lengths.get(key.length)! - 1;
    if (keys > 0) {
      this.#lengths.set(key.length, keys);
    } else {
      this.#lengths.delete(key.length);
      this.#sort();
    }
  }

  /** The values that concern a name: shorter keys first, then in the order they were added. */
  matching(name: string): Value[] {
    const found: Value[] = [];
    for (const length of this.#ascending) {
      if (length > name.length) break;
      const values = this.#values.get(length === name.length ? name : name.slice(0, length));
      if (!values) continue;
      for (const value of values) if (value.partial || length === name.length) found.push(value);
    }
    return found;
  }

  #sort(): void {
    this.#ascending = [...this.#lengths.keys()].sort((left, right) => left - right);
  }
}
