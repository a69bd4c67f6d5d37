/**
 * Many lists over the same numbered things, each thing in at most one: least recently used first.
 *
 * Links are kept in flat memory, by thing; first, last and length by list. Every verb costs the same however long the
 * lists are.
 */

export class Lists {
  /** By thing: its list plus one, 0 if it is in none. */
  readonly #list: Uint32Array;
  readonly #next: Uint32Array;
  readonly #previous: Uint32Array;
  readonly #first: Uint32Array;
  readonly #last: Uint32Array;
  readonly #length: Uint32Array;

  /** @param highest things are numbered from 1 to this, lists from 0 on. */
  constructor(highest: number, lists: number) {
    const byThing = () => new Uint32Array(highest + 1);
    [this.#list, this.#next, this.#previous] = [byThing(), byThing(), byThing()];
    const byList = () => new Uint32Array(lists);
    [this.#first, this.#last, this.#length] = [byList(), byList(), byList()];
  }

  /** Puts a thing at the end of a list, out of whichever it was in. */
  append(thing: number, list: number): void {
    this.remove(thing);
    const last = this.#last[list]!;
    this.#list[thing] = list + 1;
    this.#previous[thing] = last;
    this.#next[thing] = 0;
    if (last === 0) this.#first[list] = thing;
    else this.#next[last] = thing;
    this.#last[list] = thing;
    this.#length[list]!++;
  }

  remove(thing: number): void {
    const list = this.#list[thing]! - 1;
    if (list < 0) return;
    const [previous, next] = [this.#previous[thing]!, this.#next[thing]!];
    if (previous === 0) this.#first[list] = next;
    else this.#next[previous] = next;
    if (next === 0) this.#last[list] = previous;
    else this.#previous[next] = previous;
    this.#list[thing] = 0;
    this.#length[list]!--;
  }

  /** The first thing of a list; 0: it is empty. */
  first(list: number): number {
    return this.#first[list]!;
  }

  /** The thing that was put there last; 0: it is empty. */
  last(list: number): number {
    return this.#last[list]!;
  }

  length(list: number): number {
    return this.#length[list]!;
  }
}
